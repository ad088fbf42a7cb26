//! What differs between two ops that correspond: attributes, constants, and what they read.
use std::collections::BTreeMap;

use onnx_shrink_ir::{
    DataType,
    op_schema::{self, Default},
    proto::schema::{AttributeProto, attribute_proto::AttributeType},
};

use super::{
    change::Detail,
    constants::{compare, meaning},
    index::{Index, Source, canonical},
    layers,
    matching::through,
    view::{Role, View},
};

/// What differs in a pair.
#[derive(Clone, Debug, Default)]
pub(super) struct Delta {
    pub details: Vec<Detail>,
    /// Attributes, constants, number of inputs or the type differ: the op does something else
    pub own: bool,
    /// A constant has other dimensions
    pub reshaped: bool,
    /// Inputs that read a value that does not correspond, and that no other op explains
    pub rewired: Vec<usize>,
    /// One of them is a constant on one side and comes from the graph around the body on the other
    pub outside: bool,
    /// Element types of activations and weights that it computes in, in B
    pub quantized: Option<(String, String)>,
    /// The same of A, where B computes in float
    pub dequantized: Option<(String, String)>,
    /// How many channels the layer makes and reads, where that differs
    pub resized: Option<String>,
    /// Element type that its largest constant is stored in, where that is not what it reads
    pub stored: Option<DataType>,
    /// The same of A, where B stores what it reads
    pub unstored: Option<DataType>,
}

/// The name that the definition of op `place` gives its input `port`.
pub fn input_name(index: &Index<'_>, place: usize, port: usize) -> String {
    let op = index.op(place);
    let schema = op_schema::find(op.domain(), op.op_type(), index.graph.opset());
    match schema.and_then(|schema| schema.inputs.get(port)) {
        Some(formal) if formal.occurrence != op_schema::Occurrence::Variadic => formal.name.to_owned(),
        _ => format!("{port}"),
    }
}

/// An attribute's value for people: long lists are cut.
pub fn show_attribute(attribute: &AttributeProto) -> String {
    const LONGEST: usize = 12;
    fn list<T: std::fmt::Display>(items: &[T]) -> String {
        let shown: Vec<String> = items.iter().take(LONGEST).map(T::to_string).collect();
        let more = if items.len() > LONGEST { format!(", … {} in all", items.len()) } else { String::new() };
        format!("[{}{more}]", shown.join(", "))
    }
    let text = |bytes: &[u8]| format!("\"{}\"", String::from_utf8_lossy(bytes));
    if !attribute.ref_attr_name().is_empty() {
        return format!("@{}", attribute.ref_attr_name());
    }
    match attribute.r#type() {
        AttributeType::Float => format!("{}", attribute.f()),
        AttributeType::Int => format!("{}", attribute.i()),
        AttributeType::String => text(attribute.s()),
        AttributeType::Floats => list(&attribute.floats),
        AttributeType::Ints => list(&attribute.ints),
        AttributeType::Strings => list(&attribute.strings.iter().map(|item| text(item)).collect::<Vec<_>>()),
        AttributeType::Tensor => match attribute.t.as_deref().map(onnx_shrink_ir::convert::tensor_from_proto) {
            Some(Ok(tensor)) => match tensor.to_scalar_f64() {
                Some(number) => format!("{} {number}", tensor.ty()),
                None => tensor.ty().to_string(),
            },
            _ => "a tensor".to_owned(),
        },
        kind => kind.as_str_name().to_lowercase(),
    }
}

/// Element type by number, for attributes that hold one.
fn show(attribute: &AttributeProto) -> String {
    match (attribute.name(), DataType::from_number(i32::try_from(attribute.i()).unwrap_or(0))) {
        ("to" | "dtype", Some(dtype)) if attribute.r#type() == AttributeType::Int => dtype.to_string(),
        _ => show_attribute(attribute),
    }
}

/// Whether op `place` would do the same without `attribute`.
fn is_default(index: &Index<'_>, place: usize, attribute: &AttributeProto) -> bool {
    let op = index.op(place);
    let schema = op_schema::find(op.domain(), op.op_type(), index.graph.opset());
    let declared = schema.and_then(|schema| schema.attribute(attribute.name()));
    match (declared.map(|declared| declared.default), attribute.name()) {
        (Some(Default::Int(value)), _) => attribute.i == Some(value),
        (Some(Default::Float(value)), _) => attribute.f == Some(value),
        (Some(Default::String(value)), _) => attribute.s.as_deref() == Some(value.as_bytes()),
        (Some(Default::Ints(values)), _) => attribute.ints == values,
        (Some(Default::Floats(values)), _) => attribute.floats == values,
        // (The standard says these in words.)
        (Some(Default::None), "pads") => attribute.ints.iter().all(|&pad| pad == 0),
        (Some(Default::None), "strides" | "dilations") => attribute.ints.iter().all(|&step| step == 1),
        _ => false,
    }
}

