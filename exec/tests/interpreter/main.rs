//! The interpreter on small graphs, and on the models of the bench.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod bench_models;
mod control_flow;
mod graphs;
mod model;
