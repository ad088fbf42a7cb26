//! Attention (opset 23 and later) in all its forms: past and present, causal, windows, groups of heads, caps, lengths, and the
//! product as an output.
//!
//! `softmax(cap(s·Q Kᵀ) + bias) V`. The bias is 0 or −∞ by the mask, by causality (a query sees keys up to its own place, counted
//! behind the past), by the window and by the lengths, plus what a float mask adds. A query that sees no key gives 0.
//! Computed in f32; **does not** do doubles.
use std::borrow::Cow;

use onnx_shrink_ir::{DataType, Tensor};

use super::{
    layout::{Outputs, check_size, failed, integers, unsupported},
    numbers::{bools, is_half, narrowed, slice, widened},
};
use crate::kernel::{Call, KernelError};

/// Queries, keys or values by batch, head and place in the sequence.
struct Heads {
    batch: usize,
    heads: usize,
    length: usize,
    size: usize,
    numbers: Vec<f32>,
}

impl Heads {
    /// From [batch, heads, length, size], or [batch, length, heads · size] with the attribute `count`.
    fn of(call: &Call<'_>, tensor: &Tensor, count: &str) -> Result<Heads, KernelError> {
        if tensor.dtype() != DataType::Float && !is_half(tensor.dtype()) {
            return unsupported(format!("attention over {}", tensor.dtype()));
        }
        let wide = widened(tensor);
        let numbers = slice::<f32>(&wide)?;
        match *tensor.dims() {
            [batch, heads, length, size] => Ok(Heads { batch, heads, length, size, numbers: numbers.into_owned() }),
            [batch, length, hidden] => {
                let heads = call.op.int(count).and_then(|heads| usize::try_from(heads).ok());
                let Some(heads) = heads.filter(|heads| *heads > 0 && hidden.is_multiple_of(*heads)) else {
                    return failed(format!("{count} does not fit {:?}", tensor.dims()));
                };
                let size = hidden / heads;
                let mut turned = Vec::with_capacity(numbers.len());
                for batch in 0..batch {
                    for head in 0..heads {
                        for place in 0..length {
                            let start = (batch * length + place) * hidden + head * size;
                            turned.extend_from_slice(&numbers[start..start + size]);
                        }
                    }
                }
                Ok(Heads { batch, heads, length, size, numbers: turned })
            }
            _ => failed(format!("an input of rank {}", tensor.dims().len())),
        }
    }

    /// With `past` [batch, heads, length, size] before it.
    fn behind(self, past: &Tensor) -> Result<Heads, KernelError> {
        let &[batch, heads, before, size] = past.dims() else { return failed("a past is not of rank 4") };
        if (batch, heads, size) != (self.batch, self.heads, self.size) {
            return failed(format!("a past {:?} does not fit what follows", past.dims()));
        }
        let wide = widened(past);
        let old = slice::<f32>(&wide)?;
        let mut numbers = Vec::with_capacity(old.len() + self.numbers.len());
        let (was, is) = (before * size, self.length * size);
        for row in 0..batch * heads {
            numbers.extend_from_slice(&old[row * was..(row + 1) * was]);
            numbers.extend_from_slice(&self.numbers[row * is..(row + 1) * is]);
        }
        Ok(Heads { length: before + self.length, numbers, ..self })
    }

    fn row(&self, batch: usize, head: usize, place: usize) -> &[f32] {
        let start = ((batch * self.heads + head) * self.length + place) * self.size;
        &self.numbers[start..start + self.size]
    }

    fn tensor(&self, dtype: DataType) -> Tensor {
        let dims = [self.batch, self.heads, self.length, self.size];
        narrowed(Tensor::from_vec(&dims, self.numbers.clone()), dtype)
    }
}

/// What a mask adds, for [batch, heads, queries, keys]; keys that it does not have are hidden.
struct Mask<'a> {
    added: Cow<'a, [f32]>,
    strides: [usize; 3],
    row: usize,
}

