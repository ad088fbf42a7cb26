//! What must hold before tract sees a call: everything that it answers with a panic, a wrong result or no limit.
//!
//! Each check knows one op and the facts that were measured of it. **Never** computes a result.
use onnx_shrink_ir::{DataType, Tensor};

use crate::kernel::{Call, KernelError};

type Check = Result<(), KernelError>;

fn unsupported(reason: &str) -> Check {
    Err(KernelError::Unsupported(reason.to_owned()))
}

fn failed(reason: String) -> Check {
    Err(KernelError::Failed(reason))
}

/// The numbers of an integer input.
fn numbers(call: &Call<'_>, index: usize) -> Result<Option<Vec<i64>>, KernelError> {
    call.optional(index).map(|tensor| integers(tensor, index)).transpose()
}

/// The same of an input that the op cannot do without.
fn needed(call: &Call<'_>, index: usize) -> Result<Vec<i64>, KernelError> {
    integers(call.input(index)?, index)
}

fn integers(tensor: &Tensor, index: usize) -> Result<Vec<i64>, KernelError> {
    let numbers = tensor.to_i64_vec();
    numbers.ok_or_else(|| KernelError::Failed(format!("input {index} is {}, no integer", tensor.dtype())))
}

/// `axis`, where given, is one of the first input's.
pub(super) fn axis(call: &Call<'_>) -> Check {
    if let Some(axis) = call.op.int("axis") {
        call.axis(axis, call.input(0)?.dims().len())?;
    }
    Ok(())
}

/// An integer divisor is nowhere 0: tract panics.
pub(super) fn divisor(call: &Call<'_>) -> Check {
    let divisor = call.input(1)?;
    if !divisor.dtype().is_integer() {
        let modulus = call.op.is("Mod") && call.int("fmod", 0) != 1;
        return if modulus { unsupported("Mod of floats with fmod = 0") } else { Ok(()) };
    }
    match divisor.to_i64_vec() {
        Some(numbers) if numbers.contains(&0) => failed("an integer is divided by 0".to_owned()),
        _ => Ok(()),
    }
}

/// Spatial window of Conv and the pools: strides and dilations above 0, the kernel no larger than the padded input
/// (tract returns an empty tensor).
fn window(call: &Call<'_>, kernel: &[usize]) -> Check {
    let dims = call.input(0)?.dims();
    let rank = kernel.len();
    if dims.len() != rank + 2 {
        return failed(format!("a kernel of {rank} dimensions on an input of rank {}", dims.len()));
    }
    for name in ["strides", "dilations"] {
        let steps = call.ints(name).unwrap_or(&[]);
        if !steps.is_empty() && (steps.len() != rank || steps.iter().any(|&step| step < 1)) {
            return failed(format!("{name} {steps:?}"));
        }
    }
    let same = call.string("auto_pad", "NOTSET").starts_with("SAME");
    let pads = call.ints("pads").unwrap_or(&[]);
    if !pads.is_empty() && (pads.len() != 2 * rank || pads.iter().any(|&pad| pad < 0)) {
        return unsupported("negative or missing pads");
    }
    for (axis, (&size, &kernel)) in dims[2..].iter().zip(kernel).enumerate() {
        let dilation = step(call, "dilations", axis);
        let padded = pads.get(axis).unwrap_or(&0) + pads.get(axis + rank).unwrap_or(&0);
        let size = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(padded);
        let span = i64::try_from(kernel).unwrap_or(i64::MAX).saturating_sub(1).saturating_mul(dilation);
        if kernel == 0 || (!same && span >= size) {
            return failed(format!("a kernel of {kernel} on {size} elements"));
        }
    }
    Ok(())
}

/// Entry `axis` of the list of strides or dilations, which are 1 where not given.
fn step(call: &Call<'_>, name: &str, axis: usize) -> i64 {
    call.ints(name).and_then(|steps| steps.get(axis)).copied().unwrap_or(1)
}

