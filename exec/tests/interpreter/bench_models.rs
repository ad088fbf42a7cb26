//! Models of the bench prepare and run on seeded inputs. Their values are compared with ONNX Runtime's by hand, with
//! `examples/run_model.rs`; here it is finite numbers, the same on each run.
use std::path::PathBuf;

use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{
    DataType, Dim, Evaluate, Tensor, import,
    proto::{Limits, load},
};

/// Models that need nothing but this crate's own allow-list and control flow.
const MODELS: &[&str] = &[
    "ad01_autoencoder",
    "kws_dscnn",
    "lenet300_100_mnist",
    "lenet5_mnist",
    "mobilenetv2_cifar10",
    "resnet20_cifar10",
    "silero_vad",
    "squeezenet1_1",
];

fn folder() -> Option<PathBuf> {
    let given = std::env::var_os("ONNX_SHRINK_BENCH").map(PathBuf::from);
    let folder = given.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/bench"));
    Some(folder.join("models")).filter(|models| models.is_dir())
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn models_of_the_bench_run() {
    let Some(folder) = folder() else {
        eprintln!("skipped: the bench is not there (ONNX_SHRINK_BENCH names its folder)");
        return;
    };
    for name in MODELS {
        let loaded = load(&folder.join(format!("{name}.onnx")), &Limits::default()).unwrap();
        let model = import(loaded.model).unwrap();
        let graph = &model.graph;
        let mut seed = 1u32;
        let mut number = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / 16_777_216.0 - 0.5
        };
        let inputs = graph.inputs().iter().map(|&input| {
            if graph.default_of(input).is_some() {
                return None;
            }
            let ty = graph.ty(input).unwrap();
            let shape = ty.shape.as_deref().unwrap_or_default();
            // A batch of 1; where nothing is known, of 512 samples of sound.
            let free = shape.iter().all(|dim| dim.known().is_none());
            let last = |axis: usize| free && axis > 0 && axis + 1 == shape.len();
            let size = |(axis, dim): (usize, &Dim)| dim.known().unwrap_or(if last(axis) { 512 } else { 1 });
            let dims: Vec<usize> = shape.iter().enumerate().map(size).collect();
            let count = dims.iter().product();
            Some(match ty.dtype {
                DataType::Int64 => Tensor::from_vec(&dims, vec![16_000i64; count]),
                _ => Tensor::from_vec(&dims, (0..count).map(|_| number()).collect::<Vec<f32>>()),
            })
        });
        let inputs: Vec<_> = inputs.collect();
        let engine = Interpreter::default();
        let prepared = engine.prepare(graph).unwrap_or_else(|error| panic!("{name}: {error}"));
        let run = || prepared.run(&inputs, &mut |_, _| {}).unwrap_or_else(|error| panic!("{name}: {error}"));
        let outputs = run();
        assert_eq!(outputs, run(), "{name}: the same bits");
        for output in outputs.iter().filter_map(Tensor::to_f64_vec) {
            assert!(output.iter().all(|number| number.is_finite()), "{name}");
        }
    }
}