impl<'a> Mask<'a> {
    fn of(tensor: &'a Tensor, wide: &'a Tensor, target: [usize; 4]) -> Result<Mask<'a>, KernelError> {
        let added: Cow<'a, [f32]> = match tensor.dtype() {
            DataType::Bool => {
                bools(tensor)?.iter().map(|&seen| if seen != 0 { 0.0 } else { f32::NEG_INFINITY }).collect()
            }
            _ => slice::<f32>(wide)?,
        };
        let dims = tensor.dims();
        let Some((&row, outer)) = dims.split_last().filter(|_| dims.len() <= 4) else {
            return failed(format!("a mask of rank {}", dims.len()));
        };
        if row > target[3] {
            return failed(format!("a mask {dims:?} for {} keys", target[3]));
        }
        let mut strides = [0; 3];
        let mut step = row;
        for (place, &dim) in (0..3).rev().zip(outer.iter().rev()) {
            if dim == target[place] {
                strides[place] = step;
            } else if dim != 1 {
                return failed(format!("a mask {dims:?} for {target:?}"));
            }
            step *= dim;
        }
        Ok(Mask { added, strides, row })
    }

    fn add(&self, bias: &mut [f32], at: [usize; 3]) {
        let start: usize = at.iter().zip(self.strides).map(|(at, stride)| at * stride).sum();
        let (seen, hidden) = bias.split_at_mut(self.row);
        seen.iter_mut().zip(&self.added[start..]).for_each(|(bias, added)| *bias += added);
        hidden.fill(f32::NEG_INFINITY);
    }
}

/// What the output `qk_matmul_output` shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Product,
    Capped,
    Biased,
    Softmax,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (whole, rest) = (a.chunks_exact(8), a.chunks_exact(8).remainder());
    for (a, b) in whole.zip(b.chunks_exact(8)) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let tail: f32 = rest.iter().zip(&b[a.len() - rest.len()..]).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + tail
}

/// Softmax in place; the logits may be −∞, all of them, too.
fn softmax(row: &mut [f32]) {
    let peak = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let peak = if peak == f32::NEG_INFINITY { 0.0 } else { peak };
    row.iter_mut().for_each(|x| *x = (*x - peak).exp());
    let sum = row.iter().map(|x| f64::from(*x)).sum::<f64>() as f32;
    if sum != 0.0 {
        row.iter_mut().for_each(|x| *x /= sum);
    }
}

