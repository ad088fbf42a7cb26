//! Ops that follow from constants, taken as one: what they give, and the bytes that go with them.
//!
//! The net-bytes rule holds for the whole region: a mask that ten ops build from three numbers may cost what all of them save, and not
//! only what the last one does.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{Graph, OpId, Patch, Tensor, Use, ValueId, element_count};

use super::computed::{Behind, Computed};
use crate::{Context, Miss, lossless::fold_constants::contradicts, net_bytes};

/// A region of ops that follow from constants.
pub struct Region {
    /// What the values are made of
    pub behind: Behind,
    /// Bytes that go when the values become constants: of ops, and of the constants that nobody else reads
    pub bytes: usize,
}

impl Region {
    /// What makes the values `made`, which follow from constants.
    pub fn of(graph: &Graph, computed: &Computed, made: &[ValueId]) -> Region {
        let mut behind = Behind::default();
        for value in made {
            let Behind { ops, sources } = computed.behind(graph, *value);
            behind.ops.extend(ops);
            behind.sources.extend(sources);
        }
        // What someone else reads on the way stays, with all before it.
        let is_inside = |place: &Use| matches!(place, Use::Input(op, _) if behind.ops.contains(op));
        let mut stay: BTreeSet<OpId> = BTreeSet::new();
        for &op in &behind.ops {
            let open = |y: &ValueId| !made.contains(y) && !graph.uses(*y).iter().all(is_inside);
            if graph.op(op).outputs().iter().flatten().any(open) {
                stay.insert(op);
                for input in graph.op(op).inputs().iter().flatten() {
                    stay.extend(computed.behind(graph, *input).ops);
                }
            }
        }
        let goes = |place: &Use| matches!(place, Use::Input(op, _) if behind.ops.contains(op) && !stay.contains(op));
        let sources = behind.sources.iter().filter(|source| graph.uses(**source).iter().all(goes));
        let constants = sources.filter_map(|source| graph.constant(*source)).map(Tensor::byte_len).sum::<usize>();
        let bytes = constants + net_bytes::OP * (behind.ops.len() - stay.len());
        Region { behind, bytes }
    }

    /// What `wanted` are. Fails where a value on the way takes more than `most` bytes, or the engine cannot compute it.
    pub fn values(
        &self,
        graph: &Graph,
        cx: &Context<'_>,
        wanted: &[ValueId],
        most: usize,
    ) -> Result<BTreeMap<ValueId, Tensor>, Miss> {
        let too_large = |added: usize| Miss::Grows { added, removed: most };
        let mut known: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        for op in graph.ops().into_iter().filter(|op| self.behind.ops.contains(op)) {
            for ty in graph.op(op).outputs().iter().flatten().filter_map(|y| graph.ty(*y)) {
                let bytes = ty.dims().and_then(|dims| ty.dtype.byte_len(element_count(&dims)?));
                if let Some(bytes) = bytes.filter(|bytes| *bytes > most) {
                    return Err(too_large(bytes));
                }
            }
            let value = |value: &ValueId| known.get(value).or(graph.constant(*value)).cloned();
            let inputs: Vec<Option<Tensor>> =
                graph.op(op).inputs().iter().map(|input| input.as_ref().and_then(value)).collect();
            let outputs = cx.evaluate(graph, op, &inputs)?;
            for (y, tensor) in graph.op(op).outputs().iter().zip(outputs) {
                let (Some(y), Some(tensor)) = (y, tensor) else { continue };
                if tensor.byte_len() > most {
                    return Err(too_large(tensor.byte_len()));
                }
                known.insert(*y, tensor);
            }
        }
        known.retain(|value, _| wanted.contains(value));
        let complete = wanted.iter().all(|value| known.contains_key(value));
        if complete { Ok(known) } else { Err(Miss::NotComputed("the engine gave no value".to_owned())) }
    }
}

/// Puts `tensors` into `patch` in the place of the values that they are. Fails where one contradicts the type that is known of its value.
pub fn put(graph: &Graph, patch: &mut Patch, tensors: BTreeMap<ValueId, Tensor>) -> Result<(), Miss> {
    for (value, tensor) in tensors {
        if graph.ty(value).is_some_and(|ty| contradicts(ty, &tensor)) {
            return Err(Miss::UnknownType(value));
        }
        let constant = patch.constant(graph.name_of(value), tensor);
        patch.replace(value, constant);
    }
    Ok(())
}
