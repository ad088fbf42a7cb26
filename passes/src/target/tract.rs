//! tract, which reads Q/DQ pairs and computes in float.
use crate::target::{
    generic::PLAIN,
    row::{Places, Target},
};

/// tract.
pub const TRACT: Target = Target {
    name: "tract",
    about: "tract, which runs Q/DQ pairs in float (2.5 times slower): weights are stored in 8 bits, nothing runs in them",
    places: Places::Nothing,
    ops: &[],
    formats: &[],
    ..PLAIN
};
