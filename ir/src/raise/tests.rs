//! One test or more for each rule: before, as nodes; after, as text.
use onnx_shrink_proto::schema::{
    AttributeProto, FunctionProto, NodeProto, OperatorSetIdProto, TrainingInfoProto, attribute_proto::AttributeType,
};

use super::{
    Raised,
    testing::{graph, model_of, node, one, raised, refused, show},
};
use crate::{
    attributes::{float, floats, int, ints, string},
    export, import,
    raise::{RaiseError, raise},
    tensor::Tensor,
    types::{DataType, Dim, TensorType},
};

/// The node `op_type` from x to y.
fn unary(op_type: &str, attributes: &[AttributeProto]) -> NodeProto {
    node(op_type, &["x"], &["y"], attributes)
}

fn f32s(numbers: &[f32]) -> Tensor {
    Tensor::from_vec(&[numbers.len()], numbers.to_vec())
}

/// A model of `node`, whose further inputs are initializers.
fn with(opset: i64, dims: &[usize], initializers: &[(&str, Tensor)], node: NodeProto) -> crate::Model {
    model_of(opset, graph(&[("x", dims)], initializers, &[node]))
}

#[test]
fn a_model_that_is_there_already_stays_as_it_is() {
    let mut model = one(17, &[2], unary("Relu", &[]));
    let before = export(&model);
    let done = raise(&mut model, 13).unwrap();
    assert_eq!(done, Raised { from: 17, to: 17, ..Raised::default() });
    assert_eq!(export(&model), before);
}

#[test]
fn versions_rise_to_what_the_opset_needs_and_never_fall() {
    for (target, ir_version) in [(13, 7), (14, 7), (15, 8), (18, 8), (19, 9), (20, 9), (21, 10)] {
        let mut model = one(9, &[2], unary("Relu", &[]));
        raise(&mut model, target).unwrap();
        assert_eq!((model.opset(), model.ir_version(), model.import_of("")), (target, ir_version, Some(target)));
    }
    let mut model = one(9, &[2], unary("Relu", &[]));
    model.set_ir_version(11);
    raise(&mut model, 13).unwrap();
    assert_eq!(model.ir_version(), 11);
}

#[test]
fn models_that_cannot_be_raised_say_why() {
    let relu = || unary("Relu", &[]);
    assert_eq!(refused(one(9, &[2], relu()), 12), "opset 12 cannot be raised to: 13 to 21 can");
    assert_eq!(refused(one(9, &[2], relu()), 22), "opset 22 cannot be raised to: 13 to 21 can");
    assert!(refused(one(5, &[2], relu()), 13).starts_with("the model is of opset 5, and the oldest"));
    let mut model = one(9, &[2], relu());
    model.proto.opset_import[0].domain = Some("other".to_owned());
    let model = import(export(&model)).unwrap();
    assert_eq!(refused(model, 13), "op `y` is of ONNX's own domain, but the model imports no opset for it");
    let mut model = one(9, &[2], relu());
    model.proto.training_info.push(TrainingInfoProto::default());
    assert_eq!(refused(model, 13), RaiseError::TrainingInfo.to_string());
}

#[test]
fn functions_are_refused_only_when_they_use_the_own_domain() {
    let model = |domain: &str| {
        let mut model = one(9, &[2], unary("Relu", &[]));
        let imported = OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(9) };
        let function =
            FunctionProto { name: Some("f".to_owned()), opset_import: vec![imported], ..FunctionProto::default() };
        model.proto.functions.push(function);
        model
    };
    assert!(refused(model("ai.onnx"), 13).starts_with("function `f` of the model is written in opset 9"));
    assert_eq!(raised(model("other"), 13), "y = Relu(x)");
}

#[test]
fn initializers_of_old_files_stop_being_inputs() {
    let mut proto = export(&with(7, &[2], &[("b", f32s(&[1.0, 2.0]))], node("Add", &["x", "b"], &["y"], &[])));
    proto.ir_version = Some(3);
    let input = crate::patch::declaration("b", &TensorType::fixed(DataType::Float, &[2]));
    proto.graph.as_mut().unwrap().input.push(input);
    let mut model = import(proto).unwrap();
    assert_eq!(raise(&mut model, 13).unwrap().frozen, 1);
    assert_eq!(model.graph.inputs().len(), 1);
    assert_eq!(show(&model.graph), "y = Add(x, float[2][1.0, 2.0])");
}

