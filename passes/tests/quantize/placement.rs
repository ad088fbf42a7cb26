//! Traps that the placement stays out of, with shapes alone: no sample is run.
use std::collections::BTreeSet;

use onnx_shrink_ir::{DataType, Graph, infer};
use onnx_shrink_passes::{
    analysis::{
        place::{Costs, place},
        units::{Units, find_units},
    },
    calibration::collect::{Calibration, Observed},
    target::ORT_CPU,
};

use crate::{constant, parse};

/// A graph of float values of known shape, as if samples had shown numbers from -1 to 1.
struct Placed {
    graph: Graph,
    units: Units,
    costs: Costs,
}

fn placed(model: &str) -> Placed {
    let mut graph = parse(model).graph;
    infer::infer(&mut graph);
    let mut calibration = Calibration { samples: 1, ..Calibration::default() };
    for value in graph.values() {
        let Some(ty) = graph.ty(value).filter(|ty| ty.dtype == DataType::Float) else { continue };
        let Some(dims) = ty.dims().filter(|_| graph.constant(value).is_none()) else { continue };
        let mut seen = Observed { dims, ..Observed::default() };
        seen.histogram.add(&[-1.0, 1.0]);
        calibration.values.insert(value, seen);
    }
    let units = find_units(&graph, &calibration, &ORT_CPU);
    let costs = Costs::new(&graph, &units, &calibration);
    Placed { graph, units, costs }
}

impl Placed {
    fn unit(&self, value: &str) -> usize {
        let op = self.graph.producer(self.graph.find(value).expect(value)).expect("an op");
        self.units.of_op[&op]
    }

    /// Which of the units of `values` run in integers when those of `kept` must not.
    fn integer(&self, values: &[&str], kept: &[&str]) -> Vec<bool> {
        let kept: BTreeSet<usize> = kept.iter().map(|value| self.unit(value)).collect();
        let placement = place(&self.costs, &kept);
        values.iter().map(|value| placement.integer[self.unit(value)]).collect()
    }
}

fn wide(name: &str) -> String {
    constant(name, &[64, 64, 3, 3], 0.1)
}

#[test]
fn a_max_pool_and_its_neighbours_end_on_one_side() {
    let model = format!(
        "g (float[1,64,56,56] x) => (float[1,64,28,28] y) <{}, {}, {}, {}> {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w)  r = Relu (a)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        b = Conv <pads = [1, 1, 1, 1]> (p, v)  s = Relu (b)  c = Conv <pads = [1, 1, 1, 1]> (s, u)  t = Relu (c)
        y = Conv <pads = [1, 1, 1, 1]> (t, z) }}",
        wide("w"),
        wide("v"),
        wide("u"),
        wide("z")
    );
    let placed = placed(&model);
    let all = ["a", "p", "b", "c", "y"];
    assert_eq!(placed.integer(&all, &[]), [true; 5]);
    // Whoever of the three must be float, the other two are, too.
    for kept in ["a", "p", "b"] {
        assert_eq!(placed.integer(&all, &[kept]), [false, false, false, true, true], "{kept} is kept");
    }
}

#[test]
fn what_reads_a_slow_op_between_integers_stays_float() {
    // The engine makes one op of a Pad and the pool behind it.
    let padded = "Pad (r, pads)  p = AveragePool <kernel_shape = [3, 3]> (o)";
    for slow in [
        "p = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r)",
        "p = Softmax (r)",
        &format!("o = {padded}"),
    ] {
        let model = format!(
            "g (float[1,64,56,56] x) => (float[1,64,56,56] y)
            <{}, {}, {}, int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}> {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w)  r = Relu (a)  {slow}
            b = Conv <pads = [1, 1, 1, 1]> (p, v)  s = Relu (b)  y = Conv <pads = [1, 1, 1, 1]> (s, u) }}",
            wide("w"),
            wide("v"),
            wide("u")
        );
        assert_eq!(placed(&model).integer(&["a", "b", "y"], &[]), [true, false, true], "{slow}");
    }
}

#[test]
fn a_stem_that_loses_stays_float() {
    let model = format!(
        "g (float[1,3,96,96] x) => (float[1,64,48,48] y) <{}, {}, {}, {}> {{
        a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, k)  r = Relu (a)  b = Conv <pads = [1, 1, 1, 1]> (r, w)
        s = Relu (b)  c = Conv <pads = [1, 1, 1, 1]> (s, v)  t = Relu (c)  y = Conv <pads = [1, 1, 1, 1]> (t, u) }}",
        constant("k", &[64, 3, 3, 3], 0.1),
        wide("w"),
        wide("v"),
        wide("u")
    );
    assert_eq!(placed(&model).integer(&["b", "c", "y"], &["a"]), [true; 3]);
}
