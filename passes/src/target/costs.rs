//! What an op costs in float and in integers: facts, measured, as numbers.
//!
//! ONNX Runtime's CPU kernels with one thread. Source: `docs/engines.md` §3, §8.6 (with VNNI) and §9.6 (without).
use crate::target::processor::Processor;

/// What an op does, as far as its time depends on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A convolution
    Conv {
        /// Input channels of one group
        group_inputs: usize,
        /// Filters in all
        filters: usize,
        /// Groups
        groups: usize,
        /// Kernel positions
        taps: usize,
    },
    /// A product with a constant matrix: rows × k times k × n
    Linear {
        /// Rows of the other operand
        rows: usize,
        /// Length of the sums
        k: usize,
        /// Columns
        n: usize,
    },
    /// A sum of two values
    Add {
        /// Whether float engines fuse it into a convolution, where it costs nothing
        fused: bool,
    },
    /// A product of two values
    Mul,
    /// Concatenation
    Concat,
    /// A table look-up per number
    Sigmoid,
    /// LeakyRelu
    LeakyRelu,
    /// GlobalAveragePool
    GlobalAveragePool,
    /// MaxPool
    MaxPool,
    /// Resize, nearest
    Resize,
    /// Bytes are moved
    Move,
    /// Not even that
    View,
    /// Anything that stays float
    Other,
}

/// An op's work: what it does and on how many numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// What it does
    pub kind: Kind,
    /// Numbers read, constants aside
    pub inputs: f64,
    /// Numbers written
    pub outputs: f64,
    /// Multiply-adds
    pub macs: f64,
}

/// A ratio by size, linear in the logarithm of the size between the entries.
pub(super) fn by_size(size: f64, table: &[(f64, f64)]) -> f64 {
    let Some(after) = table.iter().position(|(entry, _)| size <= *entry) else {
        return table.last().map_or(1.0, |(_, ratio)| *ratio);
    };
    if after == 0 {
        return table[0].1;
    }
    let ((low, from), (high, to)) = (table[after - 1], table[after]);
    from + (to - from) * (size / low).ln() / (high / low).ln()
}

impl Work {
    /// Microseconds of the float kernel in the engine's best layout.
    pub fn float_time(&self) -> f64 {
        let Work { kind, inputs, outputs, macs } = *self;
        match kind {
            Kind::Conv { group_inputs: 1, filters, groups, .. } if filters == groups && groups > 1 => {
                4.6 + (25.0 * macs + 46.0 * inputs) * 1e-6
            }
            Kind::Conv { groups, .. } if groups > 1 => 4.3 + (30.0 * macs + 200.0 * outputs + 310.0 * inputs) * 1e-6,
            Kind::Conv { group_inputs, .. } if group_inputs <= 4 => {
                6.4 + (410.0 * outputs + 269.0 * inputs).max(11.6 * macs) * 1e-6
            }
            Kind::Conv { taps: 1, .. } => 5.0 + (10.5 * macs + 50.0 * outputs + 100.0 * inputs) * 1e-6,
            Kind::Conv { .. } => 4.3 + (11.6 * macs + 200.0 * outputs + 310.0 * inputs) * 1e-6,
            Kind::Linear { rows, .. } if rows < 4 => 2.0 + 60.0 * macs / rows as f64 * 1e-6,
            Kind::Linear { .. } => 2.0 + 12.0 * macs * 1e-6,
            Kind::Add { fused: true } | Kind::View => 0.0,
            Kind::Add { fused: false } | Kind::Mul => 2.0 + 0.295e-3 * outputs,
            Kind::Concat => 2.0 + 0.47e-3 * outputs,
            Kind::Sigmoid => 2.0 + 0.33e-3 * outputs,
            Kind::LeakyRelu => 1.0 + 0.2e-3 * outputs,
            Kind::GlobalAveragePool => 2.0 + 0.09e-3 * inputs,
            Kind::MaxPool => 3.0 + 0.075e-3 * inputs,
            Kind::Resize => 3.0 + 0.75e-3 * outputs,
            Kind::Move => 2.0 + 0.2e-3 * outputs,
            Kind::Other => 2.0 + 0.3e-3 * outputs,
        }
    }

