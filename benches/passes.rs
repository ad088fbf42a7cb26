//! Time per op of each step from bytes to bytes without samples, on chains of 10³, 10⁴ and 10⁵ ops: a step whose
//! microseconds per op grow with the size is not linear.
//!
//!     cargo bench --workspace --bench passes [-- OPS...]
//!
//! A plain loop, best of several rounds: numbers to look at, never a gate.
#![allow(clippy::unwrap_used, reason = "a bench may end at what it did not expect")]
use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{
    export, import, infer,
    proto::{Limits, encode, load_bytes, schema::ModelProto},
    text::parse_model,
    verify::verify,
};
use onnx_shrink_passes::{Context, Options, pipeline};

const STEPS: [&str; 6] = ["load", "import", "infer", "lossless", "verify", "export"];

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    // `cargo bench` adds `--bench`.
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![1_000, 10_000, 100_000] } else { asked };
    writeln!(out, "microseconds per op (ops before -> after)")?;
    writeln!(out, "{:<10}{}", "", STEPS.map(|step| format!("{step:>10}")).concat())?;
    for (name, chain) in [("residual", residual_chain as fn(usize) -> String), ("redundant", redundant_chain)] {
        writeln!(out, "{name}")?;
        for &size in &sizes {
            let bytes = encode(&export(&parse_model(&chain(size)).unwrap())).concat();
            let rounds = (100_000 / size).clamp(2, 10);
            let mut best = [Duration::MAX; STEPS.len()];
            let mut after = 0;
            for _ in 0..rounds {
                let (times, ops) = round(&bytes);
                after = ops;
                best.iter_mut().zip(times).for_each(|(best, time)| *best = time.min(*best));
            }
            let per_op = best.map(|time| format!("{:>10.2}", time.as_secs_f64() * 1e6 / size as f64));
            writeln!(out, "{size:<10}{}   {size} -> {after}", per_op.concat())?;
            out.flush()?;
        }
    }
    Ok(())
}

/// Each step once: its time, and how many ops are left.
fn round(bytes: &[u8]) -> ([Duration; STEPS.len()], usize) {
    let mut times = [Duration::ZERO; STEPS.len()];
    let mut step = 0;
    let mut lap = |start: Instant| {
        times[step] = start.elapsed();
        step += 1;
    };
    let bytes = bytes::Bytes::copy_from_slice(bytes);
    let start = Instant::now();
    let proto: ModelProto = load_bytes(bytes, Path::new("chain.onnx"), None, &Limits::default()).unwrap().model;
    lap(start);
    let start = Instant::now();
    let mut model = import(proto).unwrap();
    lap(start);
    let start = Instant::now();
    infer::infer(&mut model.graph);
    lap(start);
    let engine = Interpreter::default();
    let mut cx = Context::new(Options { verify_each: false, ..Options::default() }, &engine);
    let start = Instant::now();
    pipeline::run_lossless(&mut model.graph, &mut cx).unwrap();
    lap(start);
    let start = Instant::now();
    assert_eq!(verify(&model).len(), 0);
    lap(start);
    let start = Instant::now();
    let parts = encode(&export(&model));
    lap(start);
    assert!(!parts.is_empty());
    (times, model.graph.op_count())
}

const HEADER: &str = "<ir_version: 8, opset_import: [\"\" : 17]>\ng (float[1,8] v0) => (float[1,8] y) {\n";

/// Blocks of Relu, Neg and the Add of what went into the block: nothing in it can go.
fn residual_chain(ops: usize) -> String {
    let mut text = String::from(HEADER);
    let mut block = 0;
    let blocks = ops.saturating_sub(1) / 3;
    while block < blocks {
        let next = block + 1;
        let _ =
            writeln!(text, "r{block} = Relu(v{block})\nn{block} = Neg(r{block})\nv{next} = Add(n{block}, v{block})");
        block = next;
    }
    for _ in 3 * blocks..ops - 1 {
        let _ = writeln!(text, "v{} = Relu(v{block})", block + 1);
        block += 1;
    }
    let _ = writeln!(text, "y = Relu(v{block})\n}}");
    text
}

/// Relu of Relu, Neg of Neg, Identity: most of it goes.
fn redundant_chain(ops: usize) -> String {
    let mut text = String::from(HEADER);
    for op in 0..ops - 1 {
        let kind = ["Relu", "Relu", "Neg", "Neg", "Identity", "Sigmoid"][op % 6];
        let _ = writeln!(text, "v{} = {kind}(v{op})", op + 1);
    }
    let _ = writeln!(text, "y = Relu(v{})\n}}", ops - 1);
    text
}
