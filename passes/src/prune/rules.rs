//! How labels of channels travel through ops: one rule for each kind of op.
//!
//! A value has labels along an axis when each position there is a channel that some weighted op made. An axis without
//! labels is whole and stays whole. **Never** lets labels through an op that it does not know.
mod computing;
mod moving;

use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{
    Dim, Graph, OpId, Tensor, Use, ValueId,
    semantics::{self, Effect},
};

use super::{
    groups::{Adjust, Consumer, Group, Groups, Sizes, Weighted},
    labels::{Classes, Labels},
};

/// Labels along each axis; `None` for an axis without channels.
pub(super) type Axes = Vec<Option<Labels>>;

/// The state of one walk over a graph.
pub(super) struct Analysis<'g> {
    graph: &'g Graph,
    sizes: &'g Sizes,
    classes: Classes,
    axes: BTreeMap<ValueId, Axes>,
    /// Which axes of a constant each reader sees as channels
    cuts: BTreeMap<ValueId, BTreeSet<(OpId, usize, usize)>>,
    made: Vec<(OpId, Labels)>,
    adjust: Vec<Adjust>,
    consumers: Vec<Consumer>,
    weighted: Vec<Weighted>,
}

/// What a rule says when it cannot let labels through: why.
type Rule<T = ()> = Result<T, String>;

impl<'g> Analysis<'g> {
    /// Walks over `graph` in its order.
    pub(super) fn run(graph: &'g Graph, sizes: &'g Sizes) -> Groups {
        let mut analysis = Analysis {
            graph,
            sizes,
            classes: Classes::default(),
            axes: BTreeMap::new(),
            cuts: BTreeMap::new(),
            made: Vec::new(),
            adjust: Vec::new(),
            consumers: Vec::new(),
            weighted: Vec::new(),
        };
        for op in graph.ops() {
            analysis.op(op);
        }
        analysis.freeze_ends();
        analysis.finish()
    }

    fn op(&mut self, op: OpId) {
        let node = self.graph.op(op);
        for (_, outer, _) in self.graph.captures(op) {
            self.freeze(outer, &format!("a body of `{}` uses it", self.graph.label_of(op)));
        }
        let reads_channels = node.inputs().iter().flatten().any(|input| self.axes.contains_key(input));
        let rule = if !node.domain().is_empty() { None } else { self.find_rule(op, reads_channels) };
        let outcome = match rule {
            Some(outcome) => outcome,
            None if reads_channels => {
                Err(format!("there is no rule for `{}` ({})", self.graph.label_of(op), node.op_type()))
            }
            None => Ok(()),
        };
        if let Err(reason) = outcome {
            for input in node.inputs().iter().flatten() {
                self.freeze(*input, &reason);
            }
            for output in node.outputs().iter().flatten() {
                self.freeze(*output, &reason);
            }
            if let Some((_, labels)) = self.made.last().filter(|(maker, _)| *maker == op) {
                self.classes.freeze(labels, &reason);
            }
        }
    }

    /// The rule for the op, applied; `None` when there is none.
    fn find_rule(&mut self, op: OpId, reads_channels: bool) -> Option<Rule> {
        let op_type = self.graph.op(op).op_type();
        match op_type {
            "Conv" => return Some(self.conv(op)),
            "ConvTranspose" => return Some(self.conv_transpose(op)),
            "Gemm" => return Some(self.gemm(op)),
            "MatMul" => return Some(self.mat_mul(op)),
            _ if !reads_channels => return Some(Ok(())),
            _ => {}
        }
        Some(match op_type {
            "BatchNormalization" | "InstanceNormalization" => self.norm(op),
            "MaxPool" | "AveragePool" | "LpPool" | "GlobalAveragePool" | "GlobalMaxPool" => self.pool(op),
            "Softmax" | "LogSoftmax" | "Hardmax" | "LayerNormalization" => self.softmax(op),
            "Concat" => self.concat(op),
            "Split" => self.split(op),
            "Slice" => self.slice(op),
            "Gather" => self.gather(op),
            "Pad" => self.pad(op),
            "Transpose" => self.transpose(op),
            "Resize" | "Upsample" => self.resize(op),
            "Shape" => self.shape(op),
            "Where" => self.elementwise(op),
            "Identity" => self.unary(op),
            _ => match semantics::of(self.graph.op(op)) {
                Some(row) if row.is_unary() => self.unary(op),
                Some(row) if row.effect == Effect::Elementwise => self.elementwise(op),
                Some(row) if row.effect == Effect::Reduction && row.op_type.starts_with("Reduce") => self.reduce(op),
                Some(row) if row.effect == Effect::View => self.reshape(op),
                _ => return None,
            },
        })
    }