pub(super) fn conv(call: &Call<'_>) -> Check {
    let weight = call.input(1)?.dims();
    if weight.len() < 3 {
        return unsupported("a weight without spatial dimensions");
    }
    if let Some(shape) = call.ints("kernel_shape") {
        let same = shape.len() + 2 == weight.len()
            && shape.iter().zip(&weight[2..]).all(|(&a, &b)| usize::try_from(a) == Ok(b));
        if !same {
            return failed(format!("kernel_shape {shape:?} with a weight {weight:?}"));
        }
    }
    let group = usize::try_from(call.int("group", 1)).unwrap_or(0);
    let channels = call.input(0)?.dims().get(1).copied().unwrap_or(0);
    if group == 0 || weight[1].checked_mul(group) != Some(channels) || !weight[0].is_multiple_of(group) {
        return failed(format!("{channels} channels in {group} groups with a weight {weight:?}"));
    }
    window(call, &weight[2..])
}

pub(super) fn conv_transpose(call: &Call<'_>) -> Check {
    let (x, weight) = (call.input(0)?.dims(), call.input(1)?.dims());
    let group = usize::try_from(call.int("group", 1)).unwrap_or(0);
    if weight.len() < 3 || x.len() != weight.len() || group == 0 || x[1] != weight[0] || !x[1].is_multiple_of(group) {
        return failed(format!("input {x:?} with a weight {weight:?} in {group} groups"));
    }
    for name in ["strides", "dilations"] {
        let steps = call.ints(name).unwrap_or(&[]);
        if !steps.is_empty() && (steps.len() + 2 != x.len() || steps.iter().any(|&step| !(1..=1 << 20).contains(&step)))
        {
            return failed(format!("{name} {steps:?}"));
        }
    }
    if call.ints("pads").is_some_and(|pads| pads.iter().any(|&pad| pad < 0)) {
        return unsupported("negative pads");
    }
    let extra = call.ints("output_padding").is_some_and(|pads| pads.iter().any(|&pad| pad != 0));
    if extra && call.string("auto_pad", "NOTSET").starts_with("SAME") {
        return unsupported("output_padding with automatic padding, where engines disagree");
    }
    let mut dims = vec![x[0], weight[1].saturating_mul(group)];
    for axis in 0..x.len() - 2 {
        let stride = step(call, "strides", axis);
        let dilation = step(call, "dilations", axis);
        let as_size = |step: i64| usize::try_from(step).unwrap_or(usize::MAX);
        let reach = x[axis + 2].saturating_mul(as_size(stride));
        dims.push(reach.saturating_add(weight[axis + 2].saturating_mul(as_size(dilation))));
    }
    call.check_size(&dims, call.input(0)?.dtype().bits())
}

pub(super) fn pool(call: &Call<'_>) -> Check {
    let Some(kernel) = call.ints("kernel_shape") else { return failed("kernel_shape is missing".to_owned()) };
    let Ok(kernel) = kernel.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>() else {
        return failed(format!("kernel_shape {kernel:?}"));
    };
    if !call.input(0)?.dtype().is_float() && call.op.is("AveragePool") {
        return unsupported("an average of integers");
    }
    let dilated = call.ints("dilations").is_some_and(|steps| steps.iter().any(|&step| step != 1));
    if dilated && call.string("auto_pad", "NOTSET").starts_with("SAME") {
        return unsupported("dilations with automatic padding, where engines disagree");
    }
    if call.int("ceil_mode", 0) != 0 && call.string("auto_pad", "NOTSET") != "NOTSET" {
        return unsupported("ceil_mode with auto_pad");
    }
    window(call, &kernel)
}

pub(super) fn batch_normalization(call: &Call<'_>) -> Check {
    if call.int("training_mode", 0) != 0 || call.op.outputs().iter().skip(1).any(Option::is_some) {
        return unsupported("training mode");
    }
    if call.int("spatial", 1) != 1 || call.opset < 7 {
        return unsupported("statistics that are not per channel");
    }
    let channels = call.input(0)?.dims().get(1).copied().unwrap_or(1);
    for index in 1..5 {
        if call.input(index)?.dims() != [channels] {
            return failed(format!(
                "input {index} has the shape {:?}, [{channels}] is needed",
                call.input(index)?.dims()
            ));
        }
    }
    Ok(())
}

/// tract leaves the factor alpha out.
pub(super) fn celu(call: &Call<'_>) -> Check {
    if call.float("alpha", 1.0) == 1.0 { no_nan(call) } else { unsupported("alpha other than 1") }
}

