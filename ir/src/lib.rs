//! The graph that onnx-shrink's passes rewrite.
//!
//! `ModelProto` ↔ [`Model`] ↔ ONNX text. This crate knows what ops mean (schemas, typed views, shape inference) and **runs
//! nothing**: an engine is reached through [`Evaluate`].
pub mod attributes;
pub mod conform;
pub mod convert;
pub mod evaluate;
mod export;
mod fix_shape;
mod graph;
pub mod halves;
mod import;
pub mod infer;
mod inline_functions;
mod model;
mod multiply_adds;
pub mod op_schema;
pub mod ops;
mod part;
mod patch;
pub mod raise;
mod tensor;
pub mod testing;
pub mod text;
mod types;
pub mod verify;

pub use evaluate::{Evaluate, EvaluateError, Observe, Prepared, ops_between};
pub use export::export;
pub use fix_shape::FixError;
pub use graph::{Graph, NewOp, Op, OpId, Region, Use, Value, ValueId};
pub use import::{ImportError, import};
pub use inline_functions::{Inlined, inline_functions};
pub use model::Model;
pub use multiply_adds::multiply_adds;
pub use onnx_shrink_proto as proto;
pub use part::{Given, alone, between, neighbourhood};
pub use patch::{Applied, Patch, PatchError, ValueRef};
pub use tensor::{Element, Tensor, TensorError, element_count};
pub use types::{DataType, Dim, TensorType};
