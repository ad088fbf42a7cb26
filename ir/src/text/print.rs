//! `Graph` or `Model` → text, in the order of export.
//!
//! One node a line. The same graph gives the same text, and in full mode the text parses to the same graph, up to what
//! text cannot say (see the [module](super)).
use std::fmt::Write;

use onnx_shrink_proto::schema::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto::dimension, type_proto,
};

use super::{ATTRIBUTE_TYPES, TYPE_WORDS, lexer, values};
use crate::{convert::tensor_from_proto, export, graph::Graph, model::Model, types::DataType};

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Print {
    /// Tensors with more elements are printed as `{…}`, which no parser reads; `None` prints all
    pub max_elements: Option<usize>,
}

/// `graph` as text, in full.
pub fn print_graph(graph: &Graph) -> String {
    Print::default().graph(graph)
}

/// `model` as text, in full.
pub fn print_model(model: &Model) -> String {
    Print::default().model(model)
}

impl Print {
    /// `graph` as text. Values that a body captures have the names that the body gives them.
    pub fn graph(self, graph: &Graph) -> String {
        self.graph_proto(&export::export_graph(graph, &std::collections::HashMap::new()))
    }

    /// `model` as text, functions included.
    pub fn model(self, model: &Model) -> String {
        self.model_proto(&export::export(model))
    }

    /// The same for a message.
    pub fn graph_proto(self, graph: &GraphProto) -> String {
        let mut printer = Printer { out: String::new(), indent: 0, print: self };
        printer.graph(graph);
        printer.out.push('\n');
        printer.out
    }

    /// The same for a message.
    pub fn model_proto(self, model: &ModelProto) -> String {
        let mut printer = Printer { out: String::new(), indent: 0, print: self };
        printer.model(model);
        printer.out
    }
}

/// Writes `text` in double quotes.
pub(super) fn write_quoted(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}

struct Printer {
    out: String,
    indent: usize,
    print: Print,
}

impl Printer {
    fn line(&mut self) {
        self.out.push('\n');
        for _ in 0..self.indent {
            self.out.push_str("  ");
        }
    }

    /// Quoted unless it is an identifier. A type's name is quoted, too: where a type may be left out, it would be one.
    fn name(&mut self, name: &str) {
        let is_type = TYPE_WORDS.contains(&name) || DataType::ALL.iter().any(|dtype| dtype.name() == name);
        if lexer::is_word(name) && !is_type { self.out.push_str(name) } else { write_quoted(&mut self.out, name) }
    }

    fn list<T>(&mut self, items: impl IntoIterator<Item = T>, mut item: impl FnMut(&mut Self, T)) {
        for (index, each) in items.into_iter().enumerate() {
            if index > 0 {
                self.out.push_str(", ");
            }
            item(self, each);
        }
    }

    fn names(&mut self, names: &[String]) {
        self.list(names, |printer, name| printer.name(name));
    }

    fn model(&mut self, model: &ModelProto) {
        self.out.push('<');
        let _ = write!(self.out, "ir_version: {}, opset_import: [", model.ir_version());
        self.list(&model.opset_import, |printer, import| {
            write_quoted(&mut printer.out, import.domain());
            let _ = write!(printer.out, " : {}", import.version());
        });
        self.out.push(']');
        let properties = [
            ("producer_name", &model.producer_name),
            ("producer_version", &model.producer_version),
            ("domain", &model.domain),
            ("doc_string", &model.doc_string),
        ];
        for (key, value) in properties {
            if let Some(value) = value {
                let _ = write!(self.out, ", {key}: ");
                write_quoted(&mut self.out, value);
            }
        }
        if let Some(version) = model.model_version {
            let _ = write!(self.out, ", model_version: {version}");
        }
        if !model.metadata_props.is_empty() {
            self.out.push_str(", metadata_props: [");
            self.list(&model.metadata_props, |printer, entry| {
                write_quoted(&mut printer.out, entry.key());
                printer.out.push_str(": ");
                write_quoted(&mut printer.out, entry.value());
            });
            self.out.push(']');
        }
        self.out.push_str(">\n");
        if let Some(graph) = &model.graph {
            self.graph(graph);
        }
        self.out.push('\n');
        for function in &model.functions {
            self.function(function);
        }
    }

