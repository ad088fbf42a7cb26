//! Calibration: statistics of a graph's values over samples, and the ranges that follow from them, or from the model alone.
pub mod calibrators;
pub mod collect;
pub mod histogram;
pub mod largest;
pub mod means;
pub mod model_ranges;
