//! Private copies of vectors that several layers read, for what changes each layer by itself: a shared bias ties layers that have
//! nothing else to do with each other.
//!
//! **Never** copies more than [`MOST_BYTES`] at once. [`share_again`] makes one of those copies that stayed equal, so that nothing
//! is paid for a layer that was not changed.
use onnx_shrink_ir::{Graph, OpId, Patch, PatchError, Tensor, Use, ValueId};

/// The largest vector that is copied.
pub const MOST_BYTES: usize = 1 << 16;

/// A copy, and what it was copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    original: ValueId,
    copy: ValueId,
}

/// Gives each layer of `graph` that reads a shared vector its own.
pub fn copy_shared_vectors(graph: &mut Graph) -> Result<Vec<Copied>, PatchError> {
    let mut copies = Vec::new();
    for original in graph.values() {
        let Some(tensor) = graph.constant(original).filter(|tensor| is_small_vector(tensor)).cloned() else { continue };
        // A value that is an output, or that a body captures, stays with those.
        let places: Vec<(OpId, usize)> =
            graph.uses(original).into_iter().filter_map(|place| is_bias(graph, place)).collect();
        let others = graph.uses(original).len() - places.len();
        for (op, index) in places.into_iter().skip(usize::from(others == 0)) {
            let mut patch = Patch::new(op);
            let copy = patch.constant(graph.name_of(original), tensor.clone());
            patch.set_input(op, index, Some(copy));
            let applied = patch.apply(graph)?;
            copies.extend(applied.values.first().map(|&copy| Copied { original, copy }));
        }
    }
    Ok(copies)
}

/// Lets those that read a copy which is equal to its original read that again.
pub fn share_again(graph: &mut Graph, copies: &[Copied]) -> Result<(), PatchError> {
    if copies.is_empty() {
        return Ok(());
    }
    for &Copied { original, copy } in copies {
        let same = graph.has_value(original)
            && graph.has_value(copy)
            && graph.constant(original).is_some_and(|tensor| graph.constant(copy) == Some(tensor));
        if !same {
            continue;
        }
        let Some(Use::Input(op, _)) = graph.uses(copy).first().copied() else { continue };
        let mut patch = Patch::new(op);
        patch.replace(copy, original);
        patch.apply(graph)?;
    }
    graph.sweep();
    Ok(())
}

fn is_small_vector(tensor: &Tensor) -> bool {
    let Some(&longest) = tensor.dims().iter().max() else { return false };
    tensor.dtype().is_float() && tensor.byte_len() <= MOST_BYTES && longest > 1 && tensor.len() == longest
}

/// The place, where it is that of a bias.
fn is_bias(graph: &Graph, place: Use) -> Option<(OpId, usize)> {
    let Use::Input(op, index) = place else { return None };
    let node = graph.op(op);
    let at = |name: &str, place: usize| node.is(name) && index == place;
    (at("Conv", 2) || at("ConvTranspose", 2) || at("Gemm", 2) || node.is("Add")).then_some((op, index))
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{Tensor, text};

    use super::{copy_shared_vectors, share_again};
    use crate::{prune::layer::Layer, testing::parse};

    const SHARED: &str = "g (float[2,3] x) => (float[2,3] y) <float[3,3] v = {1,2,3,4,5,6,7,8,9}, float[3,3] w =
        {1,2,3,4,5,6,7,8,9}, float[3] b = {1,2,3}> { t = Gemm (x, v, b)  m = MatMul (t, w)  y = Add (m, b) }";

    #[test]
    fn layers_of_a_shared_bias_are_layers_and_equal_copies_are_one_again() {
        let mut graph = parse(SHARED).graph;
        let before = text::print_graph(&graph);
        let layers = |graph: &onnx_shrink_ir::Graph| {
            graph.ops().into_iter().filter(|op| Layer::of(graph, *op).is_some_and(|layer| layer.bias.is_some())).count()
        };
        assert_eq!(layers(&graph), 0);
        let copies = copy_shared_vectors(&mut graph).expect("it fits");
        assert_eq!((copies.len(), layers(&graph)), (1, 2));
        share_again(&mut graph, &copies).expect("it fits");
        assert_eq!(text::print_graph(&graph), before);
    }

    #[test]
    fn a_copy_that_was_changed_stays() {
        let mut graph = parse(SHARED).graph;
        let copies = copy_shared_vectors(&mut graph).expect("it fits");
        let op = graph.ops_of("Add")[0];
        let mut patch = onnx_shrink_ir::Patch::new(op);
        patch.set_constant(copies[0].copy, Tensor::from_vec(&[3], vec![4.0f32, 5.0, 6.0]));
        patch.apply(&mut graph).expect("it fits");
        share_again(&mut graph, &copies).expect("it fits");
        assert_eq!(
            graph
                .ops()
                .into_iter()
                .filter(|op| Layer::of(&graph, *op).is_some_and(|layer| layer.bias.is_some()))
                .count(),
            2
        );
    }
}
