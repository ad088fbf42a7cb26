//! The interpreter on small graphs, and on the models of the bench.
mod bench_models;
mod control_flow;
mod graphs;
mod model;
