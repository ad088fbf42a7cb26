//! The model with a placement and ranges, and why each layer became what it is.
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use onnx_shrink_ir::{Model, OpId};
use onnx_shrink_passes::{
    RewriteId,
    analysis::place::{Placement, place, place_all},
    calibration::{calibrators::Calibrator, collect::Calibration},
    quantize::{CancelQdq, DynamicInt8, InsertQdq, WrapQdq},
    weight_only::{
        StoreInt8,
        fold_weights::Restore,
        least_bits::{LeastBits, Storable, storable},
        store_int8,
    },
};

use super::{Calibrated, Folded, LEAST_DYNAMIC_OPSET, LEAST_STORAGE_OPSET, Quantized};
use crate::{
    Failure,
    formats::written_bytes,
    layers::layers,
    plan::{Decision, Plan, Reason},
    report::Note,
    request::qdq::Place,
};

/// What a result is built from.
#[derive(Clone, Copy)]
enum Base<'a> {
    /// The model that was calibrated, whose ids units and statistics have
    Calibrated,
    /// The same before its opset was raised
    Unraised(&'a Folded<'a>),
}

impl Calibrated<'_> {
    /// What the target gains most from, with `extra` units float besides those that the user named.
    pub(super) fn placement(&self, extra: &BTreeSet<usize>) -> Placement {
        let kept: BTreeSet<usize> = if self.storage_only.is_some() {
            (0..self.units.units.len()).collect()
        } else {
            let float = self.user_kept.union(extra).chain(&self.dynamic);
            float.chain(self.ruined.keys()).copied().collect()
        };
        match self.int8.place {
            Place::Cut => place(&self.costs, &kept),
            Place::Wrap => place_all(&self.costs, &kept),
        }
    }

    /// Whether samples, or the model, told ranges: the model ran, or did not have to.
    pub fn has_run(&self) -> bool {
        self.calibration.samples > 0 || self.calibration.from_model
    }

    /// Whether layers find their ranges in each run.
    pub fn is_dynamic(&self) -> bool {
        !self.dynamic.is_empty()
    }

    /// From now on, what goes back to float for a gate is not stored in 8 bits either.
    pub fn leave_returned_unstored(&mut self) {
        self.stores_returned = false;
    }

    /// From now on, single constants have at least so many bits.
    pub fn store_at_least(&mut self, least: LeastBits) {
        self.least = least;
    }

    /// The constants that may be stored, those of bodies first.
    pub fn storable(&self) -> Vec<Storable> {
        storable(&self.folded.model.graph).into_iter().filter(|constant| constant.rank >= 2).collect()
    }

    /// Adds what the user should know.
    pub fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// From now on `ruined`, with the SQNR of what they make, stay float.
    pub fn leave_float(&mut self, ruined: BTreeMap<usize, f64>) {
        self.dynamic.retain(|unit| !ruined.contains_key(unit));
        self.ruined.extend(ruined);
    }

    /// From now on none does.
    pub fn leave_out_dynamic(&mut self) {
        self.dynamic.clear();
        self.notes.push(Note::NoDynamicLayers);
    }

    /// Number of units: what runs in integers or in float as one.
    pub fn unit_count(&self) -> usize {
        self.units.units.len()
    }

    /// What becomes of each layer, with the units `returned` float for a gate.
    pub fn plan(&self, returned: &BTreeSet<usize>) -> Plan {
        let graph = &self.folded.model.graph;
        let integer = self.placement(returned).integer;
        // Units that paid as long as no gate spoke.
        let paid = if returned.is_empty() { integer.clone() } else { self.placement(&BTreeSet::new()).integer };
        let reason = |unit: usize| {
            if let Some(reason) = &self.storage_only {
                reason.clone()
            } else if self.user_kept.contains(&unit) {
                Reason::KeptFloat
            } else if let Some(sqnr) = self.ruined.get(&unit) {
                Reason::Ruined(*sqnr)
            } else if returned.contains(&unit) && paid[unit] {
                Reason::Returned
            } else if paid[unit] {
                Reason::NotWithoutOthers
            } else if paid.contains(&true) {
                Reason::Slower
            } else {
                Reason::NothingFaster
            }
        };
        let decision = |unit: usize| match integer[unit] {
            true => Decision::Integer,
            false if self.dynamic.contains(&unit) => Decision::Dynamic(reason(unit)),
            false if returned.contains(&unit) && !self.stores_returned => Decision::Untouched(reason(unit)),
            false => Decision::Float(reason(unit)),
        };
        let units = self.units.units.iter().enumerate().map(|(index, unit)| (unit.op, decision(index)));
        let missed = self.units.misses.iter().map(|(op, miss)| {
            let missed = || Reason::Missed(miss.named(graph));
            (*op, Decision::Float(self.storage_only.clone().unwrap_or_else(missed)))
        });
        Plan::float(Reason::NotSeen).with(units).with(missed)
    }

    /// The model as `plan` has it, with these ranges; constants that stay float are stored in 8 bits.
    pub fn build(&self, plan: &Plan, calibrator: Calibrator) -> Result<Quantized, Failure> {
        let integer: Vec<bool> = self.units.units.iter().map(|unit| plan.is_integer(unit.op)).collect();
        let any = integer.contains(&true);
        let formats = self.int8.formats;
        let base = if any { Base::Calibrated } else { self.least_raised() };
        let folded = match base {
            Base::Calibrated => &self.folded,
            Base::Unraised(unraised) => unraised,
        };
        let before = &folded.model;
        let twin = |op: OpId| self.op_in(base, op);
        let calibration = self.calibration_of(base);
        let mut model = before.detached();
        let mut cx = self.int8.context();
        cx.options.deny.extend(folded.left_alone());
        if any {
            let insert =
                InsertQdq { calibration: &self.calibration, calibrator, units: &self.units, integer: &integer };
            match self.int8.place {
                Place::Cut => cx.run(&insert, &mut model.graph),
                Place::Wrap => cx.run(&WrapQdq(insert), &mut model.graph),
            }
            .map_err(Failure::bug)?;
        }
        let dynamic: BTreeSet<OpId> =
            plan.ops(|decision| matches!(decision, Decision::Dynamic(_))).filter_map(twin).collect();
        if !dynamic.is_empty() {
            let kept = model.graph.ops_in_id_order().into_iter().filter(|op| !dynamic.contains(op));
            let kept: Vec<OpId> = kept.collect();
            let pass = DynamicInt8 {
                calibration: Some(&calibration),
                always: true,
                smooths: self.smooths,
                kept: &kept,
                target: self.int8.target,
            };
            cx.run(&pass, &mut model.graph).map_err(Failure::bug)?;
        }
        let mut restored = folded.restore(&mut model, Restore::Tied)?;
        if self.int8.target.stores {
            let untouched = plan.ops(|decision| matches!(decision, Decision::Untouched(_)));
            let label = |op: OpId| self.folded.model.graph.label_of(op).to_owned();
            let rewrite = |op: OpId| RewriteId { pass: store_int8::PASS.name, op: label(op) };
            cx.options.deny.extend(untouched.map(rewrite));
            let halves = if any { self.int8.target.halves_beside_pairs } else { &[] };
            let twins = folded.twins();
            let store = StoreInt8 { calibration: Some(&calibration), halves, least: Some(&self.least), twins: &twins };
            cx.run(&store, &mut model.graph).map_err(Failure::bug)?;
        }
        restored.extend(folded.restore(&mut model, Restore::Larger)?);
        model.graph.sweep();
        let overflows: Vec<OpId> = plan
            .ops(|decision| *decision == Decision::Integer)
            .filter(|op| formats.overflows(&model.graph, *op))
            .collect();
        if !overflows.is_empty() {
            let float = overflows.into_iter().map(|op| (op, Decision::Float(Reason::SumsOverflow)));
            return self.build(&plan.clone().with(float), calibrator);
        }
        let mut layers = layers(&folded.unfolded().graph, &model.graph, &plan.renumbered(twin));
        if any && self.int8.place == Place::Wrap {
            // Behind everything that knows ops by their ids: these change now.
            let cancel = if formats.keeps_ranges() { CancelQdq::local() } else { CancelQdq::beside_activations() };
            cx.run(&cancel, &mut model.graph).map_err(Failure::bug)?;
        }
        let (model, pairs) = match if any { formats.write(&model, &mut cx)? } else { None } {
            Some(written) => (written, Some(model)),
            None => (model, None),
        };
        for layer in layers.iter_mut().filter(|_| pairs.is_some()) {
            layer.bytes_after = written_bytes(&model.graph, &layer.name).unwrap_or(layer.bytes_after);
        }
        Ok(Quantized {
            model,
            pairs,
            journal: folded.journal(&restored, cx.journal),
            layers,
            calibrator: any.then_some(calibrator),
            samples: self.calibration.samples,
            notes: self.notes.clone(),
        })
    }

    /// The model in the opset that it had, where nothing but pairs needs another: ONNX Runtime 1.32 recognizes the attention of
    /// older exporters below opset 13 alone, where Unsqueeze has its axes as an attribute (0.83 of the time: x_bert_toy).
    fn least_raised(&self) -> Base<'_> {
        let least = if self.dynamic.is_empty() { LEAST_STORAGE_OPSET } else { LEAST_DYNAMIC_OPSET };
        let unraised = self.unraised.as_ref().filter(|unraised| unraised.model.opset() >= least);
        unraised.map_or(Base::Calibrated, Base::Unraised)
    }

    /// The op of `base` that is `op` of the calibrated model. Ids of another opset's graph differ, names do not.
    fn op_in(&self, base: Base<'_>, op: OpId) -> Option<OpId> {
        let calibrated = &self.folded.model.graph;
        match base {
            Base::Calibrated => Some(op),
            Base::Unraised(Folded { model: Model { graph, .. }, .. }) => {
                graph.producer(graph.find(calibrated.name_of(calibrated.op(op).output(0)?))?)
            }
        }
    }

    /// What calibration saw, by values of `base`, which has those of the calibrated model by name.
    fn calibration_of(&self, base: Base<'_>) -> Cow<'_, Calibration> {
        let Base::Unraised(Folded { model, .. }) = base else { return Cow::Borrowed(&self.calibration) };
        let values = self.calibration.values.iter();
        let values = values.filter_map(|(value, seen)| {
            model.graph.find(self.folded.model.graph.name_of(*value)).map(|value| (value, seen.clone()))
        });
        Cow::Owned(Calibration { values: values.collect(), outputs: BTreeMap::new(), ..self.calibration })
    }
}
