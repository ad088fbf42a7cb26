//! Inputs and outputs of a graph, and the model around it.
//!
//! Inputs correspond by name, and those that are left by their order. Names of inputs and outputs are part of what a model
//! promises: another name is a change, unless names are to be ignored.
use std::collections::BTreeMap;

use onnx_shrink_ir::{
    Graph, Model, TensorType,
    proto::schema::{ModelProto, StringStringEntryProto, TypeProto, ValueInfoProto},
};
use prost::Message;

use super::change::{Change, Detail, Kind, Outcome};

/// For each input (or output) of `a`, the place of its counterpart in `b`: by name, the rest in order.
pub(super) fn match_ports(a: &Graph, b: &Graph, outputs: bool, by_place: bool) -> Vec<Option<usize>> {
    let (ours, theirs) = if outputs { (a.outputs(), b.outputs()) } else { (a.inputs(), b.inputs()) };
    if by_place {
        return (0..ours.len()).map(|place| (place < theirs.len()).then_some(place)).collect();
    }
    let mut taken = vec![false; theirs.len()];
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, &value) in theirs.iter().enumerate().rev() {
        by_name.entry(b.name_of(value)).or_default().push(place);
    }
    let mut pairs: Vec<Option<usize>> = Vec::with_capacity(ours.len());
    for &value in ours {
        let twin = by_name.get_mut(a.name_of(value)).and_then(Vec::pop);
        if let Some(twin) = twin {
            taken[twin] = true;
        }
        pairs.push(twin);
    }
    // A renamed one keeps its place; else the next of the same type is it.
    for place in 0..ours.len() {
        if pairs[place].is_some() {
            continue;
        }
        let alike = |twin: &usize| !taken[*twin] && a.ty(ours[place]) == b.ty(theirs[*twin]);
        let same_place = Some(place).filter(|&place| place < theirs.len() && !taken[place]);
        let twin = same_place.filter(alike).or_else(|| (0..theirs.len()).find(alike));
        let twin = twin.or(same_place.filter(|_| ours.len() == theirs.len()));
        if let Some(twin) = twin {
            taken[twin] = true;
        }
        pairs[place] = twin;
    }
    pairs
}

/// Adds what differs between the inputs (or outputs) of two graphs.
pub(super) fn compare_ports(
    a: &Graph,
    b: &Graph,
    outputs: bool,
    pairs: &[Option<usize>],
    names: bool,
    outcome: &mut Outcome,
) {
    let (ours, theirs) = if outputs { (a.outputs(), b.outputs()) } else { (a.inputs(), b.inputs()) };
    let (kind, word) = if outputs { (Kind::Output, "output") } else { (Kind::Input, "input") };
    let declared = |graph: &Graph, place: usize| -> String {
        let info = if outputs { graph.output_declaration(place) } else { graph.input_declaration(place) };
        info.map_or_else(String::new, show_type)
    };
    let mut add = |title: String, details: Vec<Detail>| {
        let (a, b) = (Vec::new(), Vec::new());
        outcome.changes.push(Change { kind, scope: String::new(), title, a, b, details, around: None });
    };
    let value = |name: &str, before: String, after: String| Detail::Value { name: name.to_owned(), before, after };
    let mut frozen = Vec::new();
    for (place, twin) in pairs.iter().enumerate() {
        let name = a.name_of(ours[place]);
        let Some(twin) = *twin else {
            let constant = b.find(name).is_none_or(|value| b.constant(value).is_some());
            if !outputs && a.default_of(ours[place]).is_some() && constant {
                frozen.push(name);
                continue;
            }
            add(format!("{word} `{name}` is gone"), vec![value("type", declared(a, place), "–".to_owned())]);
            continue;
        };
        let other = b.name_of(theirs[twin]);
        if names && name != other {
            add(format!("{word} `{name}` is named `{other}`"), Vec::new());
        }
        let (before, after) = (declared(a, place), declared(b, twin));
        if before != after {
            add(format!("{word} `{name}`: type"), vec![value("type", before, after)]);
        }
        let defaults = (a.default_of(ours[place]), b.default_of(theirs[twin]));
        if !outputs && defaults.0 != defaults.1 {
            let show = |tensor: Option<&onnx_shrink_ir::Tensor>| {
                tensor.map_or_else(|| "none".to_owned(), |tensor| tensor.ty().to_string())
            };
            let (before, after) = (show(defaults.0), show(defaults.1));
            let after = if before == after { format!("{after} of other content") } else { after };
            add(format!("{word} `{name}`: default"), vec![value("default", before, after)]);
        }
    }
    if !frozen.is_empty() {
        let what =
            if frozen.len() == 1 { "input with a default is a constant" } else { "inputs with defaults are constants" };
        let text = frozen.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        add(format!("{} {what}", frozen.len()), vec![Detail::Note { text: cut(&text) }]);
    }
    let mut thawed = Vec::new();
    for (place, &port) in theirs.iter().enumerate() {
        if !pairs.contains(&Some(place)) {
            let constant = a.find(b.name_of(port)).is_some_and(|value| a.constant(value).is_some());
            if !outputs && b.default_of(port).is_some() && constant {
                thawed.push(b.name_of(port));
                continue;
            }
            let details = vec![value("type", "–".to_owned(), declared(b, place))];
            add(format!("{word} `{}` is new", b.name_of(port)), details);
        }
    }
    if !thawed.is_empty() {
        let what = if thawed.len() == 1 {
            "constant is an input with a default"
        } else {
            "constants are inputs with defaults"
        };
        let text = thawed.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        add(format!("{} {what}", thawed.len()), vec![Detail::Note { text: cut(&text) }]);
    }
    let order: Vec<usize> = pairs.iter().flatten().copied().collect();
    if !order.is_sorted() {
        let list = |graph: &Graph, ports: &[onnx_shrink_ir::ValueId]| {
            ports.iter().map(|&port| graph.name_of(port)).collect::<Vec<_>>().join(", ")
        };
        add(format!("{word}s stand in another order"), vec![value("order", list(a, ours), list(b, theirs))]);
    }
}