/// Attention
pub(super) fn attention(call: &Call<'_>) -> Outputs {
    let (q, k, v) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let softcap = call.float("softcap", 0.0);
    let shown = match call.int("qk_matmul_output_mode", 0) {
        0 if softcap != 0.0 && call.op.output(3).is_some() => return unsupported("the product before its cap"),
        0 => Shown::Product,
        1 => Shown::Capped,
        2 => Shown::Biased,
        3 => Shown::Softmax,
        other => return failed(format!("qk_matmul_output_mode {other}")),
    };
    let queries = Heads::of(call, q, "q_num_heads")?;
    let (mut keys, mut values) = (Heads::of(call, k, "kv_num_heads")?, Heads::of(call, v, "kv_num_heads")?);
    let mut past = 0;
    match (call.optional(4), call.optional(5)) {
        (Some(key), Some(value)) => {
            past = key.dims().get(2).copied().unwrap_or(0);
            (keys, values) = (keys.behind(key)?, values.behind(value)?);
        }
        (None, None) => {}
        _ => return failed("past_key and past_value come together"),
    }
    let fits = queries.batch == keys.batch
        && keys.batch == values.batch
        && queries.size == keys.size
        && keys.heads == values.heads
        && keys.length == values.length;
    if !fits || keys.heads == 0 || !queries.heads.is_multiple_of(keys.heads) || k.dims().len() != q.dims().len() {
        return failed(format!("shapes {:?}, {:?} and {:?} do not fit", q.dims(), k.dims(), v.dims()));
    }
    let lengths = call.optional(6).map(|lengths| integers(lengths, "nonpad_kv_seqlen")).transpose()?;
    if lengths.as_ref().is_some_and(|lengths| lengths.len() != queries.batch || call.optional(4).is_some()) {
        return failed("nonpad_kv_seqlen does not fit: one length for each of the batch, and no past");
    }
    let target = [queries.batch, queries.heads, queries.length, keys.length];
    let wide = call.optional(3).map(widened);
    let mask = match (call.optional(3), &wide) {
        (Some(mask), Some(wide)) => Some(Mask::of(mask, wide, target)?),
        _ => None,
    };
    let causal = call.int("is_causal", 0) != 0;
    let (left, right) = (call.int("left_window_size", -1), call.int("right_window_size", -1));
    let scale = call.op.float("scale").map_or_else(|| 1.0 / (queries.size as f64).sqrt(), f64::from);
    if scale < 0.0 {
        return unsupported("a negative scale");
    }
    let scale = scale.sqrt() as f32;
    queries.batch.checked_mul(queries.heads).ok_or_else(|| KernelError::Failed("too many heads".to_owned()))?;
    check_size(call, DataType::Float, &[queries.batch, queries.heads, queries.length, values.size])?;
    let mut product = match call.op.output(3) {
        Some(_) => Vec::with_capacity(check_size(call, DataType::Float, &target)?),
        None => Vec::new(),
    };
    let present = keys.tensor(k.dtype());
    let scaled: Vec<f32> = keys.numbers.iter().map(|x| x * scale).collect();
    let scaled_keys = Heads { numbers: scaled, ..keys };
    let mut out = Heads {
        size: values.size,
        numbers: Vec::with_capacity(queries.batch * queries.heads * queries.length * values.size),
        ..queries
    };
    let group = queries.heads / scaled_keys.heads;
    let mut query = Vec::with_capacity(queries.size);
    let mut bias = vec![0f32; scaled_keys.length];
    let mut scores = vec![0f32; scaled_keys.length];
    for batch in 0..queries.batch {
        let valid = lengths.as_ref().map(|lengths| lengths[batch]);
        let offset = valid.map_or(past as i64, |valid| valid - queries.length as i64);
        for head in 0..queries.heads {
            for place in 0..queries.length {
                bias.fill(0.0);
                if let Some(mask) = &mask {
                    mask.add(&mut bias, [batch, head, place]);
                }
                let own = offset + place as i64;
                for (key, bias) in (0i64..).zip(&mut bias) {
                    let hidden = causal && key > own
                        || left >= 0 && own - key > left
                        || right >= 0 && key - own > right
                        || valid.is_some_and(|valid| key >= valid);
                    if hidden {
                        *bias += f32::NEG_INFINITY;
                    }
                }
                query.clear();
                query.extend(queries.row(batch, head, place).iter().map(|x| x * scale));
                for (key, score) in scores.iter_mut().enumerate() {
                    *score = dot(&query, scaled_keys.row(batch, head / group, key));
                    if softcap > 0.0 {
                        *score = (*score / softcap).tanh() * softcap;
                    }
                }
                let is_wanted = call.op.output(3).is_some();
                if is_wanted && matches!(shown, Shown::Product | Shown::Capped) {
                    product.extend_from_slice(&scores);
                }
                scores.iter_mut().zip(&bias).for_each(|(score, bias)| *score += bias);
                if is_wanted && shown == Shown::Biased {
                    product.extend_from_slice(&scores);
                }
                match bias.iter().all(|bias| *bias == f32::NEG_INFINITY) {
                    true => scores.fill(0.0),
                    false => softmax(&mut scores),
                }
                if is_wanted && shown == Shown::Softmax {
                    product.extend_from_slice(&scores);
                }
                let start = out.numbers.len();
                out.numbers.resize(start + values.size, 0.0);
                for (key, &weight) in scores.iter().enumerate() {
                    let row = values.row(batch, head / group, key);
                    out.numbers[start..].iter_mut().zip(row).for_each(|(sum, x)| *sum += weight * x);
                }
            }
        }
    }
    let y = match q.dims() {
        &[batch, length, _] => {
            let mut turned = Vec::with_capacity(out.numbers.len());
            for batch in 0..batch {
                for place in 0..length {
                    (0..out.heads).for_each(|head| turned.extend_from_slice(out.row(batch, head, place)));
                }
            }
            narrowed(Tensor::from_vec(&[batch, length, out.heads * out.size], turned), q.dtype())
        }
        _ => out.tensor(q.dtype()),
    };
    let shown = call.op.output(3).map(|_| narrowed(Tensor::from_vec(&target, product), q.dtype()));
    Ok(vec![Some(y), Some(present), Some(values.tensor(v.dtype())), shown])
}
