//! Analyses: what is read from a graph, and changes nothing in it.
pub mod computed;
pub mod constant_region;
pub mod integer_layers;
pub mod place;
pub mod quantized;
pub mod saturation;
pub mod units;
