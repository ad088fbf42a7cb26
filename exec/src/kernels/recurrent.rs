//! RNN, GRU and LSTM in all three directions, in f32 (half floats are widened).
//!
//! Per direction and batch element the steps are walked in the order of time, or backwards from the end of that
//! element's own sequence; outputs beyond its end are 0. **Never** guesses: activation parameters and the coupled input
//! and forget gate are refused.
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    layout::{Outputs, check_size, failed, integers, strided, unsupported},
    numbers::{narrowed, slice, widened},
};
use crate::kernel::{Call, KernelError};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Rnn,
    Gru,
    Lstm,
}

type Activation = fn(f32) -> f32;

/// The activation `name` with its default parameters.
fn activation(name: &str) -> Result<Activation, KernelError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "sigmoid" => |x| 1.0 / (1.0 + (-x).exp()),
        "tanh" => f32::tanh,
        "relu" => |x| x.max(0.0),
        "leakyrelu" => |x| if x < 0.0 { 0.01 * x } else { x },
        "hardsigmoid" => |x| (0.2 * x + 0.5).clamp(0.0, 1.0),
        "elu" => |x| if x < 0.0 { x.exp_m1() } else { x },
        "softsign" => |x| x / (1.0 + x.abs()),
        "softplus" => |x| x.max(0.0) + (-x.abs()).exp().ln_1p(),
        other => return unsupported(format!("the activation {other}")),
    })
}

/// Σ a·b, eight sums side by side.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (mut ca, mut cb) = (a.chunks_exact(8), b.chunks_exact(8));
    for (a, b) in (&mut ca).zip(&mut cb) {
        for n in 0..8 {
            lanes[n] += a[n] * b[n];
        }
    }
    let rest: f32 = ca.remainder().iter().zip(cb.remainder()).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// An optional input of a known shape, as f32.
fn numbers(call: &Call<'_>, index: usize, name: &str, dims: &[usize]) -> Result<Option<Vec<f32>>, KernelError> {
    let Some(tensor) = call.optional(index) else { return Ok(None) };
    if tensor.dims() != dims {
        return failed(format!("{name} has shape {:?} instead of {dims:?}", tensor.dims()));
    }
    Ok(Some(slice::<f32>(&widened(tensor))?.into_owned()))
}

/// [a, b, rest] with the first two axes exchanged.
fn swapped(numbers: &[f32], a: usize, b: usize, rest: usize) -> Vec<f32> {
    strided(numbers, 0, &[b, a, rest], &[rest as isize, (b * rest) as isize, 1])
}

/// What stays the same during a run of one direction.
struct Cell<'a> {
    kind: Kind,
    hidden: usize,
    /// Recurrent weights [gates·hidden, hidden]
    r: &'a [f32],
    /// Recurrent biases [gates·hidden]
    r_bias: &'a [f32],
    /// Peepholes [3·hidden], LSTM only
    peephole: Option<&'a [f32]>,
    activations: &'a [Activation],
    clip: f32,
    linear_before_reset: bool,
}

impl Cell<'_> {
    fn act(&self, which: usize, x: f32) -> f32 {
        (self.activations[which])(x.clamp(-self.clip, self.clip))
    }

    fn recurrent(&self, gate: usize, unit: usize, h: &[f32]) -> f32 {
        let row = gate * self.hidden + unit;
        dot(&self.r[row * self.hidden..][..self.hidden], h)
    }

    /// One step: `input` is W·x + its bias for all gates; `h` and `c` are the states, before and after.
    fn step(&self, input: &[f32], h: &mut [f32], c: &mut [f32]) {
        let size = self.hidden;
        let gate = |gate: usize, unit: usize, h: &[f32]| {
            let row = gate * size + unit;
            input[row] + self.recurrent(gate, unit, h) + self.r_bias[row]
        };
        match self.kind {
            Kind::Rnn => {
                let next: Vec<f32> = (0..size).map(|unit| self.act(0, gate(0, unit, h))).collect();
                h.copy_from_slice(&next);
            }
            Kind::Gru => {
                let z: Vec<f32> = (0..size).map(|unit| self.act(0, gate(0, unit, h))).collect();
                let r: Vec<f32> = (0..size).map(|unit| self.act(0, gate(1, unit, h))).collect();
                let reset: Vec<f32> = r.iter().zip(&*h).map(|(r, h)| r * h).collect();
                let candidate = |unit: usize| {
                    let row = 2 * size + unit;
                    let recurrent = if self.linear_before_reset {
                        r[unit] * (self.recurrent(2, unit, h) + self.r_bias[row])
                    } else {
                        self.recurrent(2, unit, &reset) + self.r_bias[row]
                    };
                    self.act(1, input[row] + recurrent)
                };
                let next: Vec<f32> =
                    (0..size).map(|unit| (1.0 - z[unit]) * candidate(unit) + z[unit] * h[unit]).collect();
                h.copy_from_slice(&next);
            }
            Kind::Lstm => {
                let peep = |which: usize, unit: usize| self.peephole.map_or(0.0, |p| p[which * size + unit]);
                let mut next = vec![0f32; size];
                for unit in 0..size {
                    let i = self.act(0, gate(0, unit, h) + peep(0, unit) * c[unit]);
                    let f = self.act(0, gate(2, unit, h) + peep(2, unit) * c[unit]);
                    let g = self.act(1, gate(3, unit, h));
                    c[unit] = f * c[unit] + i * g;
                    let o = self.act(0, gate(1, unit, h) + peep(1, unit) * c[unit]);
                    next[unit] = o * (self.activations[2])(c[unit]);
                }
                h.copy_from_slice(&next);
            }
        }
    }
}