/// Whether `holds` is true of every number of a float tensor; other types hold.
fn every(tensor: &Tensor, holds: impl Fn(f32) -> bool) -> bool {
    let all = |numbers: &[f32]| numbers.chunks(1024).all(|part| part.iter().fold(true, |all, &x| all & holds(x)));
    match tensor.dtype() {
        DataType::Float => tensor.as_slice::<f32>().is_some_and(|numbers| all(&numbers)),
        dtype if dtype.is_float() => tensor.to_f64_vec().is_none_or(|numbers| numbers.iter().all(|&x| holds(x as f32))),
        _ => true,
    }
}

/// No input has a NaN: tract's minimum, maximum and approximations make numbers of it.
pub(super) fn no_nan(call: &Call<'_>) -> Check {
    let clean = call.inputs.iter().flatten().all(|tensor| every(tensor, |x| !x.is_nan()));
    if clean { Ok(()) } else { unsupported("NaN") }
}

/// Numbers of a size where the engine's formula does not overflow (a square, a cube, an exponential).
pub(super) fn magnitude(call: &Call<'_>) -> Check {
    let limit = match call.op.op_type() {
        "Softplus" | "Mish" => 80.0,
        _ => 1e12,
    };
    let one_sided = limit == 80.0;
    let fits = |x: f32| x < limit && (one_sided || x > -limit);
    if every(call.input(0)?, fits) { Ok(()) } else { unsupported("numbers of this size") }
}

/// tract takes the logarithm of the softmax, which has no digits left below e^-80.
pub(super) fn log_softmax(call: &Call<'_>) -> Check {
    axis(call)?;
    let Some(numbers) = call.input(0)?.to_f64_vec() else { return unsupported("what are no numbers") };
    let (low, high) =
        numbers.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    if numbers.iter().any(|x| x.is_nan()) || high - low > 80.0 {
        return unsupported("numbers that are this far apart");
    }
    Ok(())
}

pub(super) fn arg_max(call: &Call<'_>) -> Check {
    axis(call)?;
    no_nan(call)
}

pub(super) fn grid_sample(call: &Call<'_>) -> Check {
    let cubic = matches!(call.string("mode", "linear"), "cubic" | "bicubic");
    if cubic && call.string("padding_mode", "zeros") == "border" {
        return unsupported("mode = cubic with padding_mode = border");
    }
    Ok(())
}

/// The input has neither infinities nor NaN: tract's maximum of infinities is the largest finite number, and it skips NaN.
pub(super) fn finite(call: &Call<'_>) -> Check {
    let x = call.input(0)?;
    let finite = every(x, f32::is_finite);
    if finite { Ok(()) } else { unsupported("the maximum or minimum of infinities or NaN") }
}

/// tract keeps the bounds as float.
pub(super) fn clip(call: &Call<'_>) -> Check {
    if call.opset < 6 {
        return unsupported("an opset below 6");
    }
    match call.input(0)?.dtype() {
        dtype if dtype.is_float() => no_nan(call),
        dtype if dtype.bits() <= 16 => Ok(()),
        dtype => Err(KernelError::Unsupported(format!("bounds of {dtype}"))),
    }
}

/// `dims` are no lengths below 0, and their product is within the limit.
fn sized(call: &Call<'_>, dims: &[i64], bits: usize) -> Check {
    match dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<_>, _>>() {
        Ok(dims) => call.check_size(&dims, bits),
        Err(_) => failed(format!("a result of the shape {dims:?}")),
    }
}

pub(super) fn window_type(call: &Call<'_>) -> Check {
    match call.int("output_datatype", 1) {
        1 => Ok(()),
        _ => unsupported("an output_datatype other than float"),
    }
}

/// Window functions: float only, and of a length within the limit.
pub(super) fn window_function(call: &Call<'_>) -> Check {
    window_type(call)?;
    let length = needed(call, 0)?;
    sized(call, &length, 32)
}

pub(super) fn dequantize(call: &Call<'_>) -> Check {
    let scale = call.input(1)?;
    match call.input(0)?.dtype() {
        DataType::Uint8 | DataType::Int8 | DataType::Int32 if scale.dtype() == DataType::Float => Ok(()),
        dtype => Err(KernelError::Unsupported(format!("{dtype} with a scale of {}", scale.dtype()))),
    }
}

pub(super) fn dropout(call: &Call<'_>) -> Check {
    let training = call.optional(2).and_then(|mode| mode.to_scalar_f64()).unwrap_or(0.0);
    if training != 0.0 { unsupported("training mode, which is random") } else { Ok(()) }
}

