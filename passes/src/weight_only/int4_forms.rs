//! The ops that make a float weight of blocks of 4-bit integers.
//!
//! - *Fused*: DequantizeLinear in blocks, which kernels that compute one row read as it is.
//! - *Typed*: Cast → Mul → Reshape of 4-bit integers, which engines fold when they load the file. Both need opset 21.
//! - *Packed*, for files of lower opsets: a signed byte c holds two integers, q and r, as 16·r + q + 8; ⌊c / 16⌋ is r, and what
//!   that leaves, less 8, is q. All are float ops of the first opsets, so that every engine that folds constants reads it. (ONNX
//!   Runtime 1.32 folds it at opsets 11 to 21.) Why signed: OpenCV 4.12 takes a uint8 constant under a Cast for int8, without a word.
//!
//! **Never** leaves a byte of padding in the result: where a block is not full, a Slice cuts it.
use onnx_shrink_ir::{DataType, Graph, NewOp, Patch, Tensor, TensorType, ValueId, ValueRef, attributes};

use crate::{Miss, numerics::gptq::Blocks};

/// The first opset with 4-bit integers and blocks.
pub const LEAST_OPSET: i64 = 21;

/// The first opset of what is packed: Mul and Sub broadcast, and 16-bit floats are cast.
pub const LEAST_PACKED: i64 = 7;

/// Constants that all packed weights of a graph read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shared {
    sixteen: Option<ValueId>,
    eight: Option<ValueId>,
}

/// A patch's own constants for those that [`Shared`] had not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fresh {
    sixteen: Option<ValueRef>,
    eight: Option<ValueRef>,
}

impl Shared {
    /// Takes over what a patch made, by the ids that its values got.
    pub(super) fn learn(&mut self, fresh: Fresh, values: &[ValueId]) {
        let id = |value: Option<ValueRef>| match value {
            Some(ValueRef::New(index)) => values.get(index).copied(),
            _ => None,
        };
        self.sixteen = self.sixteen.or_else(|| id(fresh.sixteen));
        self.eight = self.eight.or_else(|| id(fresh.eight));
    }

    /// Without those that are not in the graph any more.
    pub(super) fn still_in(self, graph: &Graph) -> Shared {
        let there = |value: Option<ValueId>| value.filter(|value| graph.has_value(*value));
        Shared { sixteen: there(self.sixteen), eight: there(self.eight) }
    }
}

/// A weight that is to be written: a matrix of [inputs, outputs] in blocks, in a tensor of the shape `dims`.
pub(super) struct BlockedWeight<'a> {
    pub blocks: &'a Blocks,
    pub dims: &'a [usize],
    /// Whether the outputs are the last axis of it
    pub by_columns: bool,
    pub ty: Option<TensorType>,
}

impl BlockedWeight<'_> {
    /// DequantizeLinear.
    pub(super) fn fused(&self, patch: &mut Patch) -> Result<ValueRef, Miss> {
        let integers = patch.constant("w", nibbles(self.dims, self.blocks.integers.iter().copied())?);
        let scales = self.scales(patch, self.blocks.scales.shape(), self.blocks.scales.iter().copied());
        let decode = NewOp::new("DequantizeLinear")
            .with(attributes::int("axis", 0))
            .with(attributes::int("block_size", self.blocks.size as i64));
        Ok(patch.op(decode, &[Some(integers), Some(scales)], "d", self.ty.clone()))
    }

    /// Ops that engines fold, `typed` or packed.
    pub(super) fn folded(&self, patch: &mut Patch, typed: bool, shared: Shared) -> Result<(ValueRef, Fresh), Miss> {
        let Blocks { size, ref integers, ref scales, .. } = *self.blocks;
        let (inputs, outputs) = integers.dim();
        let blocks = scales.nrows();
        let padded = blocks * size;
        // Zeros fill the last block.
        let at = |i: usize, j: usize| if i < inputs { integers[(i, j)] } else { 0 };
        let (shape, scale_shape, whole) = if self.by_columns {
            ([blocks, size, outputs], [blocks, 1, outputs], [padded, outputs])
        } else {
            ([outputs, blocks, size], [outputs, blocks, 1], [outputs, padded])
        };
        let (list, scales): (Vec<i8>, Vec<f32>) = if self.by_columns {
            let list = (0..padded).flat_map(|i| (0..outputs).map(move |j| at(i, j))).collect();
            (list, scales.iter().copied().collect())
        } else {
            let list = (0..outputs).flat_map(|j| (0..padded).map(move |i| at(i, j))).collect();
            (list, scales.t().iter().copied().collect())
        };
        let (numbers, fresh) = if typed {
            let integers = patch.constant("w", nibbles(&shape, list.into_iter())?);
            (to_float(patch, integers), Fresh::default())
        } else {
            unpacked(patch, (&shape, self.by_columns), &list, shared)?
        };
        let scales = self.scales(patch, &scale_shape, scales.into_iter());
        let product = patch.op(NewOp::new("Mul"), &[Some(numbers), Some(scales)], "m", None);
        let list = |numbers: &[usize]| {
            Tensor::from_vec(&[numbers.len()], numbers.iter().map(|&n| n as i64).collect::<Vec<i64>>())
        };
        let reshaped = |patch: &mut Patch, from: ValueRef, dims: &[usize], ty: Option<TensorType>| {
            let shape = patch.constant("shape", list(dims));
            patch.op(NewOp::new("Reshape"), &[Some(from), Some(shape)], "r", ty)
        };
        if padded == inputs {
            return Ok((reshaped(patch, product, self.dims, self.ty.clone()), fresh));
        }
        let long = reshaped(patch, product, &whole, None);
        let axis = usize::from(!self.by_columns);
        let [start, end, axis] = [0, inputs, axis].map(|number| patch.constant("cut", list(&[number])));
        let is_matrix = self.dims.len() == 2;
        let cut = [Some(long), Some(start), Some(end), Some(axis)];
        let cut = patch.op(NewOp::new("Slice"), &cut, "t", if is_matrix { self.ty.clone() } else { None });
        Ok((if is_matrix { cut } else { reshaped(patch, cut, self.dims, self.ty.clone()) }, fresh))
    }

    /// The scales as floats.
    fn scales(&self, patch: &mut Patch, shape: &[usize], scales: impl Iterator<Item = f32>) -> ValueRef {
        if self.blocks.half {
            let scales = patch.constant("s", Tensor::from_vec(shape, scales.map(half::f16::from_f32).collect()));
            return to_float(patch, scales);
        }
        patch.constant("s", Tensor::from_vec(shape, scales.collect::<Vec<f32>>()))
    }
}

