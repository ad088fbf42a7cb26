//! Numerics: arrays to arrays. Nothing here knows a graph.
pub mod accumulator;
pub mod bits;
pub mod gptq;
pub(crate) mod min_cut;
pub(crate) mod moments;
pub mod rounding;
pub(crate) mod smooth;
pub mod solver;
pub mod weight_scales;
