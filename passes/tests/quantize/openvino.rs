//! What OpenVINO's CPU plugin runs slower or worse than one would think (`docs/engines.md` §10).
use onnx_shrink_ir::Graph;
use onnx_shrink_passes::{
    quantize::place::{Costs, place},
    target::Target,
};

use crate::{Quantized, after, before, constant, only, ops, parameters, quantize_for};

fn row() -> &'static Target {
    Target::named("openvino").unwrap()
}

/// `model` with what the row's placement puts into integers.
fn placed(model: &str) -> Quantized {
    let all = quantize_for(row(), model, &[], None);
    let costs = Costs::new(&all.before, &all.units, &all.calibration);
    let integer = place(&costs, &Default::default()).integer;
    let name = |unit: usize| all.before.name_of(all.before.op(all.units.units[unit].op).output(0).unwrap()).to_owned();
    let float: Vec<String> = (0..integer.len()).filter(|unit| !integer[*unit]).map(name).collect();
    let float: Vec<&str> = float.iter().map(String::as_str).collect();
    quantize_for(row(), model, &float, None)
}

/// Whether the first input of the only op of this type comes out of a Dequantize, and its output goes into a Quantize.
fn between_pairs(graph: &Graph, op_type: &str) -> bool {
    let op = only(graph, op_type);
    before(graph, op, 0).is("DequantizeLinear") && after(graph, op)[0].is("QuantizeLinear")
}

/// §10.2: otherwise half of each block (Concat, Transpose, changes of layout) runs in float, with conversions at both ends.
#[test]
fn a_channel_shuffle_stays_in_integers_through_its_gather() {
    let model = format!(
        "g (float[1,4,6,6] x) => (float[1,2,6,6] y) <{}, {}, {}, int64[5] split = {{1, 2, 2, 6, 6}},
        int64 one = {{1}}> {{
        a = Conv (x, u)  p = Relu (a)  b = Conv (x, v)  q = Relu (b)
        c = Concat <axis = 1> (p, q)  r = Reshape (c, split)  t = Transpose <perm = [0, 2, 1, 3, 4]> (r)
        h = Gather <axis = 1> (t, one)  y = Conv (h, w) }}",
        constant("u", &[2, 4, 1, 1], 1.0),
        constant("v", &[2, 4, 1, 1], 1.0),
        constant("w", &[2, 2, 1, 1], 1.0),
    );
    let made = placed(&model);
    for op_type in ["Concat", "Reshape", "Transpose", "Gather"] {
        assert!(between_pairs(&made.after, op_type), "{op_type}");
    }
    let concat = parameters(after(&made.after, only(&made.after, "Concat"))[0]);
    let gather = parameters(after(&made.after, only(&made.after, "Gather"))[0]);
    assert_eq!(concat, gather, "what only moves numbers keeps their scale");
    let behind = before(&made.after, ops(&made.after, "Conv")[2], 0);
    assert!(behind.is("DequantizeLinear"));
}