    fn graph(&mut self, graph: &GraphProto) {
        self.name(graph.name());
        self.out.push_str(" (");
        self.list(&graph.input, Self::value_info);
        self.out.push_str(") => (");
        self.list(&graph.output, Self::value_info);
        self.out.push_str(") ");
        let entries = graph.initializer.len() + graph.sparse_initializer.len() + graph.value_info.len();
        if entries > 0 {
            self.out.push('<');
            self.indent += 1;
            let mut written = 0;
            let mut next = |printer: &mut Self| {
                if written > 0 {
                    printer.out.push(',');
                }
                written += 1;
                printer.line();
            };
            for tensor in &graph.initializer {
                next(self);
                self.tensor_type(tensor);
                self.out.push(' ');
                self.name(tensor.name());
                self.out.push_str(" = ");
                self.tensor_values(tensor);
            }
            for sparse in &graph.sparse_initializer {
                next(self);
                self.sparse(sparse);
            }
            for info in &graph.value_info {
                next(self);
                self.value_info(info);
            }
            self.indent -= 1;
            self.line();
            self.out.push_str("> ");
        }
        self.nodes(&graph.node);
    }

    fn nodes(&mut self, nodes: &[NodeProto]) {
        self.out.push('{');
        self.indent += 1;
        for node in nodes {
            self.line();
            self.node(node);
        }
        self.indent -= 1;
        self.line();
        self.out.push('}');
    }

    /// Functions are printed for reading: the parser refuses them.
    fn function(&mut self, function: &FunctionProto) {
        self.out.push_str("<domain: ");
        write_quoted(&mut self.out, function.domain());
        if !function.overload().is_empty() {
            self.out.push_str(", overload: ");
            write_quoted(&mut self.out, function.overload());
        }
        self.out.push_str(", opset_import: [");
        self.list(&function.opset_import, |printer, import| {
            write_quoted(&mut printer.out, import.domain());
            let _ = write!(printer.out, " : {}", import.version());
        });
        self.out.push_str("]>\n");
        self.name(function.name());
        if !function.attribute.is_empty() || !function.attribute_proto.is_empty() {
            self.out.push_str(" <");
            self.names(&function.attribute);
            if !function.attribute.is_empty() && !function.attribute_proto.is_empty() {
                self.out.push_str(", ");
            }
            self.list(&function.attribute_proto, Self::attribute);
            self.out.push('>');
        }
        self.out.push_str(" (");
        self.names(&function.input);
        self.out.push_str(") => (");
        self.names(&function.output);
        self.out.push_str(") ");
        self.nodes(&function.node);
        self.out.push('\n');
    }