fn recurrent(call: &Call<'_>, kind: Kind) -> Outputs {
    let op = call.op;
    let (x, w) = (call.input(0)?, call.input(1)?);
    if !matches!(x.dtype(), DataType::Float | DataType::Float16 | DataType::Bfloat16) {
        return unsupported(format!("a recurrent layer of {}", x.dtype()));
    }
    if op.int("input_forget").unwrap_or(0) != 0 {
        return unsupported("input_forget");
    }
    if op.floats("activation_alpha").is_some_and(|x| !x.is_empty())
        || op.floats("activation_beta").is_some_and(|x| !x.is_empty())
    {
        return unsupported("activation_alpha and activation_beta");
    }
    let (gates, functions) = match kind {
        Kind::Rnn => (1, &["Tanh"][..]),
        Kind::Gru => (3, &["Sigmoid", "Tanh"][..]),
        Kind::Lstm => (4, &["Sigmoid", "Tanh", "Tanh"][..]),
    };
    let directions: &[bool] = match op.string("direction").unwrap_or("forward") {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return failed(format!("direction {other} is none of ONNX's")),
    };
    let count = directions.len();
    let batch_first = op.int("layout").unwrap_or(0) != 0;
    let [d0, d1, width] = *x.dims() else { return failed(format!("an input of rank {}", x.dims().len())) };
    let (steps, batch) = if batch_first { (d1, d0) } else { (d0, d1) };
    let [_, rows, _] = *w.dims() else { return failed(format!("weights of shape {:?}", w.dims())) };
    let hidden = rows / gates;
    if op.int("hidden_size").is_some_and(|stated| usize::try_from(stated) != Ok(hidden)) {
        return failed(format!("hidden_size does not fit weights of shape {:?}", w.dims()));
    }
    let required = |found: Option<Vec<f32>>| found.ok_or_else(|| KernelError::Failed("weights are missing".to_owned()));
    let weights = required(numbers(call, 1, "W", &[count, gates * hidden, width])?)?;
    let r = required(numbers(call, 2, "R", &[count, gates * hidden, hidden])?)?;
    let bias = numbers(call, 3, "B", &[count, 2 * gates * hidden])?;
    let bias = bias.unwrap_or_else(|| vec![0.0; count * 2 * gates * hidden]);
    let lengths = match call.optional(4) {
        None => vec![steps; batch],
        Some(lengths) => super::layout::dims_of(&integers(lengths, "sequence_lens")?, "sequence_lens")?,
    };
    if lengths.len() != batch || lengths.iter().any(|&length| length > steps) {
        return failed(format!("sequence_lens {lengths:?} of {batch} sequences of {steps} steps"));
    }
    let state_dims = if batch_first { [batch, count, hidden] } else { [count, batch, hidden] };
    let state = |index: usize, name: &str| -> Result<Vec<f32>, KernelError> {
        let state = numbers(call, index, name, &state_dims)?;
        Ok(match state {
            None => vec![0.0; count * batch * hidden],
            Some(state) if batch_first => swapped(&state, batch, count, hidden),
            Some(state) => state,
        })
    };
    let mut h = state(5, "initial_h")?;
    let mut c = if kind == Kind::Lstm { state(6, "initial_c")? } else { vec![0.0; h.len()] };
    let peepholes = if kind == Kind::Lstm { numbers(call, 7, "P", &[count, 3 * hidden])? } else { None };
    let names: Vec<String> = match op.attribute("activations").map(|attribute| &attribute.strings) {
        Some(names) if !names.is_empty() => {
            names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
        }
        _ => functions.iter().cycle().take(functions.len() * count).map(|name| (*name).to_owned()).collect(),
    };
    // The RNN schema's default names two functions whatever the direction.
    if names.len() < functions.len() * count {
        return failed(format!("{} activations for {count} directions", names.len()));
    }
    let activations: Vec<Activation> = names.iter().map(|name| activation(name)).collect::<Result<_, _>>()?;
    let clip = op.float("clip").filter(|&clip| clip > 0.0).unwrap_or(f32::INFINITY);
    let wide = widened(x);
    let mut inputs = slice::<f32>(&wide)?.into_owned();
    if batch_first {
        inputs = swapped(&inputs, batch, steps, width);
    }
    let mut y = vec![0f32; check_size(call, DataType::Float, &[steps, count, batch, hidden])?];
    let rows = gates * hidden;
    let mut projected = vec![0f32; rows];
    for (direction, &backwards) in directions.iter().enumerate() {
        let w = &weights[direction * rows * width..][..rows * width];
        let (w_bias, r_bias) = bias[direction * 2 * rows..][..2 * rows].split_at(rows);
        let cell = Cell {
            kind,
            hidden,
            r: &r[direction * rows * hidden..][..rows * hidden],
            r_bias,
            peephole: peepholes.as_ref().map(|p| &p[direction * 3 * hidden..][..3 * hidden]),
            activations: &activations[direction * functions.len()..],
            clip,
            linear_before_reset: op.int("linear_before_reset").unwrap_or(0) != 0,
        };
        for sequence in 0..batch {
            let at = (direction * batch + sequence) * hidden;
            let (h, c) = (&mut h[at..at + hidden], &mut c[at..at + hidden]);
            for step in 0..lengths[sequence] {
                let time = if backwards { lengths[sequence] - 1 - step } else { step };
                let x = &inputs[(time * batch + sequence) * width..][..width];
                for (row, out) in projected.iter_mut().enumerate() {
                    *out = dot(&w[row * width..][..width], x) + w_bias[row];
                }
                cell.step(&projected, h, c);
                y[((time * count + direction) * batch + sequence) * hidden..][..hidden].copy_from_slice(h);
            }
        }
    }
    let mut y_dims = vec![steps, count, batch, hidden];
    if batch_first {
        // [steps, directions, batch, hidden] to [batch, steps, directions, hidden]
        y = swapped(&y, steps * count, batch, hidden);
        y_dims = vec![batch, steps, count, hidden];
        h = swapped(&h, count, batch, hidden);
        c = swapped(&c, count, batch, hidden);
    }
    let dtype = x.dtype();
    let mut outputs = vec![
        Some(narrowed(Tensor::from_vec(&y_dims, y), dtype)),
        Some(narrowed(Tensor::from_vec(&state_dims, h), dtype)),
    ];
    if kind == Kind::Lstm {
        outputs.push(Some(narrowed(Tensor::from_vec(&state_dims, c), dtype)));
    }
    outputs.truncate(op.outputs().len().max(1));
    Ok(outputs)
}