    /// Microseconds of the integer kernel on `processor`; infinite where there is none.
    pub fn integer_time(&self, processor: Processor) -> f64 {
        let Work { kind, inputs, outputs, macs } = *self;
        let float = self.float_time();
        match (kind, processor) {
            (Kind::Conv { group_inputs: 1, filters, groups, taps }, _) if filters == groups && groups > 1 => {
                match processor {
                    Processor::Vnni if taps <= 9 => 3.7 + (62.0 * macs + 32.0 * inputs) * 1e-6,
                    Processor::Vnni => 8.5 + (35.0 * macs + 42.0 * inputs) * 1e-6,
                    Processor::Avx2 => {
                        let table = [(8.0, 4.3), (16.0, 2.1), (32.0, 1.7), (64.0, 1.5), (128.0, 1.46), (256.0, 1.28)];
                        float * by_size(filters as f64, &table)
                    }
                }
            }
            (Kind::Conv { groups, group_inputs, .. }, _) if groups > 1 => {
                float * if group_inputs >= 16 { 1.2 } else { 2.2 }
            }
            (Kind::Conv { group_inputs, taps, .. }, processor) if group_inputs <= 4 => match processor {
                Processor::Vnni if taps <= 25 => 14.7 + (467.0 * outputs + 1797.0 * inputs) * 1e-6,
                Processor::Vnni => float * 0.97,
                Processor::Avx2 => float * if taps <= 25 { 1.9 } else { 0.87 },
            },
            (Kind::Conv { taps: 1, .. }, Processor::Vnni) => {
                5.2 + (2.2 * macs + 126.0 * outputs + 70.0 * inputs) * 1e-6
            }
            (Kind::Conv { taps: 1, group_inputs, filters, .. }, Processor::Avx2) => {
                let table = [(16.0, 0.95), (32.0, 0.8), (64.0, 0.62), (128.0, 0.57), (256.0, 0.55), (512.0, 0.51)];
                float * by_size(((group_inputs * filters) as f64).sqrt(), &table)
            }
            (Kind::Conv { .. }, Processor::Vnni) => 1.4 + (2.5 * macs + 164.0 * outputs + 610.0 * inputs) * 1e-6,
            (Kind::Conv { group_inputs, filters, .. }, Processor::Avx2) => {
                let table = [(8.0, 1.31), (16.0, 0.6), (32.0, 0.57), (64.0, 0.53), (512.0, 0.5)];
                float * by_size(group_inputs.min(filters) as f64, &table)
            }
            (Kind::Linear { rows, k, n }, processor) => {
                let size = ((k * n) as f64).sqrt();
                let table: &[(f64, f64)] = match (processor, rows < 4) {
                    (Processor::Vnni, true) => {
                        &[(64.0, 1.33), (128.0, 1.26), (256.0, 1.0), (512.0, 0.3), (1024.0, 0.3)]
                    }
                    (Processor::Vnni, false) => &[(64.0, 0.8), (128.0, 0.57), (256.0, 0.58), (512.0, 0.34)],
                    (Processor::Avx2, true) => {
                        &[(64.0, 1.34), (128.0, 1.08), (256.0, 0.78), (512.0, 0.52), (1024.0, 0.25)]
                    }
                    (Processor::Avx2, false) => &[(64.0, 1.0), (128.0, 0.88), (256.0, 0.65), (512.0, 0.52)],
                };
                float * by_size(size, table)
            }
            (Kind::Add { .. }, _) => 4.0 + 0.14e-3 * outputs,
            (Kind::Mul, _) => 4.8 + 0.275e-3 * outputs,
            (Kind::Concat, _) => 2.8 + 0.12e-3 * outputs,
            (Kind::Sigmoid, _) => 3.7 + 0.275e-3 * outputs,
            (Kind::LeakyRelu, _) => 3.7 + 0.27e-3 * outputs,
            (Kind::GlobalAveragePool, _) => 2.0 + 0.045e-3 * inputs,
            (Kind::MaxPool, _) => 4.0 + 0.1e-3 * inputs,
            (Kind::Resize, _) => 5.0 + 3.0e-3 * outputs,
            (Kind::Move, _) => 2.0 + 0.11e-3 * outputs,
            (Kind::View, _) => 0.0,
            (Kind::Other, _) => f64::INFINITY,
        }
    }
}

/// Microseconds to quantize so many numbers, the change of layout included.
pub fn quantize_time(numbers: f64) -> f64 {
    0.5 + 0.37e-3 * numbers
}

/// Microseconds to dequantize so many numbers, the change of layout included.
pub fn dequantize_time(numbers: f64) -> f64 {
    0.5 + 0.32e-3 * numbers
}
