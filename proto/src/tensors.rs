//! Every tensor of a model: initializers, sparse ones, attributes, bodies, functions, training graphs.
//!
//! Why: external data may hang on each of them. The walk recurses over bodies, which no decoded model nests deeper than 33.
//!
//! **Never** skips a tensor, and the order is the same for the shared and the mutable walk.
use std::fmt;

/// What a tensor belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'a> {
    /// A graph's (or body's) initializer.
    Initializer,
    /// The values or the indices of a sparse tensor.
    Sparse,
    /// An attribute of a node or, as a default, of a function.
    Attribute { node: &'a str, name: &'a str },
    /// None: the tensor is a file of its own.
    File,
}

impl Owner<'_> {
    /// "initializer `w`".
    pub(crate) fn describe(self, tensor: Option<&str>) -> String {
        let tensor = tensor.unwrap_or("");
        match self {
            Owner::Initializer => format!("initializer `{tensor}`"),
            Owner::Sparse => format!("sparse tensor `{tensor}`"),
            Owner::File => format!("tensor `{tensor}`"),
            attribute @ Owner::Attribute { .. } => attribute.to_string(),
        }
    }
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Initializer => write!(f, "initializer"),
            Owner::Sparse => write!(f, "sparse tensor"),
            Owner::File => write!(f, "tensor"),
            Owner::Attribute { node, name } => write!(f, "attribute `{name}` of node `{node}`"),
        }
    }
}

/// A node's name or, if it has none, its first output's.
fn label<'a>(name: &'a Option<String>, outputs: &'a [String]) -> &'a str {
    let name = name.as_deref().filter(|name| !name.is_empty());
    name.or(outputs.first().map(String::as_str)).unwrap_or("")
}

macro_rules! walk {
    ($(#[$doc:meta])* $module:ident $($mutable:tt)?) => {
        $(#[$doc])*
        pub(crate) mod $module {
            use super::{Owner, label};
            use crate::schema::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};

            type Visit<'v, E> = &'v mut dyn FnMut(&$($mutable)? TensorProto, Owner<'_>) -> Result<(), E>;

            /// Calls `visit` for each tensor, until it fails.
            pub(crate) fn model<E>(model: &$($mutable)? ModelProto, visit: Visit<'_, E>) -> Result<(), E> {
                if let Some(inner) = &$($mutable)? model.graph {
                    graph(inner, visit)?;
                }
                for info in &$($mutable)? model.training_info {
                    for inner in [&$($mutable)? info.initialization, &$($mutable)? info.algorithm].into_iter().flatten() {
                        graph(inner, visit)?;
                    }
                }
                for function in &$($mutable)? model.functions {
                    let owner = label(&function.name, &[]);
                    for inner in &$($mutable)? function.attribute_proto {
                        attribute(inner, owner, visit)?;
                    }
                    nodes(&$($mutable)? function.node, visit)?;
                }
                Ok(())
            }

            fn graph<E>(graph: &$($mutable)? GraphProto, visit: Visit<'_, E>) -> Result<(), E> {
                for tensor in &$($mutable)? graph.initializer {
                    visit(tensor, Owner::Initializer)?;
                }
                for tensor in &$($mutable)? graph.sparse_initializer {
                    sparse(tensor, visit)?;
                }
                nodes(&$($mutable)? graph.node, visit)
            }

            fn nodes<E>(nodes: &$($mutable)? [NodeProto], visit: Visit<'_, E>) -> Result<(), E> {
                for node in nodes {
                    let owner = label(&node.name, &node.output);
                    for inner in &$($mutable)? node.attribute {
                        attribute(inner, owner, visit)?;
                    }
                }
                Ok(())
            }

            fn attribute<E>(attribute: &$($mutable)? AttributeProto, node: &str, visit: Visit<'_, E>) -> Result<(), E> {
                let owner = Owner::Attribute { node, name: attribute.name.as_deref().unwrap_or("") };
                if let Some(tensor) = &$($mutable)? attribute.t {
                    visit(tensor, owner)?;
                }
                for tensor in &$($mutable)? attribute.tensors {
                    visit(tensor, owner)?;
                }
                if let Some(tensor) = &$($mutable)? attribute.sparse_tensor {
                    sparse(tensor, visit)?;
                }
                for tensor in &$($mutable)? attribute.sparse_tensors {
                    sparse(tensor, visit)?;
                }
                if let Some(inner) = &$($mutable)? attribute.g {
                    graph(inner, visit)?;
                }
                for inner in &$($mutable)? attribute.graphs {
                    graph(inner, visit)?;
                }
                Ok(())
            }

            fn sparse<E>(tensor: &$($mutable)? SparseTensorProto, visit: Visit<'_, E>) -> Result<(), E> {
                for part in [&$($mutable)? tensor.values, &$($mutable)? tensor.indices].into_iter().flatten() {
                    visit(part, Owner::Sparse)?;
                }
                Ok(())
            }
        }
    };
}

walk!(
    /// The walk that reads.
    shared
);
walk!(
    /// The walk that changes.
    unique mut
);
