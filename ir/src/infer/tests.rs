use onnx_shrink_proto::schema::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
    attribute_proto::AttributeType,
};

use super::*;
use crate::{attributes as attr, convert::tensor_to_proto, import, model::Model, tensor::Tensor};

fn dim(text: &str) -> Dim {
    match text {
        "?" => Dim::Unknown,
        text => text.parse().map_or_else(|_| Dim::Symbol(text.to_owned()), Dim::Known),
    }
}

/// A tensor type from "N,3,8"; "[]" is an unknown rank, "" a scalar.
fn ty(dtype: DataType, dims: &str) -> TensorType {
    let shape = match dims {
        "[]" => None,
        "" => Some(Vec::new()),
        dims => Some(dims.split(',').map(dim).collect()),
    };
    TensorType { dtype, shape }
}

fn info(name: &str, ty: &TensorType) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty.to_proto()), ..ValueInfoProto::default() }
}

#[derive(Default)]
struct Build(GraphProto);

impl Build {
    fn input(mut self, name: &str, dtype: DataType, dims: &str) -> Build {
        self.0.input.push(info(name, &ty(dtype, dims)));
        self
    }
    fn declared(mut self, name: &str, dtype: DataType, dims: &str) -> Build {
        self.0.value_info.push(info(name, &ty(dtype, dims)));
        self
    }
    fn constant(mut self, name: &str, tensor: Tensor) -> Build {
        self.0.initializer.push(tensor_to_proto(&tensor, name));
        self
    }
    fn ints(self, name: &str, numbers: &[i64]) -> Build {
        self.constant(name, Tensor::from_vec(&[numbers.len()], numbers.to_vec()))
    }
    /// An op from "Type a,b -> c,d".
    fn op(mut self, text: &str, attributes: Vec<AttributeProto>) -> Build {
        let (left, right) = text.split_once(" -> ").expect("an arrow");
        let (op_type, inputs) = left.split_once(' ').unwrap_or((left, ""));
        let names = |text: &str| -> Vec<String> {
            if text.is_empty() { Vec::new() } else { text.split(',').map(str::to_owned).collect() }
        };
        self.0.node.push(NodeProto {
            op_type: Some(op_type.to_owned()),
            input: names(inputs),
            output: names(right),
            attribute: attributes,
            ..NodeProto::default()
        });
        self
    }
    fn output(mut self, name: &str) -> Build {
        self.0.output.push(ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() });
        self
    }
    fn body(self, name: &str) -> AttributeProto {
        AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(AttributeType::Graph as i32),
            g: Some(Box::new(self.0)),
            ..AttributeProto::default()
        }
    }
    fn inferred(self, opset: i64) -> Model {
        let set = OperatorSetIdProto { domain: None, version: Some(opset) };
        let proto =
            ModelProto { ir_version: Some(8), graph: Some(self.0), opset_import: vec![set], ..ModelProto::default() };
        let mut model = import(proto).expect("a model");
        infer(&mut model.graph);
        model
    }
}

fn shown(model: &Model, name: &str) -> String {
    let value = model.graph.find(name).expect(name);
    model.graph.ty(value).map_or_else(|| "unknown".to_owned(), TensorType::to_string)
}

use DataType::{Bool, Float, Int64};

#[test]
fn names_of_dimensions_flow_through_a_small_net() {
    let model = Build::default()
        .input("x", Float, "N,3,8,8")
        .constant("w", Tensor::from_vec(&[4, 3, 3, 3], vec![0f32; 108]))
        .constant("v", Tensor::from_vec(&[64, 10], vec![0f32; 640]))
        .op("Conv x,w -> c", vec![attr::ints("strides", &[2, 2]), attr::ints("pads", &[1, 1, 1, 1])])
        .op("Relu c -> r", vec![])
        .op("Flatten r -> f", vec![])
        .op("MatMul f,v -> y", vec![])
        .op("ArgMax y -> a", vec![attr::int("axis", 1), attr::int("keepdims", 0)])
        .inferred(13);
    assert_eq!(shown(&model, "c"), "float[N,4,4,4]");
    assert_eq!(shown(&model, "f"), "float[N,64]");
    assert_eq!(shown(&model, "y"), "float[N,10]");
    assert_eq!(shown(&model, "a"), "int64[N]");
}

#[test]
fn a_chain_that_computes_a_shape_ends_in_that_shape() {
    let model = Build::default()
        .input("x", Float, "N,64,8,8")
        .constant("zero", Tensor::scalar(0i64))
        .ints("axes", &[0])
        .ints("rest", &[-1])
        .op("Shape x -> s", vec![])
        .op("Gather s,zero -> n", vec![attr::int("axis", 0)])
        .op("Unsqueeze n,axes -> n1", vec![])
        .op("Concat n1,rest -> target", vec![attr::int("axis", 0)])
        .op("Reshape x,target -> y", vec![])
        .op("Mul n,n -> square", vec![])
        .op("Unsqueeze square,axes -> square1", vec![])
        .op("Expand zero,square1 -> z", vec![])
        .inferred(13);
    assert_eq!(shown(&model, "target"), "int64[2]");
    assert_eq!(shown(&model, "y"), "float[N,4096]");
    assert_eq!(shown(&model, "z"), "int64[?]", "N times N has no name");
}

