//! Small models for the tests of this crate.
use std::{error::Error, fs};

use bytes::Bytes;
use tempfile::TempDir;

use crate::schema::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation,
};

/// A uint8 tensor with `data` in it.
pub(crate) fn tensor(name: &str, data: impl Into<Bytes>) -> TensorProto {
    let data = data.into();
    TensorProto {
        name: Some(name.into()),
        data_type: Some(2),
        dims: vec![data.len() as i64],
        raw_data: Some(data),
        ..Default::default()
    }
}

/// A uint8 tensor whose data lies outside.
pub(crate) fn external(name: &str, entries: &[(&str, &str)]) -> TensorProto {
    let entry =
        |(key, value): &(&str, &str)| StringStringEntryProto { key: Some((*key).into()), value: Some((*value).into()) };
    TensorProto {
        name: Some(name.into()),
        data_type: Some(2),
        external_data: entries.iter().map(entry).collect(),
        data_location: Some(DataLocation::External as i32),
        ..Default::default()
    }
}

/// A model with these initializers.
pub(crate) fn model(initializer: Vec<TensorProto>) -> ModelProto {
    let graph = GraphProto { name: Some("g".into()), initializer, ..Default::default() };
    ModelProto { ir_version: Some(10), graph: Some(graph), ..Default::default() }
}

/// A node with one attribute.
pub(crate) fn node(attribute: AttributeProto) -> NodeProto {
    NodeProto { name: Some("n".into()), attribute: vec![attribute], ..Default::default() }
}

/// The sentence that `main` would print.
pub(crate) fn sentence(error: &dyn Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        sentence += &format!(": {error}");
        cause = error.source();
    }
    sentence
}

/// What lies in the folder.
pub(crate) fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
