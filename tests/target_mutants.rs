//! Files that break the row of their target, each in one way: the checker sees every one of them, by the right rule.
use onnx_shrink_ir::{
    Model, export, import,
    proto::schema::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, attribute_proto,
    },
};
use onnx_shrink_passes::target::Target;

use crate::{
    target_row::judge,
    targets::{DATA, original, written},
};

const INT8: i32 = 3;
const UINT8: i32 = 2;

fn node(graph: &mut GraphProto, wanted: impl Fn(&NodeProto) -> bool) -> &mut NodeProto {
    graph.node.iter_mut().find(|node| wanted(node)).expect("such a node")
}

fn is(op_type: &'static str) -> impl Fn(&NodeProto) -> bool {
    move |node| node.op_type() == op_type
}

fn tensor<'m>(graph: &'m mut GraphProto, name: &str) -> &'m mut TensorProto {
    graph.initializer.iter_mut().find(|tensor| tensor.name() == name).expect("a constant")
}

/// The tensor that is input `index` of `node`, a copy of its own so that nobody else changes.
fn own(graph: &mut GraphProto, wanted: impl Fn(&NodeProto) -> bool, index: usize) -> &mut TensorProto {
    let name = node(graph, &wanted).input[index].clone();
    let fresh = format!("{name}_mutant");
    let mut copy = tensor(graph, &name).clone();
    copy.name = Some(fresh.clone());
    node(graph, &wanted).input[index] = fresh;
    graph.initializer.push(copy);
    graph.initializer.last_mut().unwrap()
}

fn scaled(tensor: &mut TensorProto, factor: f32) {
    let floats = tensor.raw_data.as_ref().unwrap().chunks_exact(4);
    let floats = floats.flat_map(|four| (f32::from_le_bytes(four.try_into().unwrap()) * factor).to_le_bytes());
    tensor.raw_data = Some(floats.collect::<Vec<u8>>().into());
}

fn bytes(tensor: &mut TensorProto, change: impl Fn(usize, u8) -> u8) {
    let changed = tensor.raw_data.as_ref().unwrap().iter().enumerate().map(|(index, byte)| change(index, *byte));
    tensor.raw_data = Some(changed.collect::<Vec<u8>>().into());
}

/// Whether `node` dequantizes the weight of a convolution.
fn is_weight(graph: &GraphProto) -> impl Fn(&NodeProto) -> bool + use<> {
    let weights: Vec<String> =
        graph.node.iter().filter(|node| node.op_type() == "Conv").map(|conv| conv.input[1].clone()).collect();
    move |node| node.op_type() == "DequantizeLinear" && weights.contains(&node.output[0])
}

fn is_bias(graph: &GraphProto) -> impl Fn(&NodeProto) -> bool + use<> {
    let biases: Vec<String> = graph
        .node
        .iter()
        .filter(|node| node.op_type() == "Conv" && node.input.len() > 2)
        .map(|conv| conv.input[2].clone())
        .collect();
    move |node| node.op_type() == "DequantizeLinear" && biases.contains(&node.output[0])
}

fn axis(value: i64) -> AttributeProto {
    AttributeProto {
        name: Some("axis".into()),
        r#type: Some(attribute_proto::AttributeType::Int as i32),
        i: Some(value),
        ..AttributeProto::default()
    }
}

fn new_node(op_type: &str, input: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.into()),
        input: input.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

