//! The fewest bits that single constants may be stored in: what gates, and plans of a whole model, ask of the passes that store.
//!
//! **Never** by an id: constants of bodies are meant, too, and two of the same name in sibling bodies both are.
use std::collections::BTreeMap;

use onnx_shrink_ir::{DataType, Graph, Use};

/// Constants of fewer bytes stay: the node and its names take as much.
pub const LEAST_BYTES: usize = 480;

/// The fewest bits of one constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Least {
    /// 16-bit floats, where its range lets them
    Sixteen,
    /// It stays as it is
    Float,
}

/// The fewest bits of constants, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeastBits {
    /// Those that may not have fewer
    pub by_name: BTreeMap<String, Least>,
    /// Whether they are all that is spared: the smallest constants get 8 bits like all others
    pub alone: bool,
}

impl LeastBits {
    /// What the constant `name` must have; `None`: it may have as few as there are.
    pub fn of(&self, name: &str) -> Option<Least> {
        self.by_name.get(name).copied()
    }
}

/// Share of the bytes of all weights that the smallest may have together, to be stored in 16 bits: first and last layers and
/// depthwise filters, whose rounding costs most where their bytes cost least.
pub const SMALL_SHARE: f64 = 0.08;

/// A float constant that may be stored in fewer bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storable {
    /// Its name
    pub name: String,
    /// Bytes that it takes
    pub bytes: usize,
    /// Axes that it has
    pub rank: usize,
    /// Whether it is in a body of If, Loop or Scan, or read by one
    pub in_body: bool,
    /// Whether rows of it are looked up
    pub is_table: bool,
}

/// All of `graph` and its bodies, those of bodies first.
pub fn storable(graph: &Graph) -> Vec<Storable> {
    let mut found = Vec::new();
    gather(graph, false, &mut found);
    found
}

fn gather(graph: &Graph, in_body: bool, found: &mut Vec<Storable>) {
    for op in graph.ops() {
        for region in graph.op(op).regions() {
            gather(&region.graph, true, found);
        }
    }
    for value in graph.values() {
        let Some(tensor) = graph.constant(value) else { continue };
        if tensor.dtype() == DataType::Float && tensor.byte_len() >= LEAST_BYTES && !graph.is_input(value) {
            let uses = graph.uses(value);
            let is_captured = uses.iter().any(|place| matches!(place, Use::Capture(..)));
            let looks_up = |place: &Use| matches!(place, Use::Input(op, 0) if graph.op(*op).is("Gather"));
            found.push(Storable {
                name: graph.name_of(value).to_owned(),
                bytes: tensor.byte_len(),
                rank: tensor.dims().len(),
                in_body: in_body || is_captured,
                is_table: uses.iter().any(looks_up),
            });
        }
    }
}