#[test]
fn ops_of_other_domains_and_unknown_ops_stay() {
    let mut foreign = unary("Clip", &[float("min", 0.0)]);
    foreign.domain = Some("other".to_owned());
    assert_eq!(raised(one(7, &[2], foreign), 21), "y = Clip<min=0.0>(x)");
    assert_eq!(raised(one(7, &[2], unary("Mystery", &[float("min", 0.0)])), 21), "y = Mystery<min=0.0>(x)");
}

#[test]
fn one_op_that_cannot_leaves_the_whole_model_untouched() {
    let nodes = [
        node("Clip", &["x"], &["t"], &[float("min", 0.0)]),
        node("BatchNormalization", &["t", "a", "a", "a", "a"], &["y"], &[int("spatial", 0)]),
    ];
    let model = model_of(7, graph(&[("x", &[2, 2])], &[("a", f32s(&[1.0, 2.0]))], &nodes));
    let sentence =
        "op `y` (BatchNormalization) cannot go from opset 8 to 9: attribute `spatial` = 0 has no counterpart";
    assert_eq!(refused(model, 13), sentence);
}

#[test]
fn bodies_are_raised_and_know_the_types_of_what_they_capture() {
    // x has a declared type; t has none, is captured, and the body's Clip needs to know that it is a float.
    let body = graph(&[], &[], &[node("Clip", &["t"], &["b"], &[float("max", 6.0)])]);
    let branch = |name: &str| AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(Box::new(body.clone())),
        ..AttributeProto::default()
    };
    let nodes = [
        node("Relu", &["x"], &["t"], &[]),
        node("If", &["c"], &["y"], &[branch("then_branch"), branch("else_branch")]),
    ];
    let model = model_of(9, graph(&[("x", &[2])], &[("c", Tensor::from_bools(&[], &[true]))], &nodes));
    let mut model = import(export(&model)).unwrap();
    let done = raise(&mut model, 13).unwrap();
    assert_eq!(done.rewritten.get("Clip"), Some(&2));
    let op = model.graph.ops_of("If")[0];
    for region in model.graph.op(op).regions() {
        assert_eq!(region.graph.opset(), 13);
        assert_eq!(show(&region.graph), "b = Clip(t, -, float[6.0])");
    }
    import(export(&model)).unwrap();
}

#[test]
fn equal_constants_are_made_once() {
    let nodes = [
        node("Unsqueeze", &["x"], &["t"], &[ints("axes", &[0])]),
        node("Unsqueeze", &["t"], &["u"], &[ints("axes", &[0])]),
        node("Squeeze", &["u"], &["y"], &[ints("axes", &[0])]),
    ];
    let mut model = model_of(11, graph(&[("x", &[2])], &[], &nodes));
    raise(&mut model, 13).unwrap();
    assert_eq!(export(&model).graph.unwrap().initializer.len(), 1);
}

#[test]
fn new_names_avoid_those_of_value_info_entries_without_a_value() {
    let mut proto = export(&one(11, &[2], unary("Unsqueeze", &[ints("axes", &[0])])));
    let stray = crate::patch::declaration("axes", &TensorType::fixed(DataType::Float, &[7]));
    proto.graph.as_mut().unwrap().value_info.push(stray);
    let mut model = import(proto).unwrap();
    raise(&mut model, 13).unwrap();
    assert!(model.graph.find("axes").is_none() && model.graph.find("axes_1").is_some());
}

#[test]
fn broadcasting_by_attributes() {
    let add = |attributes: &[AttributeProto], b: &[usize]| {
        let b = Tensor::from_vec(b, vec![1.0f32; b.iter().product()]);
        with(6, &[2, 3, 4], &[("b", b)], node("Add", &["x", "b"], &["y"], attributes))
    };
    assert_eq!(raised(add(&[int("broadcast", 1)], &[1]), 13), "y = Add(x, float[1][1.0])");
    assert_eq!(raised(add(&[int("broadcast", 1), int("axis", 2)], &[1]), 13), "y = Add(x, float[1][1.0])");
    let aligned = "b_aligned = Unsqueeze(float[2][1.0, 1.0], int64[2][1.0, 2.0])\ny = Add(x, b_aligned)";
    assert_eq!(raised(add(&[int("broadcast", 1), int("axis", 0)], &[2]), 13), aligned);
    assert_eq!(raised(add(&[int("broadcast", 1), int("axis", -3)], &[2]), 13), aligned);
    let sentence = refused(add(&[int("broadcast", 1), int("axis", 2)], &[3, 4]), 13);
    assert!(sentence.ends_with("attribute `axis` = 2 does not fit ranks 3 and 2"), "{sentence}");
}

