//! A model with its weights computed, as far as that pays in fewer bits, and the way back for those that end in no fewer.
use std::collections::BTreeSet;

use onnx_shrink_ir::{Evaluate, Model, OpId, infer, raise};
use onnx_shrink_passes::{
    Context, Entry, Journal, Options, RewriteId,
    analysis::quantized::{is_between_pairs, is_quantized},
    weight_only::{
        FoldWeights, RestoreWeights,
        fold_weights::Restore,
        store_fp16, store_int4, store_int8,
        twins::{Twin, twins},
    },
};

use super::Int8;
use crate::Failure;

/// See the [module](self).
pub struct Folded<'a> {
    /// With computed weights
    pub model: Model,
    /// The same before, where that made a difference
    before: Option<Model>,
    /// What was computed
    entries: Vec<Entry>,
    evaluator: &'a dyn Evaluate,
}

impl<'a> Folded<'a> {
    /// `model` with its weights computed for `bits` a number; `tied`: with tables that layers multiply by, too.
    pub fn new(
        mut model: Model,
        (evaluator, options): (&'a dyn Evaluate, &Options),
        bits: usize,
        tied: bool,
    ) -> Result<Folded<'a>, Failure> {
        let mut cx = Context::new(options.clone(), evaluator);
        let before = model.detached();
        cx.run(&FoldWeights { bits, tied }, &mut model.graph).map_err(Failure::bug)?;
        let changed = cx.journal.done() > 0;
        if changed {
            infer::infer(&mut model.graph);
        }
        Ok(Folded { model, before: changed.then_some(before), entries: cx.journal.entries, evaluator })
    }

    /// `model` with its weights computed for 8 bits a number.
    pub(super) fn of(model: Model, int8: &Int8<'a>) -> Result<Folded<'a>, Failure> {
        Folded::new(model, (int8.evaluator, int8.options), 8, true)
    }

    /// The model before, with the same ops: what a table of layers begins with.
    pub fn unfolded(&self) -> &Model {
        self.before.as_ref().unwrap_or(&self.model)
    }

    /// Tables that layers multiply by, too.
    pub(super) fn twins(&self) -> Vec<Twin> {
        self.before.as_ref().map_or_else(Vec::new, |before| twins(&before.graph, &self.model.graph))
    }

    /// Puts weights of `model`, which was made of this one, back where nothing was gained; the names of their layers.
    pub fn restore(&self, model: &mut Model, which: Restore) -> Result<BTreeSet<String>, Failure> {
        let Some(before) = &self.before else { return Ok(BTreeSet::new()) };
        let mut before = before.detached();
        if before.opset() < model.opset() {
            raise::raise(&mut before, model.opset()).map_err(Failure::bug)?;
            infer::infer(&mut before.graph);
        }
        let mut cx = Context::new(Options::default(), self.evaluator);
        cx.run(&RestoreWeights { before: &before.graph, which }, &mut model.graph).map_err(Failure::bug)?;
        if cx.journal.done() > 0 {
            model.graph.sweep();
        }
        Ok(cx.journal.entries.into_iter().filter(Entry::is_done).map(|entry| entry.op).collect())
    }

    /// What was computed and not `restored`, and `journal` behind it.
    pub fn journal(&self, restored: &BTreeSet<String>, journal: Journal) -> Journal {
        let mut whole = Journal::default();
        let stays = |entry: &&Entry| !entry.is_done() || !restored.contains(&entry.op);
        self.entries.iter().filter(stays).cloned().chain(journal.entries).for_each(|entry| whole.write(entry));
        whole
    }

    /// The rewrites that layers which the file itself has between pairs must not get.
    pub fn left_alone(&self) -> Vec<RewriteId> {
        let graph = &self.model.graph;
        if !is_quantized(graph) {
            return Vec::new();
        }
        let between = graph.ops_in_id_order().into_iter().filter(|op| is_between_pairs(graph, *op));
        let label = |op: OpId| graph.label_of(op).to_owned();
        let stores = [store_int8::PASS.name, store_int4::PASS.name, store_fp16::PASS.name];
        between.flat_map(|op| stores.map(|pass| RewriteId { pass, op: label(op) })).collect()
    }
}
