use onnx_shrink_proto::schema::{AttributeProto, GraphProto};

use super::{ParseError, Print, parse_graph, parse_model, print_graph, print_model};
use crate::{
    DataType, Graph, Tensor, export,
    testing::{self, parse, textual},
};

/// The text prints as it stands here, but for spaces.
#[track_caller]
fn check_same(text: &str) {
    let squeeze =
        |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace("< ", "<").replace(" >", ">");
    let model = parse(text);
    let printed = if text.trim_start().starts_with('<') { print_model(&model) } else { print_graph(&model.graph) };
    assert_eq!(squeeze(&printed), squeeze(text));
}

#[track_caller]
fn constant(graph: &Graph, name: &str) -> Tensor {
    let value = graph.find(name).unwrap_or_else(|| panic!("no value `{name}`"));
    graph.constant(value).unwrap_or_else(|| panic!("`{name}` is no constant")).clone()
}

#[track_caller]
fn attribute(text: &str) -> AttributeProto {
    let model = parse(&format!("g (float x) => (float y) {{ y = Op <{text}> (x) }}"));
    let op = model.graph.ops()[0];
    model.graph.op(op).attributes()[0].clone()
}

#[track_caller]
fn error(text: &str) -> String {
    match parse_graph(text, 17) {
        Ok(_) => panic!("it parses"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_graph_prints_as_it_was_written() {
    check_same(
        "g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[1,1,1,1] w = {2}, float[2] s = {1.5, -2e-7}, float[1,1,2,2] t> {
           t = Conv (x, w)
           [last] y = Relu <alpha = 0.5, axes = [1, -2], mode = \"a \\\"b\\\" \\\\\", scale = 1.0> (t)
         }",
    );
}

#[test]
fn a_model_prints_as_it_was_written() {
    check_same(
        "<ir_version: 8, opset_import: [\"\" : 17, \"com.microsoft\" : 1], producer_name: \"me\", model_version: 3,
          metadata_props: [\"a\": \"b\", \"c\": \"\"]>
         g (float[N,?,\"2*N\"] x, float[] r, float s) => (float[] y) {
           y, z = com.microsoft.QGemm (x, r, \"\", s)
         }",
    );
}

#[test]
fn types_that_are_not_tensors_print_as_they_were_written() {
    check_same(
        "g (seq(float[]) a, optional(seq(int64[N])) b, map(int64, float) c, sparse_tensor(float[3,4]) d, opaque(x.y, z) e) => (seq(float) y) {
           y = Op (a, b, c, d, e)
         }",
    );
}

#[test]
fn names_that_are_no_identifiers_are_quoted() {
    check_same(
        "\"main/graph\" (float \"a/b:0\", float \"float\") => (float \"y.1\") <float \"2\" = {1}> {
           [\"n 1\"] \"y.1\" = \"my-domain\".\"Op-2\" <\"at-tr\" = 1> (\"a/b:0\", \"float\", \"2\")
         }",
    );
}

#[test]
fn bodies_print_as_they_were_written_and_capture() {
    let text = "g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
           y = If (c) <then_branch = g1 () => (float[2] t) { t = Add (x, w) }, else_branch = g2 () => (float[2] e) <float k = {3}> {
               e = Mul (x, k)
             }>
         }";
    check_same(text);
    let graph = parse(text).graph;
    assert_eq!(graph.captures(graph.ops()[0]).len(), 3);
}

#[test]
fn attributes_may_stand_before_or_after_the_inputs() {
    let before = parse("g (float x) => (float y) { y = Elu <alpha = 2.0> (x) }");
    let after = parse("g (float x) => (float y) { y = Elu (x) <alpha: float = 2> }");
    testing::assert_same_graph(&before, &after);
}

#[test]
fn inputs_are_left_out_by_nothing_or_an_empty_string() {
    let inputs = |text: &str| {
        let graph = parse(&format!("g (float x, float m) => (float y) {{ y = Clip ({text}) }}")).graph;
        graph
            .op(graph.ops()[0])
            .inputs()
            .iter()
            .map(|input| input.map(|value| graph.name_of(value).to_owned()))
            .collect::<Vec<_>>()
    };
    let expected: Vec<Option<String>> = vec![Some("x".into()), None, Some("m".into())];
    assert_eq!(inputs("x, , m"), expected);
    assert_eq!(inputs("x, \"\", m"), expected);
    assert_eq!(inputs("x,"), expected[..1]);
    assert!(inputs("").is_empty());
}

#[test]
fn an_input_with_data_has_a_default() {
    let graph = parse("g (float x, float[2] w = {1, 2}) => (float[2] y) { y = Add (x, w) }").graph;
    let w = graph.find("w").unwrap();
    assert!(graph.is_input(w) && graph.constant(w).is_none() && graph.default_of(w).is_some());
}

#[test]
fn comments_go_to_the_end_of_the_line() {
    let graph = parse("# one { \"\ng (float x) => (float y) # two\n{ y = Relu (x) # } three\n}# four").graph;
    assert_eq!(graph.op_count(), 1);
}

#[test]
fn initializers_of_every_type_keep_their_bits() {
    let text = "g () => (float y) <
        float f = {-0}, double d = {1e300}, float16[3] h = {1.0, 15360, 65520.0}, bfloat16[2] b = {1.00390625, 16256},
        int8[2] i8 = {-128, 127}, uint8 u8 = {255}, int16 i16 = {-2}, uint16 u16 = {65535}, int32 i32 = {-7}, uint32 u32 = {4294967295},
        int64 i64 = {-9223372036854775808}, uint64 u64 = {18446744073709551615}, bool[2] o = {0, 1}, string[2] s = {\"a\\\"\", \"\"},
        int4[3] i4 = {-8, 7, 1}, uint4[2] u4 = {1, 15}, uint2[5] u2 = {0, 1, 2, 3, 1}, int2[2] i2 = {-2, 1},
        float8e4m3fn[2] f8 = {1, 255}, complex64 c = {1, 2}, float[0,3] none = {}, float6e2m3[4] f6 = {1, 2, 3, 63},
        float[3] special = {nan, -inf, Infinity}
      > { y = Identity (f) }";
    let graph = parse(text).graph;
    let bytes = |name| constant(&graph, name).bytes().unwrap().to_vec();
    assert_eq!(bytes("f"), (-0f32).to_le_bytes());
    assert_eq!(bytes("d"), 1e300f64.to_le_bytes());
    assert_eq!(bytes("h"), [0, 0x3c, 0, 0x3c, 0, 0x7c], "1, the pattern of 1, and what rounds to infinity");
    assert_eq!(bytes("b"), [0x80, 0x3f, 0x80, 0x3f], "a tie goes to even");
    assert_eq!(bytes("i8"), [0x80, 0x7f]);
    assert_eq!(bytes("i64"), i64::MIN.to_le_bytes());
    assert_eq!(bytes("u64"), [0xff; 8]);
    assert_eq!(bytes("i4"), [0x78, 0x01]);
    assert_eq!(bytes("u2"), [0b1110_0100, 0b01]);
    assert_eq!(bytes("f6"), [0x81, 0x30, 0xfc]);
    assert_eq!(constant(&graph, "s").as_strings().unwrap()[0], "a\"");
    assert_eq!(constant(&graph, "none").dims(), [0, 3]);
    assert!(constant(&graph, "special").to_f64_vec().unwrap()[0].is_nan());
    let again = parse(&print_graph(&graph)).graph;
    for name in graph.values().into_iter().map(|value| graph.name_of(value)).filter(|name| *name != "y") {
        assert_eq!(constant(&again, name), constant(&graph, name), "{name}");
    }
}

#[test]
fn every_type_has_literals() {
    for &dtype in DataType::ALL {
        let values = if dtype == DataType::String { "\"a\", \"b\"" } else { "0, 1" };
        let dims = if matches!(dtype, DataType::Complex64 | DataType::Complex128) { "" } else { "[2]" };
        let graph = parse(&format!("g () => (float y) <{dtype}{dims} w = {{{values}}}> {{ y = Op (w) }}")).graph;
        let again = parse(&print_graph(&graph)).graph;
        assert_eq!(constant(&graph, "w"), constant(&again, "w"));
        assert_eq!(constant(&graph, "w").dtype(), dtype);
    }
}

#[test]
fn attributes_have_the_type_of_their_literals() {
    assert_eq!(attribute("a = 3").i, Some(3));
    assert_eq!(attribute("a : float = 3").f, Some(3.0));
    assert_eq!(attribute("a = -1.5e2").f, Some(-150.0));
    assert_eq!(attribute("a = inf").f, Some(f32::INFINITY));
    assert_eq!(attribute("a = [1.0, 2]").floats, [1.0, 2.0]);
    assert_eq!(attribute("a : floats = [1, 2]").floats, [1.0, 2.0]);
    assert_eq!(attribute("a = [\"x\", \"y\"]").strings.len(), 2);
    assert_eq!(attribute("a : ints = []").r#type, Some(7));
    let tensor = attribute("a = float[2] {1, 2}").t.unwrap();
    assert_eq!((tensor.dims, tensor.name), (vec![2], None));
    assert_eq!(attribute("a = int64 c = {7}").t.unwrap().name(), "c");
    assert_eq!(attribute("a = [float {1}, int8[1] {2}]").tensors.len(), 2);
    assert!(attribute("a = seq(float[N])").tp.is_some());
    let reference = attribute("a : int = @b");
    assert_eq!((reference.ref_attr_name(), reference.r#type), ("b", Some(2)));
}

#[test]
fn every_attribute_type_prints_as_it_was_written() {
    check_same(
        "g (float x) => (float y) {
           y = Op <a = 1, b = 1.0, c = \"s\", d = [1, 2], e = [1e-5, nan], f = [\"\"], g = float[1] {1}, h = int64 n {-1}, i: ints = [],
             j: float = @k, l = seq(float[N]), m = [float {1}, bool {0}], n = [float, int64[]], o: floats = []> (x)
         }",
    );
}

#[test]
fn foreign_domains_are_imported() {
    let model = parse_graph("g (float x) => (float y) { y = com.microsoft.Gelu (x) }", 20).unwrap();
    assert_eq!((model.opset(), model.import_of("com.microsoft")), (20, Some(1)));
}

#[test]
fn a_short_print_leaves_values_out_and_is_not_read() {
    let graph =
        parse("g (float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}, float[2] v = {1, 2}> { y = Op (x, w, v) }")
            .graph;
    let short = Print { max_elements: Some(2) }.graph(&graph);
    assert!(short.contains("float[3] w = {…}") && short.contains("v = {1, 2}"), "{short}");
    assert!(error(&short).contains("left out"), "{}", error(&short));
}

#[test]
fn errors_name_the_place_and_what_was_expected() {
    for (text, expected) in [
        ("", "line 1, column 1: expected the name of a graph, found the end of the text"),
        ("g (float x) = (float y) {}", "line 1, column 13: expected `=>`, found `=`"),
        ("g (float x) => (float y)\n  { y = Relu x) }", "line 2, column 14: expected `(`, found `x`"),
        (
            "g () => (float y) <float[2] w = {1}> {}",
            "line 1, column 35: expected 2 values for float[2], of which 1 are there, found `}`",
        ),
        (
            "g () => (float y) <float[2] w = {1, 2, 3}> {}",
            "line 1, column 40: expected `}`: float[2] has 2 values, found `3`",
        ),
        (
            "g () => (float y) <int8 w = {128}> {}",
            "line 1, column 30: expected an integer from -128 to 127, found `128`",
        ),
        (
            "g () => (float y) <int8 w = {1.5}> {}",
            "line 1, column 30: expected an integer from -128 to 127, found `1.5`",
        ),
        ("g () => (float y) <bool w = {2}> {}", "line 1, column 30: expected 0 or 1, found `2`"),
        ("g () => (float y) <float w = {x}> {}", "line 1, column 31: expected a number, found `x`"),
        (
            "g () => (float y) <float[N] w = {1}> {}",
            "line 1, column 20: expected a tensor type whose dimensions are numbers, for a value with data, found dimension `N`",
        ),
        (
            "g () => (float y) <float[] w = {1}> {}",
            "line 1, column 20: expected a tensor type whose dimensions are numbers, for a value with data, found an unknown rank",
        ),
        ("g (float ü) => () {}", "line 1, column 10: expected the name of a value, found `ü`"),
        (
            "g (float x) => () { = Op <a = \"b> (x) }",
            "line 1, column 31: expected a closing `\"` for the string that begins here, found the end of the text",
        ),
        (
            "g (float x) => () { = Op <a = [1, \"b\"]> (x) }",
            "line 1, column 35: expected another value of type INT, found STRING",
        ),
        (
            "g (float x) => () { = Op <a : int = 1.5> (x) }",
            "line 1, column 37: expected a value of type INT, found FLOAT",
        ),
        (
            "g (float x) => () { = Op <a = []> (x) }",
            "line 1, column 32: expected a value (an empty list needs its type: `name: ints = []`), found `]`",
        ),
        ("g (float x) => () {} h", "line 1, column 22: expected the end of the text, found `h`"),
        ("g (float x) => () { = Op <a = -b> (x) }", "line 1, column 31: expected a number, found `-b`"),
        (
            "g () => () <float[1] w = [\"location\": \"f\"]> {}",
            "line 1, column 26: expected values in braces (external data is not read from text), found `[`",
        ),
        (
            "g () => () <float[99999999999,99999999999] w = {}> {}",
            "line 1, column 13: expected a tensor type whose dimensions are numbers, for a value with data, found more elements than memory has",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn functions_are_refused_by_name() {
    let text = "<ir_version: 8, opset_import: [\"\" : 17]> g (float x) => (float y) { y = f.F (x) } <domain: \"f\"> F (x) => (y) { y = Relu (x) }";
    let error = parse_model(text).unwrap_err();
    assert!(error.to_string().contains("functions are not read from text"), "{error}");
    let error = parse_model("<ir_versoin: 8> g () => () {}").unwrap_err().to_string();
    assert!(error.starts_with("line 1, column 2: expected ir_version, opset_import"), "{error}");
}

#[test]
fn values_that_nothing_makes_are_an_error_of_import() {
    let error = parse_graph("g (float x) => (float y) { y = Add (x, w) }", 17).unwrap_err();
    assert!(matches!(error, ParseError::Import(_)) && error.to_string().contains("`w`"), "{error}");
    assert_eq!(error.position(), None);
}

#[test]
fn a_rendered_error_marks_its_place() {
    let error = parse_graph("g (float x) =>\n (float y { }", 17).unwrap_err();
    assert!(error.render().ends_with("\n   (float y { }\n            ^"), "{}", error.render());
}

#[test]
fn nesting_is_limited() {
    let types = |depth| format!("g ({}float{} x) => () {{}}", "seq(".repeat(depth), ")".repeat(depth));
    assert!(parse_graph(&types(31), 17).is_ok());
    assert!(error(&types(40)).contains("less nesting"));
    let bodies = "t = If (x) <then_branch = b () => (float t) { ".repeat(1000);
    assert!(error(&format!("g (bool x) => (float t) {{ {bodies}")).contains("less nesting"));
}

#[test]
fn sparse_initializers_print_but_are_not_read() {
    use onnx_shrink_proto::schema::{ModelProto, SparseTensorProto, TensorProto};
    let values = TensorProto { name: Some("w".into()), data_type: Some(1), dims: vec![1], ..TensorProto::default() };
    let sparse = SparseTensorProto { values: Some(values), indices: None, dims: vec![3, 4] };
    let graph = GraphProto { sparse_initializer: vec![sparse], ..GraphProto::default() };
    let model = crate::import(ModelProto { graph: Some(graph), ..ModelProto::default() }).unwrap();
    let text = print_graph(&model.graph);
    assert!(text.contains("sparse_tensor(float[3,4]) w = {…}"), "{text}");
    assert!(parse_graph(&text, 17).is_err());
}

#[test]
fn printed_models_parse_to_the_same_message() {
    let text = "<ir_version: 7, opset_import: [\"\" : 13]> g (float[2] x) => (float[2] y) <float[2] w = {0.1, 1e-45}> { y = Add (x, w) }";
    let model = parse(text);
    let again = parse(&print_model(&model));
    assert_eq!(textual(export(&model)), textual(export(&again)));
}