#[test]
fn gemm_and_prelu_6() {
    let one_by_one = || Tensor::from_vec(&[1, 1], vec![1.0f32]);
    let gemm = node("Gemm", &["x", "w", "w"], &["y"], &[int("broadcast", 1)]);
    assert_eq!(
        raised(with(6, &[1, 1], &[("w", one_by_one())], gemm), 13),
        "y = Gemm(x, float[1,1][1.0], float[1,1][1.0])"
    );
    let prelu = |slope| with(6, &[1, 2, 3], &[("s", slope)], node("PRelu", &["x", "s"], &["y"], &[]));
    assert_eq!(raised(prelu(f32s(&[0.5])), 13), "y = PRelu(x, float[1][0.5])");
    let aligned = "s_aligned = Unsqueeze(float[2][0.5, 0.25], int64[1][1.0])\ny = PRelu(x, s_aligned)";
    assert_eq!(raised(prelu(f32s(&[0.5, 0.25])), 13), aligned);
}

#[test]
fn what_opset_6_said_about_training() {
    assert_eq!(raised(one(6, &[2], unary("Dropout", &[int("is_test", 1)])), 13), "y = Dropout(x)");
    assert!(refused(one(6, &[2], unary("Dropout", &[])), 13).contains("`is_test` is 0"));
    let norm = |attributes: &[AttributeProto]| {
        let inputs = ["x", "a", "a", "a", "a"];
        with(6, &[1, 1], &[("a", f32s(&[1.0]))], node("BatchNormalization", &inputs, &["y"], attributes))
    };
    assert!(raised(norm(&[int("is_test", 1), int("spatial", 1)]), 15).starts_with("y = BatchNormalization(x, "));
    assert!(refused(norm(&[]), 13).contains("`is_test` is 0"));
}

#[test]
fn ops_of_opset_6_without_a_rule_are_refused_by_name() {
    let upsample = unary("Upsample", &[float("height_scale", 2.0), float("width_scale", 2.0)]);
    assert!(refused(one(6, &[1, 1, 2, 2], upsample), 13).contains("`height_scale`"));
    for op_type in ["RNN", "GRU", "LSTM"] {
        assert!(refused(one(6, &[1, 1, 2], unary(op_type, &[])), 13).contains("`output_sequence`"));
    }
}

#[test]
fn clip_takes_its_bounds_as_inputs_of_its_type() {
    let clip = |attributes: &[AttributeProto]| one(6, &[2], unary("Clip", attributes));
    let both = [float("min", 0.0), float("max", 6.0)];
    assert_eq!(raised(clip(&both), 13), "y = Clip(x, float[0.0], float[6.0])");
    assert_eq!(raised(clip(&[float("max", 6.0)]), 13), "y = Clip(x, -, float[6.0])");
    assert_eq!(raised(clip(&[float("min", f32::MIN), float("max", f32::MAX)]), 13), "y = Clip(x)");
    let mut model = clip(&both);
    let x = model.graph.inputs()[0];
    model.graph.value_mut(x).ty = Some(TensorType::fixed(DataType::Float16, &[2]));
    assert_eq!(raised(model, 13), "y = Clip(x, float16[0.0], float16[6.0])");
}

#[test]
fn clip_finds_its_type_through_ops_without_declared_types_or_refuses() {
    let chain = |first: &str| {
        let nodes = [node(first, &["x"], &["t"], &[]), node("Clip", &["t"], &["y"], &[float("min", 0.0)])];
        model_of(9, graph(&[("x", &[2])], &[], &nodes))
    };
    assert_eq!(raised(chain("Relu"), 13), "t = Relu(x)\ny = Clip(t, float[0.0])");
    assert!(refused(chain("Mystery"), 13).ends_with("the element type of `t` is not known"));
}