#[test]
fn a_reshape_far_beyond_i32_is_still_exact() {
    let model = Build::default()
        .input("x", Float, "N,65536,65536,4")
        .ints("target", &[0, -1, 65536])
        .op("Reshape x,target -> y", vec![])
        .op("Size x -> count", vec![])
        .op("Flatten x -> f", vec![])
        .inferred(13);
    assert_eq!(shown(&model, "y"), "float[N,262144,65536]");
    assert_eq!(shown(&model, "f"), "float[N,?]");
}

#[test]
fn slice_clamps_as_the_standard_says() {
    let slice = |start: i64, end: i64, step: i64| {
        let model = Build::default()
            .input("x", Float, "N,10")
            .ints("starts", &[start])
            .ints("ends", &[end])
            .ints("axes", &[1])
            .ints("steps", &[step])
            .op("Slice x,starts,ends,axes,steps -> y", vec![])
            .inferred(13);
        shown(&model, "y")
    };
    assert_eq!(slice(0, i64::MAX, 1), "float[N,10]");
    assert_eq!(slice(-3, i64::MAX, 1), "float[N,3]");
    assert_eq!(slice(8, 2, 1), "float[N,0]");
    assert_eq!(slice(-1, i64::MIN, -1), "float[N,10]");
    assert_eq!(slice(-1, -11, -3), "float[N,4]");
    assert_eq!(slice(20, 0, -4), "float[N,3]");
    assert_eq!(slice(1, 10, 4), "float[N,3]");
}

#[test]
fn old_opsets_name_axes_and_bounds_by_attribute() {
    let model = Build::default()
        .input("x", Float, "N,1,6")
        .op("Squeeze x -> s", vec![attr::ints("axes", &[1])])
        .op("Unsqueeze s -> u", vec![attr::ints("axes", &[-1])])
        .op("Slice s -> t", vec![attr::ints("starts", &[1]), attr::ints("ends", &[-1]), attr::ints("axes", &[1])])
        .op("ReduceSum x -> r", vec![attr::ints("axes", &[2]), attr::int("keepdims", 0)])
        .op("Split s -> p,q", vec![attr::int("axis", 1), attr::ints("split", &[2, 4])])
        .op("TopK s -> k,i", vec![attr::int("k", 3)])
        .op("Pad s -> d", vec![attr::ints("pads", &[0, 1, 0, 2])])
        .op("Upsample x -> up", vec![attr::floats("scales", &[1.0, 1.0, 2.0])])
        .inferred(8);
    let types = ["s", "u", "t", "r", "p", "q", "k", "i", "d", "up"].map(|name| shown(&model, name));
    let expected = [
        "float[N,6]",
        "float[N,6,1]",
        "float[N,4]",
        "float[N,1]",
        "float[N,2]",
        "float[N,4]",
        "float[N,3]",
        "int64[N,3]",
        "float[N,9]",
        "float[N,1,12]",
    ];
    assert_eq!(types, expected);
}

#[test]
fn quantized_ops_take_their_type_from_the_zero_point() {
    let model = Build::default()
        .input("x", Float, "N,4")
        .constant("s", Tensor::scalar(0.5f32))
        .constant("z", Tensor::scalar(3i8))
        .op("QuantizeLinear x,s,z -> q", vec![])
        .op("QuantizeLinear x,s -> u", vec![])
        .op("DequantizeLinear q,s,z -> d", vec![])
        .op("DynamicQuantizeLinear x -> a,b,c", vec![])
        .op("MatMulInteger q,q -> m", vec![])
        .inferred(13);
    let types = ["q", "u", "d", "a", "b", "c"].map(|name| shown(&model, name));
    assert_eq!(types, ["int8[N,4]", "uint8[N,4]", "float[N,4]", "uint8[N,4]", "float", "uint8"]);
    assert!(shown(&model, "m").starts_with("int32"));
}

#[test]
fn a_wrong_declaration_loses_and_an_unknown_one_wins() {
    let model = Build::default()
        .input("x", Float, "N,?")
        .op("Relu x -> y", vec![])
        .op("Identity y -> z", vec![])
        .op("Shape x -> s", vec![])
        .declared("y", Float, "7,5")
        .declared("s", Float, "3")
        .inferred(13);
    assert_eq!(shown(&model, "y"), "float[7,5]", "a number says more than a name");
    assert_eq!(shown(&model, "z"), "float[7,5]");
    assert_eq!(shown(&model, "s"), "int64[2]", "the inferred type stands");
}

#[test]
fn the_same_word_for_every_unknown_dimension_is_no_name() {
    let model = Build::default()
        .input("a", Float, "None,3")
        .input("b", Float, "None,3")
        .op("Add a,b -> y", vec![])
        .inferred(13);
    assert_eq!(shown(&model, "y"), "float[?,3]");
}

