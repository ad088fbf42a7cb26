//! What a graph is made of: ops, the bodies that they hold, values, and how these are used.
use std::sync::Arc;

use onnx_shrink_proto::schema::{AttributeProto, NodeProto, TensorProto, ValueInfoProto};
use petgraph::stable_graph::NodeIndex;

use super::Graph;
use crate::{tensor::Tensor, types::TensorType};

/// An op of one graph. Valid until that op is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub(super) NodeIndex<u32>);

/// A value of one graph. Valid until that value is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub(super) NodeIndex<u32>);

impl OpId {
    /// A number for side tables: below [`Graph::bound`], not shared with any other live op or value.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

impl ValueId {
    /// A number for side tables: below [`Graph::bound`], not shared with any other live op or value.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// A body of If, Loop or Scan: the graph that an attribute holds.
#[derive(Clone, Debug)]
pub struct Region {
    /// Index of the attribute among those of the op
    pub(crate) attribute: usize,
    /// Place in the attribute's list, for attributes that hold several graphs
    pub(crate) place: Option<usize>,
    /// The body
    pub graph: Graph,
}

/// An operation.
#[derive(Clone, Debug)]
pub struct Op {
    /// Place in the order of the file; a new op has that of the op it stands for
    pub(crate) seq: u64,
    /// The node as in the file; inputs, outputs and body graphs are empty (they are edges and regions)
    pub(crate) node: NodeProto,
    /// Whether it was not in the file
    pub(crate) is_new: bool,
    pub(crate) inputs: Vec<Option<ValueId>>,
    pub(crate) outputs: Vec<Option<ValueId>>,
    /// Bodies, in the order of their attributes
    pub(crate) regions: Vec<Region>,
}

impl Op {
    /// The op's type, as ONNX names it.
    pub fn op_type(&self) -> &str {
        self.node.op_type()
    }

    /// The domain, "" for ONNX's own (whether written "" or "ai.onnx").
    pub fn domain(&self) -> &str {
        match self.node.domain() {
            "ai.onnx" => "",
            domain => domain,
        }
    }

    /// The op type with its domain, "com.microsoft.Gelu"; of ONNX's own ops the type alone.
    pub fn full_type(&self) -> String {
        match self.domain() {
            "" => self.op_type().to_owned(),
            domain => format!("{domain}.{}", self.op_type()),
        }
    }

    /// Whether it is ONNX's own op of this type.
    pub fn is(&self, op_type: &str) -> bool {
        self.domain().is_empty() && self.op_type() == op_type
    }

    /// The node's name, "" when it has none.
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// Input values by position; `None` where an optional input is left out.
    pub fn inputs(&self) -> &[Option<ValueId>] {
        &self.inputs
    }

    /// Output values by position; `None` where an optional output is left out.
    pub fn outputs(&self) -> &[Option<ValueId>] {
        &self.outputs
    }

    /// Input `index`, unless left out.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// Output `index`, unless left out.
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }

    /// All attributes; those that hold graphs are empty here (see [`Op::regions`]).
    pub fn attributes(&self) -> &[AttributeProto] {
        &self.node.attribute
    }

    /// The attribute `name`.
    pub fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.node.attribute.iter().find(|attribute| attribute.name() == name)
    }

    /// The bodies of a control-flow op.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The body that attribute `name` holds.
    pub fn region(&self, name: &str) -> Option<&Region> {
        self.regions.iter().find(|region| self.node.attribute[region.attribute].name() == name)
    }

    /// The name of the attribute that holds `region`.
    pub fn region_name(&self, region: &Region) -> &str {
        self.node.attribute[region.attribute].name()
    }

    /// The node as a message without inputs, outputs and bodies.
    pub fn proto(&self) -> &NodeProto {
        &self.node
    }
}

/// What a value was in the file, for writing it back as it was.
#[derive(Clone, Debug, Default)]
pub(crate) struct ValueOrigin {
    /// Its entry in value_info, with its place there
    pub(crate) info: Option<(u32, Box<ValueInfoProto>)>,
    /// Its initializer
    pub(crate) initializer: Option<Arc<TensorProto>>,
    /// Its place among the initializers
    pub(crate) initializer_place: Option<u32>,
}

/// A value: what an op makes, a graph takes, or a constant holds.
#[derive(Clone, Debug)]
pub struct Value {
    pub(crate) name: Box<str>,
    pub(crate) ty: Option<TensorType>,
    pub(crate) constant: Option<Tensor>,
    pub(crate) captured: bool,
    pub(crate) origin: ValueOrigin,
}

impl Value {
    /// Its name, unique among the values that a graph can see.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known of its type: declared in the file or inferred. `None` when nothing is, or it is not a tensor.
    pub fn ty(&self) -> Option<&TensorType> {
        self.ty.as_ref()
    }

    /// The value's entry in value_info, which also tells sequence, map and optional types.
    pub fn declared(&self) -> Option<&ValueInfoProto> {
        self.origin.info.as_ref().map(|(_, info)| &**info)
    }

    /// Whether a body takes it from the graph around it.
    pub fn is_captured(&self) -> bool {
        self.captured
    }
}

/// Where a value is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Input `index` of an op
    Input(OpId, usize),
    /// Region `region` of an op captures it, as value `inner` of the body
    Capture(OpId, usize, ValueId),
    /// Output `index` of the graph
    Output(usize),
}

impl Use {
    /// The op that uses the value; `None` for the graph itself.
    pub fn op(self) -> Option<OpId> {
        match self {
            Use::Input(op, _) | Use::Capture(op, ..) => Some(op),
            Use::Output(_) => None,
        }
    }
}

/// An op to be added: its type, inputs and attributes.
#[derive(Clone, Debug, Default)]
pub struct NewOp {
    /// The node; its inputs and outputs are ignored
    pub node: NodeProto,
}

impl NewOp {
    /// ONNX's own op `op_type` without attributes.
    pub fn new(op_type: &str) -> NewOp {
        NewOp { node: NodeProto { op_type: Some(op_type.to_owned()), ..NodeProto::default() } }
    }

    /// With the node name `name`.
    #[must_use]
    pub fn named(mut self, name: &str) -> NewOp {
        self.node.name = (!name.is_empty()).then(|| name.to_owned());
        self
    }

    /// With one more attribute.
    #[must_use]
    pub fn with(mut self, attribute: AttributeProto) -> NewOp {
        self.node.attribute.push(attribute);
        self
    }
}
