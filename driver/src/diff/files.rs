//! The difference of two files.
use std::path::Path;

use anyhow::anyhow;
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{Model, infer, proto::schema::ModelProto};

use super::{Diff, Options, diff};
use crate::{
    Failure, files,
    functions::{self, Functions},
};

/// What two files hold, and how it differs.
pub struct Compared {
    /// The difference
    pub diff: Diff,
    /// The one model
    pub a: Model,
    /// The other
    pub b: Model,
}

/// Compares the models `a` and `b` (`-`: standard input).
pub fn diff_files(a: &Path, b: &Path, options: Options) -> Result<Compared, Failure> {
    let ((proto_a, bytes_a), (proto_b, bytes_b)) = (load(a)?, load(b)?);
    // Where they have other functions, what the functions do is compared.
    let functions = if proto_a.functions == proto_b.functions { Functions::Kept } else { Functions::Inlined };
    let (model_a, model_b) = (open(a, &proto_a, functions)?, open(b, &proto_b, functions)?);
    let mut diff = diff(&model_a, &model_b, &Interpreter::default(), options);
    diff.a.path = a.display().to_string();
    diff.b.path = b.display().to_string();
    (diff.a.bytes, diff.b.bytes) = (bytes_a, bytes_b);
    Ok(Compared { diff, a: model_a, b: model_b })
}

/// A model and its bytes.
fn load(path: &Path) -> Result<(ModelProto, u64), Failure> {
    let loaded = files::load(path, true)?;
    let bytes = files::size_of_input(&loaded);
    Ok((loaded.model, bytes))
}

fn open(path: &Path, model: &ModelProto, functions: Functions) -> Result<Model, Failure> {
    let opened = functions::open(model, functions);
    let mut model =
        opened.map_err(|error| Failure::input(anyhow!(error).context(format!("{}", path.display()))))?.model;
    infer::infer_as_read(&mut model.graph);
    Ok(model)
}