fn attributes(view: &View<'_, '_>, a: usize, b: usize, delta: &mut Delta) {
    let (one, other) = (view.a.op(a), view.b.op(b));
    let mut names: BTreeMap<&str, (Option<&AttributeProto>, Option<&AttributeProto>)> = BTreeMap::new();
    for attribute in one.attributes() {
        names.entry(attribute.name()).or_default().0 = Some(attribute);
    }
    for attribute in other.attributes() {
        names.entry(attribute.name()).or_default().1 = Some(attribute);
    }
    let same_type = one.op_type() == other.op_type();
    for (name, (before, after)) in names {
        let equal = match (before, after) {
            (Some(before), Some(after)) => canonical(before) == canonical(after),
            (Some(there), None) => !same_type || is_default(view.a, a, there),
            (None, Some(there)) => !same_type || is_default(view.b, b, there),
            (None, None) => true,
        };
        if !equal {
            let (before, mut after) = (before.map(show), after.map(show));
            if before.is_some() && before == after {
                after = after.map(|text| format!("{text} of other content"));
            }
            delta.own = true;
            delta.details.push(Detail::Attribute { name: name.to_owned(), before, after });
        }
    }
}

/// Compares op `a` of A with its counterpart `b`.
pub(super) fn compare_pair(view: &View<'_, '_>, a: usize, b: usize) -> Delta {
    let mut delta = <Delta as std::default::Default>::default();
    let (type_a, type_b) = (view.a.type_of(a), view.b.type_of(b));
    attributes(view, a, b, &mut delta);
    delta.own |= type_a != type_b;
    let (integer_a, integer_b) = (computes_in(view, a, false), computes_in(view, b, true));
    delta.dequantized = integer_a.clone().filter(|_| integer_b.is_none());
    let ports = match type_a == type_b {
        true => view.a.op(a).inputs().len().max(view.b.op(b).inputs().len()),
        false => view.a.op(a).inputs().len(),
    };
    for port in 0..ports {
        let twin_port = if type_a == type_b { port } else { layers::integer_port(&type_b, port) };
        input(view, (a, port), (b, twin_port), &mut delta);
    }
    captures(view, a, b, &mut delta);
    if integer_a.is_none() || type_a != type_b {
        delta.quantized = integer_b;
    }
    if delta.reshaped {
        delta.resized = layers::resized(view, a, b);
        if delta.resized.is_some() {
            delta.details.extend(layers::work(view, &[a], &[b]));
        }
    }
    if delta.own {
        let types = |index: &Index<'_>, place: usize| {
            index.op(place).output(0).and_then(|value| index.graph.ty(value)).map(ToString::to_string)
        };
        if let (Some(before), Some(after)) = (types(view.a, a), types(view.b, b))
            && before != after
            && !view.b.type_of(b).starts_with("QLinear")
        {
            delta.details.push(Detail::Value { name: "output".to_owned(), before, after });
        }
    }
    delta
}

fn input(view: &View<'_, '_>, (a, port): (usize, usize), (b, twin_port): (usize, usize), delta: &mut Delta) {
    let get = |index: &Index<'_>, place: usize, port: usize| {
        let direct = index.op(place).inputs().len();
        if port < direct { index.inputs[place][port] } else { Source::Nothing }
    };
    let (one, other) = (get(view.a, a, port), get(view.b, b, twin_port));
    let (constant, constant_b) = (view.computed_a.is_constant(one), view.computed_b.is_constant(other));
    let (nothing, nothing_b) = (one == Source::Nothing, other == Source::Nothing);
    let name = || input_name(view.a, a, port);
    if (constant || nothing) && (constant_b || nothing_b) {
        let (before, after) = (view.computed_a.tensor(view.a, one), view.computed_b.tensor(view.b, other));
        let stored = (view.computed_a.stored(view.a, one), view.computed_b.stored(view.b, other));
        if nothing && nothing_b || (before.is_some() && before == after && matches!(one, Source::Made(..))) {
            return; // what was computed is stored now: the ops that are gone say so
        }
        let form = view.computed_b.stored_type(view.b, other).filter(|_| matches!(other, Source::Made(..)));
        let known = view.computed_a.stored_type(view.a, one);
        let is_same = before.is_some() && before == after && stored.0 == stored.1;
        let meant = (meaning(view.a, &view.computed_a, a, port), meaning(view.b, &view.computed_b, b, twin_port));
        let detail = (!is_same).then(|| compare(name(), meant.0.as_deref(), meant.1.as_deref(), stored)).flatten();
        if let Some(detail) = detail {
            delta.own = true;
            delta.reshaped |= match (before, after) {
                (Some(before), Some(after)) => before.dims() != after.dims(),
                _ => false,
            };
            delta.details.push(detail);
        }
        if let Some(dtype) = form
            && known != Some(dtype)
            && view.b.op(b).op_type() != "DequantizeLinear"
        {
            let smaller = delta.stored.is_none_or(|stored| dtype.bits() < stored.bits());
            if smaller {
                delta.stored = Some(dtype);
            }
        }
        let float = view.computed_b.stored_type(view.b, other).filter(|_| matches!(other, Source::Constant(_)));
        if let (Some(was), Some(float)) = (known.filter(|_| matches!(one, Source::Made(..))), float)
            && was != float
            && delta.unstored.is_none_or(|stored| was.bits() < stored.bits())
            && view.a.op(a).op_type() != "DequantizeLinear"
        {
            delta.unstored = Some(was);
        }
        return;
    }
    let (one, other) = (through(view.a, &view.matches.to_b, one), through(view.b, &view.matches.to_a, other));
    if view.corresponds(one, other) || view.is_free_a(one) || view.is_free_b(other) {
        return;
    }
    // Computed from constants before, something else now, or the other way round: the ops in between tell.
    let made = |constant: bool, source: Source| constant && matches!(source, Source::Made(..));
    if made(constant, one) && made(constant_b, other) {
        return;
    }
    let outer = |source: Source| matches!(source, Source::Outer(_));
    delta.outside |= (constant && outer(other)) || (constant_b && outer(one));
    delta.rewired.push(port);
    let (before, after) = (view.describe_a(one), view.describe_b(other));
    delta.details.push(Detail::Reads { input: name(), before, after });
}

