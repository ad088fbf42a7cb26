//! Sliding windows: kernel shape, strides, dilations and paddings of convolutions and pools.
use super::layout::failed;
use crate::kernel::{Call, KernelError};

/// The largest stride, dilation, padding or kernel.
const LARGEST: u64 = 1 << 30;

/// A window over the spatial dimensions.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    /// Elements added in front
    pub(super) before: Vec<i64>,
    /// Spatial dimensions of the output
    pub(super) output: Vec<usize>,
}

impl Window {
    /// The window that the attributes state for `input`, the spatial dimensions, and `kernel`.
    pub(super) fn of(call: &Call<'_>, input: &[usize], kernel: &[usize]) -> Result<Window, KernelError> {
        let rank = input.len();
        let list = |name: &str, length: usize, default: i64| -> Result<Vec<i64>, KernelError> {
            match call.op.ints(name) {
                None | Some([]) => Ok(vec![default; length]),
                // So that no product below overflows.
                Some(numbers) if numbers.iter().any(|number| number.unsigned_abs() > LARGEST) => {
                    failed(format!("{name} {numbers:?} is beyond all sizes"))
                }
                Some(numbers) if numbers.len() == length => Ok(numbers.to_vec()),
                Some(numbers) => failed(format!("{name} has {} elements instead of {length}", numbers.len())),
            }
        };
        let positive = |name: &str| -> Result<Vec<usize>, KernelError> {
            let numbers = list(name, rank, 1)?;
            if let Some(bad) = numbers.iter().find(|&&number| number < 1) {
                return failed(format!("{name} has the element {bad}"));
            }
            Ok(numbers.into_iter().map(|number| number as usize).collect())
        };
        if let Some(stated) = call.op.ints("kernel_shape")
            && !stated.iter().map(|&k| k as usize).eq(kernel.iter().copied())
        {
            return failed(format!("kernel_shape is {stated:?}, the weights have {kernel:?}"));
        }
        if kernel.iter().chain(input).any(|&size| size as u64 > LARGEST) {
            return failed(format!("the kernel {kernel:?} or the input {input:?} is beyond all sizes"));
        }
        if kernel.contains(&0) {
            return failed(format!("the kernel {kernel:?} is empty"));
        }
        let (strides, dilations) = (positive("strides")?, positive("dilations")?);
        let mut pads = list("pads", 2 * rank, 0)?;
        let mode = call.op.string("auto_pad").unwrap_or("NOTSET");
        let ceil = call.op.int("ceil_mode").unwrap_or(0) != 0;
        let mut output = Vec::with_capacity(rank);
        for n in 0..rank {
            let overflow = || KernelError::Failed("a dimension of the window overflows".to_owned());
            let size = i64::try_from(input[n]).map_err(|_| overflow())?;
            let (stride, dilation, taps) = (strides[n] as i64, dilations[n] as i64, kernel[n] as i64);
            let extent = dilation.checked_mul(taps - 1).and_then(|x| x.checked_add(1)).ok_or_else(overflow)?;
            match mode {
                "NOTSET" | "" => {}
                "VALID" => (pads[n], pads[n + rank]) = (0, 0),
                "SAME_UPPER" | "SAME_LOWER" => {
                    let wanted = (size + stride - 1) / stride;
                    let total = ((wanted - 1) * stride + extent - size).max(0);
                    let small = total / 2;
                    (pads[n], pads[n + rank]) =
                        if mode == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
                }
                other => return failed(format!("auto_pad {other} is none of ONNX's modes")),
            }
            let padded = size.checked_add(pads[n]).and_then(|x| x.checked_add(pads[n + rank])).ok_or_else(overflow)?;
            let room = padded - extent;
            if room < 0 {
                return failed(format!("the kernel {kernel:?} is larger than the padded input {input:?}"));
            }
            let mut count = if ceil { (room + stride - 1) / stride + 1 } else { room / stride + 1 };
            // A window that would start beyond the input and its front padding does not count.
            if ceil && (count - 1) * stride >= size + pads[n] {
                count -= 1;
            }
            output.push(count as usize);
        }
        pads.truncate(rank);
        Ok(Window { kernel: kernel.to_vec(), strides, dilations, before: pads, output })
    }

    /// For every tap of the kernel: where it lies in the input, or `None` in the padding, for the window `position`
    /// (row-major over the output).
    pub(super) fn taps(&self, input: &[usize], position: usize, taps: &mut Vec<Option<usize>>) {
        taps.clear();
        taps.push(Some(0));
        let rank = input.len();
        let mut place = vec![0; rank];
        let mut rest = position;
        for n in (0..rank).rev() {
            place[n] = rest % self.output[n];
            rest /= self.output[n];
        }
        for n in 0..rank {
            let start = (place[n] * self.strides[n]) as i64 - self.before[n];
            let outer = std::mem::take(taps);
            taps.reserve(outer.len() * self.kernel[n]);
            for base in outer {
                for tap in 0..self.kernel[n] {
                    let at = start + (tap * self.dilations[n]) as i64;
                    let inside = (0..input[n] as i64).contains(&at);
                    taps.push(base.filter(|_| inside).map(|base| base * input[n] + at as usize));
                }
            }
        }
    }
}
