//! Random chains of layers, of arithmetic with constants, and of what both commute with: folding keeps the values.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
use onnx_shrink_ir::infer;
use onnx_shrink_passes::{
    Class, FoldArithmetic, Options, Pass, SimplifyIslands,
    testing::{assert_same_values, parse, run},
};

/// Numbers that depend on a seed alone.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }
}

/// A graph that is being written.
struct Writer {
    random: Random,
    constants: Vec<String>,
    body: String,
    count: usize,
}

impl Writer {
    fn constant(&mut self, dims: &[usize]) -> String {
        let name = format!("c{}", self.constants.len());
        let numbers: Vec<String> = (0..dims.iter().product())
            .map(|_| ["0.5", "-2", "3", "-0.75", "1.25"][self.random.below(5)].to_owned())
            .collect();
        let shape: Vec<String> = dims.iter().map(usize::to_string).collect();
        let ty = if dims.is_empty() { "float".to_owned() } else { format!("float[{}]", shape.join(",")) };
        self.constants.push(format!("{ty} {name} = {{{}}}", numbers.join(", ")));
        name
    }

    fn list(&mut self, list: &[usize]) -> String {
        let name = format!("c{}", self.constants.len());
        let numbers: Vec<String> = list.iter().map(usize::to_string).collect();
        self.constants.push(format!("int64[{}] {name} = {{{}}}", list.len(), numbers.join(", ")));
        name
    }

    fn op(&mut self, text: &str) -> String {
        self.count += 1;
        let name = format!("v{}", self.count);
        self.body += &format!("  {name} = {text}\n");
        name
    }

    /// A 1 × 1 convolution of `x`, of shape [2, channels, 4, 4].
    fn conv(&mut self, x: &str, channels: usize) -> String {
        let (weight, bias) = (self.constant(&[3, channels, 1, 1]), self.constant(&[3]));
        let bias = if self.random.below(2) == 0 { String::new() } else { format!(", {bias}") };
        self.op(&format!("Conv ({x}, {weight}{bias})"))
    }

    /// A constant that broadcasts against `dims`: one number, one along an axis, or all.
    fn operand(&mut self, dims: &[usize]) -> String {
        let axis = self.random.below(dims.len());
        let mut along = vec![1; dims.len()];
        along[axis] = dims[axis];
        let front = self.random.below(axis + 1);
        match self.random.below(8) {
            0 => self.constant(&[]),
            1 => self.constant(dims),
            _ => self.constant(&along[front..]),
        }
    }

    /// Arithmetic with a constant, on either side.
    fn arithmetic(&mut self, x: &str, dims: &[usize]) -> String {
        let constant = self.operand(dims);
        let op = ["Add", "Sub", "Mul", "Div"][self.random.below(4)];
        let left = op != "Div" && self.random.below(3) == 0;
        self.op(&if left { format!("{op} ({constant}, {x})") } else { format!("{op} ({x}, {constant})") })
    }

    fn step(&mut self, x: String, dims: &mut Vec<usize>) -> String {
        match self.random.below(10) {
            0 | 1 => {
                let mut perm: Vec<usize> = (0..dims.len()).collect();
                for place in 1..perm.len() {
                    perm.swap(place, self.random.below(place + 1));
                }
                *dims = perm.iter().map(|&axis| dims[axis]).collect();
                self.op(&format!("Transpose <perm = {perm:?}> ({x})"))
            }
            2 if dims.len() > 2 => {
                let place = self.random.below(dims.len() - 1);
                dims[place] *= dims.remove(place + 1);
                let shape = self.list(dims);
                self.op(&format!("Reshape ({x}, {shape})"))
            }
            3 => {
                let axis = self.random.below(dims.len() + 1);
                dims.insert(axis, 1);
                let axes = self.list(&[axis]);
                self.op(&format!("Unsqueeze ({x}, {axes})"))
            }
            4 if dims[..] == [2, 3, 4, 4] => {
                let other = self.conv("x", 3);
                dims[1] = 6;
                self.op(&format!("Concat <axis = 1> ({x}, {other})"))
            }
            5 if dims.len() == 4 => {
                dims[2..].fill(1);
                self.op(&format!("GlobalAveragePool ({x})"))
            }
            6 => self.op(&format!("Relu ({x})")),
            _ => self.arithmetic(&x, dims),
        }
    }
}

fn graph(seed: u64) -> String {
    let mut writer = Writer { random: Random(seed), constants: Vec::new(), body: String::new(), count: 0 };
    let mut dims = vec![2, 3, 4, 4];
    let mut x = writer.conv("x", 3);
    for _ in 0..8 {
        x = writer.step(x, &mut dims);
    }
    let (constants, body) = (writer.constants.join(", "), writer.body);
    format!("g (float[2,3,4,4] x) => (float[] {x}) <{constants}> {{\n{body}}}")
}

/// How many ops of 300 random graphs `pass` takes away.
fn gain(pass: &dyn Pass) -> usize {
    let mut gone = 0;
    for seed in 0..300 {
        let source = graph(seed);
        let mut original = parse(&source).graph;
        infer::infer(&mut original);
        let mut after = original.detached();
        run(pass, &mut after, Options::default());
        infer::infer(&mut after);
        assert_same_values(&original, &after, Class::Rounding);
        assert!(after.op_count() <= original.op_count(), "{source}");
        gone += original.op_count() - after.op_count();
    }
    gone
}

#[test]
fn maps_fold_through_what_commutes_with_them() {
    let gone = gain(&FoldArithmetic);
    assert!(gone > 300, "only {gone} ops went");
}

#[test]
fn constants_turn_with_transposes() {
    let gone = gain(&SimplifyIslands::exact());
    assert!(gone > 20, "only {gone} ops went");
}
