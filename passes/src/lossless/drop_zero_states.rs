//! Leaves out the initial state of a recurrent layer where it is zeros, as it is when none is given.
//!
//! ```onnx before
//! # x: float[3,1,4]; w: float[1,20,4]; r: float[1,20,5]; h: float[1,1,5] = {0, 0, 0, 0, 0}
//! y = RNN <hidden_size = 5> (x, w, r, , , h)
//! ```
//! ```onnx after
//! y = RNN <hidden_size = 5> (x, w, r)
//! ```
//! Exporters make the zeros in the graph, of the batch that comes: Shape, Gather, ConstantOfShape or Expand, for each layer.
//!
//! **Class:** exact. **Legal when** the state is a constant of zeros, or made by ConstantOfShape, Expand, or views and slices of such.
//! **Does not** look whether a batch that the state contradicts was refused before: its shape says nothing that the input does not.
use onnx_shrink_ir::{
    Graph, OpId, Patch, Tensor, ValueId,
    ops::ConstantOfShape,
    semantics::{self, Effect},
};

use crate::{Class, Context, Description, Miss, Result, Rewrite, When};

/// See the [module](self) for before, after and legality.
pub struct DropZeroStates;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "drop-zero-states",
    class: Class::Exact,
    about: "leaves out initial states of recurrent layers that are zeros",
    when: When::Lossless,
};

/// Ops that are followed to where the zeros come from, at most.
const DEPTH: usize = 16;

impl Rewrite for DropZeroStates {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn rewrite(&self, graph: &Graph, op: OpId, _: &Context<'_>) -> Result<Patch, Miss> {
        let node = graph.op(op);
        let is_recurrent = semantics::of(node).is_some_and(|row| row.effect == Effect::Recurrence);
        let mut patch = Patch::new(op);
        if is_recurrent {
            // initial_h, and of an LSTM initial_c
            for place in 5..node.inputs().len().min(7) {
                if node.input(place).is_some_and(|state| is_zeros(graph, state, DEPTH)) {
                    patch.set_input(op, place, None);
                }
            }
        }
        if patch.is_empty() { Err(Miss::NotThisPattern) } else { Ok(patch) }
    }
}

/// Whether `value` is made of zeros alone.
fn is_zeros(graph: &Graph, value: ValueId, depth: usize) -> bool {
    if let Some(constant) = graph.constant(value) {
        return is_zero(constant);
    }
    let Some(op) = graph.producer(value).filter(|_| depth > 0) else { return false };
    let node = graph.op(op);
    if let Some(made) = ConstantOfShape::of(graph, op) {
        return is_zero(&made.value);
    }
    match semantics::of(node) {
        Some(row) if row.is_movement() && !matches!(row.op_type, "Pad" | "Where") => {
            let data = node.inputs().iter().enumerate().filter(|(index, _)| row.reads(*index));
            data.filter_map(|(_, value)| *value).all(|value| is_zeros(graph, value, depth - 1))
        }
        _ => false,
    }
}

fn is_zero(tensor: &Tensor) -> bool {
    tensor.to_f64_vec().is_some_and(|numbers| !numbers.is_empty() && numbers.iter().all(|number| *number == 0.0))
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::text;

    use super::DropZeroStates;
    use crate::{
        Options,
        testing::{check_same, parse, run},
    };

    const LSTM: &str = "float[1,8,2] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}, \
                        float[1,8,2] r = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}";

    #[test]
    fn zeros_that_are_made_for_each_batch_go_with_what_makes_them() {
        let before = format!(
            "g (float[3,N,2] x) => (float[3,1,N,2] y) <{LSTM}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] axes = {{0}}> {{
            s = Shape (x)  n = Slice (s, one, two)  t = Concat <axis = 0> (n, two)  z = ConstantOfShape (t)  h = Unsqueeze (z, axes)
            y = LSTM <hidden_size = 2> (x, w, r, , , h, h) }}"
        );
        let mut graph = parse(&before).graph;
        run(&DropZeroStates, &mut graph, Options::default());
        let after =
            format!("g (float[3,N,2] x) => (float[3,1,N,2] y) <{LSTM}> {{ y = LSTM <hidden_size = 2> (x, w, r) }}");
        assert_eq!(text::print_graph(&graph), text::print_graph(&parse(&after).graph));
    }

    #[test]
    fn another_state_stays() {
        check_same(
            &DropZeroStates,
            &format!(
                "g (float[3,1,2] x) => (float[3,1,1,2] y) <{LSTM}, float[1,1,2] h = {{0, 1}}> {{
                y = LSTM <hidden_size = 2> (x, w, r, , , h) }}"
            ),
        );
    }
}
