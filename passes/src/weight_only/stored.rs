//! What is worth storing in 8 bits, and what an earlier run has stored.
use onnx_shrink_ir::{Graph, Use, ValueId};

/// Below this ratio of signal to rounding noise a constant is not worth storing in 8 bits.
const LEAST_SQNR_DB: f64 = 28.0;

pub(super) fn is_too_noisy(signal: f64, noise: f64) -> bool {
    noise > 0.0 && 10.0 * (signal / noise).log10() < LEAST_SQNR_DB
}

/// Whether `rounded` are near enough to `numbers` for a constant to be stored so.
pub(super) fn keeps_enough(numbers: impl Iterator<Item = f64>, rounded: impl Iterator<Item = f64>) -> bool {
    let sums =
        numbers.zip(rounded).fold((0.0, 0.0), |(signal, noise), (x, y)| (signal + x * x, noise + (x - y) * (x - y)));
    !is_too_noisy(sums.0, sums.1)
}

/// Whether `value` multiplies a Cast of constant integers: the scales of what an earlier run stored are not stored again.
pub(super) fn scales_stored_weights(graph: &Graph, value: ValueId) -> bool {
    graph.uses(value).into_iter().any(|place| {
        let Use::Input(op, index) = place else { return false };
        let node = graph.op(op);
        let other = node.input(1 - index.min(1));
        node.is("Mul")
            && other.and_then(|other| graph.producer(other)).is_some_and(|cast| {
                let integers = graph.op(cast).input(0).and_then(|integers| graph.constant(integers));
                graph.op(cast).is("Cast") && integers.is_some_and(|integers| integers.dtype().is_integer())
            })
    })
}
