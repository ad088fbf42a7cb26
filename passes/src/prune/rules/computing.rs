//! Ops that compute: weighted ones make labels, the others keep channels apart or freeze them.
use onnx_shrink_ir::{
    OpId, ValueId,
    ops::{LayerNormalization, Reduce, Softmax, WeightShape, WeightedLayer, axis_from_front, has_older_broadcast},
};

use super::{
    super::groups::{Adjust, Consumer, Weighted},
    Analysis, Axes, Labels, Rule,
};

impl Analysis<'_> {
    fn count(&mut self, op: OpId, weight: ValueId, positions: f64) {
        self.weighted.push(Weighted { op, weight, positions });
    }

    /// Product of the dimensions of `value` along `axes` that are known, or seen.
    fn product(&self, value: ValueId, axes: impl Iterator<Item = usize>) -> f64 {
        let length = |axis| self.dim(value, axis).or_else(|| self.sizes.of(value, axis)).unwrap_or(1);
        axes.map(|axis| length(axis) as f64).product()
    }

    fn make(&mut self, op: OpId, count: usize) -> Labels {
        let labels = self.classes.fresh(count);
        self.made.push((op, labels.clone()));
        labels
    }

    fn consume(&mut self, op: OpId, (x, axis): (ValueId, usize), (weight, weight_axis): (ValueId, usize)) {
        self.consumers.push(Consumer { op, x, axis, weight, weight_axis });
    }

    /// Freezes channels that lie along other axes than `axis`.
    fn freeze_others(&mut self, x: ValueId, axis: usize, op: OpId) {
        let reason = format!("they are no channels to {}", self.name(op));
        for (_, labels) in self.axes_of(x).iter().enumerate().filter(|(k, _)| *k != axis) {
            if let Some(labels) = labels {
                self.classes.freeze(labels, &reason);
            }
        }
    }

    fn bias(&mut self, op: OpId, bias: Option<ValueId>, labels: &[u32]) -> Rule {
        if bias.is_some() { self.cut(op, 2, 0, labels) } else { Ok(()) }
    }

    /// All groups of channels keep the same places: the labels at one place of each group become one.
    fn same_places(&mut self, labels: &[u32], length: usize) -> Rule {
        let (first, rest) = labels.split_at(length.min(labels.len()));
        for group in rest.chunks(length.max(1)) {
            self.unite(first, group)?;
        }
        Ok(())
    }

    /// The op as a layer with constant weights, and their sizes.
    fn layer(&self, op: OpId) -> Rule<(WeightedLayer, WeightShape)> {
        let layer = WeightedLayer::of_floats(self.graph, op);
        let layer = layer.ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let shape = layer.layout.shape(self.constant(layer.weight)?.dims());
        let shape = shape.ok_or_else(|| format!("{} has weights of another form", self.name(op)))?;
        Ok((layer, shape))
    }

    pub(super) fn conv(&mut self, op: OpId) -> Rule {
        let (conv, shape) = self.layer(op)?;
        let (filters, inner, group) = (shape.outputs, shape.inputs, shape.groups);
        let rank = 2 + shape.kernel.len();
        self.freeze_others(conv.x, 1, op);
        let positions = self.product(conv.y, 2..rank);
        self.count(op, conv.weight, positions);
        let channels = self.labels(conv.x, 1);
        if channels.as_ref().is_some_and(|labels| labels.len() != shape.channels()) {
            return Err(format!("{} has weights of another form", self.name(op)));
        }
        let mut axes: Axes = vec![None; rank];
        axes[1] = if group > 1 && inner == 1 {
            let Some(channels) = channels else { return Ok(()) };
            let made: Labels = (0..filters).map(|filter| channels[filter / (filters / group)]).collect();
            self.cut(op, 1, 0, &made)?;
            self.bias(op, conv.bias, &made)?;
            self.adjust.push(Adjust::Groups { op, labels: channels });
            Some(made)
        } else {
            if let Some(channels) = channels {
                self.same_places(&channels, inner)?;
                self.cut(op, 1, 1, &channels[..inner])?;
                self.consume(op, (conv.x, 1), (conv.weight, 1));
            }
            let one = self.make(op, filters / group);
            let made: Labels = one.iter().copied().cycle().take(filters).collect();
            self.cut(op, 1, 0, &made)?;
            self.bias(op, conv.bias, &made)?;
            Some(made)
        };
        self.set_axes(conv.y, axes);
        Ok(())
    }

    pub(super) fn conv_transpose(&mut self, op: OpId) -> Rule {
        let (conv, shape) = self.layer(op)?;
        let (inputs, outer, group) = (shape.channels(), shape.outputs / shape.groups, shape.groups);
        let rank = 2 + shape.kernel.len();
        self.freeze_others(conv.x, 1, op);
        let positions = self.product(conv.x, 2..rank);
        self.count(op, conv.weight, positions);
        let channels = self.labels(conv.x, 1);
        if channels.as_ref().is_some_and(|labels| labels.len() != inputs) {
            return Err(format!("{} has weights of another form", self.name(op)));
        }
        let mut axes: Axes = vec![None; rank];
        axes[1] = if group > 1 && outer == 1 && inputs == group {
            let Some(channels) = channels else { return Ok(()) };
            self.cut(op, 1, 0, &channels)?;
            self.bias(op, conv.bias, &channels)?;
            self.adjust.push(Adjust::Groups { op, labels: channels.clone() });
            Some(channels)
        } else {
            if let Some(channels) = channels {
                self.same_places(&channels, shape.inputs)?;
                self.cut(op, 1, 0, &channels)?;
                self.consume(op, (conv.x, 1), (conv.weight, 0));
            }
            let one = self.make(op, outer);
            let made: Labels = one.iter().copied().cycle().take(outer * group).collect();
            self.cut(op, 1, 1, &one)?;
            self.bias(op, conv.bias, &made)?;
            Some(made)
        };
        self.set_axes(conv.y, axes);
        Ok(())
    }

    pub(super) fn gemm(&mut self, op: OpId) -> Rule {
        let (gemm, shape) = self.layer(op)?;
        let outer = gemm.layout.output_axis(2).expect("a matrix has two axes");
        let inner = 1 - outer;
        if gemm.trans_a && self.axes.contains_key(&gemm.x) {
            return Err(format!("{} transposes its input", self.name(op)));
        }
        self.freeze_others(gemm.x, 1, op);
        let rows = self.product(gemm.x, if gemm.trans_a { 1..2 } else { 0..1 });
        self.count(op, gemm.weight, rows);
        if let Some(channels) = self.labels(gemm.x, 1) {
            self.cut(op, 1, inner, &channels)?;
            self.consume(op, (gemm.x, 1), (gemm.weight, inner));
        }
        let made = self.make(op, shape.outputs);
        self.set_axes(gemm.y, vec![None, Some(made.clone())]);
        self.cut(op, 1, outer, &made)?;
        if let Some(c) = gemm.bias {
            let last = self.rank(c).and_then(|rank| rank.checked_sub(1));
            match last.map(|axis| (axis, self.dim(c, axis))) {
                None => {} // a scalar, or unknown: below
                Some((_, Some(1))) => {}
                Some((axis, _)) => self.cut(op, 2, axis, &made)?,
            }
            if self.graph.constant(c).is_none() {
                return Err(format!("the third input of {} is computed", self.name(op)));
            }
        }
        Ok(())
    }

    pub(super) fn mat_mul(&mut self, op: OpId) -> Rule {
        let product = WeightedLayer::of_floats(self.graph, op);
        let product = product.ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let shape = product.constant(self.graph).and_then(|weight| product.layout.shape(weight.dims()));
        let (Some(shape), Some(rank)) = (shape, self.rank(product.x)) else {
            return Err(format!("{} is no product with a constant matrix", self.name(op)));
        };
        if rank < 2 || self.graph.constant(product.x).is_some() {
            return Err(format!("{} is no product with a constant matrix", self.name(op)));
        }
        let rows = self.product(product.x, 0..rank - 1);
        self.count(op, product.weight, rows);
        if let Some(channels) = self.labels(product.x, rank - 1) {
            self.cut(op, 1, 0, &channels)?;
            self.consume(op, (product.x, rank - 1), (product.weight, 0));
        }
        let made = self.make(op, shape.outputs);
        let mut axes = self.axes_of(product.x);
        axes[rank - 1] = Some(made.clone());
        self.set_axes(product.y, axes);
        self.cut(op, 1, 1, &made)
    }

    pub(super) fn unary(&mut self, op: OpId) -> Rule {
        let (x, y) = (self.input(op, 0)?, self.output(op)?);
        if self.graph.op(op).inputs().iter().skip(1).flatten().any(|input| self.axes.contains_key(input)) {
            return Err(format!("{} has channels for a parameter", self.name(op)));
        }
        self.set_axes(y, self.axes_of(x));
        Ok(())
    }

    /// Broadcast from the right: where a channel meets a channel they are one; a constant is cut along.
    pub(super) fn elementwise(&mut self, op: OpId) -> Rule {
        if has_older_broadcast(self.graph, op) {
            return Err(format!("{} broadcasts by the older rules", self.name(op)));
        }
        let y = self.output(op)?;
        let inputs: Vec<ValueId> = self
            .graph
            .op(op)
            .inputs()
            .iter()
            .copied()
            .collect::<Option<_>>()
            .ok_or_else(|| format!("{} leaves an input out", self.name(op)))?;
        let rank = inputs.iter().map(|&input| self.rank(input)).collect::<Option<Vec<_>>>();
        let Some(rank) = rank.and_then(|ranks| ranks.into_iter().max()) else {
            return Err(format!("the rank of an input of {} is not known", self.name(op)));
        };
        let mut axes: Axes = vec![None; rank];
        for (axis, place) in axes.iter_mut().enumerate() {
            let own = |input: ValueId, analysis: &Self| (axis + analysis.rank(input).unwrap_or(0)).checked_sub(rank);
            let labelled = inputs.iter().find_map(|&input| self.labels(input, own(input, self)?));
            let Some(labels) = labelled else { continue };
            for (index, &input) in inputs.iter().enumerate() {
                let Some(own) = own(input, self) else { continue };
                if self.graph.constant(input).is_some() {
                    if labels.len() == 1 || self.dim(input, own) != Some(1) {
                        self.cut(op, index, own, &labels)?;
                    }
                } else if let Some(others) = self.labels(input, own) {
                    self.unite(&labels, &others)?;
                } else if labels.len() == 1 || self.dim(input, own) != Some(1) {
                    let name = self.graph.name_of(input);
                    return Err(format!("in {} they meet `{name}`, which has no channels of its own", self.name(op)));
                }
            }
            *place = Some(labels);
        }
        self.set_axes(y, axes);
        Ok(())
    }

    pub(super) fn norm(&mut self, op: OpId) -> Rule {
        let (x, y) = (self.input(op, 0)?, self.output(op)?);
        self.freeze_others(x, 1, op);
        let Some(channels) = self.labels(x, 1) else { return Ok(()) };
        for index in 1..self.graph.op(op).inputs().len() {
            self.cut(op, index, 0, &channels)?;
        }
        self.set_axes(y, self.axes_of(x));
        Ok(())
    }

    pub(super) fn pool(&mut self, op: OpId) -> Rule {
        let (x, y) = (self.input(op, 0)?, self.output(op)?);
        let axes = self.axes_of(x);
        if axes.iter().skip(2).any(Option::is_some) {
            return Err(format!("{} runs over the channels", self.name(op)));
        }
        self.set_axes(y, axes);
        Ok(())
    }

    pub(super) fn reduce(&mut self, op: OpId) -> Rule {
        let (x, y) = (self.input(op, 0)?, self.output(op)?);
        let axes = self.axes_of(x);
        if let Some(stated) = self.graph.op(op).input(1) {
            self.constant(stated)?;
        }
        let reduce = Reduce::of(self.graph, op).ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let from_front = |reduced: Vec<i64>| reduced.iter().map(|&axis| axis_from_front(axis, axes.len())).collect();
        let reduced: Option<Vec<usize>> =
            reduce.axes.and_then(from_front).filter(|reduced: &Vec<usize>| !reduced.is_empty());
        let Some(reduced) = reduced else { return Err(format!("{} runs over the channels", self.name(op))) };
        if reduced.iter().any(|&axis| axes[axis].is_some()) {
            return Err(format!("{} runs over the channels", self.name(op)));
        }
        let left = axes.into_iter().enumerate().filter(|(axis, _)| reduce.keeps_axes || !reduced.contains(axis));
        self.set_axes(y, left.map(|(_, labels)| labels).collect());
        Ok(())
    }

    /// Ops that need all positions of their axis, or of all axes from theirs on.
    pub(super) fn softmax(&mut self, op: OpId) -> Rule {
        let (x, y) = (self.input(op, 0)?, self.output(op)?);
        let axes = self.axes_of(x);
        let norm = LayerNormalization::of(self.graph, op).map(|norm| (norm.axis, true));
        let along = norm.or_else(|| Softmax::of(self.graph, op).map(|softmax| (softmax.axis, softmax.to_the_end)));
        let (axis, to_the_end) = along.ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let axis = axis_from_front(axis, axes.len());
        let needed = |k: usize| axis.is_none_or(|axis| if to_the_end { k >= axis } else { k == axis });
        if axes.iter().enumerate().any(|(k, labels)| labels.is_some() && needed(k)) {
            return Err(format!("{} runs over the channels", self.name(op)));
        }
        self.set_axes(y, axes);
        Ok(())
    }
}