    fn value_info(&mut self, info: &ValueInfoProto) {
        if let Some(ty) = info.r#type.as_ref().and_then(type_text) {
            self.out.push_str(&ty);
            self.out.push(' ');
        }
        self.name(info.name());
    }

    fn node(&mut self, node: &NodeProto) {
        if !node.name().is_empty() {
            self.out.push('[');
            self.name(node.name());
            self.out.push_str("] ");
        }
        self.names(&node.output);
        self.out.push_str(if node.output.is_empty() { "= " } else { " = " });
        if !node.domain().is_empty() {
            let plain = node.domain().split('.').all(lexer::is_word);
            if plain {
                self.out.push_str(node.domain())
            } else {
                write_quoted(&mut self.out, node.domain())
            }
            self.out.push('.');
        }
        if lexer::is_word(node.op_type()) {
            self.out.push_str(node.op_type());
        } else {
            write_quoted(&mut self.out, node.op_type());
        }
        if !node.overload().is_empty() {
            self.out.push(':');
            self.name(node.overload());
        }
        // Bodies stand after the inputs, where a reader expects them.
        let bodies = node.attribute.iter().any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty());
        if !bodies {
            self.attributes(&node.attribute);
        }
        self.out.push_str(" (");
        self.names(&node.input);
        self.out.push(')');
        if bodies {
            self.attributes(&node.attribute);
        }
    }

    fn attributes(&mut self, attributes: &[AttributeProto]) {
        if attributes.is_empty() {
            return;
        }
        self.out.push_str(" <");
        self.list(attributes, Self::attribute);
        self.out.push('>');
    }

    fn attribute(&mut self, attribute: &AttributeProto) {
        use AttributeType::*;
        let kind = kind_of(attribute);
        if lexer::is_word(attribute.name()) {
            self.out.push_str(attribute.name());
        } else {
            write_quoted(&mut self.out, attribute.name());
        }
        let empty = match kind {
            Floats => attribute.floats.is_empty(),
            Ints => attribute.ints.is_empty(),
            Strings => attribute.strings.is_empty(),
            Tensors => attribute.tensors.is_empty(),
            Graphs => attribute.graphs.is_empty(),
            TypeProtos => attribute.type_protos.is_empty(),
            _ => false,
        };
        let by_name = attribute.ref_attr_name.is_some() || matches!(kind, SparseTensor | SparseTensors);
        if empty || by_name {
            let name = ATTRIBUTE_TYPES.iter().find(|(_, known)| *known == kind).map(|(name, _)| name);
            let _ = write!(self.out, ": {}", name.unwrap_or(&"undefined"));
        }
        self.out.push_str(" = ");
        if let Some(name) = &attribute.ref_attr_name {
            self.out.push('@');
            self.name(name);
            return;
        }
        let is_list = matches!(kind, Floats | Ints | Strings | Tensors | Graphs | TypeProtos | SparseTensors);
        if is_list {
            self.out.push('[');
        }
        match kind {
            Float => self.out.push_str(&values::real(attribute.f())),
            Int => {
                let _ = write!(self.out, "{}", attribute.i());
            }
            String => write_quoted(&mut self.out, &std::string::String::from_utf8_lossy(attribute.s())),
            Tensor => attribute.t.iter().for_each(|tensor| self.tensor(tensor)),
            Graph => attribute.g.iter().for_each(|graph| self.body(graph)),
            TypeProto => attribute.tp.iter().for_each(|ty| self.ty(ty)),
            Floats => self.list(&attribute.floats, |printer, &number| printer.out.push_str(&values::real(number))),
            Ints => self.list(&attribute.ints, |printer, number| {
                let _ = write!(printer.out, "{number}");
            }),
            Strings => self.list(&attribute.strings, |printer, text| {
                write_quoted(&mut printer.out, &std::string::String::from_utf8_lossy(text));
            }),
            Tensors => self.list(&attribute.tensors, Self::tensor),
            Graphs => self.list(&attribute.graphs, Self::body),
            TypeProtos => self.list(&attribute.type_protos, Self::ty),
            SparseTensor | SparseTensors | Undefined => self.out.push('…'),
        }
        if is_list {
            self.out.push(']');
        }
    }

    fn body(&mut self, graph: &GraphProto) {
        self.indent += 1;
        self.graph(graph);
        self.indent -= 1;
    }

    fn ty(&mut self, ty: &TypeProto) {
        self.out.push_str(&type_text(ty).unwrap_or_else(|| "…".to_owned()));
    }

    fn tensor(&mut self, tensor: &TensorProto) {
        self.tensor_type(tensor);
        if !tensor.name().is_empty() {
            self.out.push(' ');
            self.name(tensor.name());
        }
        self.out.push(' ');
        self.tensor_values(tensor);
    }

    fn tensor_type(&mut self, tensor: &TensorProto) {
        let dtype = DataType::from_number(tensor.data_type.unwrap_or(0));
        self.out.push_str(dtype.map_or("undefined", DataType::name));
        if !tensor.dims.is_empty() {
            let dims: Vec<std::string::String> = tensor.dims.iter().map(i64::to_string).collect();
            let _ = write!(self.out, "[{}]", dims.join(","));
        }
    }

    fn tensor_values(&mut self, tensor: &TensorProto) {
        match tensor_from_proto(tensor) {
            Ok(tensor) if self.print.max_elements.is_none_or(|max| tensor.len() <= max) => {
                values::write_values(&mut self.out, &tensor);
            }
            _ => self.out.push_str("{…}"),
        }
    }

    fn sparse(&mut self, sparse: &SparseTensorProto) {
        let empty = TensorProto::default();
        let values = sparse.values.as_ref().unwrap_or(&empty);
        self.out.push_str("sparse_tensor(");
        self.tensor_type(&TensorProto { dims: sparse.dims.clone(), ..values.clone() });
        self.out.push_str(") ");
        self.name(values.name());
        self.out.push_str(" = {…}");
    }
}

