//! Targets: what each engine wants of a quantized model and what ops cost there. A file an engine; **nothing** else in the product
//! knows an engine: units, placement and the passes read the row, [`Target`].
//!
//! A new target is one file with its row and a line in [`TARGETS`]. Source: `docs/engines.md` §2 (types), §6 (other engines),
//! §9 (saturation), §10 (OpenVINO).
mod channels;
pub mod costs;
mod generic;
pub mod onnx_runtime;
mod openvino;
mod pairing;
mod processor;
mod qnn;
mod row;
mod tensorrt;
mod tflite;
mod tract;
mod vitis;

pub use channels::{CHANNEL_ALIGNMENT, channel_step};
pub use costs::{Kind, Work, dequantize_time, quantize_time};
pub use onnx_runtime::ORT_CPU;
pub use pairing::Pairing;
pub use processor::Processor;
pub use row::{Bias, Ends, Margins, Places, Target};

/// Every target, in the order in which they are listed.
pub const TARGETS: [Target; 11] = [
    ORT_CPU,
    onnx_runtime::ORT_X86_VNNI,
    onnx_runtime::ORT_X86_AVX2,
    onnx_runtime::ORT_ARM64,
    tract::TRACT,
    tensorrt::TENSORRT,
    openvino::OPENVINO,
    qnn::QNN,
    vitis::VITIS,
    tflite::TFLITE_STYLE,
    generic::GENERIC,
];

/// Engines that want the float model, and why.
pub const WANT_FLOAT: [(&str, &str); 5] = [
    ("ncnn", "imports no Q/DQ; ncnn2table and ncnn2int8 calibrate the float model"),
    ("MNN", "its converter aborts on Q/DQ; it quantizes the float model itself"),
    ("MACE", "reads no quantized ONNX; its converter quantizes the float model"),
    ("RKNN", "rknn-toolkit2 quantizes the float model itself; its documents name no Q/DQ input"),
    ("TVM", "imports Q/DQ and computes in float: nothing gained but bytes"),
];

impl Target {
    /// The target `name`.
    pub fn named(name: &str) -> Option<&'static Target> {
        const ALL: &[Target] = &TARGETS;
        ALL.iter().find(|target| target.name == name)
    }

    /// Time of a dynamically quantized layer over its float time, `rows` × k times k × n, on each of the target's processors.
    pub fn dynamic_ratios(&self, rows: usize, k: usize, n: usize) -> Vec<(Processor, f64)> {
        let ratio = |processor: &Processor| (*processor, onnx_runtime::dynamic_ratio(*processor, rows, k, n));
        self.processors().iter().map(ratio).collect()
    }

    /// All names, as one sentence lists them.
    pub fn names() -> String {
        TARGETS.map(|target| target.name).join(", ")
    }
}

impl Default for &Target {
    fn default() -> Self {
        &ORT_CPU
    }
}
