//! The graph that onnx-shrink's passes rewrite.
//!
//! `ModelProto` ↔ [`Model`] ↔ ONNX text. This crate knows what ops mean (schemas, typed views, shape inference) and **runs
//! nothing**: an engine is reached through [`Evaluate`].
//!
//! ```
//! use onnx_shrink_ir::{export, infer, ops::Conv, text::{parse_model, print_graph}};
//!
//! let mut model = parse_model(
//!     r#"<ir_version: 8, opset_import: ["" : 17]>
//!     g (float[1,3,8,8] x, float[4,3,3,3] w) => (float[1,4,6,6] y) { a = Conv (x, w)  y = Relu (a) }"#,
//! )
//! .expect("this is ONNX's own syntax");
//! infer::infer(&mut model.graph);
//! let graph = &model.graph;
//! let conv = graph.ops_of("Conv")[0];
//! let view = Conv::of(graph, conv).expect("a Conv without unknown attributes");
//! assert_eq!(view.group, 1);
//! let made = graph.op(conv).output(0).expect("a Conv has one output");
//! assert_eq!(graph.ty(made).expect("its shape was inferred").to_string(), "float[1,4,6,6]");
//! assert!(print_graph(graph).contains("y = Relu (a)"));
//! let proto = export(&model); // a `ModelProto` again, which `proto::save` writes
//! assert_eq!(proto.graph.expect("a model has a graph").node.len(), 2);
//! ```
pub mod attributes;
pub mod conform;
pub mod convert;
mod disjoint_sets;
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
pub mod semantics;
mod tensor;
pub mod testing;
pub mod text;
mod types;
pub mod verify;

pub use disjoint_sets::DisjointSets;
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
