//! Ops that move channels without computing: labels move with them.
use onnx_shrink_ir::{
    Dim, OpId, Use, ValueId,
    ops::{
        Concat, Gather, Pad, Reshape, Resize, ResizeCoordinates, ResizeScales, Shape, Slice, Split, Transpose,
        axis_from_front,
    },
};

use super::{super::groups::Adjust, Analysis, Axes, Labels, Rule};

impl Analysis<'_> {
    fn axis(&self, op: OpId, axis: i64, rank: usize) -> Rule<usize> {
        axis_from_front(axis, rank).ok_or_else(|| format!("{} has no such axis", self.name(op)))
    }

    pub(super) fn concat(&mut self, op: OpId) -> Rule {
        let concat = Concat::of(self.graph, op).ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let rank = concat.inputs.iter().find_map(|&input| self.rank(input));
        let rank = rank.ok_or_else(|| format!("the rank of an input of {} is not known", self.name(op)))?;
        let axis = self.axis(op, concat.axis, rank)?;
        let mut axes: Axes = vec![None; rank];
        for (k, place) in axes.iter_mut().enumerate() {
            let parts: Vec<Option<Labels>> = concat.inputs.iter().map(|&input| self.labels(input, k)).collect();
            let Some(first) = parts.iter().flatten().next().cloned() else { continue };
            if k != axis {
                for part in &parts {
                    let part = part.as_ref().ok_or_else(|| format!("{} joins them with others", self.name(op)))?;
                    self.unite(&first, part)?;
                }
                *place = Some(first);
                continue;
            }
            let mut all = Labels::new();
            for (part, &input) in parts.into_iter().zip(&concat.inputs) {
                match (part, self.dim(input, k)) {
                    (Some(part), _) => all.extend(part),
                    (None, Some(length)) => {
                        let whole = self.classes.fresh(length);
                        let reason = format!("`{}` has no channels of its own", self.graph.name_of(input));
                        self.classes.freeze(&whole, &reason);
                        all.extend(whole);
                    }
                    (None, None) => {
                        return Err(format!("the length of `{}` is not known", self.graph.name_of(input)));
                    }
                }
            }
            *place = Some(all);
        }
        self.set_axes(concat.y, axes);
        Ok(())
    }

    pub(super) fn split(&mut self, op: OpId) -> Rule {
        let split = Split::of(self.graph, op).ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let axes = self.axes_of(split.x);
        let axis = self.axis(op, split.axis, axes.len())?;
        let outputs: Vec<ValueId> = self
            .graph
            .op(op)
            .outputs()
            .iter()
            .copied()
            .collect::<Option<_>>()
            .ok_or_else(|| format!("{} leaves an output out", self.name(op)))?;
        let mut rest = axes[axis].clone();
        let mut parts = Vec::new();
        for &output in &outputs {
            let mut axes = axes.clone();
            if let Some(labels) = &mut rest {
                let length = self.dim(output, axis).filter(|&length| length <= labels.len());
                let length = length.ok_or_else(|| format!("the parts of {} are not known", self.name(op)))?;
                let part: Labels = labels.drain(..length).collect();
                parts.push(part.clone());
                axes[axis] = Some(part);
            }
            self.set_axes(output, axes);
        }
        match rest {
            Some(rest) if !rest.is_empty() || outputs.is_empty() => {
                Err(format!("the parts of {} are not known", self.name(op)))
            }
            Some(_) => {
                self.adjust.push(Adjust::Split { op, parts });
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn slice(&mut self, op: OpId) -> Rule {
        let slice = Slice::of(self.graph, op).ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let mut axes = self.axes_of(slice.x);
        for (place, &axis) in slice.axes.iter().enumerate() {
            let axis = self.axis(op, axis, axes.len())?;
            let Some(labels) = axes[axis].clone() else { continue };
            let cut_already = matches!(self.adjust.last(), Some(Adjust::Slice { op: last, .. }) if *last == op);
            if slice.steps[place] != 1 || cut_already {
                return Err(format!("{} skips channels", self.name(op)));
            }
            let length = labels.len() as i64;
            let bound = |k: i64| (if k < 0 { k.saturating_add(length) } else { k }).clamp(0, length) as usize;
            let (from, to) = (bound(slice.starts[place]), bound(slice.ends[place]));
            if from >= to {
                return Err(format!("{} takes nothing", self.name(op)));
            }
            axes[axis] = Some(labels[from..to].to_vec());
            self.adjust.push(Adjust::Slice { op, place, labels, from, to });
        }
        self.set_axes(slice.y, axes);
        Ok(())
    }

    pub(super) fn gather(&mut self, op: OpId) -> Rule {
        let gather = Gather::of(self.graph, op).ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let axes = self.axes_of(gather.x);
        let axis = self.axis(op, gather.axis, axes.len())?;
        let indices = self.constant(gather.indices)?;
        let mut result: Axes = axes[..axis].to_vec();
        match &axes[axis] {
            None => result.extend(indices.dims().iter().map(|_| None)),
            Some(labels) => {
                let places = indices.to_i64_vec().filter(|_| indices.dims().len() == 1);
                let places: Option<Vec<usize>> =
                    places.and_then(|list| list.into_iter().map(|k| axis_from_front(k, labels.len())).collect());
                let Some(places) = places else { return Err(format!("{} takes single channels", self.name(op))) };
                result.push(Some(places.iter().map(|&place| labels[place]).collect()));
                self.adjust.push(Adjust::Gather { op, labels: labels.clone(), indices: places });
            }
        }
        result.extend(axes[axis + 1..].iter().cloned());
        self.set_axes(gather.y, result);
        Ok(())
    }

    pub(super) fn pad(&mut self, op: OpId) -> Rule {
        let pad = Pad::of(self.graph, op).ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let axes = self.axes_of(pad.x);
        let amounts = pad.pads_of_rank(axes.len());
        let amounts = amounts.ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let padded = |k: usize| amounts[k] != 0 || amounts[axes.len() + k] != 0;
        if axes.iter().enumerate().any(|(k, labels)| labels.is_some() && padded(k)) {
            return Err(format!("{} adds channels", self.name(op)));
        }
        self.set_axes(pad.y, axes);
        Ok(())
    }

    pub(super) fn transpose(&mut self, op: OpId) -> Rule {
        let transpose = Transpose::of(self.graph, op).ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let axes = self.axes_of(transpose.x);
        if axes.len() != transpose.perm.len() {
            return Err(format!("{} has another rank", self.name(op)));
        }
        self.set_axes(transpose.y, transpose.perm.iter().map(|&axis| axes[axis].clone()).collect());
        Ok(())
    }

    /// Reshape, Flatten, Squeeze, Unsqueeze: axes that stay, axes that merge into one, one that splits.
    pub(super) fn reshape(&mut self, op: OpId) -> Rule {
        let (x, y) = (self.input(op, 0)?, self.output(op)?);
        let shape = |value: ValueId| self.graph.ty(value).and_then(|ty| ty.shape.clone());
        let (Some(from), Some(to)) = (shape(x), shape(y)) else {
            return Err(format!("the shapes of {} are not known", self.name(op)));
        };
        let axes = self.axes_of(x);
        let mut result: Axes = vec![None; to.len()];
        let blocks = blocks(&from, &to).ok_or_else(|| format!("{} mixes axes", self.name(op)))?;
        for (ins, outs) in blocks {
            let labelled: Vec<usize> = ins.clone().filter(|&axis| axes[axis].is_some()).collect();
            let axis = match labelled[..] {
                [] => continue,
                [axis] => axis,
                _ => return Err(format!("{} mixes axes", self.name(op))),
            };
            let Some(labels) = axes[axis].clone() else { continue };
            let length = |dims: &[Dim], axes: std::ops::Range<usize>| {
                axes.map(|axis| dims[axis].known()).product::<Option<usize>>()
            };
            let long: Vec<usize> = outs.clone().filter(|&axis| to[axis] != Dim::Known(1)).collect();
            match long[..] {
                // One axis, or several that merge: each channel becomes a run of positions.
                [] | [_] => {
                    let inner = length(&from, axis + 1..ins.end);
                    let outer = length(&from, ins.start..axis);
                    let (Some(inner), Some(outer)) = (inner, outer) else {
                        return Err(format!("the shapes of {} are not known", self.name(op)));
                    };
                    let run = labels.iter().flat_map(|&label| std::iter::repeat_n(label, inner));
                    let run: Labels = run.collect();
                    let run: Labels = (0..outer).flat_map(|_| run.iter().copied()).collect();
                    let Some(place) = long.first().copied().or(outs.clone().next()) else {
                        return Err(format!("{} drops the axis of the channels", self.name(op)));
                    };
                    result[place] = Some(run);
                }
                // One that splits: the same places of the last part go in each of the first.
                [.., last] if ins.clone().filter(|&axis| from[axis] != Dim::Known(1)).count() == 1 => {
                    let Some(inner) = to[last].known().filter(|&inner| inner > 0) else {
                        return Err(format!("the shapes of {} are not known", self.name(op)));
                    };
                    let (first, rest) = labels.split_at(inner.min(labels.len()));
                    for group in rest.chunks(inner) {
                        self.unite(first, group)?;
                    }
                    result[last] = Some(first.to_vec());
                }
                _ => return Err(format!("{} mixes axes", self.name(op))),
            }
        }
        self.target_shape(op, &result)?;
        self.set_axes(y, result);
        Ok(())
    }

    /// The constant target of a Reshape names lengths that change; one that is computed must say -1 there.
    fn target_shape(&mut self, op: OpId, result: &Axes) -> Rule {
        if !self.graph.op(op).is("Reshape") {
            return Ok(());
        }
        let reshape = Reshape::of(self.graph, op).ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let changing = result.iter().enumerate().filter_map(|(axis, labels)| Some((axis, labels.clone()?)));
        let changing: Vec<(usize, Labels)> = changing.collect();
        if self.graph.constant(reshape.shape).is_some() {
            if !changing.is_empty() {
                self.adjust.push(Adjust::Shape { op, input: 1, entries: changing });
            }
            return Ok(());
        }
        for (axis, _) in changing {
            if self.entry(reshape.shape, axis) != Some(-1) {
                return Err(format!("the shape that {} makes is computed", self.name(op)));
            }
        }
        Ok(())
    }

    /// Entry `index` of a list of integers that a Concat of constants and others makes.
    fn entry(&self, list: ValueId, index: usize) -> Option<i64> {
        let concat = Concat::of(self.graph, self.graph.producer(list)?)?;
        let mut before = 0;
        for &part in &concat.inputs {
            let length = self.dim(part, 0).filter(|_| self.rank(part) == Some(1))?;
            if index < before + length {
                return self.graph.constant(part)?.to_i64_vec()?.get(index - before).copied();
            }
            before += length;
        }
        None
    }

    pub(super) fn resize(&mut self, op: OpId) -> Rule {
        let y = self.output(op)?;
        let usual = |resize: &Resize| {
            resize.axes.is_none()
                && resize.coordinates != ResizeCoordinates::CropAndResize
                && !resize.keeps_aspect_ratio
        };
        let Some(resize) = Resize::of(self.graph, op).filter(usual) else {
            return Err(format!("there is no rule for this form of {}", self.name(op)));
        };
        let axes = self.axes_of(resize.x);
        let labelled: Vec<(usize, Labels)> =
            axes.iter().enumerate().filter_map(|(axis, labels)| Some((axis, labels.clone()?))).collect();
        if let Some(sizes) = resize.sizes {
            let sizes = self
                .constant(sizes)?
                .to_i64_vec()
                .ok_or_else(|| format!("the sizes of {} are not integers", self.name(op)))?;
            if labelled.iter().any(|(axis, labels)| sizes.get(*axis) != Some(&(labels.len() as i64))) {
                return Err(format!("{} changes the number of channels", self.name(op)));
            }
            self.adjust.push(Adjust::Shape { op, input: 3, entries: labelled });
        } else {
            let scales: Vec<f64> = match resize.scales {
                Some(ResizeScales::Input(value)) => self
                    .constant(value)?
                    .to_f64_vec()
                    .ok_or_else(|| format!("the scales of {} are not numbers", self.name(op)))?,
                Some(ResizeScales::Stated(scales)) => scales.into_iter().map(f64::from).collect(),
                None => Vec::new(),
            };
            if labelled.iter().any(|(axis, _)| scales.get(*axis) != Some(&1.0)) {
                return Err(format!("{} changes the number of channels", self.name(op)));
            }
        }
        self.set_axes(y, axes);
        Ok(())
    }

    /// Lengths of axes without channels stay what they are.
    pub(super) fn shape(&mut self, op: OpId) -> Rule {
        let shape = Shape::of(self.graph, op).ok_or_else(|| format!("{} is not understood", self.name(op)))?;
        let axes = self.axes_of(shape.x);
        let shown = shape.axes(axes.len());
        let first = shown.start;
        let is_whole = |k: i64| axis_from_front(k, shown.len()).is_some_and(|k| axes[first + k].is_none());
        if axes[shown.clone()].iter().all(Option::is_none) {
            return Ok(());
        }
        for place in self.graph.uses(shape.y) {
            let Use::Input(user, 0) = place else { return Err(format!("{} tells their number", self.name(op))) };
            let indices =
                Gather::of(self.graph, user).and_then(|gather| self.graph.constant(gather.indices)?.to_i64_vec());
            let bounds = Slice::of(self.graph, user).filter(|slice| slice.steps == [1]);
            let indices = indices.or_else(|| {
                let slice = bounds?;
                let bound = |k: i64| {
                    (if k < 0 { k.saturating_add(shown.len() as i64) } else { k }).clamp(0, shown.len() as i64)
                };
                Some((bound(slice.starts[0])..bound(slice.ends[0])).collect())
            });
            if !indices.is_some_and(|indices| indices.into_iter().all(is_whole)) {
                return Err(format!("{} tells their number", self.name(op)));
            }
        }
        Ok(())
    }
}

/// The axes of `from` and `to` in the least blocks with the same product, in order; `None` when dimensions that are not
/// known stand in the way.
fn blocks(from: &[Dim], to: &[Dim]) -> Option<Vec<(std::ops::Range<usize>, std::ops::Range<usize>)>> {
    let (mut i, mut j) = (0, 0);
    let mut blocks = Vec::new();
    while i < from.len() || j < to.len() {
        let (start_i, start_j) = (i, j);
        if i < from.len() && j < to.len() && from[i].same(&to[j]) {
            (i, j) = (i + 1, j + 1);
        } else {
            let (mut a, mut b) = (1usize, 1usize);
            loop {
                if i < from.len() && (a < b || i == start_i) {
                    a = a.checked_mul(from[i].known()?)?;
                    i += 1;
                } else if j < to.len() && (b < a || j == start_j) {
                    b = b.checked_mul(to[j].known()?)?;
                    j += 1;
                } else {
                    break;
                }
            }
            if a != b {
                // A symbol among several unknown ones, or a shape that does not fit.
                return None;
            }
        }
        // Trailing ones belong to the block before.
        let rest_is_ones = |dims: &[Dim]| dims.iter().all(|dim| *dim == Dim::Known(1));
        if rest_is_ones(&from[i..]) && rest_is_ones(&to[j..]) {
            (i, j) = (from.len(), to.len());
        }
        blocks.push((start_i..i, start_j..j));
    }
    Some(blocks)
}
