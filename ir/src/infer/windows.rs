//! Convolution and pooling: what sliding windows leave of the spatial dimensions.
//!
//! Own rules, not those of `rten-shape-inference`, which know at most two spatial dimensions, no negative pads, and one
//! reading of `ceil_mode`. Sizes are as in the ONNX standard (Conv, ConvTranspose, MaxPool).
use rten_shape_inference::{SymExpr, SymTensor};

use super::node::Node;

/// How a window moves over the spatial dimensions, with all defaults filled in.
struct Window {
    kernel: Vec<SymExpr>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
    auto_pad: String,
}

impl Window {
    fn of(node: &Node<'_>, kernel: Vec<SymExpr>) -> Option<Window> {
        let count = kernel.len();
        let list = |name: &str, length: usize, default: i64| match node.op.ints(name) {
            Some(values) if !values.is_empty() => (values.len() == length).then(|| values.to_vec()),
            _ => Some(vec![default; length]),
        };
        let (strides, dilations) = (list("strides", count, 1)?, list("dilations", count, 1)?);
        if strides.iter().chain(&dilations).any(|&step| !(1..=i64::from(i16::MAX)).contains(&step)) {
            return None;
        }
        let pads = list("pads", 2 * count, 0)?;
        if pads.iter().any(|pad| pad.unsigned_abs() > 1 << 20) {
            return None;
        }
        let auto_pad = node.op.string("auto_pad").unwrap_or("NOTSET").to_owned();
        Some(Window { kernel, strides, dilations, pads, auto_pad })
    }

    /// Both pads of a dimension together.
    fn padding(&self, axis: usize) -> i64 {
        if self.auto_pad == "VALID" { 0 } else { self.pads[axis] + self.pads[axis + self.kernel.len()] }
    }

    fn is_same(&self) -> bool {
        matches!(self.auto_pad.as_str(), "SAME_UPPER" | "SAME_LOWER")
    }

    /// Number of places of the window in a dimension of `size`; `None` when it is uncertain.
    fn places(&self, axis: usize, size: &SymExpr, ceil: bool) -> Option<SymExpr> {
        let (stride, dilation, padding) = (self.strides[axis], self.dilations[axis], self.padding(axis));
        if let SymExpr::Value(size) = size {
            let size = i64::from(*size);
            if self.is_same() {
                return value(size.div_euclid(stride) + i64::from(size.rem_euclid(stride) > 0));
            }
            let SymExpr::Value(kernel) = self.kernel[axis] else { return None };
            let free = size + padding - dilation * (i64::from(kernel) - 1) - 1;
            if free < 0 {
                return None;
            }
            let places = free / stride + 1;
            // A last window that begins in the padding behind the input is dropped by some engines and not by others.
            if ceil && free % stride > 0 {
                let begin = places * stride;
                let end = size + if self.auto_pad == "VALID" { 0 } else { self.pads[axis] };
                return (begin < end).then(|| value(places + 1)).flatten();
            }
            return value(places);
        }
        let small = |number: i64| i32::try_from(number).ok().map(SymExpr::Value);
        if self.is_same() {
            return Some(if stride == 1 { size.clone() } else { size.div_ceil(&small(stride)?) });
        }
        let SymExpr::Value(kernel) = self.kernel[axis] else { return None };
        let change = padding - dilation * (i64::from(kernel) - 1);
        match (stride, change) {
            (1, 0) => Some(size.clone()),
            (1, _) => Some(size.clone() + small(change)?),
            _ if ceil => None,
            _ => Some((size.clone() + small(change - 1)?) / small(stride)? + SymExpr::Value(1)),
        }
    }
}

fn value(number: i64) -> Option<SymExpr> {
    i32::try_from(number).ok().map(SymExpr::Value)
}

/// Attribute `kernel_shape`, or the weight's spatial dimensions.
fn kernel(node: &Node<'_>, weight: Option<&[SymExpr]>, count: usize) -> Option<Vec<SymExpr>> {
    let kernel = match (node.op.ints("kernel_shape").filter(|kernel| !kernel.is_empty()), weight) {
        (Some(kernel), _) => kernel.iter().map(|&size| value(size)).collect::<Option<Vec<_>>>()?,
        (None, Some(weight)) => weight.get(2..)?.to_vec(),
        (None, None) => return None,
    };
    (kernel.len() == count).then_some(kernel)
}