/// The attribute's type, or that of the field that is set (files of IR version 1 do not state it).
fn kind_of(attribute: &AttributeProto) -> AttributeType {
    use AttributeType::*;
    match attribute.r#type() {
        Undefined if attribute.f.is_some() => Float,
        Undefined if attribute.i.is_some() => Int,
        Undefined if attribute.s.is_some() => String,
        Undefined if attribute.t.is_some() => Tensor,
        Undefined if attribute.g.is_some() => Graph,
        Undefined if !attribute.floats.is_empty() => Floats,
        Undefined if !attribute.ints.is_empty() => Ints,
        Undefined if !attribute.strings.is_empty() => Strings,
        kind => kind,
    }
}

/// The type as text; `None` for one that is incomplete.
fn type_text(ty: &TypeProto) -> Option<String> {
    let dtype = |number: Option<i32>| number.and_then(DataType::from_number).map(DataType::name);
    Some(match ty.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => {
            format!("{}{}", dtype(tensor.elem_type)?, shape_text(tensor.shape.as_ref()))
        }
        type_proto::Value::SparseTensorType(tensor) => {
            format!("sparse_tensor({}{})", dtype(tensor.elem_type)?, shape_text(tensor.shape.as_ref()))
        }
        type_proto::Value::SequenceType(sequence) => format!("seq({})", type_text(sequence.elem_type.as_ref()?)?),
        type_proto::Value::OptionalType(optional) => format!("optional({})", type_text(optional.elem_type.as_ref()?)?),
        type_proto::Value::MapType(map) => {
            format!("map({}, {})", dtype(map.key_type)?, type_text(map.value_type.as_ref()?)?)
        }
        type_proto::Value::OpaqueType(opaque) => match (opaque.domain(), opaque.name()) {
            ("", name) => format!("opaque({name})"),
            (domain, name) => format!("opaque({domain}, {name})"),
        },
    })
}

fn shape_text(shape: Option<&TensorShapeProto>) -> String {
    let Some(shape) = shape else { return "[]".to_owned() };
    if shape.dim.is_empty() {
        return String::new();
    }
    let dim = |value: &Option<dimension::Value>| match value {
        Some(dimension::Value::DimValue(number)) => number.to_string(),
        Some(dimension::Value::DimParam(name)) if lexer::is_word(name) => name.clone(),
        Some(dimension::Value::DimParam(name)) => {
            let mut quoted = String::new();
            write_quoted(&mut quoted, name);
            quoted
        }
        None => "?".to_owned(),
    };
    let dims: Vec<String> = shape.dim.iter().map(|each| dim(&each.value)).collect();
    format!("[{}]", dims.join(","))
}