pub(super) fn einsum(call: &Call<'_>) -> Check {
    let equation = call.string("equation", "");
    if equation.contains('.') {
        return unsupported("an ellipsis");
    }
    if equation.trim_end().ends_with("->") && call.inputs.iter().flatten().any(|input| !input.dims().is_empty()) {
        return unsupported("a sum of everything"); // tract keeps the axes
    }
    Ok(())
}

pub(super) fn gemm(call: &Call<'_>) -> Check {
    if call.input(0)?.dims().len() != 2 || call.input(1)?.dims().len() != 2 {
        return failed("a factor that is no matrix".to_owned());
    }
    if !call.input(0)?.dtype().is_float() {
        return unsupported("integers");
    }
    Ok(())
}

pub(super) fn mat_mul(call: &Call<'_>) -> Check {
    let (a, b) = (call.input(0)?, call.input(1)?);
    if a.dims().len() < 2 && b.dims().len() < 2 {
        return unsupported("two vectors");
    }
    if !a.dtype().is_float() {
        return unsupported("integers");
    }
    Ok(())
}

/// Up to opset 20 scale and bias were per group, and in opset 21 that meaning ended.
pub(super) fn group_normalization(call: &Call<'_>) -> Check {
    let channels = call.input(0)?.dims().get(1).copied();
    if call.opset < 21 && Some(call.int("num_groups", 0)) != channels.and_then(|count| i64::try_from(count).ok()) {
        return unsupported("scales per group (opset 18)");
    }
    if call.int("num_groups", 0) < 1 { failed("num_groups below 1".to_owned()) } else { Ok(()) }
}

/// tract knows neither other activations nor `direction = reverse`, and wants `sequence_lens` to mean nothing.
pub(super) fn recurrent(call: &Call<'_>) -> Check {
    if call.string("direction", "forward") == "reverse" {
        return unsupported("direction = reverse");
    }
    let usual: &[&str] = match call.op.op_type() {
        "LSTM" => &["Sigmoid", "Tanh", "Tanh"],
        "GRU" => &["Sigmoid", "Tanh"],
        _ => &["Tanh"],
    };
    if let Some(attribute) = call.op.attribute("activations") {
        let is_usual =
            |(index, name): (usize, &bytes::Bytes)| name.eq_ignore_ascii_case(usual[index % usual.len()].as_bytes());
        if !attribute.strings.iter().enumerate().all(is_usual) {
            return unsupported("activations other than the usual ones");
        }
    }
    let (time, batch) = if call.int("layout", 0) == 1 { (1, 0) } else { (0, 1) };
    // (tract makes missing states for a batch of one.)
    let states = if call.op.is("LSTM") { 5..7 } else { 5..6 };
    if call.input(0)?.dims().get(batch) != Some(&1) && states.clone().any(|state| call.op.input(state).is_none()) {
        return unsupported("no initial state for a batch other than one");
    }
    let length = call.input(0)?.dims().get(time).and_then(|&length| i64::try_from(length).ok());
    if numbers(call, 4)?.is_some_and(|lengths| lengths.iter().any(|&given| Some(given) != length)) {
        return unsupported("sequences of different lengths");
    }
    Ok(())
}

pub(super) fn norm(call: &Call<'_>) -> Check {
    if call.int("stash_type", 1) != 1 {
        return unsupported("a stash_type other than float");
    }
    axis(call)
}

pub(super) fn reduce(call: &Call<'_>) -> Check {
    let x = call.input(0)?;
    if x.dtype() == DataType::Bool {
        return unsupported("booleans");
    }
    let axes = match numbers(call, 1)? {
        Some(axes) => axes,
        None => call.ints("axes").unwrap_or(&[]).to_vec(),
    };
    let mut seen = Vec::new();
    for axis in axes {
        let axis = call.axis(axis, x.dims().len())?;
        if seen.contains(&axis) {
            return failed(format!("axis {axis} twice"));
        }
        seen.push(axis);
    }
    match call.op.op_type() {
        "ReduceMax" | "ReduceMin" => finite(call),
        "ReduceLogSum" | "ReduceLogSumExp" if !x.dtype().is_float() => unsupported("integers"),
        "ReduceProd" if !x.dtype().is_float() => {
            let Some(numbers) = x.to_f64_vec() else { return unsupported("what are no numbers") };
            let product: f64 = numbers.iter().map(|x| x.abs().max(1.0)).product();
            let limit = 2f64.powi(i32::try_from(x.dtype().bits()).unwrap_or(64).min(53) - 1);
            if product < limit { Ok(()) } else { unsupported("a product of integers that may overflow") }
        }
        _ => Ok(()),
    }
}

