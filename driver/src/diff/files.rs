//! The difference of two files.
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::Model;

use super::{Diff, Options, diff};
use crate::{
    Failure,
    files::{self, UnknownFields},
    open::{Defaults, Functions, Opening},
    request::io::Input,
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

/// Compares the models `a` and `b`.
pub fn diff_files(a: &Input, b: &Input, options: Options) -> Result<Compared, Failure> {
    let (loaded_a, loaded_b) = (files::load(a, UnknownFields::Dropped)?, files::load(b, UnknownFields::Dropped)?);
    // Where they have other functions, what the functions do is compared.
    let same = loaded_a.model.functions == loaded_b.model.functions;
    let functions = if same { Functions::Kept } else { Functions::Inlined };
    let opening = Opening { functions, defaults: Defaults::Kept, conforms: false, shapes: None };
    let (a, b) = (opening.open(&a.to_string(), loaded_a)?, opening.open(&b.to_string(), loaded_b)?);
    let mut diff = diff(&a.model, &b.model, &Interpreter::default(), options);
    (diff.a.path, diff.b.path) = (a.name, b.name);
    (diff.a.bytes, diff.b.bytes) = (a.bytes, b.bytes);
    Ok(Compared { diff, a: a.model, b: b.model })
}