#[test]
fn slice_top_k_and_pad() {
    let slice = unary("Slice", &[ints("starts", &[1]), ints("ends", &[-1]), ints("axes", &[2])]);
    let after = "y = Slice(x, int64[1][1.0], int64[1][-1.0], int64[1][2.0])";
    assert_eq!(raised(one(9, &[2, 3, 4], slice), 13), after);
    let slice = unary("Slice", &[ints("starts", &[1]), ints("ends", &[3])]);
    assert_eq!(raised(one(9, &[2, 3, 4], slice), 13), "y = Slice(x, int64[1][1.0], int64[1][3.0])");
    assert!(refused(one(9, &[2], unary("Slice", &[])), 13).ends_with("its attribute `starts` is missing"));

    let top_k = node("TopK", &["x"], &["v", "i"], &[int("k", 2), int("axis", 0)]);
    assert_eq!(raised(one(7, &[4], top_k), 13), "v, i = TopK<axis=0>(x, int64[1][2.0])");
    let already =
        with(10, &[4], &[("k", Tensor::from_vec(&[1], vec![2i64]))], node("TopK", &["x", "k"], &["v", "i"], &[]));
    assert_eq!(raised(already, 13), "v, i = TopK(x, int64[1][2.0])");

    let pad = |attributes: &[AttributeProto]| {
        let mut all = vec![ints("pads", &[1, 2])];
        all.extend_from_slice(attributes);
        one(7, &[4], unary("Pad", &all))
    };
    assert_eq!(raised(pad(&[float("value", 0.0)]), 18), "y = Pad(x, int64[2][1.0, 2.0])");
    assert_eq!(raised(pad(&[float("value", 1.5)]), 18), "y = Pad(x, int64[2][1.0, 2.0], float[1.5])");
    let reflect = "y = Pad<mode=reflect>(x, int64[2][1.0, 2.0])";
    assert_eq!(raised(pad(&[float("value", 1.5), string("mode", "reflect")]), 18), reflect);
}

#[test]
fn dropout_keeps_its_ratio_and_loses_an_unused_mask() {
    let dropout = |opset, use_mask: bool| {
        let mut nodes = vec![node("Dropout", &["x"], &["t", "mask"], &[float("ratio", 0.25)])];
        nodes.push(node("Add", &["t", if use_mask { "mask" } else { "t" }], &["y"], &[]));
        model_of(opset, graph(&[("x", &[2])], &[], &nodes))
    };
    for opset in [7, 10] {
        assert_eq!(raised(dropout(opset, false), 13), "t = Dropout(x, float[0.25])\ny = Add(t, t)");
        assert!(refused(dropout(opset, true), 13).contains("`mask` is used"));
    }
    assert!(import(export(&dropout(7, false))).is_ok());
}

#[test]
fn axes_of_squeeze_unsqueeze_and_reductions() {
    for (op_type, before, after) in [("Squeeze", 11, 13), ("Unsqueeze", 11, 13), ("ReduceSum", 12, 13)] {
        let model = one(before, &[1, 2], unary(op_type, &[ints("axes", &[0])]));
        assert_eq!(raised(model, after), format!("y = {op_type}(x, int64[1][0.0])"));
    }
    let names = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"];
    for op_type in names.map(|name| format!("Reduce{name}")) {
        let model = || one(7, &[1, 2], unary(&op_type, &[ints("axes", &[-1]), int("keepdims", 0)]));
        assert_eq!(raised(model(), 17), format!("y = {op_type}<axes=[-1] keepdims=0>(x)"));
        assert_eq!(raised(model(), 18), format!("y = {op_type}<keepdims=0>(x, int64[1][-1.0])"));
        assert_eq!(raised(one(7, &[1, 2], unary(&op_type, &[ints("axes", &[])])), 18), format!("y = {op_type}(x)"));
    }
    assert_eq!(raised(one(11, &[1, 2], unary("Squeeze", &[])), 13), "y = Squeeze(x)");
    assert!(refused(one(11, &[1, 2], unary("Unsqueeze", &[])), 13).ends_with("its attribute `axes` is missing"));
}

#[test]
fn split_says_how_many_parts() {
    let split = |attributes: &[AttributeProto]| one(11, &[4], node("Split", &["x"], &["a", "b"], attributes));
    assert_eq!(raised(split(&[ints("split", &[1, 3])]), 18), "a, b = Split(x, int64[2][1.0, 3.0])");
    assert_eq!(raised(split(&[]), 17), "a, b = Split(x)");
    assert_eq!(raised(split(&[]), 18), "a, b = Split<num_outputs=2>(x)");
}

#[test]
fn dft_spells_out_the_axis() {
    assert_eq!(raised(one(17, &[1, 8, 1], unary("DFT", &[])), 20), "y = DFT(x, -, int64[1.0])");
    let axis = unary("DFT", &[int("axis", 2), int("inverse", 1)]);
    assert_eq!(raised(one(17, &[1, 8, 8, 2], axis), 20), "y = DFT<inverse=1>(x, -, int64[2.0])");
}

