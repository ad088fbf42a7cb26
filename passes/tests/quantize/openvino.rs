//! What OpenVINO's CPU plugin runs slower or worse than one would think (`docs/engines.md` §10).
use onnx_shrink_ir::Op;
use onnx_shrink_passes::{
    analysis::place::{Costs, place},
    target::Target,
};

use crate::{Quantized, after, before, constant, numbers, only, ops, parameters, quantize_for, samples_of, sqnr};

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
    let graph = &made.after;
    let concat = only(graph, "Concat");
    let scales = [before(graph, concat, 0), before(graph, concat, 1)].map(parameters);
    assert_eq!(scales[0], scales[1], "one scale, so that integers pass");
    for (from, to) in [("Concat", "Reshape"), ("Reshape", "Transpose"), ("Transpose", "Gather"), ("Gather", "Conv")] {
        assert!(after(graph, only(graph, from))[0].is(to), "no pair between {from} and {to}");
    }
    assert!(sqnr(&made.before, graph, &samples_of(&made.before, 4)) > 25.0);
}

/// §10.3: with another pair behind it the pool's numbers are dequantized and quantized again where their zero point is not 0.
#[test]
fn what_moves_numbers_has_one_pair_before_it() {
    let model = format!(
        "g (float[1,3,8,8] x) => (float[1,4,4,4] y) <{}, {}> {{
        c = Conv (x, u)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)  y = Conv (p, v) }}",
        constant("u", &[4, 3, 1, 1], 1.0),
        constant("v", &[4, 4, 1, 1], 1.0),
    );
    let made = placed(&model);
    let pool = only(&made.after, "MaxPool");
    assert!(before(&made.after, pool, 0).is("DequantizeLinear"));
    assert!(after(&made.after, pool)[0].is("Conv"));
    let conv = ops(&made.after, "Conv")[1];
    let scale = |op: &Op, index: usize| numbers(&made.after, before(&made.after, op, index), 1);
    let product: Vec<f64> = scale(conv, 1).iter().map(|w| f64::from(*w as f32 * scale(pool, 0)[0] as f32)).collect();
    assert_eq!(scale(conv, 2), product, "the bias has the scale of what the pool reads");
}

/// What is joined at another scale is not moved: it is quantized anew.
#[test]
fn a_concat_of_unequal_scales_has_a_pair_behind_it() {
    let model = format!(
        "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <{}, {}, {}> {{
        a = Conv (x, u)  b = Conv (x, v)  c = Concat <axis = 1> (a, b)  y = Conv (c, w) }}",
        constant("u", &[2, 2, 1, 1], 1.0),
        constant("v", &[2, 2, 1, 1], 100.0),
        constant("w", &[2, 4, 1, 1], 1.0),
    );
    let made = placed(&model);
    assert!(after(&made.after, only(&made.after, "Concat"))[0].is("QuantizeLinear"));
}
