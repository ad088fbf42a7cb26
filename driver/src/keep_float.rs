//! What `--keep-float` names: ops by name, by type or by a glob.
use std::collections::BTreeSet;

use globset::{Glob, GlobSet, GlobSetBuilder};
use onnx_shrink_ir::{Graph, OpId};

use crate::Failure;
use crate::report::Note;

/// What `--keep-float` names.
pub(crate) struct Patterns {
    globs: GlobSet,
    words: Vec<String>,
}

impl Patterns {
    /// Those in `words`, `auto` aside: it says what is done anyway, where a gate fails.
    pub(crate) fn new(words: &[String]) -> Result<Patterns, Failure> {
        let words: Vec<String> = words.iter().filter(|word| *word != "auto").cloned().collect();
        let mut globs = GlobSetBuilder::new();
        for word in &words {
            let glob = Glob::new(word).map_err(|error| Failure::usage(format_args!("--keep-float {word}: {error}")))?;
            globs.add(glob);
        }
        Ok(Patterns { globs: globs.build().map_err(Failure::bug)?, words })
    }

    pub(crate) fn matches(&self, graph: &Graph, op: OpId) -> bool {
        let (label, op_type) = (graph.label_of(op), graph.op(op).op_type());
        self.globs.is_match(label) || self.words.iter().any(|word| word == op_type || word == label)
    }

    /// The names of the constants that the ops read which it names.
    pub(crate) fn constants(&self, graph: &Graph) -> BTreeSet<String> {
        let ops = graph.ops_in_id_order().into_iter().filter(|op| self.matches(graph, *op));
        let read = ops.flat_map(|op| graph.op(op).inputs().iter().flatten().copied());
        read.filter(|value| graph.constant(*value).is_some()).map(|value| graph.name_of(value).to_owned()).collect()
    }

    /// A note for each word that names nothing.
    pub(crate) fn unused(&self, graph: &Graph) -> Vec<Note> {
        let names: BTreeSet<&str> =
            graph.ops().into_iter().flat_map(|op| [graph.label_of(op), graph.op(op).op_type()]).collect();
        let is_used = |word: &String| {
            let glob = Glob::new(word).map(|glob| glob.compile_matcher());
            names.iter().any(|name| *name == word || glob.as_ref().is_ok_and(|glob| glob.is_match(name)))
        };
        self.words.iter().filter(|word| !is_used(word)).cloned().map(Note::KeepFloatUnused).collect()
    }
}