#[test]
fn upsample_becomes_a_resize_that_rounds_down() {
    let after = "coordinate_transformation_mode=asymmetric nearest_mode=floor";
    let upsample = unary("Upsample", &[floats("scales", &[1.0, 2.0])]);
    let text = raised(one(7, &[2, 3], upsample), 13);
    assert_eq!(text, format!("y = Resize<{after}>(x, -, float[2][1.0, 2.0])"));
    let upsample = node("Upsample", &["x", "s"], &["y"], &[string("mode", "linear")]);
    let text = raised(with(9, &[2, 3], &[("s", f32s(&[1.0, 2.0]))], upsample), 13);
    let after = "mode=linear coordinate_transformation_mode=asymmetric";
    assert_eq!(text, format!("y = Resize<{after}>(x, -, float[2][1.0, 2.0])"));
}

#[test]
fn resize_10_rounds_as_its_scales_demand() {
    let resize = |scales: &[f32], mode: &str| {
        let node = node("Resize", &["x", "s"], &["y"], &[string("mode", mode)]);
        with(10, &[2, 3], &[("s", f32s(scales))], node)
    };
    assert!(raised(resize(&[1.0, 2.0], "nearest"), 13).contains("nearest_mode=floor"));
    assert!(raised(resize(&[0.5, 1.0], "nearest"), 13).contains("nearest_mode=ceil"));
    assert!(refused(resize(&[0.5, 2.0], "nearest"), 13).contains("grows one axis and shrinks another"));
    assert!(!raised(resize(&[0.5, 2.0], "linear"), 13).contains("nearest_mode"));
    assert!(refused(resize(&[0.5, 2.0], "cubic"), 13).contains("`mode` = `cubic`"));
    let measured = graph(&[("x", &[2, 3]), ("s", &[2])], &[], &[node("Resize", &["x", "s"], &["y"], &[])]);
    assert!(refused(model_of(10, measured), 13).contains("`s` is not constant"));
}

#[test]
fn resize_11_leaves_out_what_is_empty() {
    let sizes = Tensor::from_vec(&[2], vec![4i64, 6]);
    let node = node("Resize", &["x", "e", "e", "z"], &["y"], &[]);
    let mut model = with(11, &[2, 3], &[("e", f32s(&[])), ("z", sizes)], node);
    raise(&mut model, 13).unwrap();
    assert_eq!(show(&model.graph), "y = Resize(x, -, -, int64[2][4.0, 6.0])");
    assert!(model.graph.find("e").is_none(), "nothing uses the empty tensor any more");
}

#[test]
fn softmax_over_the_last_axis_stays_one_op() {
    for op_type in ["Softmax", "LogSoftmax", "Hardmax"] {
        let after = format!("y = {op_type}<axis=-1>(x)");
        assert_eq!(raised(one(11, &[2, 3], unary(op_type, &[])), 13), after);
        assert_eq!(raised(one(11, &[2, 3, 4], unary(op_type, &[int("axis", 2)])), 13), after);
        assert_eq!(raised(one(11, &[2, 3, 4], unary(op_type, &[int("axis", -1)])), 13), after);
    }
    let ones = "y = Softmax<axis=1>(x)";
    assert_eq!(raised(one(11, &[2, 3, 1, 1], unary("Softmax", &[])), 13), ones, "what follows has length 1");
    assert!(refused(one(11, &[2], unary("Softmax", &[])), 13).ends_with("`axis` = 1 is out of range for rank 1"));
}

#[test]
fn softmax_over_several_axes_goes_through_two_dimensions() {
    let softmax = || unary("Softmax", &[]);
    let flat = "x_flat = Flatten<axis=1>(x)\nx_soft = Softmax<axis=-1>(x_flat)";
    let constant = format!("{flat}\ny = Reshape(x_soft, int64[3][2.0, 3.0, 4.0])");
    assert_eq!(raised(one(11, &[2, 3, 4], softmax()), 13), constant);

    let declared = |shape: Option<Vec<Dim>>| {
        let mut proto = export(&one(11, &[2, 3, 4], softmax()));
        let ty = TensorType { dtype: DataType::Float, shape };
        proto.graph.as_mut().unwrap().input[0] = crate::patch::declaration("x", &ty);
        import(proto).unwrap()
    };
    let batch = Some(vec![Dim::Symbol("n".to_owned()), Dim::Known(3), Dim::Known(4)]);
    assert!(raised(declared(batch), 13).ends_with("y = Reshape(x_soft, int64[3][-1.0, 3.0, 4.0])"));
    let measured = format!("x_shape = Shape(x)\n{flat}\ny = Reshape(x_soft, x_shape)");
    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for shape in [None, Some(vec![Dim::Unknown, Dim::Known(3), Dim::Unknown])] {
        assert_eq!(lines(&raised(declared(shape), 13)), lines(&measured));
    }
}

