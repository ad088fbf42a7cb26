//! `--dump-dir`: the graph as ONNX text after each pass that changed something, and what is around a guilty rewrite.
//!
//! **Never** ends a run: what cannot be written is said once, on standard error.
use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use onnx_shrink_ir::{Graph, Model, OpId, ValueId, export, neighbourhood, proto, text};
use onnx_shrink_passes::Entry;

use crate::Failure;

/// Steps along values from the op that a guilty rewrite stands for to what is dumped with it.
const RADIUS: usize = 2;

/// A folder that takes texts.
pub struct Dump {
    folder: PathBuf,
    /// What this run wrote of passes, in order
    written: RefCell<Vec<PathBuf>>,
    failed: RefCell<bool>,
}

impl Dump {
    /// A dump into `folder`, which is made if it is not there.
    pub fn new(folder: &Path) -> Result<Dump, Failure> {
        fs::create_dir_all(folder)
            .map_err(|error| Failure::usage(format_args!("--dump-dir {}: {error}", folder.display())))?;
        Ok(Dump { folder: folder.to_owned(), written: RefCell::default(), failed: RefCell::new(false) })
    }

    /// The passes run once more, from the original: their texts of before go.
    pub fn restart(&self) {
        for path in self.written.borrow_mut().drain(..) {
            let _ = fs::remove_file(path);
        }
    }

    /// The graph before any pass, or at another point that is no pass.
    pub fn at(&self, point: &str, graph: &Graph) {
        let number = self.written.borrow().len();
        let path = self.folder.join(format!("{number:03}-{point}.onnxtxt"));
        if self.write(&path, text::print_graph(graph).as_bytes()) {
            self.written.borrow_mut().push(path);
        }
    }

    /// The graph after `pass`, numbered.
    pub fn after_pass(&self, pass: &str, graph: &Graph) {
        self.at(pass, graph);
    }

    /// What is around the rewrite `guilty` before and after it: as text, and before it as a model, too. Returns the path
    /// without its ending.
    pub fn culprit(&self, number: usize, guilty: &Entry, before: &Model, after: &Model) -> Option<String> {
        let stem = self.folder.join(format!("culprit-{number}-{}", guilty.pass));
        let mut core = around(&before.graph, &guilty.op);
        if core.is_empty() {
            core = before.graph.ops_in_id_order().into_iter().collect();
        }
        let part = neighbourhood(&before.graph, &core);
        let names: BTreeSet<&str> = core.iter().map(|op| before.graph.label_of(*op)).collect();
        let values: BTreeSet<&str> = core
            .iter()
            .flat_map(|op| before.graph.op(*op).outputs().iter().flatten())
            .map(|value| before.graph.name_of(*value))
            .collect();
        // After the rewrite: what is called as before, and what is new.
        let was: BTreeSet<&str> =
            before.graph.ops_in_id_order().into_iter().map(|op| before.graph.label_of(op)).collect();
        let is_part = |op: &OpId| {
            let label = after.graph.label_of(*op);
            let makes = |value: &ValueId| values.contains(after.graph.name_of(*value));
            names.contains(label) || !was.contains(label) || after.graph.op(*op).outputs().iter().flatten().any(makes)
        };
        let rest: BTreeSet<OpId> = after.graph.ops_in_id_order().into_iter().filter(is_part).collect();
        let changed = neighbourhood(&after.graph, &rest);
        let file = |ending: &str| PathBuf::from(format!("{}.{ending}", stem.display()));
        let mut model = before.detached();
        model.graph = part;
        let bytes = proto::encode(&export(&model)).concat();
        let done = self.write(&file("before.onnxtxt"), text::print_graph(&model.graph).as_bytes())
            && self.write(&file("after.onnxtxt"), text::print_graph(&changed).as_bytes())
            && self.write(&file("before.onnx"), &bytes);
        done.then(|| stem.display().to_string())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> bool {
        match fs::write(path, bytes) {
            Ok(()) => true,
            Err(error) => {
                if !self.failed.replace(true) {
                    log::warn!("--dump-dir: {}: {error}", path.display());
                }
                false
            }
        }
    }
}

/// The op called `label` and those within [`RADIUS`] of it.
fn around(graph: &Graph, label: &str) -> BTreeSet<OpId> {
    let start = graph.ops_in_id_order().into_iter().filter(|op| graph.label_of(*op) == label);
    let mut found: BTreeSet<OpId> = start.collect();
    let mut border = found.clone();
    for _ in 0..RADIUS {
        let mut next = BTreeSet::new();
        for &op in &border {
            next.extend(graph.op(op).inputs().iter().flatten().filter_map(|value| graph.producer(*value)));
            for &output in graph.op(op).outputs().iter().flatten() {
                next.extend(graph.uses(output).into_iter().filter_map(|place| match place {
                    onnx_shrink_ir::Use::Input(op, _) | onnx_shrink_ir::Use::Capture(op, ..) => Some(op),
                    onnx_shrink_ir::Use::Output(_) => None,
                }));
            }
        }
        border = next.into_iter().filter(|op| found.insert(*op)).collect();
    }
    found
}
