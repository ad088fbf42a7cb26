//! The main job: load, lossless passes, export, save.
//!
//! Calibration, quantization and the run of the result against the input come with the engine: what is not here is refused or
//! said in the report, **never** passed over.
use onnx_shrink_ir::{Evaluate, EvaluateError, Graph, OpId, Prepared, Tensor, export, import};
use onnx_shrink_passes::{Context, Options, pipeline};

use crate::{
    Progress, files,
    report::{Report, Side},
    request::{Failure, Request},
};

/// An engine that computes nothing, and says so.
struct NoEngine;

impl NoEngine {
    fn refuse(op: &str, op_type: &str) -> EvaluateError {
        let reason = "this build has no engine".to_owned();
        EvaluateError::Unsupported { op: op.to_owned(), op_type: op_type.to_owned(), reason }
    }
}

impl Evaluate for NoEngine {
    fn op(&self, graph: &Graph, op: OpId, _: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, EvaluateError> {
        Err(NoEngine::refuse(graph.label_of(op), graph.op(op).op_type()))
    }

    fn prepare<'g>(&'g self, graph: &'g Graph) -> Result<Box<dyn Prepared + 'g>, EvaluateError> {
        Err(NoEngine::refuse(graph.name(), "graph"))
    }
}

/// Makes the model of `request` smaller and writes it.
pub fn shrink(request: &Request, progress: &dyn Progress) -> Result<Report, Failure> {
    let output = request.checked_output()?;
    if request.int8 {
        return Err(Failure::usage("--int8 is not in this build: it has no engine to calibrate with"));
    }
    let stage = progress.stage("load", None);
    let loaded = files::load(&request.input, request.allow_unknown_fields)?;
    let name = request.input.display().to_string();
    let in_file = |error: onnx_shrink_ir::ImportError| Failure::input(anyhow::Error::from(error).context(name.clone()));
    let mut model = import(loaded.model.clone()).map_err(in_file)?;
    let mut report = Report::new(Side::of(&name, files::size_of_input(&loaded), &model));
    drop(stage);
    if let Some(data) = &request.data {
        let samples = crate::Samples::open(data, &model.graph, &request.sample_options).map_err(Failure::samples)?;
        report.notes.push(format!(
            "{} samples in {} were not used: this build has no engine",
            samples.len(),
            data.display()
        ));
    }

    let stage = progress.stage("lossless rewrites", None);
    let options = Options { skip: request.skip.iter().cloned().collect(), exact: request.exact, ..Options::default() };
    let mut context = Context::new(options, &NoEngine);
    pipeline::run_lossless(&mut model.graph, &mut context)
        .map_err(|error| Failure::bug(anyhow::Error::from(error).context(name.clone())))?;
    report.journal = std::mem::take(&mut context.journal.entries);
    drop(stage);
    if request.validate {
        report.warnings.push("the result was not run against the input: this build has no engine".to_owned());
    }

    let _stage = progress.stage("save", None);
    let result = export(&model);
    let written = files::write(&result, &loaded, &request.input, output, &request.external_data)?;
    report.finish(output, &written, &model);
    Ok(report)
}
