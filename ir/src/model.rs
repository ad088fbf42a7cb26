//! A model: the graph, and everything else of the file.
use onnx_shrink_proto::schema::{ModelProto, OperatorSetIdProto, StringStringEntryProto};

use crate::graph::Graph;

/// A model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The main graph
    pub graph: Graph,
    /// The message without its graph
    pub(crate) proto: ModelProto,
}

impl Model {
    /// A model around `graph`, of this IR version.
    pub fn new(graph: Graph, ir_version: i64) -> Model {
        let import = OperatorSetIdProto { domain: Some(String::new()), version: Some(graph.opset()) };
        let proto = ModelProto { ir_version: Some(ir_version), opset_import: vec![import], ..ModelProto::default() };
        Model { graph, proto }
    }

    /// The version of the file format.
    pub fn ir_version(&self) -> i64 {
        self.proto.ir_version()
    }

    /// Changes the version of the file format.
    pub fn set_ir_version(&mut self, version: i64) {
        self.proto.ir_version = Some(version);
    }

    /// The version of ONNX's own ops; 0 when the model does not import them.
    pub fn opset(&self) -> i64 {
        self.graph.opset()
    }

    /// Changes the version of ONNX's own ops in the imports and in every graph; the ops are the caller's business.
    pub fn set_opset(&mut self, opset: i64) {
        self.graph.set_opset(opset);
        let mut found = false;
        for import in &mut self.proto.opset_import {
            if matches!(import.domain(), "" | "ai.onnx") {
                import.version = Some(opset);
                found = true;
            }
        }
        if !found {
            let import = OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) };
            self.proto.opset_import.push(import);
        }
    }

    /// The version of `domain` that the model imports.
    pub fn import_of(&self, domain: &str) -> Option<i64> {
        self.proto.opset_import.iter().find(|import| import.domain() == domain).map(|import| import.version())
    }

    /// The message without its graph: producer, metadata, functions, training information.
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// Says `value` of `key` in the model's metadata, in the place of what was said before.
    pub fn set_metadata(&mut self, key: &str, value: &str) {
        self.proto.metadata_props.retain(|entry| entry.key() != key);
        let entry = StringStringEntryProto { key: Some(key.to_owned()), value: Some(value.to_owned()) };
        self.proto.metadata_props.push(entry);
    }

    /// A copy whose new names are independent of this model's.
    pub fn detached(&self) -> Model {
        Model { graph: self.graph.detached(), proto: self.proto.clone() }
    }
}
