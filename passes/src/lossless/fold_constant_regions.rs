//! Computes regions of ops that follow from constants, where that makes the file no larger as a whole.
//!
//! ```onnx before
//! # x: float[8,4]; a: int64[1] = {8}; b: int64[1] = {4}; o: float[1] = {1}; i: int64[1] = {0}
//! s = Concat <axis = 0> (a, b)
//! m = Expand (o, s)
//! r = Gather (m, i)
//! y = Mul (x, r)
//! ```
//! ```onnx after
//! y = Mul (x, constant)
//! ```
//! [`FoldConstants`](crate::FoldConstants) weighs each op alone: an Expand makes more bytes than it takes away, and stops it, though what
//! is behind may be small again.
//!
//! **Class:** exact for integers and for ops that only move elements; rounding for float arithmetic. The pass exists once per class.
//! **Legal when** the new constants take no more bytes than the ops and constants that go.
//! **Does not** compute what is quantized, nor values of more than eight times the bytes that they are made of on the way.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{Graph, OpId, Patch, Tensor, Use, ValueId};

use super::fold_constants::is_arithmetic;
use crate::{
    Class, Context, Description, Miss, Pass, Result, When,
    analysis::{
        computed::Computed,
        constant_region::{Region, put},
    },
};

/// See the [module](self) for before, after and legality.
pub struct FoldConstantRegions(Class);

impl FoldConstantRegions {
    /// Folds integers, and ops that move elements.
    pub fn exact() -> FoldConstantRegions {
        FoldConstantRegions(Class::Exact)
    }

    /// Folds float arithmetic, too.
    pub fn rounding() -> FoldConstantRegions {
        FoldConstantRegions(Class::Rounding)
    }
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fold-constant-regions",
    class: Class::Rounding,
    about: "computes regions of ops that follow from constants",
    when: When::Lossless,
};

/// Bytes that a value on the way may take, however few it is made of.
const SMALL: usize = 1 << 20;

/// The same as a multiple of the bytes that the region begins with.
const MOST_GROWTH: usize = 8;

impl Pass for FoldConstantRegions {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn class(&self) -> Class {
        self.0
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        let mut tried: BTreeSet<Vec<ValueId>> = BTreeSet::new();
        loop {
            let computed = Computed::of(graph);
            let regions = regions(graph, &computed);
            // The whole of a region first, then its values one by one.
            let single: Vec<Vec<ValueId>> = regions.iter().flatten().map(|value| vec![*value]).collect();
            let mut is_done = true;
            for made in regions.into_iter().chain(single) {
                if !tried.insert(made.clone()) {
                    continue;
                }
                let patch = match self.fold(graph, cx, &computed, &made) {
                    Ok(patch) => patch,
                    Err(miss) => {
                        if let Some(op) = made.first().and_then(|value| graph.producer(*value)) {
                            cx.missed(graph, op, &miss);
                        }
                        continue;
                    }
                };
                if cx.apply(graph, patch)?.is_some() {
                    is_done = false; // ids of what went may be taken again
                    break;
                }
            }
            if is_done {
                return Ok(());
            }
        }
    }
}

/// Values that follow from constants and that another op reads, those that share an op together.
fn regions(graph: &Graph, computed: &Computed) -> Vec<Vec<ValueId>> {
    let is_read = |value: &ValueId| {
        let is_outside = |place: &Use| match place {
            Use::Input(op, _) => !graph.op(*op).outputs().iter().flatten().all(|y| computed.has(*y)),
            Use::Capture(..) => true,
            Use::Output(_) => false,
        };
        graph.uses(*value).iter().any(is_outside)
    };
    let is_edge = |value: &ValueId| computed.is_made(graph, *value) && !graph.is_output(*value) && is_read(value);
    let mut region_of: BTreeMap<OpId, usize> = BTreeMap::new();
    let mut regions: Vec<Vec<ValueId>> = Vec::new();
    for value in graph.values().into_iter().filter(is_edge) {
        let ops = computed.behind(graph, value).ops;
        let met: BTreeSet<usize> = ops.iter().filter_map(|op| region_of.get(op).copied()).collect();
        let home = met.first().copied().unwrap_or_else(|| {
            regions.push(Vec::new());
            regions.len() - 1
        });
        for other in met.into_iter().filter(|other| *other != home) {
            let values = std::mem::take(&mut regions[other]);
            regions[home].extend(values);
            region_of.values_mut().filter(|region| **region == other).for_each(|region| *region = home);
        }
        regions[home].push(value);
        region_of.extend(ops.into_iter().map(|op| (op, home)));
    }
    regions.retain(|region| !region.is_empty());
    regions
}

impl FoldConstantRegions {
    fn fold(&self, graph: &Graph, cx: &Context<'_>, computed: &Computed, made: &[ValueId]) -> Result<Patch, Miss> {
        let region = Region::of(graph, computed, made);
        let is_left = |op: &OpId| self.0 == Class::Exact && is_arithmetic(graph, *op);
        if region.behind.is_quantized(graph) || region.behind.ops.iter().any(is_left) {
            return Err(Miss::NotThisPattern);
        }
        let sources = region.behind.sources.iter().filter_map(|source| graph.constant(*source));
        let most = SMALL.max(MOST_GROWTH * sources.map(Tensor::byte_len).sum::<usize>());
        let tensors = region.values(graph, cx, made, most)?;
        let added = tensors.values().map(Tensor::byte_len).sum::<usize>();
        let removed = region.bytes;
        if added > removed.saturating_add(cx.options.fold_growth) {
            return Err(Miss::Grows { added, removed });
        }
        let anchor = made.first().and_then(|value| graph.producer(*value)).ok_or(Miss::NotThisPattern)?;
        let mut patch = Patch::new(anchor);
        put(graph, &mut patch, tensors)?;
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::FoldConstantRegions;
    use crate::testing::{check, check_same};

    const MASK: &str = "s = Concat <axis = 0> (a, b)  m = Expand (o, s)";

    #[test]
    fn what_grows_on_the_way_may_end_small() {
        let before = format!(
            "g (float[2] x) => (float[2] y) <int64[1] a = {{8}}, int64[1] b = {{40}}, float[1] o = {{1}}> {{
            {MASK}  r = ReduceMean <axes = [0, 1], keepdims = 0> (m)  y = Mul (x, r) }}"
        );
        let after = "g (float[2] x) => (float[2] y) <float r = {1}> { y = Mul (x, r) }";
        check(&FoldConstantRegions::rounding(), &before, after);
    }

    #[test]
    fn what_takes_more_bytes_than_it_saves_stays() {
        let model = format!(
            "g (float[8,40] x) => (float[8,40] y) <int64[1] a = {{8}}, int64[1] b = {{40}}, float[1] o = {{1}}> {{ {MASK}  y = Mul (x, m) }}"
        );
        check_same(&FoldConstantRegions::exact(), &model);
    }
}