/// RNN
pub(super) fn rnn(call: &Call<'_>) -> Outputs {
    recurrent(call, Kind::Rnn)
}

/// GRU
pub(super) fn gru(call: &Call<'_>) -> Outputs {
    recurrent(call, Kind::Gru)
}

/// LSTM
pub(super) fn lstm(call: &Call<'_>) -> Outputs {
    recurrent(call, Kind::Lstm)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::run_outputs;

    /// One unit with weight 1, recurrent weight 1 and Relu: running sums.
    fn sums(direction: &str, lengths: Option<Vec<i32>>) -> Vec<Vec<f64>> {
        let x = Tensor::from_vec(&[3, 2, 1], vec![1f32, 10., 2., 20., 3., 30.]);
        let count = if direction == "bidirectional" { 2 } else { 1 };
        let ones = Tensor::from_vec(&[count, 1, 1], vec![1f32; count]);
        let mut activations = attributes::string("activations", "");
        activations.s = None;
        activations.strings = vec!["Relu".into(); count];
        activations.r#type = Some(8);
        let attributes = vec![attributes::string("direction", direction), activations];
        let lengths = lengths.map(|lengths| Tensor::from_vec(&[2], lengths));
        let inputs = [Some(x), Some(ones.clone()), Some(ones), None, lengths];
        let outputs = run_outputs("RNN", 14, attributes, &inputs, 2).expect("runs");
        outputs.into_iter().flatten().map(|tensor| tensor.to_f64_vec().expect("floats")).collect()
    }

    #[test]
    fn backwards_starts_at_the_end_of_each_sequence() {
        assert_eq!(sums("forward", None), [vec![1., 10., 3., 30., 6., 60.], vec![6., 60.]]);
        assert_eq!(sums("reverse", None), [vec![6., 60., 5., 50., 3., 30.], vec![6., 60.]]);
        let lengths = Some(vec![2, 3]);
        assert_eq!(sums("reverse", lengths), [vec![3., 60., 2., 50., 0., 30.], vec![3., 60.]]);
        let both = sums("bidirectional", None);
        assert_eq!(both[0], [1., 10., 6., 60., 3., 30., 5., 50., 6., 60., 3., 30.]);
    }
}