/// Conv and its quantized kin: input at `x`, weight at `w`.
pub(super) fn conv(node: &mut Node<'_>, x: usize, w: usize) -> Option<Vec<SymTensor>> {
    let weight = node.shape(w);
    let input = node.shape(x);
    let rank = input.as_ref().or(weight.as_ref())?.len();
    let count = rank.checked_sub(2).filter(|&count| count > 0)?;
    if weight.as_ref().is_some_and(|weight| weight.len() != rank) {
        return None;
    }
    let window = kernel(node, weight.as_deref(), count).and_then(|kernel| Window::of(node, kernel));
    let mut dims = vec![
        input.as_ref().map_or_else(|| node.symbols.gen_positive(), |input| input[0].clone()),
        weight.as_ref().map_or_else(|| node.symbols.gen_positive(), |weight| weight[0].clone()),
    ];
    for axis in 0..count {
        let places = match (&window, &input) {
            (Some(window), Some(input)) => window.places(axis, &input[2 + axis], false),
            _ => None,
        };
        dims.push(places.unwrap_or_else(|| node.symbols.gen_positive()));
    }
    Some(vec![SymTensor::from_shape(dims)])
}

/// ConvTranspose.
pub(super) fn conv_transpose(node: &mut Node<'_>) -> Option<Vec<SymTensor>> {
    let (input, weight) = (node.shape(0)?, node.shape(1)?);
    let count = input.len().checked_sub(2).filter(|&count| count > 0 && weight.len() == input.len())?;
    let window = Window::of(node, kernel(node, Some(&weight), count)?)?;
    let group = value(node.int_or("group", 1)).filter(|group| group.is_positive())?;
    let sizes = node.op.ints("output_shape").filter(|sizes| !sizes.is_empty()).map(<[i64]>::to_vec);
    if sizes.as_ref().is_some_and(|sizes| sizes.len() != count) {
        return None;
    }
    let extra = match node.op.ints("output_padding").filter(|extra| !extra.is_empty()) {
        Some(extra) => extra.to_vec(),
        None => vec![0; count],
    };
    let mut dims = vec![input[0].clone(), weight[1].clone() * group];
    for axis in 0..count {
        let (stride, size) = (window.strides[axis], &input[2 + axis]);
        let dim = if let Some(sizes) = &sizes {
            value(sizes[axis])
        } else if window.is_same() {
            value(stride).map(|stride| size.clone() * stride)
        } else if let SymExpr::Value(kernel) = window.kernel[axis] {
            let fixed =
                extra.get(axis)? + window.dilations[axis] * (i64::from(kernel) - 1) + 1 - window.padding(axis) - stride;
            match size {
                SymExpr::Value(size) => value(stride * i64::from(*size) + fixed).filter(SymExpr::is_positive),
                size => value(stride).zip(value(fixed)).map(|(stride, fixed)| size.clone() * stride + fixed),
            }
        } else {
            None
        };
        dims.push(dim.unwrap_or_else(|| node.symbols.gen_positive()));
    }
    Some(vec![SymTensor::from_shape(dims)])
}

/// MaxPool, AveragePool, LpPool: as many outputs as the op lists, all of one shape.
pub(super) fn pool(node: &mut Node<'_>, x: usize) -> Option<Vec<SymTensor>> {
    let input = node.shape(x)?;
    let count = input.len().checked_sub(2).filter(|&count| count > 0)?;
    let window = Window::of(node, kernel(node, None, count)?)?;
    let ceil = node.int_or("ceil_mode", 0) != 0;
    let mut dims = input[..2].to_vec();
    for axis in 0..count {
        let places = window.places(axis, &input[2 + axis], ceil);
        dims.push(places.unwrap_or_else(|| node.symbols.gen_positive()));
    }
    let shape = SymTensor::from_shape(dims);
    Some(vec![shape; node.op.outputs().len()])
}