pub(super) fn resize(call: &Call<'_>) -> Check {
    let x = call.input(0)?;
    if !x.dtype().is_float() {
        return unsupported("integers");
    }
    // Opset 10 has (x, scales) and no attribute for the coordinates.
    let scales = if call.opset < 11 { call.optional(1) } else { call.optional(2) };
    let sizes = if call.opset < 11 { None } else { numbers(call, 3)? };
    let axes = call.ints("axes").map_or(x.dims().len(), <[i64]>::len);
    let sizes = sizes.filter(|sizes| !sizes.is_empty());
    let factors = match (sizes, scales) {
        (Some(sizes), _) => {
            if sizes.iter().any(|&size| size < 1) {
                return failed(format!("sizes {sizes:?}"));
            }
            if sizes.len() != axes {
                return failed(format!("{} sizes for {axes} axes", sizes.len()));
            }
            return sized(call, &sizes, x.dtype().bits());
        }
        (None, Some(scales)) => match scales.to_f64_vec() {
            Some(scales) => scales,
            None => return failed(format!("scales of {}", scales.dtype())),
        },
        (None, None) => return failed("neither scales nor sizes".to_owned()),
    };
    if factors.len() != axes || factors.iter().any(|&factor| factor.is_nan() || factor <= 0.0) {
        return failed(format!("scales {factors:?} for {axes} axes"));
    }
    if call.opset < 11 && call.string("mode", "nearest") == "nearest" && factors.iter().any(|&factor| factor < 1.0) {
        return unsupported("making smaller in opset 10, where engines disagree");
    }
    if call.string("coordinate_transformation_mode", "half_pixel") == "align_corners" {
        let whole =
            |axis: usize, factor: f64| x.dims().get(axis).is_none_or(|&dim| (dim as f64 * factor).fract() == 0.0);
        let axis_of = |place: usize| call.ints("axes").map_or(Ok(place), |axes| call.axis(axes[place], x.dims().len()));
        for (place, &factor) in factors.iter().enumerate() {
            if !whole(axis_of(place)?, factor) {
                return unsupported("align_corners with a scale that gives a broken number of elements");
            }
        }
    }
    let growth: f64 = factors.iter().product();
    if growth * x.len() as f64 * (x.dtype().bits() / 8) as f64 > call.max_bytes as f64 {
        return failed(format!("the result passes the limit of {} bytes", call.max_bytes));
    }
    Ok(())
}

pub(super) fn swish(call: &Call<'_>) -> Check {
    if call.float("alpha", 1.0) == 1.0 { Ok(()) } else { unsupported("alpha other than 1") }
}

pub(super) fn top_k(call: &Call<'_>) -> Check {
    let x = call.input(0)?;
    let axis = call.axis(call.int("axis", -1), x.dims().len())?;
    let k = match numbers(call, 1)? {
        Some(k) => k.first().copied().unwrap_or(-1),
        None => call.int("k", -1),
    };
    if usize::try_from(k).is_ok_and(|k| k <= x.dims()[axis]) {
        return no_nan(call);
    }
    failed(format!("k = {k} of {} elements", x.dims()[axis]))
}

/// tract's causal offset is wrong with a past, and a row that is masked whole is NaN instead of 0.
pub(super) fn attention(call: &Call<'_>) -> Check {
    let causal = call.int("is_causal", 0) != 0;
    if call.inputs.len() > 6 && call.inputs[6].is_some() || call.op.outputs().iter().skip(3).any(Option::is_some) {
        return unsupported("lengths of the past, or the product as an output");
    }
    if causal && (call.optional(3).is_some() || call.optional(4).is_some()) {
        return unsupported("is_causal with a mask or a past");
    }
    let Some(mask) = call.optional(3) else { return Ok(()) };
    let row = mask.dims().last().copied().unwrap_or(0);
    let Some(numbers) = mask.to_f64_vec().filter(|_| row > 0) else { return unsupported("this mask") };
    let hidden = |number: &f64| if mask.dtype() == DataType::Bool { *number == 0.0 } else { *number < -1e4 };
    if numbers.chunks(row).any(|row| row.iter().all(hidden)) {
        return unsupported("a mask that hides a whole row");
    }
    Ok(())
}