fn to_float(patch: &mut Patch, from: ValueRef) -> ValueRef {
    let cast = NewOp::new("Cast").with(attributes::int("to", DataType::Float as i64));
    patch.op(cast, &[Some(from)], "c", None)
}

/// The axis that is cut in two halves, of which one number each is in a byte: the block, or whichever is even.
pub(super) fn halved(shape: &[usize; 3], by_columns: bool) -> Option<usize> {
    let order = if by_columns { [1, 0, 2] } else { [2, 1, 0] };
    order.into_iter().find(|axis| shape[*axis].is_multiple_of(2))
}

/// The integers as floats, two to a byte of the file.
fn unpacked(
    patch: &mut Patch,
    (shape, by_columns): (&[usize; 3], bool),
    list: &[i8],
    shared: Shared,
) -> Result<(ValueRef, Fresh), Miss> {
    let axis = halved(shape, by_columns).ok_or(Miss::Form("none of its axes can be halved"))?;
    let inner: usize = shape[axis..].iter().product();
    let mut bytes: Vec<i8> = Vec::with_capacity(list.len() / 2);
    for whole in list.chunks_exact(inner.max(1)) {
        let (low, high) = whole.split_at(inner / 2);
        bytes.extend(low.iter().zip(high).map(|(low, high)| high << 4 | (low + 8)));
    }
    let mut packed = *shape;
    packed[axis] /= 2;
    let mut fresh = Fresh::default();
    let scalar = |patch: &mut Patch, known: Option<ValueId>, number: f32, fresh: &mut Option<ValueRef>| {
        known.map(ValueRef::Existing).unwrap_or_else(|| {
            let made = patch.constant("k", Tensor::from_vec(&[], vec![number]));
            *fresh = Some(made);
            made
        })
    };
    let sixteen = scalar(patch, shared.sixteen, 16.0, &mut fresh.sixteen);
    let eight = scalar(patch, shared.eight, 8.0, &mut fresh.eight);
    let bytes = patch.constant("w", Tensor::from_vec(&packed, bytes));
    let both = to_float(patch, bytes);
    let mut op = |op: NewOp, inputs: &[ValueRef]| {
        let inputs: Vec<Option<ValueRef>> = inputs.iter().map(|input| Some(*input)).collect();
        patch.op(op, &inputs, "u", None)
    };
    let sixteenth = op(NewOp::new("Div"), &[both, sixteen]);
    let high = op(NewOp::new("Floor"), &[sixteenth]);
    let above = op(NewOp::new("Mul"), &[high, sixteen]);
    let rest = op(NewOp::new("Sub"), &[both, above]);
    let low = op(NewOp::new("Sub"), &[rest, eight]);
    let all = op(NewOp::new("Concat").with(attributes::int("axis", axis as i64)), &[low, high]);
    Ok((all, fresh))
}

/// Two integers a byte, the first in the low bits.
fn nibbles(dims: &[usize], integers: impl Iterator<Item = i8>) -> Result<Tensor, Miss> {
    let nibbles: Vec<u8> = integers.map(|q| q as u8 & 0x0F).collect();
    let bytes: Vec<u8> = nibbles.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4)).collect();
    Tensor::new(DataType::Int4, dims, bytes.into()).map_err(|_| Miss::Form("a shape of the weight"))
}
