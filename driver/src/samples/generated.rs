//! Samples that are made up: for comparing two models when there are no real ones.
//!
//! Floats have both signs; of an input of four or more axes every other element of the batch is smooth and positive, as images are.
//! Whole numbers are what the model reads them as. The same on every call.
use std::sync::Arc;

use ndarray::{ArrayD, IxDyn};
use onnx_shrink_ir::{DataType, Dim, EvaluateError, Graph, Prepared, Tensor};

use super::{
    assignments::{Dimensions, Integers, MakeUp, Tried, ladders},
    error::{SampleError, SampleProblem},
    fit::Inputs,
    hints::{self, Numbers},
    list::Samples,
    raw::Raw,
    source::Source,
};

/// Multiply-adds and elements of a run above which no larger assignment is taken where a smaller one will do.
const MOST_WORK: u64 = 400_000_000;

/// The same of one with two in the batch: above, what is known of a batch of one has to do.
const MOST_OF_TWO: u64 = 5 * MOST_WORK;

/// The same where no smaller one does.
const MOST_SEARCHED: u64 = 10 * MOST_WORK;

/// Runs that look for assignments with which the model runs, at most, for each kind of whole numbers.
const MOST_TRIES: usize = 24;

/// An input as it is made up.
#[derive(Clone, Debug, PartialEq)]
struct Made {
    name: String,
    dtype: DataType,
    dims: Vec<usize>,
    numbers: Numbers,
}

/// One sample: which inputs, and with which numbers.
#[derive(Clone, Copy, Debug)]
struct Planned {
    kind: usize,
    seed: usize,
    /// What is smooth and what is special changes from one to the next
    turn: usize,
    /// By which floats are larger than the model tells
    factor: f64,
}

impl Planned {
    /// Sample `index` of those that take turns in `kinds`.
    fn in_turn(index: usize, kinds: usize) -> Planned {
        Planned {
            kind: index % kinds.max(1),
            seed: index,
            turn: index % kinds.max(1) + index / kinds.max(1),
            factor: 1.0,
        }
    }
}

/// Made-up samples.
pub(super) struct Generated {
    kinds: Arc<Vec<Vec<Made>>>,
    plan: Vec<Planned>,
}

impl Generated {
    /// An error when the type or rank of an input is not known.
    pub(super) fn new(graph: &Graph, inputs: &Inputs, count: usize, like: &MakeUp) -> Result<Generated, SampleProblem> {
        let dimensions = Dimensions::of(graph, inputs, like)?;
        let kinds = Arc::new(vec![made(graph, inputs, &dimensions, like)?]);
        Ok(Generated { kinds, plan: (0..count).map(|index| Planned::in_turn(index, 1)).collect() })
    }
}

/// The inputs with these dimensions.
fn made(graph: &Graph, inputs: &Inputs, dimensions: &Dimensions, like: &MakeUp) -> Result<Vec<Made>, SampleProblem> {
    let one = |(input, dims): (&super::fit::Input, &Vec<usize>)| {
        let Some(ty) = &input.ty else {
            return Err(SampleProblem::Format(format!("the type of the input `{}` is not known", input.name)));
        };
        if Tensor::from_f64(ty.dtype, &ArrayD::zeros(IxDyn(&[0]))).is_none() {
            return Err(SampleProblem::Format(format!("inputs of {} are not made up; give --data", ty.dtype)));
        }
        let told = graph.find(&input.name).and_then(|value| hints::numbers(graph, value));
        let upto = |most| Numbers::Range { least: 0, most, special: Vec::new() };
        let numbers = match (ty.dtype, like.integers) {
            (DataType::Bool, _) => Numbers::Mask,
            (dtype, _) if dtype.is_float() => told.unwrap_or(Numbers::Floats { mean: 0.0, deviation: 1.0 }),
            (DataType::Uint8, Integers::Told) => told.unwrap_or(upto(255)),
            (_, Integers::Told) => told.unwrap_or(upto(2)),
            (_, Integers::UpToTwo) => upto(2),
            (_, Integers::Bits) => upto(1),
        };
        // What lengths measure is known now.
        let numbers = match numbers {
            Numbers::Lengths(dim) => {
                let length = match dim {
                    Some(Dim::Known(known)) => Some(known),
                    Some(Dim::Symbol(symbol)) => dimensions.length_of(&symbol),
                    _ => None,
                };
                Numbers::Lengths(Some(Dim::Known(length.or(dimensions.shortest).unwrap_or(2))))
            }
            other => other,
        };
        Ok(Made { name: input.name.clone(), dtype: ty.dtype, dims: dims.clone(), numbers })
    };
    inputs.required().zip(&dimensions.inputs).map(one).collect()
}