    // ---- looking

    fn rank(&self, value: ValueId) -> Option<usize> {
        self.graph.ty(value)?.rank()
    }

    fn dim(&self, value: ValueId, axis: usize) -> Option<usize> {
        self.graph.ty(value)?.shape.as_ref()?.get(axis).and_then(Dim::known)
    }

    /// The labels along each axis of `value`; no axes at all when the rank is not known.
    fn axes_of(&self, value: ValueId) -> Axes {
        match self.axes.get(&value) {
            Some(axes) => axes.clone(),
            None => vec![None; self.rank(value).unwrap_or(0)],
        }
    }

    fn labels(&self, value: ValueId, axis: usize) -> Option<Labels> {
        self.axes.get(&value)?.get(axis)?.clone()
    }

    fn name(&self, op: OpId) -> String {
        format!("`{}` ({})", self.graph.label_of(op), self.graph.op(op).op_type())
    }

    fn input(&self, op: OpId, index: usize) -> Rule<ValueId> {
        self.graph.op(op).input(index).ok_or_else(|| format!("{} lacks an input", self.name(op)))
    }

    fn output(&self, op: OpId) -> Rule<ValueId> {
        let node = self.graph.op(op);
        let others = node.outputs().iter().skip(1).flatten().any(|&output| !self.graph.is_unused(output));
        match node.output(0) {
            Some(output) if !others => Ok(output),
            _ => Err(format!("there is no rule for the further outputs of {}", self.name(op))),
        }
    }

    // ---- writing

    fn set_axes(&mut self, value: ValueId, axes: Axes) {
        if axes.iter().any(Option::is_some) {
            self.axes.insert(value, axes);
        }
    }

    /// No channel of `value` may go.
    fn freeze(&mut self, value: ValueId, reason: &str) {
        for labels in self.axes.get(&value).into_iter().flatten().flatten() {
            self.classes.freeze(labels, reason);
        }
    }

    fn unite(&mut self, a: &[u32], b: &[u32]) -> Rule {
        if a.len() != b.len() {
            return Err(format!("{} channels meet {}", a.len(), b.len()));
        }
        for (&a, &b) in a.iter().zip(b) {
            self.classes.unite(a, b);
        }
        Ok(())
    }

    /// Input `index` of `op` is a constant whose `axis` runs over `labels`.
    fn cut(&mut self, op: OpId, index: usize, axis: usize, labels: &[u32]) -> Rule {
        let value = self.input(op, index)?;
        let dims = self.constant(value)?.dims().to_vec();
        if dims.get(axis) != Some(&labels.len()) {
            let name = self.graph.name_of(value);
            return Err(format!("`{name}` has not {} positions along axis {axis}", labels.len()));
        }
        self.cuts.entry(value).or_default().insert((op, index, axis));
        let axes = self.axes.entry(value).or_insert_with(|| vec![None; dims.len()]);
        match axes[axis].clone() {
            None => axes[axis] = Some(labels.to_vec()),
            Some(known) => self.unite(&known, labels)?,
        }
        Ok(())
    }

