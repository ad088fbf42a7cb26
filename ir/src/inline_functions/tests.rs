use onnx_shrink_proto::schema::{AttributeProto, FunctionProto, GraphProto, ModelProto, OperatorSetIdProto};

use super::inline_functions;
use crate::{
    Model, attributes, export, import,
    testing::{assert_same_graph, parse},
};

/// A function of the domain `own` whose body is this graph.
fn function(name: &str, opset: i64, body: &str) -> FunctionProto {
    let header = format!("<ir_version: 8, opset_import: [\"\" : {opset}, \"own\" : 1]>");
    let GraphProto { node, input, output, .. } = export(&parse(&format!("{header} {body}"))).graph.unwrap();
    let names = |infos: Vec<onnx_shrink_proto::schema::ValueInfoProto>| {
        infos.into_iter().map(|info| info.name.unwrap()).collect()
    };
    let import = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("own".to_owned()),
        input: names(input),
        output: names(output),
        node,
        opset_import: vec![import("", opset), import("own", 1)],
        ..FunctionProto::default()
    }
}

fn with(graph: &str, functions: Vec<FunctionProto>) -> ModelProto {
    let model = parse(&format!("<ir_version: 8, opset_import: [\"\" : 17, \"own\" : 1]> {graph}"));
    ModelProto { functions, ..export(&model) }
}

/// The graph of the model after inlining is `expected`, and no function is left.
#[track_caller]
fn check(graph: &str, functions: Vec<FunctionProto>, expected: &str) {
    let inlined = inline_functions(&with(graph, functions)).unwrap();
    assert!(inlined.kept.is_empty() && inlined.model.functions.is_empty(), "{:?}", inlined.kept);
    let wanted = parse(&format!("<ir_version: 8, opset_import: [\"\" : 17, \"own\" : 1]> {expected}"));
    assert_same_graph(&import(inlined.model).unwrap(), &wanted);
}

/// The only call stays, and why.
#[track_caller]
fn kept(graph: &str, functions: Vec<FunctionProto>) -> String {
    let model = with(graph, functions);
    let inlined = inline_functions(&model).unwrap();
    assert_eq!((inlined.calls, &inlined.model), (0, &model));
    inlined.kept.into_values().next().unwrap()
}

#[test]
fn each_call_has_its_own_values_and_nested_calls_are_inlined_too() {
    let double = function("Double", 17, "f (float[2] x) => (float[2] y) { y = Add (x, x) }");
    let body = "f (float[2] a, float[2] b) => (float[2] y) { t = own.Double (a)  [n] u = Mul (t, b)  y = Neg (u) }";
    check(
        "g (float[2] x, float[2] z) => (float[2] y) { p = own.Outer (x, z)  [two] y = own.Outer (p, x) }",
        vec![double, function("Outer", 17, body)],
        "g (float[2] x, float[2] z) => (float[2] y) {
           \"p/t\" = Add (x, x)  [\"p/n\"] \"p/u\" = Mul (\"p/t\", z)  p = Neg (\"p/u\")
           \"two/t\" = Add (p, p)  [\"two/n\"] \"two/u\" = Mul (\"two/t\", x)  y = Neg (\"two/u\") }",
    );
}

#[test]
fn attribute_references_take_the_calls_attribute_or_the_default_or_are_left_out() {
    let body = "f (float[2] x) => (float[2] y) { t = LeakyRelu <alpha : float = @slope> (x)  y = Softmax <axis : int = @dim> (t) }";
    let mut leaky = function("Leaky", 17, body);
    leaky.attribute = vec!["dim".to_owned()];
    leaky.attribute_proto = vec![attributes::float("slope", 0.5)];
    check(
        "g (float[2] x) => (float[2] y) { p = own.Leaky (x)  y = own.Leaky <slope = 0.25, dim = 0> (p) }",
        vec![leaky.clone()],
        "g (float[2] x) => (float[2] y) {
           \"p/t\" = LeakyRelu <alpha = 0.5> (x)  p = Softmax (\"p/t\")
           \"y/t\" = LeakyRelu <alpha = 0.25> (p)  y = Softmax <axis = 0> (\"y/t\") }",
    );
    let reason = kept("g (float[2] x) => (float[2] y) { y = own.Leaky <slope = 1> (x) }", vec![leaky]);
    assert_eq!(reason, "its attribute `slope` is FLOAT, the call's is INT");
}