/// Made-up samples on which a model runs.
#[derive(Clone)]
pub struct Fitting {
    kinds: Arc<Vec<Vec<Made>>>,
    inputs: Arc<Inputs>,
    plan: Vec<Planned>,
}

impl Fitting {
    /// `count` of them for `graph`, which `original` runs (at least one for each assignment that was found); why not, where there
    /// are none.
    pub fn find(graph: &Graph, original: &dyn Prepared, count: usize) -> Result<Fitting, NoSamples> {
        let inputs = Arc::new(Inputs::of(graph).map_err(NoSamples::at)?);
        let has_integers = inputs.required().any(|input| input.ty.as_ref().is_some_and(|ty| !ty.dtype.is_float()));
        let ladders = ladders(graph);
        let mut first_failure = None;
        for integers in Integers::ALL.into_iter().take(if has_integers { 3 } else { 1 }) {
            let (mut kinds, mut tried): (Vec<Vec<Made>>, _) = (Vec::new(), Tried::default());
            let mut tries = MOST_TRIES;
            // Samples of two elements count twice where a run costs much.
            let mut is_heavy = false;
            for (place, ladder) in ladders.iter().enumerate() {
                if place == ladders.len() - 1 && !kinds.is_empty() {
                    break;
                }
                for like in ladder {
                    let dimensions = match Dimensions::of(graph, &inputs, like) {
                        Ok(dimensions) if !tried.is_new(&dimensions) => continue,
                        Ok(dimensions) => dimensions,
                        Err(problem) if tries == MOST_TRIES => return Err(NoSamples::at(problem)),
                        Err(_) => continue, // too long
                    };
                    let made = made(graph, &inputs, &dimensions, &like.with(integers)).map_err(NoSamples::at)?;
                    // A larger one than there is must be worth it, and none of those that look for a length may cost much.
                    let most = match (place, kinds.is_empty()) {
                        (0, _) if like.batch > 1 => MOST_OF_TWO,
                        (0, _) => u64::MAX,
                        (_, true) => MOST_SEARCHED,
                        (_, false) => MOST_WORK,
                    };
                    if dimensions.is_open && most < u64::MAX && dimensions.work(graph, &inputs) > most {
                        continue;
                    }
                    if tries == 0 {
                        break;
                    }
                    tries -= 1;
                    let index = kinds.len();
                    let planned = Planned { kind: 0, ..Planned::in_turn(index, index + 1) };
                    let one = Fitting { kinds: Arc::new(vec![made]), inputs: inputs.clone(), plan: vec![planned] };
                    match one.runs(original, 0) {
                        Ok(()) => {
                            is_heavy |=
                                like.batch > 1 && dimensions.is_open && dimensions.work(graph, &inputs) > MOST_WORK;
                            kinds.extend(one.kinds.iter().cloned());
                            break;
                        }
                        Err(why) => first_failure = first_failure.or(Some(why)),
                    }
                }
            }
            if !kinds.is_empty() {
                let wanted = if is_heavy { count.div_ceil(2) } else { count };
                let mut found = Fitting { kinds: Arc::new(kinds), inputs, plan: Vec::new() };
                found.extend(original, wanted.max(found.kinds.len()));
                return Ok(found);
            }
        }
        let none = || NoSamples::at(SampleProblem::Format("no sizes of the inputs were tried".to_owned()));
        Err(first_failure.unwrap_or_else(none))
    }

    /// The samples.
    pub fn samples(&self) -> Samples {
        let source = Arc::new(Generated { kinds: self.kinds.clone(), plan: self.plan.clone() });
        Samples::of(source, self.inputs.clone())
    }

    /// With more of the same, up to `count` where `original` runs on all of them.
    pub fn extend(&mut self, original: &dyn Prepared, count: usize) {
        let first = self.plan.len();
        for index in first..count {
            self.plan.push(Planned::in_turn(index, self.kinds.len()));
            if self.runs(original, self.plan.len() - 1).is_err() {
                self.plan.pop();
            }
        }
    }

    /// With one more, the smallest, whose floats are larger by `factor`; `None` where it has no floats or `original` does not run
    /// on it.
    pub fn with_scaled(&self, original: &dyn Prepared, factor: f64) -> Option<Fitting> {
        let size =
            |kind: &usize| self.kinds[*kind].iter().map(|made| made.dims.iter().product::<usize>()).sum::<usize>();
        let kind = (0..self.kinds.len()).min_by_key(size)?;
        let has_floats = self.kinds[kind].iter().any(|made| made.dtype.is_float());
        let mut scaled = self.clone();
        scaled.plan.push(Planned { kind, seed: 1000 + self.plan.len(), turn: 0, factor });
        (has_floats && scaled.runs(original, self.plan.len()).is_ok()).then_some(scaled)
    }