#[test]
fn batch_normalization_of_training_is_refused() {
    let inputs = ["x", "a", "a", "a", "a"];
    let norm = |outputs: &[&str], attributes: &[AttributeProto]| {
        with(7, &[1, 1], &[("a", f32s(&[1.0]))], node("BatchNormalization", &inputs, outputs, attributes))
    };
    let text = raised(norm(&["y"], &[int("spatial", 1), float("epsilon", 0.5)]), 15);
    assert!(text.starts_with("y = BatchNormalization<epsilon=0.5>(x, "), "{text}");
    assert!(refused(norm(&["y", "m", "v"], &[]), 14).contains("more outputs than one"));
}

#[test]
fn group_normalization_repeats_scale_and_bias() {
    let norm = |dims: &[usize], scale: Tensor| {
        let node = node("GroupNormalization", &["x", "s", "b"], &["y"], &[int("num_groups", 2)]);
        with(18, dims, &[("s", scale), ("b", f32s(&[3.0, 4.0]))], node)
    };
    let after = "y = GroupNormalization<num_groups=2>(x, float[4][1.0, 1.0, 2.0, 2.0], float[4][3.0, 3.0, 4.0, 4.0])";
    assert_eq!(raised(norm(&[1, 4, 2], f32s(&[1.0, 2.0])), 21), after);
    assert!(refused(norm(&[1, 5, 2], f32s(&[1.0, 2.0])), 21).contains("5 channels are no 2 equal groups"));
    assert!(refused(norm(&[1, 4, 2], f32s(&[1.0])), 21).contains("`s` does not hold one number for each group"));
    let mut model = norm(&[1, 4, 2], f32s(&[1.0, 2.0]));
    let x = model.graph.inputs()[0];
    model.graph.value_mut(x).ty = Some(TensorType::fixed(DataType::Double, &[1, 4, 2]));
    assert!(raised(model, 21).contains("stash_type=11"), "it goes on calculating in f64");
    let mut model = norm(&[1, 4, 2], f32s(&[1.0, 2.0]));
    let x = model.graph.inputs()[0];
    model.graph.value_mut(x).ty = Some(TensorType::fixed(DataType::Float16, &[1, 4, 2]));
    assert_eq!(raised(model, 21), after, "f32, the default, is what engines calculate f16 in");
}

#[test]
fn renamed_ops_and_modes() {
    let index = Tensor::from_vec(&[1], vec![0i64]);
    let scatter = node("Scatter", &["x", "i", "x"], &["y"], &[int("axis", 0)]);
    let text = raised(with(9, &[1], &[("i", index)], scatter), 18);
    assert_eq!(text, "y = ScatterElements<axis=0>(x, int64[1][0.0], x)");
    let align = raised(one(10, &[1, 1, 2, 2], unary("RoiAlign", &[])), 16);
    assert_eq!(align, "y = RoiAlign<coordinate_transformation_mode=output_half_pixel>(x)");
    for (before, after) in [("bilinear", "linear"), ("bicubic", "cubic"), ("nearest", "nearest")] {
        let model = one(16, &[1, 1, 2, 2], unary("GridSample", &[string("mode", before)]));
        assert_eq!(raised(model, 20), format!("y = GridSample<mode={after}>(x)"));
    }
    assert_eq!(raised(one(16, &[1, 1, 2, 2], unary("GridSample", &[])), 20), "y = GridSample<mode=linear>(x)");
}

#[test]
fn ops_that_left_onnx_are_refused_by_name() {
    let names = [
        "ATen",
        "Affine",
        "ConstantFill",
        "Crop",
        "DynamicSlice",
        "GRUUnit",
        "GivenTensorFill",
        "ImageScaler",
        "MeanVarianceNormalization",
        "ParametricSoftplus",
        "Scale",
        "ScaledTanh",
    ];
    for op_type in names {
        let sentence = refused(one(7, &[1, 1, 2, 2], unary(op_type, &[])), 13);
        assert!(sentence.ends_with(&format!("{op_type} was an experimental op and left ONNX")), "{sentence}");
    }
    assert!(refused(one(8, &[1, 1, 2], unary("Scan", &[])), 13).contains("batch of sequences"));
}