/// What bodies take from the graph around them, as a set.
fn captures(view: &View<'_, '_>, a: usize, b: usize, delta: &mut Delta) {
    let direct = (view.a.op(a).inputs().len(), view.b.op(b).inputs().len());
    let (ours, theirs) = (&view.a.inputs[a][direct.0..], &view.b.inputs[b][direct.1..]);
    if ours.len() == theirs.len()
        && ours.iter().all(|&one| {
            let one = through(view.a, &view.matches.to_b, one);
            view.is_free_a(one)
                || theirs.iter().any(|&other| {
                    let other = through(view.b, &view.matches.to_a, other);
                    view.is_free_b(other) || view.corresponds(one, other)
                })
        })
    {
        return;
    }
    let list = |index: &Index<'_>, sources: &[Source]| {
        let mut names: Vec<String> = sources.iter().map(|&source| index.name_of(source)).collect();
        names.sort();
        names.join(", ")
    };
    let (before, after) = (list(view.a, ours), list(view.b, theirs));
    delta.own = true;
    delta.details.push(Detail::Value { name: "values that its bodies take".to_owned(), before, after });
}

/// Element types of activations and weights, when op `place` computes in integers: it is an integer op, or stands between
/// DequantizeLinear and QuantizeLinear that have no counterpart.
fn computes_in(view: &View<'_, '_>, place: usize, second: bool) -> Option<(String, String)> {
    let (index, roles, computed) = match second {
        true => (view.b, &view.roles_b, &view.computed_b),
        false => (view.a, &view.roles_a, &view.computed_a),
    };
    let dtype = |value: Option<onnx_shrink_ir::ValueId>, unknown: &str| {
        let ty = value.and_then(|value| index.graph.ty(value));
        ty.map_or_else(|| unknown.to_owned(), |ty| ty.dtype.to_string())
    };
    let op = index.op(place);
    let integer = op.op_type().starts_with("QLinear") || op.op_type() == "QGemm" || op.op_type().ends_with("Integer");
    if integer {
        let weights = if op.op_type().ends_with("Integer") { op.input(1) } else { op.input(3) };
        return Some((dtype(op.input(0), ""), dtype(weights, "")));
    }
    // No engine computes these in integers between pairs: their weights are stored.
    if ["LSTM", "GRU", "RNN"].contains(&op.op_type()) {
        return None;
    }
    let conversion = |place: usize, kind: &str| roles[place] == Role::Conversion && index.op(place).op_type() == kind;
    let data = index.inputs[place].iter().find_map(|source| match *source {
        Source::Made(maker, 0) if conversion(maker, "DequantizeLinear") => Some(maker),
        _ => None,
    })?;
    let mut weights = String::new();
    for &source in &index.inputs[place] {
        if let (Source::Made(..), Some(stored)) = (source, computed.stored_type(index, source))
            && weights.is_empty()
        {
            weights = stored.to_string();
        }
    }
    let requantized = index.readers[place].iter().flatten().any(|&(reader, _)| conversion(reader, "QuantizeLinear"));
    let activations = dtype(index.op(data).input(0), "integers");
    (requantized || !weights.is_empty()).then_some((activations, weights))
}