    fn runs(&self, original: &dyn Prepared, index: usize) -> Result<(), NoSamples> {
        let sample = self.samples().get(index)?;
        original.run(&sample.inputs, &mut |_, _| ()).map(|_| ()).map_err(NoSamples::Run)
    }
}

/// Why there are no made-up samples.
#[derive(Debug, thiserror::Error)]
pub enum NoSamples {
    /// They cannot be made
    #[error(transparent)]
    Made(#[from] SampleError),
    /// The model runs on none
    #[error(transparent)]
    Run(EvaluateError),
}

impl NoSamples {
    fn at(problem: SampleProblem) -> NoSamples {
        NoSamples::Made(SampleError::at("generated samples", problem))
    }
}

/// splitmix64 (Steele, Lea and Flood 2014): enough for inputs, and the same everywhere.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal: of mean 0 and variance 1, up to 3.
    fn normal(&mut self) -> f64 {
        (self.uniform() + self.uniform() + self.uniform() - 1.5) * 2.0
    }

    fn whole(&mut self, least: i64, most: i64) -> i64 {
        least + ((most - least + 1) as f64 * self.uniform()).floor() as i64
    }
}

impl Made {
    /// Element by element.
    fn array(&self, Planned { turn, factor, .. }: Planned, random: &mut Random) -> ArrayD<f64> {
        let shape = IxDyn(&self.dims);
        let rows = self.dims.first().copied().unwrap_or(1).max(1);
        let row = self.dims.iter().skip(1).product::<usize>();
        let last = self.dims.last().copied().unwrap_or(1).max(1);
        let numbers: Vec<f64> = match &self.numbers {
            Numbers::Floats { mean, deviation } => {
                // (Later ones are wider, and lie to one side: what a Relu cuts off in the first may live in them.)
                let (spread, shift) = match turn {
                    0 | 1 => (1.0, 0.0),
                    turn => (1.5, if turn % 2 == 0 { 1.0 } else { -1.0 }),
                };
                let smooth = |of: usize| self.dims.len() >= 4 && (of + turn) % 2 == 1;
                (0..rows)
                    .flat_map(|of| match smooth(of) {
                        true => self.smooth(random),
                        false => (0..row).map(|_| spread * random.normal() + shift).collect(),
                    })
                    .map(|number| factor * (mean + deviation * number))
                    .collect()
            }
            Numbers::Range { least, most, special } => (0..rows * row)
                .map(|place| match special.get((place + turn) % (8 * special.len().max(1))) {
                    Some(special) if rows * row > 1 || turn % 2 == 0 => *special as f64,
                    _ => random.whole(*least, *most) as f64,
                })
                .collect(),
            // Each row begins with ones, and ends with zeros where it has room; no row is all zeros.
            Numbers::Mask => {
                let mut ones = 0;
                (0..rows * row)
                    .map(|place| {
                        if place % last == 0 {
                            ones = random.whole(last.div_ceil(2) as i64, (last as i64 - 1).max(1)) as usize;
                        }
                        let is_one = if last == 1 { (place + turn) % 2 == 0 } else { place % last < ones };
                        f64::from(u8::from(is_one))
                    })
                    .collect()
            }
            Numbers::Lengths(dim) => {
                let most = dim.as_ref().and_then(Dim::known).unwrap_or(2).max(1) as i64;
                (0..rows * row)
                    .map(|place| if place == 0 { most } else { random.whole(most.div_euclid(2).max(1), most) } as f64)
                    .collect()
            }
        };
        ArrayD::from_shape_vec(shape.clone(), numbers).unwrap_or_else(|_| ArrayD::zeros(shape))
    }

    /// One element of the batch that is smooth along its axes, and mostly positive: a slow wave for each line, and noise.
    fn smooth(&self, random: &mut Random) -> Vec<f64> {
        let dims = self.dims.get(1..).unwrap_or(&[]);
        let count = dims.iter().product::<usize>();
        let waves: Vec<Vec<f64>> = dims
            .iter()
            .map(|dim| {
                let (step, start) = (random.uniform() * 6.0 / (*dim).max(2) as f64 + 0.02, random.uniform() * 6.0);
                (0..*dim).map(|place| (start + step * place as f64).sin()).collect()
            })
            .collect();
        let wave = |place: usize| {
            let (mut rest, mut sum) = (place, 0.0);
            for (dim, wave) in dims.iter().zip(&waves).rev() {
                sum += wave[rest % dim];
                rest /= dim;
            }
            sum / (dims.len().max(1) as f64).sqrt()
        };
        (0..count).map(|place| 0.5 + 0.8 * wave(place) + 0.3 * random.normal()).collect()
    }
}

impl Source for Generated {
    fn len(&self) -> usize {
        self.plan.len()
    }

    fn is_made_up(&self) -> bool {
        true
    }

    fn name(&self, index: usize) -> String {
        format!("generated sample {index}")
    }