#[test]
fn a_table_cut_to_a_length_takes_its_name() {
    let model = Build::default()
        .input("x", Float, "batch,time,8")
        .constant("table", Tensor::from_vec(&[1, 512, 8], vec![0f32; 4096]))
        .ints("zero", &[0])
        .ints("one", &[1])
        .op("Shape x -> s", vec![])
        .op("Gather s,one -> time", vec![])
        .op("Slice table,zero,time,one -> cut", vec![])
        .op("Add cut,x -> y", vec![])
        .inferred(13);
    assert_eq!(shown(&model, "cut"), "float[1,?,8]", "at most 512");
    assert_eq!(shown(&model, "y"), "float[batch,time,8]");
}

#[test]
fn if_keeps_what_both_branches_say() {
    let branch =
        |name: &str, op: &str, target: &[i64]| Build::default().ints("t", target).op(op, vec![]).output("o").body(name);
    let model = Build::default()
        .input("c", Bool, "")
        .input("x", Float, "N,6")
        .op(
            "If c -> y",
            vec![
                branch("then_branch", "Reshape x,t -> o", &[0, 2, 3]),
                branch("else_branch", "Reshape x,t -> o", &[0, 1, 6]),
            ],
        )
        .inferred(13);
    assert_eq!(shown(&model, "y"), "float[N,?,?]");
    let body = &model.graph.op(model.graph.ops()[0]).regions()[0].graph;
    assert_eq!(body.find("o").and_then(|o| body.ty(o)).map(TensorType::to_string).as_deref(), Some("float[N,2,3]"));
}

#[test]
fn loop_carries_types_and_stacks_what_it_scans() {
    let body = Build::default()
        .input("i", Int64, "")
        .input("go", Bool, "")
        .input("state", Float, "[]")
        .op("Identity go -> again", vec![])
        .op("Concat state,x -> next", vec![attr::int("axis", 0)])
        .op("Relu x -> part", vec![])
        .output("again")
        .output("next")
        .output("part")
        .body("body");
    let model = Build::default()
        .input("x", Float, "N,4")
        .constant("trips", Tensor::scalar(3i64))
        .op("Loop trips,,x -> last,parts", vec![body])
        .inferred(13);
    assert_eq!(shown(&model, "last"), "float[?,4]", "the carried value grows");
    assert_eq!(shown(&model, "parts"), "float[?,N,4]");
}

#[test]
fn ceil_mode_is_unknown_only_where_engines_differ() {
    let pool = |size: &str, pads: &[i64]| {
        let attributes = vec![
            attr::ints("kernel_shape", &[2]),
            attr::ints("strides", &[3]),
            attr::int("ceil_mode", 1),
            attr::ints("pads", pads),
        ];
        let model =
            Build::default().input("x", Float, &format!("1,1,{size}")).op("MaxPool x -> y", attributes).inferred(13);
        shown(&model, "y")
    };
    assert_eq!(pool("5", &[0, 0]), "float[1,1,2]");
    assert_eq!(pool("7", &[0, 0]), "float[1,1,3]");
    assert_eq!(pool("2", &[0, 2]), "float[1,1,?]", "a last window that begins behind the input");
}

#[test]
fn impossible_ops_are_unknown_and_do_no_harm() {
    let model = Build::default()
        .input("x", Float, "2,3")
        .input("y", Float, "4,5")
        .ints("none", &[])
        .op("Add x,y -> a", vec![])
        .op("Transpose x -> t", vec![attr::ints("perm", &[0, 5])])
        .op("Concat x,y -> c", vec![attr::int("axis", 9)])
        .op("Range none,none,none -> r", vec![])
        .op("Gather x -> g", vec![])
        .op("NoSuchOp x -> n", vec![])
        .inferred(13);
    assert_eq!(shown(&model, "a"), "float[]");
    assert_eq!(shown(&model, "t"), "float[]");
    assert_eq!(shown(&model, "c"), "float[]");
    assert_eq!(shown(&model, "n"), "unknown");
}

#[test]
fn infer_op_answers_for_one_op() {
    let model = Build::default().input("x", Float, "N,3,4").op("Transpose x -> y", vec![]).inferred(13);
    let op = model.graph.ops()[0];
    assert_eq!(infer_op(&model.graph, op), [Some(ty(Float, "4,3,N"))]);
}

#[test]
fn a_long_chain_takes_linear_time_and_no_stack() {
    let mut build = Build::default().input("x0", Float, "N,3").input("s0", Int64, "2");
    let count = 50_000;
    for index in 0..count {
        let next = index + 1;
        build = build
            .op(&format!("Relu x{index} -> x{next}"), vec![])
            .op(&format!("Add s{index},s{index} -> s{next}"), vec![]);
    }
    let model = build.inferred(13);
    assert_eq!(shown(&model, &format!("x{count}")), "float[N,3]");
    assert_eq!(shown(&model, &format!("s{count}")), "int64[2]");
}