/// The rule that is broken, the target and the fixture, flags besides `--int8 --data`, and how.
type Mutant = (&'static str, &'static str, &'static str, &'static [&'static str], fn(&mut ModelProto));

fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

const WRAP: &[&str] = &["--place", "wrap"];
const QOPERATOR: &[&str] = &["--place", "wrap", "--format", "qoperator"];
const INTEGER: &[&str] = &["--place", "wrap", "--format", "integer"];

const MUTANTS: &[Mutant] = &[
    ("zero point", "tensorrt", "digits_cnn", &[], |model| bytes(own(graph(model), is("QuantizeLinear"), 2), |_, _| 1)),
    ("zero point", "vitis", "digits_mlp", &[], |model| bytes(own(graph(model), is("QuantizeLinear"), 2), |_, z| z ^ 2)),
    ("activation type", "tensorrt", "digits_cnn", &[], |model| {
        own(graph(model), is("QuantizeLinear"), 2).data_type = Some(UINT8);
    }),
    ("activation type", "generic", "digits_cnn", &[], |model| {
        node(graph(model), is("QuantizeLinear")).input.truncate(2);
        own(graph(model), is("QuantizeLinear"), 1);
        let first = node(graph(model), is("QuantizeLinear"));
        first.input.push(String::new());
    }),
    ("pair", "generic", "digits_mlp", &[], |model| scaled(own(graph(model), is("QuantizeLinear"), 1), 2.0)),
    ("scale", "generic", "digits_cnn", &[], |model| scaled(own(graph(model), is("QuantizeLinear"), 1), -1.0)),
    ("one scale", "generic", "digits_mlp", &[], |model| {
        let scale = own(graph(model), is("QuantizeLinear"), 1);
        scale.dims = vec![1];
    }),
    ("scale of one", "openvino", "digits_cnn", &[], |model| {
        own(graph(model), is("QuantizeLinear"), 1).raw_data = Some(1f32.to_le_bytes().to_vec().into());
    }),
    ("power of two", "vitis", "digits_cnn", &[], |model| scaled(own(graph(model), is("QuantizeLinear"), 1), 1.5)),
    ("power of two", "vitis", "digits_cnn", &[], |model| {
        let weight = is_weight(graph(model));
        scaled(own(graph(model), weight, 1), 1.5);
    }),
    ("fixed output", "tflite-style", "digits_attention", &[], |model| {
        let softmax = node(graph(model), is("Softmax")).output[0].clone();
        scaled(own(graph(model), move |node| node.op_type() == "QuantizeLinear" && node.input[0] == softmax, 1), 2.0);
    }),
    ("weight type", "qnn", "digits_cnn", &[], |model| {
        let weight = is_weight(graph(model));
        own(graph(model), &weight, 0).data_type = Some(INT8);
        own(graph(model), &weight, 2).data_type = Some(INT8);
    }),
    ("weight zero point", "qnn", "digits_cnn", &[], |model| {
        let weight = is_weight(graph(model));
        bytes(own(graph(model), weight, 2), |_, z| z + 1);
    }),
    ("weight zero point", "openvino", "digits_mlp", &[], |model| {
        let gemm = node(graph(model), is("Gemm")).input[1].clone();
        node(graph(model), move |node| node.output[0] == gemm).input.truncate(2);
    }),
    ("weight scales", "generic", "digits_cnn", &[], |model| {
        let weight = is_weight(graph(model));
        let scales = own(graph(model), weight, 1);
        scales.dims.clear();
        scales.raw_data = Some(scales.raw_data.as_ref().unwrap().slice(..4));
    }),
    ("weight scales", "tflite-style", "digits_mlp", &[], |model| {
        let gemm = node(graph(model), is("Gemm")).input[1].clone();
        own(graph(model), move |node| node.output[0] == gemm, 1).dims = vec![1];
    }),
    ("weight axis", "generic", "digits_cnn", &[], |model| {
        let weight = is_weight(graph(model));
        node(graph(model), weight).attribute = vec![axis(1)];
    }),
    ("weight range", "tensorrt", "digits_cnn", &[], |model| {
        let weight = is_weight(graph(model));
        bytes(own(graph(model), weight, 0), |index, w| if index == 0 { 0x80 } else { w });
    }),
    ("pairs", "openvino", "digits_cnn", &[], |model| {
        let weight = |node: &NodeProto| node.op_type() == "Gemm";
        let gemm = node(graph(model), weight).input[1].clone();
        bytes(own(graph(model), move |node| node.output[0] == gemm, 0), |_, _| 100);
    }),
    ("pairs", "ort-cpu", "digits_mlp", QOPERATOR, |model| {
        bytes(own(graph(model), |node| node.op_type().starts_with("QLinear"), 3), |_, _| 100);
    }),
    ("pairs", "ort-cpu", "digits_mlp", INTEGER, |model| {
        bytes(own(graph(model), is("MatMulInteger"), 1), |_, _| 100);
    }),
    ("pairs", "ort-x86-avx2", "digits_mlp", &["--dynamic"], |model| {
        bytes(own(graph(model), is("MatMulInteger"), 1), |_, _| 100);
    }),
    ("full range", "ort-x86-vnni", "digits_cnn", WRAP, |model| {
        let weight = is_weight(graph(model));
        bytes(own(graph(model), weight, 0), |_, w| ((w as i8) / 2) as u8);
    }),
    ("bias", "tensorrt", "digits_cnn", &[], |model| {
        let graph = graph(model);
        let bias = node(graph, is("Conv")).input[2].clone();
        let scale = node(graph, is("QuantizeLinear")).input[1].clone();
        own(graph, is("Conv"), 2).data_type = Some(6);
        let integers = node(graph, is("Conv")).input[2].clone();
        node(graph, is("Conv")).input[2] = "planted".to_owned();
        graph.node.insert(0, new_node("DequantizeLinear", &[&integers, &scale], "planted"));
        assert!(bias != integers);
    }),
    ("bias", "openvino", "digits_mlp", &[], |model| {
        let graph = graph(model);
        let count = 10;
        let floats = TensorProto {
            name: Some("floats".into()),
            data_type: Some(1),
            dims: vec![count],
            raw_data: Some(vec![0; 4 * count as usize].into()),
            ..TensorProto::default()
        };
        graph.initializer.push(floats);
        let last = graph.node.iter_mut().rfind(|node| node.op_type() == "Gemm").unwrap();
        last.input[2] = "floats".to_owned();
    }),
    ("bias scale", "openvino", "digits_cnn", &[], |model| {
        let bias = is_bias(graph(model));
        scaled(own(graph(model), bias, 1), 1.02);
    }),
    ("end", "generic", "digits_cnn", &[], |model| {
        let graph = graph(model);
        let conv = node(graph, is("Conv")).output[0].clone();
        let mut output = graph.output[0].clone();
        output.name = Some(conv);
        graph.output.push(output);
    }),
    ("end", "ort-cpu", "digits_cnn", WRAP, |model| {
        let graph = graph(model);
        let conv = node(graph, is("Conv")).output[0].clone();
        graph.node.push(new_node("Abs", &[&conv], "second"));
    }),
    ("form", "openvino", "digits_mlp", &[], |model| {
        let graph = graph(model);
        let x = graph.input[0].name().to_owned();
        let mut planted = new_node("DynamicQuantizeLinear", &[&x], "planted");
        planted.output.extend(["planted_s".to_owned(), "planted_z".to_owned()]);
        graph.node.push(planted);
    }),
    ("scales of an op that moves numbers", "tflite-style", "branches", &[], |model| {
        let pool = node(graph(model), is("AveragePool")).output[0].clone();
        scaled(own(graph(model), move |node| node.op_type() == "QuantizeLinear" && node.input[0] == pool, 1), 2.0);
    }),
    ("scales of an op that moves numbers", "qnn", "digits_attention", &[], |model| {
        let moved = node(graph(model), is("Transpose")).output[0].clone();
        scaled(own(graph(model), move |node| node.op_type() == "QuantizeLinear" && node.input[0] == moved, 1), 2.0);
    }),
    ("every tensor", "qnn", "digits_cnn", &[], |model| {
        let graph = graph(model);
        let dequantized = node(graph, is("GlobalAveragePool")).input[0].clone();
        let integers = node(graph, |node| node.output[0] == dequantized).input[0].clone();
        let float = node(graph, |node| node.output[0] == integers).input[0].clone();
        node(graph, is("GlobalAveragePool")).input[0] = float;
    }),
    ("every tensor", "tflite-style", "digits_mlp", &[], |model| {
        let graph = graph(model);
        let x = graph.input[0].name().to_owned();
        node(graph, is("Gemm")).input[0] = x;
    }),
    ("nothing in integers", "tract", "digits_cnn", &[], |model| {
        let graph = graph(model);
        let x = graph.input[0].name().to_owned();
        let float = |name: &str| TensorProto {
            name: Some(name.into()),
            data_type: Some(1),
            raw_data: Some(1f32.to_le_bytes().to_vec().into()),
            ..TensorProto::default()
        };
        graph.initializer.push(float("planted_scale"));
        graph.node.push(new_node("QuantizeLinear", &[&x, "planted_scale"], "planted"));
    }),
    ("storage", "tensorrt", "digits_gru", &[], |model| {
        let graph = graph(model);
        let mut cast = new_node("Cast", &["planted"], "planted_float");
        cast.attribute.push(AttributeProto { name: Some("to".into()), i: Some(1), ..axis(1) });
        graph.initializer.push(TensorProto {
            name: Some("planted".into()),
            data_type: Some(INT8),
            dims: vec![4],
            raw_data: Some(vec![1; 4].into()),
            ..TensorProto::default()
        });
        graph.node.push(cast);
    }),
    ("weights alone", "openvino", "digits_mlp", &[], |model| {
        let graph = graph(model);
        let dequantized = node(graph, is("Gemm")).input[0].clone();
        let integers = node(graph, |node| node.output[0] == dequantized).input[0].clone();
        let float = node(graph, |node| node.output[0] == integers).input[0].clone();
        node(graph, is("Gemm")).input[0] = float;
    }),
    ("domain", "generic", "digits_cnn", &[], |model| {
        node(graph(model), is("Relu")).domain = Some("com.microsoft".into());
        let version = OperatorSetIdProto { domain: Some("com.microsoft".into()), version: Some(1) };
        model.opset_import.push(version);
    }),
    ("domain", "ort-cpu", "digits_cnn", &[], |model| {
        let version = OperatorSetIdProto { domain: Some("ai.onnx.ml".into()), version: Some(5) };
        model.opset_import.push(version);
    }),
    ("opset", "generic", "digits_cnn", &[], |model| model.opset_import[0].version = Some(17)),
    ("opset", "ort-cpu", "digits_cnn", &[], |model| model.opset_import[0].version = Some(21)),
    ("opset", "ort-cpu", "digits_cnn", &[], |model| model.ir_version = Some(10)),
];

fn rules(target: &str, fixture: &str, model: &Model) -> Vec<&'static str> {
    let target = Target::named(target).unwrap();
    judge(target, &original(fixture), model, true).violations.into_iter().map(|(rule, _)| rule).collect()
}

#[test]
fn each_planted_violation_is_seen() {
    let mut wrong = Vec::new();
    for (index, &(rule, target, fixture, flags, plant)) in MUTANTS.iter().enumerate() {
        let at = format!("{index}: {rule}, {target} {fixture}");
        let good = written(fixture, target, &[&["--int8", "--data", DATA][..], flags].concat()).unwrap();
        assert_eq!(rules(target, fixture, &good), [""; 0], "{at}");
        let mut proto = export(&good);
        plant(&mut proto);
        match import(proto) {
            Ok(broken) => {
                let found = rules(target, fixture, &broken);
                if !found.contains(&rule) {
                    wrong.push(format!("{at}: {found:?}"));
                }
            }
            Err(error) => wrong.push(format!("{at}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_row_is_data() {
    // A file for one target breaks the rows of others, each by what these differ in.
    let with = |target, fixture, more: &[&str]| {
        written(fixture, target, &[&["--int8", "--data", DATA][..], more].concat()).unwrap()
    };
    let breaks = |row: &str, fixture: &str, model: &Model, rule: &str| {
        let found = rules(row, fixture, model);
        assert!(found.contains(&rule), "{row}, {fixture}: {rule}: {found:?}");
    };
    let cnn = with("openvino", "digits_cnn", &[]);
    breaks("tract", "digits_cnn", &cnn, "nothing in integers");
    breaks("tract", "digits_cnn", &cnn, "op");
    breaks("tensorrt", "digits_cnn", &cnn, "activation type");
    breaks("tensorrt", "digits_cnn", &cnn, "bias");
    breaks("qnn", "digits_cnn", &cnn, "weight type");
    breaks("qnn", "digits_cnn", &cnn, "weight scales");
    breaks("vitis", "digits_cnn", &cnn, "power of two");
    breaks("generic", "digits_cnn", &cnn, "weights alone");
    breaks("generic", "digits_mlp", &with("openvino", "digits_mlp", &[]), "end");
    breaks("ort-x86-vnni", "digits_cnn", &cnn, "full range");
    breaks("openvino", "digits_cnn", &with("ort-x86-vnni", "digits_cnn", WRAP), "pairs");
    breaks("openvino", "digits_mlp", &with("ort-cpu", "digits_mlp", QOPERATOR), "form");
    breaks("openvino", "digits_mlp", &with("ort-cpu", "digits_mlp", INTEGER), "form");
    breaks("tensorrt", "digits_mlp", &with("ort-cpu", "digits_mlp", &["--dynamic"]), "form");
    let int4 = written("digits_mlp", "ort-cpu", &["--weights", "int4"]).unwrap();
    breaks("generic", "digits_mlp", &int4, "storage");
    breaks("tensorrt", "digits_gru", &with("generic", "digits_gru", &[]), "storage");
}