#[test]
fn inputs_and_outputs_that_a_call_leaves_out_are_left_out_inside() {
    let body = "f (float[2] x, float[2] low, float[2] high) => (float[2] y, float[2] z, float[2] same) {
        y = Clip (x, low, high)  z = Neg (y)  same = Identity (x) }";
    let mut clip = function("Clamp", 17, body);
    clip.output[2] = "x".to_owned();
    clip.node.pop();
    check(
        "g (float[2] x, float[2] top) => (float[2] y) { p, \"\", q = own.Clamp (x, \"\", top)  r = own.Clamp (p)  y = Add (q, r) }",
        vec![clip.clone()],
        "g (float[2] x, float[2] top) => (float[2] y) {
           p = Clip (x, \"\", top)  \"p/z\" = Neg (p)  q = Identity (x)
           r = Clip (p, \"\", \"\")  \"r/z\" = Neg (r)  y = Add (q, r) }",
    );
    let mut passed = clip;
    passed.output[2] = "low".to_owned();
    let reason = kept("g (float[2] x) => (float[2] y) { p, q, y = own.Clamp (x) }", vec![passed]);
    assert_eq!(reason, "its output `low` is an input that the call leaves out");
}

#[test]
fn bodies_of_ops_have_names_of_their_own() {
    let body = "f (float[2] x, bool c) => (float[2] y) {
        a = Neg (x)
        y = If <then_branch = t () => (float[2] o) { b = Add (a, x)  o = own.Twice (b) },
                else_branch = e () => (float[2] o) <float[2] w = {1, 2}> { o = Mul (a, w) }> (c) }";
    let twice = function("Twice", 17, "f (float[2] x) => (float[2] y) { y = Add (x, x) }");
    check(
        "g (float[2] x, bool c, float[2] \"y/o\") => (float[2] y) { y = own.Choose (x, c) }",
        vec![twice, function("Choose", 17, body)],
        "g (float[2] x, bool c, float[2] \"y/o\") => (float[2] y) {
           \"y/a\" = Neg (x)
           y = If <then_branch = t () => (float[2] \"y/o_1\") { \"y/b\" = Add (\"y/a\", x)  \"y/o_1\" = Add (\"y/b\", \"y/b\") },
                   else_branch = e () => (float[2] \"y/o_2\") <float[2] \"y/w\" = {1, 2}> { \"y/o_2\" = Mul (\"y/a\", \"y/w\") }> (c) }",
    );
}

#[test]
fn calls_in_bodies_of_the_model_are_inlined() {
    let twice = function("Twice", 17, "f (float[2] x) => (float[2] y) { t = Neg (x)  y = Add (t, x) }");
    check(
        "g (float[2] x, bool c) => (float[2] y) {
           y = If <then_branch = t () => (float[2] o) { o = own.Twice (x) },
                   else_branch = e () => (float[2] p) { p = own.Twice (x) }> (c) }",
        vec![twice],
        "g (float[2] x, bool c) => (float[2] y) {
           y = If <then_branch = t () => (float[2] o) { \"o/t\" = Neg (x)  o = Add (\"o/t\", x) },
                   else_branch = e () => (float[2] p) { \"p/t\" = Neg (x)  p = Add (\"p/t\", x) }> (c) }",
    );
}

#[test]
fn a_large_constant_is_one_initializer_for_all_calls() {
    let numbers = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16";
    let body = format!(
        "f (float[16] x) => (float[16] y) {{
           c = Constant <value = float[16] {{{numbers}}}> ()  s = Constant <value_float = 2.0> ()  t = Mul (x, s)  y = Add (t, c) }}"
    );
    check(
        "g (float[16] x) => (float[16] y) { p = own.Shift (x)  y = own.Shift (p) }",
        vec![function("Shift", 17, &body)],
        &format!(
            "g (float[16] x) => (float[16] y) <float[16] \"Shift/c\" = {{{numbers}}}> {{
               \"p/s\" = Constant <value_float = 2.0> ()  \"p/t\" = Mul (x, \"p/s\")  p = Add (\"p/t\", \"Shift/c\")
               \"y/s\" = Constant <value_float = 2.0> ()  \"y/t\" = Mul (p, \"y/s\")  y = Add (\"y/t\", \"Shift/c\") }}"
        ),
    );
}

#[test]
fn functions_of_another_opset_are_inlined_where_their_ops_mean_the_same() {
    let call = "g (float[2] x) => (float[2] y) { y = own.F (x) }";
    let body = "f (float[2] x) => (float[2] y) { y = Neg (x) }";
    check(call, vec![function("F", 14, body)], "g (float[2] x) => (float[2] y) { y = Neg (x) }");
    let reduce = "f (float[2] x) => (float[1] y) { y = ReduceMean (x) }";
    assert_eq!(
        kept(call, vec![function("F", 18, reduce)]),
        "its op ReduceMean is of opset 18 of ONNX, the model imports 17"
    );
    // What calls such a function stays, too.
    let outer = function("F", 17, "f (float[2] x) => (float[1] y) { y = own.G (x) }");
    let reason = kept(call, vec![outer, function("G", 18, reduce)]);
    assert!(reason.starts_with("it calls own.G: its op ReduceMean"), "{reason}");
}

#[test]
fn what_cannot_be_inlined_exactly_stays() {
    let call = "g (float[2] x) => (float[2] y) { y = own.F (x) }";
    let stray = function("F", 17, "f (float[2] x) => (float[2] y) { a = Neg (x)  y = Add (a, a) }");
    let mut reads = stray.clone();
    reads.node[1].input[1] = "gone".to_owned();
    assert_eq!(kept(call, vec![reads]), "it reads `gone`, which is no input of it, and no node of it makes");
    let mut twice = stray.clone();
    twice.node[0].output[0] = "y".to_owned();
    assert_eq!(kept(call, vec![twice]), "its value `y` is made more than once");
    let two = "g (float[2] x) => (float[2] y) { y = own.F (x, x) }";
    assert_eq!(kept(two, vec![stray.clone()]), "the call has more inputs or outputs than the function");
    let mut model = with(call, vec![stray]);
    let body = model.graph.clone().unwrap();
    model.graph.as_mut().unwrap().node[0].attribute = vec![AttributeProto {
        name: Some("body".to_owned()),
        r#type: Some(5),
        g: Some(Box::new(body)),
        ..AttributeProto::default()
    }];
    let inlined = inline_functions(&model).unwrap();
    assert_eq!(inlined.kept["own.F"], "attribute `body` of the call is a graph");
    assert_eq!(inlined.model.functions.len(), 1);
}

#[test]
fn functions_that_call_themselves_are_refused() {
    let call = "g (float[2] x) => (float[2] y) { y = own.F (x) }";
    let calls = |name: &str, other: &str| {
        function(name, 17, &format!("f (float[2] x) => (float[2] y) {{ y = own.{other} (x) }}"))
    };
    let import = |functions| import(with(call, functions)).map(|_: Model| ()).map_err(|error| error.to_string());
    assert_eq!(import(vec![calls("F", "Gone")]), Ok(()));
    let error = import(vec![calls("F", "G"), calls("G", "F")]).unwrap_err();
    assert!(error.contains("`own.F` calls itself"), "{error}");
}

#[test]
fn a_tree_of_calls_that_doubles_at_each_level_is_not_inlined() {
    let mut functions: Vec<FunctionProto> = (0..40)
        .map(|n| {
            let next = n + 1;
            let body = format!("f (float[2] x) => (float[2] y) {{ a = own.F{next} (x)  y = own.F{next} (a) }}");
            function(&format!("F{n}"), 17, &body)
        })
        .collect();
    functions.push(function("F40", 17, "f (float[2] x) => (float[2] y) { y = Neg (x) }"));
    let reason = kept("g (float[2] x) => (float[2] y) { y = own.F0 (x) }", functions);
    assert_eq!(reason, "the model would be too large with all its calls inlined");
}