    fn read(&self, index: usize, _: &Inputs) -> Result<Raw, SampleProblem> {
        let planned = self.plan[index];
        let mut random = Random((planned.seed as u64 + 1).wrapping_mul(0x5851_f42d_4c95_7f2d));
        let mut arrays = Vec::new();
        for one in &self.kinds[planned.kind] {
            let tensor = Tensor::from_f64(one.dtype, &one.array(planned, &mut random));
            arrays.extend(tensor.map(|tensor| (one.name.clone(), tensor)));
        }
        Ok(Raw { arrays, others: Vec::new(), label: None })
    }
}

#[cfg(test)]
mod tests {
    use onnx_shrink_exec::{Interpreter, Options};
    use onnx_shrink_ir::{DataType, Evaluate, infer::infer, text::parse_graph};

    use crate::samples::{Samples, npz::tests::graph};

    fn made_up(text: &str, count: usize) -> Samples {
        let mut graph = parse_graph(text, 17).unwrap().graph;
        infer(&mut graph);
        Samples::made_up(&graph, &Interpreter::new(Options::default()), count).unwrap()
    }

    fn numbers(samples: &Samples, index: usize, input: usize) -> (Vec<usize>, Vec<f64>) {
        let tensor = samples.get(index).unwrap().inputs[input].clone().unwrap();
        (tensor.dims().to_vec(), tensor.to_f64_vec().unwrap())
    }

    #[test]
    fn made_up_samples_fit_and_repeat() {
        let graph = graph(&[("x", DataType::Float, &[2, 3]), ("n", DataType::Int64, &[1]), ("b", DataType::Bool, &[])]);
        let samples = Samples::generated(&graph, 3).unwrap();
        let (one, again) = (samples.get(1).unwrap(), samples.get(1).unwrap());
        assert_eq!(one.inputs, again.inputs);
        assert_ne!(one.inputs, samples.get(2).unwrap().inputs);
        assert_eq!(one.inputs[0].as_ref().unwrap().dims(), [2, 3]);
    }

    #[test]
    fn a_model_runs_on_a_small_and_a_larger_assignment() {
        let text = "m (float[batch, h, w] x) => (float[batch, h, w] y) { y = Softmax (x) }";
        let samples = made_up(text, 2);
        assert_eq!((numbers(&samples, 0, 0).0, numbers(&samples, 1, 0).0), (vec![2, 7, 5], vec![1, 64, 96]));
        let (_, numbers) = numbers(&samples, 0, 0);
        assert!(numbers.iter().any(|x| *x < -0.5) && numbers.iter().any(|x| *x > 0.5));
    }

    #[test]
    fn lengths_are_taken_with_which_the_model_runs() {
        // A table fixes the length: of 12 pairs.
        let table: Vec<String> = (0..1024).map(|number| number.to_string()).collect();
        let text = format!(
            "m (float[batch, t] x) => (float[batch, t] y) <float[1, 256] p = {{{}}}> {{ y = Add (x, p) }}",
            table[..256].join(", ")
        );
        let samples = made_up(&text, 2);
        assert_eq!((samples.len(), numbers(&samples, 0, 0).0), (2, vec![1, 256]));
    }

    #[test]
    fn token_ids_cover_the_table_and_masks_have_both_values() {
        let text = "m (int64[b, t] ids, int64[b, t] mask) => (float[b, t] y)
            <float[50] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
                                0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, float one = {1}>
            { e = Gather (table, ids) m = Cast <to = 1> (mask) n = Sub (one, m) y = Mul (e, n) }";
        let samples = made_up(text, 2);
        let (_, ids) = numbers(&samples, 1, 0);
        assert!(ids.iter().all(|id| (0.0..50.0).contains(id)) && ids.iter().any(|id| *id > 40.0));
        for index in 0..2 {
            let (dims, mask) = numbers(&samples, index, 1);
            assert!(mask.chunks(dims[1]).all(|row| row.contains(&0.0) && row.contains(&1.0)), "{mask:?}");
        }
    }

    #[test]
    fn numbers_are_taken_with_which_the_model_runs() {
        // What is indexed is not known: a table that a row is added to.
        let text = "m (int64[batch, time] ids) => (float[batch, time, 2] y)
                    <float[1, 2] table = {1, 2}> { t = Concat <axis = 0> (table, table) u = Identity (t) y = Gather (u, ids) }";
        let graph = parse_graph(text, 17).unwrap().graph;
        let evaluator = Interpreter::new(Options::default());
        let samples = Samples::made_up(&graph, &evaluator, 8).unwrap();
        let prepared = evaluator.prepare(&graph).unwrap();
        assert!((0..8).all(|index| prepared.run(&samples.get(index).unwrap().inputs, &mut |_, _| ()).is_ok()));
    }
}