    fn constant(&self, value: ValueId) -> Rule<&'g Tensor> {
        self.graph.constant(value).ok_or_else(|| format!("`{}` is not constant", self.graph.name_of(value)))
    }

    // ---- the end

    /// Graph outputs need all their channels; a constant is cut only where all its readers agree.
    fn freeze_ends(&mut self) {
        for &output in self.graph.outputs() {
            self.freeze(output, &format!("`{}` is a graph output", self.graph.name_of(output)));
        }
        let constants: Vec<ValueId> = self.cuts.keys().copied().collect();
        for value in constants {
            let axes = self.axes_of(value);
            for (axis, labels) in axes.iter().enumerate().filter_map(|(axis, l)| Some((axis, l.as_ref()?))) {
                let agrees = |place: &Use| match *place {
                    Use::Input(op, index) => self.cuts[&value].contains(&(op, index, axis)),
                    Use::Capture(..) | Use::Output(_) => false,
                };
                let Some(other) = self.graph.uses(value).into_iter().find(|place| !agrees(place)) else { continue };
                let who = match other {
                    Use::Input(op, _) | Use::Capture(op, ..) => format!("`{}`", self.graph.label_of(op)),
                    Use::Output(_) => "whoever runs the graph".to_owned(),
                };
                let reason = format!("`{}` is read by {who}, too", self.graph.name_of(value));
                self.classes.freeze(labels, &reason);
            }
        }
    }

    fn finish(mut self) -> Groups {
        let mut by_group: BTreeMap<u32, Group> = BTreeMap::new();
        let count = self.classes.len() as u32;
        for label in 0..count {
            if self.classes.class_of(label) != label {
                continue;
            }
            let group = self.classes.group_of(label);
            let new = || Group { units: Vec::new(), producers: Vec::new(), consumers: Vec::new(), frozen: None };
            by_group.entry(group).or_insert_with(new).units.push(label);
        }
        for (op, labels) in std::mem::take(&mut self.made) {
            let Some(&label) = labels.first() else { continue };
            let group = self.classes.group_of(label);
            if let Some(group) = by_group.get_mut(&group) {
                group.producers.push(op);
            }
        }
        for (index, consumer) in self.consumers.iter().enumerate() {
            let labels = self.axes.get(&consumer.x).and_then(|axes| axes[consumer.axis].clone());
            for label in labels.into_iter().flatten() {
                let group = self.classes.group_of(label);
                let Some(group) = by_group.get_mut(&group) else { continue };
                if group.consumers.last() != Some(&index) {
                    group.consumers.push(index);
                }
            }
        }
        let mut frozen = BTreeMap::new();
        for label in 0..count {
            let class = self.classes.class_of(label);
            if let Some(reason) = self.classes.reason(class) {
                frozen.entry(class).or_insert_with(|| reason.to_owned());
            }
        }
        let mut groups: Vec<Group> = by_group.into_values().filter(|group| !group.producers.is_empty()).collect();
        for group in &mut groups {
            if group.units.iter().all(|unit| frozen.contains_key(unit)) {
                group.frozen = group.units.first().and_then(|unit| frozen.get(unit)).cloned();
            }
        }
        let classes = &self.classes;
        let resolve = |labels: &mut Labels| labels.iter_mut().for_each(|label| *label = classes.class_of(*label));
        for axes in self.axes.values_mut() {
            axes.iter_mut().flatten().for_each(resolve);
        }
        for adjust in &mut self.adjust {
            match adjust {
                Adjust::Groups { labels, .. } | Adjust::Slice { labels, .. } | Adjust::Gather { labels, .. } => {
                    resolve(labels);
                }
                Adjust::Shape { entries, .. } => entries.iter_mut().for_each(|(_, labels)| resolve(labels)),
                Adjust::Split { parts, .. } => parts.iter_mut().for_each(resolve),
            }
        }
        let Analysis { axes, adjust, consumers, weighted, .. } = self;
        Groups { axes, adjust, frozen, groups, consumers, weighted, block: 1 }
    }
}