/// A declared type for people: `float[1,3,N]`, or what else it is.
fn show_type(info: &ValueInfoProto) -> String {
    let Some(ty) = &info.r#type else { return "unknown".to_owned() };
    show_type_proto(ty)
}

fn show_type_proto(ty: &TypeProto) -> String {
    use onnx_shrink_ir::proto::schema::type_proto::Value;
    if let Some(tensor) = TensorType::from_proto(ty) {
        let shapeless = tensor.shape.as_ref().is_some_and(Vec::is_empty);
        return if shapeless { format!("{tensor} scalar") } else { tensor.to_string() };
    }
    let inner = |ty: Option<&TypeProto>| ty.map_or_else(|| "unknown".to_owned(), show_type_proto);
    match &ty.value {
        Some(Value::SequenceType(sequence)) => format!("sequence of {}", inner(sequence.elem_type.as_deref())),
        Some(Value::OptionalType(optional)) => format!("optional {}", inner(optional.elem_type.as_deref())),
        Some(Value::MapType(map)) => format!("map to {}", inner(map.value_type.as_deref())),
        Some(Value::SparseTensorType(_)) => "a sparse tensor".to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// Adds what differs around the graphs.
pub(super) fn compare_models(a: &Model, b: &Model, changes: &mut Vec<Change>, notes: &mut Vec<String>) {
    let mut add = |title: &str, name: &str, before: String, after: String| {
        if before != after {
            changes.push(Change {
                kind: Kind::Model,
                scope: String::new(),
                title: title.to_owned(),
                a: Vec::new(),
                b: Vec::new(),
                details: vec![Detail::Value { name: name.to_owned(), before, after }],
                around: None,
            });
        }
    };
    let (one, other) = (a.proto(), b.proto());
    add("IR version", "ir_version", a.ir_version().to_string(), b.ir_version().to_string());
    let imports = |proto: &ModelProto| {
        let entry = |set: &onnx_shrink_ir::proto::schema::OperatorSetIdProto| {
            let domain = if set.domain() == "ai.onnx" { "" } else { set.domain() };
            (domain.to_owned(), set.version().to_string())
        };
        proto.opset_import.iter().map(entry).collect::<BTreeMap<_, _>>()
    };
    differences(&imports(one), &imports(other), |domain, before, after| {
        let title = if domain.is_empty() { "opset".to_owned() } else { format!("opset of {domain}") };
        add(&title, "version", before, after);
    });
    add("model version", "model_version", one.model_version().to_string(), other.model_version().to_string());
    add("domain", "domain", one.domain().to_owned(), other.domain().to_owned());
    let entries = |props: &[StringStringEntryProto]| {
        props.iter().map(|entry| (entry.key().to_owned(), short(entry.value()))).collect::<BTreeMap<_, _>>()
    };
    differences(&entries(&one.metadata_props), &entries(&other.metadata_props), |key, before, after| {
        add(&format!("metadata `{key}`"), key, before, after);
    });
    differences(&entries(a.graph.metadata()), &entries(b.graph.metadata()), |key, before, after| {
        add(&format!("metadata of the graph `{key}`"), key, before, after);
    });
    let encoded = |proto: &ModelProto| proto.training_info.iter().map(Message::encode_to_vec).collect::<Vec<_>>();
    if encoded(one) != encoded(other) {
        let count = |proto: &ModelProto| format!("{} graphs", proto.training_info.len());
        let after = format!("{}, of other content", count(other));
        add("training information", "training_info", count(one), after);
    }
    for (what, before, after) in [
        ("producer", one.producer_name(), other.producer_name()),
        ("producer version", one.producer_version(), other.producer_version()),
        ("doc string", one.doc_string(), other.doc_string()),
        ("name of the graph", a.graph.name(), b.graph.name()),
    ] {
        if before != after {
            notes.push(format!("{what}: `{}` → `{}`", short(before), short(after)));
        }
    }
}

/// Entries that differ, in order, with "–" where there is none.
fn differences(
    one: &BTreeMap<String, String>,
    other: &BTreeMap<String, String>,
    mut add: impl FnMut(&str, String, String),
) {
    let keys: BTreeMap<&String, ()> = one.keys().chain(other.keys()).map(|key| (key, ())).collect();
    for key in keys.into_keys() {
        let get = |map: &BTreeMap<String, String>| map.get(key).cloned();
        if get(one) != get(other) {
            let show = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
            add(key, show(get(one)), show(get(other)));
        }
    }
}

/// `text`, cut where it is long; the length tells then that there is more.
fn short(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}… ({} bytes, #{:08x})", &text[..end], text.len(), fingerprint(text)),
        None => text.to_owned(),
    }
}

/// FNV-1a, 32 bits: tells long texts apart that begin alike.
fn fingerprint(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A list, cut where it is long.
fn cut(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
