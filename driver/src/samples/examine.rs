//! Which samples can be used: each is read, and run on the original model, before anything is made of them.
//!
//! A sample that cannot be read is bad. One that the model does not run on is bad, too, unless the engine runs the model on
//! none for want of a kernel, or all fail at an op at which made-up ones fail as well: that is no sample's fault.
//!
//! **Never** holds more samples than threads. **Never** runs what cannot fail: where inputs are floats of dimensions with which
//! the model ran, and no number of theirs becomes an index or a length, one run tells for all.
use std::{collections::BTreeSet, convert::Infallible};

use onnx_shrink_ir::{Evaluate, EvaluateError, Graph, Op, OpId, Prepared, Tensor};
use onnx_shrink_passes::samples::map_in_order;

use super::{
    error::{BadSample, SampleError, SampleProblem, name_some},
    list::Samples,
    memory::Data,
    options::SampleOptions,
    raw::FittedSample,
};
use crate::{Progress, progress::Stage};

/// Samples that fail for want of a kernel, after which no other is tried when none ran.
const ENOUGH_UNSUPPORTED: usize = 8;

/// What becomes of samples that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadSamples {
    /// They end the run: who gave them does not know
    #[default]
    Refuse,
    /// They are left out, and named
    Skip,
}

/// Which samples are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// Each
    #[default]
    All,
    /// Those that judge first, and all of them only where one of these is bad: the work to come runs on each
    First,
}

/// How samples are examined.
pub struct Examiner<'a> {
    /// The engine
    pub evaluator: &'a dyn Evaluate,
    /// Where it is shown
    pub progress: &'a dyn Progress,
    /// Which are looked at
    pub extent: Extent,
    /// What becomes of bad ones
    pub bad: BadSamples,
}

/// Samples that can be used, as far as they were examined.
#[derive(Debug)]
pub struct Usable {
    /// These
    pub samples: Samples,
    /// Those that were left out
    pub skipped: Vec<BadSample>,
    /// Says which were left out, and why
    pub warning: Option<String>,
    /// Why the model runs on none of them: the engine lacks a kernel
    pub not_run: Option<String>,
}

impl Examiner<'_> {
    /// The samples in `data` that `graph` can be run on.
    pub fn open(&self, data: &Data, graph: &Graph, options: &SampleOptions) -> Result<Usable, SampleError> {
        let listed = Samples::list(data, graph, options)?;
        let examine = |samples: &Samples| {
            let stage = self.progress.stage("examining samples", Some(samples.len() as u64));
            samples.examine(graph, self.evaluator, stage.as_ref())
        };
        if self.extent == Extent::First && self.bad == BadSamples::Refuse {
            let first: Vec<usize> = FIRST.into_iter().filter(|index| *index < listed.len()).collect();
            let found = examine(&listed.subset(&first));
            if found.bad.is_empty() && found.not_run.is_none() {
                return Ok(Usable { samples: listed, skipped: Vec::new(), warning: None, not_run: None });
            }
        }
        let found = examine(&listed);
        let samples = found.choose(&listed, self.bad, data)?;
        let warning = found.skipped().map(|which| format!("{data}: {which}"));
        Ok(Usable { samples, warning, skipped: found.bad, not_run: found.not_run })
    }
}

/// Those of [`Extent::First`]: the lossless part is judged on the first that are held out.
const FIRST: [usize; 7] = [0, 1, 2, 3, 7, 11, 15];

/// What was found out about samples.
#[derive(Clone, Debug, Default)]
pub struct Examined {
    /// Places of those that can be used
    good: Vec<usize>,
    /// Those that cannot
    bad: Vec<BadSample>,
    /// Why the model runs on none of them, though they can be read: the engine lacks a kernel
    pub not_run: Option<String>,
}

/// What one sample told.
enum Tried {
    /// Dimensions of its inputs, with which the model ran
    Ran(Vec<Vec<usize>>),
    /// It was read, and needs no run
    Read,
    /// The model does not run on it
    Failed(EvaluateError),
    /// It cannot be read
    Bad(String),
}

impl Samples {
    /// Reads all of them and runs `graph` on them, as far as it takes that to know that each can be used.
    pub(crate) fn examine(&self, graph: &Graph, evaluator: &dyn Evaluate, stage: &dyn Stage) -> Examined {
        let mut examined = Examined::default();
        let prepared = match evaluator.prepare(graph) {
            Ok(prepared) => Some(prepared),
            Err(error) => {
                examined.not_run = Some(error.to_string());
                None
            }
        };
        let one_tells = fails_by_dimensions_alone(graph);
        let mut ran: BTreeSet<Vec<Vec<usize>>> = BTreeSet::new();
        let mut failed: Vec<(usize, EvaluateError)> = Vec::new();
        let mut has_run = false;
        let mut tried: Vec<Option<String>> = Vec::with_capacity(self.len());
        // The first alone: it tells for others.
        let (first, others): (Vec<usize>, Vec<usize>) = (0..self.len()).partition(|index| *index == 0);
        for indices in std::iter::once(&first[..]).chain(others.chunks(rayon::current_num_threads().max(1))) {
            let unsupported = failed.iter().filter(|(_, error)| is_unsupported(error)).count();
            let runs = prepared.as_deref().filter(|_| has_run || unsupported < ENOUGH_UNSUPPORTED);
            let known = |dims: &Vec<Vec<usize>>| one_tells && ran.contains(dims);
            let one = |index: &usize| Ok::<_, Infallible>(self.try_one(*index, runs, &known));
            let Ok(found) = map_in_order(indices, one);
            for (&index, found) in indices.iter().zip(found) {
                let mut problem = None;
                match found {
                    Tried::Ran(dims) => {
                        has_run = true;
                        ran.insert(dims);
                    }
                    Tried::Read => {}
                    Tried::Failed(error) => failed.push((index, error)),
                    Tried::Bad(reason) => problem = Some(reason),
                }
                tried.push(problem);
            }
            stage.advance(indices.len() as u64);
        }
        // What runs on others is no matter of the engine.
        let is_to_blame = |error: &EvaluateError| !has_run && is_unsupported(error);
        let lacking = failed.iter().find(|(_, error)| is_to_blame(error)).map(|(_, error)| error);
        examined.not_run = examined.not_run.or_else(|| lacking.map(EvaluateError::to_string));
        if let (Some(prepared), false, None) = (&prepared, has_run, lacking)
            && fails_on_made_up(graph, evaluator, prepared.as_ref(), &failed)
        {
            examined.not_run = failed.first().map(|(_, error)| error.to_string());
            failed.clear();
        }
        for (index, error) in failed.into_iter().filter(|(_, error)| !is_to_blame(error)) {
            tried[index] = Some(format!("the model does not run on it: {error}"));
        }
        for (index, problem) in tried.into_iter().enumerate() {
            match problem {
                None => examined.good.push(index),
                Some(reason) => examined.bad.push(BadSample { sample: self.name(index), reason }),
            }
        }
        examined
    }

    fn try_one(
        &self,
        index: usize,
        prepared: Option<&dyn Prepared>,
        known: &(dyn Fn(&Vec<Vec<usize>>) -> bool + Sync),
    ) -> Tried {
        let FittedSample { inputs, .. } = match self.read(index, index == 0) {
            Ok(sample) => sample,
            Err(problem) => return Tried::Bad(problem.of_sample().with_causes()),
        };
        let Some(prepared) = prepared else { return Tried::Read };
        let dims = |tensor: &Option<Tensor>| tensor.as_ref().map_or_else(Vec::new, |tensor| tensor.dims().to_vec());
        let all: Vec<Vec<usize>> = inputs.iter().map(dims).collect();
        let only_floats = inputs.iter().flatten().all(|tensor| tensor.dtype().is_float());
        if only_floats && known(&all) {
            return Tried::Read;
        }
        match prepared.run(&inputs, &mut |_, _| {}) {
            Ok(_) => Tried::Ran(if only_floats { all } else { Vec::new() }),
            Err(error) => Tried::Failed(error),
        }
    }
}

impl Examined {
    /// The good ones of `samples`, which `self` tells of; an error for `data` where there are bad ones that nobody
    /// wants skipped, or no good ones.
    pub fn choose(&self, samples: &Samples, bad: BadSamples, data: &Data) -> Result<Samples, SampleError> {
        if !self.bad.is_empty() && (bad == BadSamples::Refuse || self.good.is_empty()) {
            let problem = SampleProblem::Bad { bad: self.bad.clone(), all: samples.len() };
            return Err(SampleError::at(data, problem));
        }
        Ok(samples.subset(&self.good))
    }

    /// Which samples are left out, with their reasons; `None` when none is.
    pub fn skipped(&self) -> Option<String> {
        let (count, all) = (self.bad.len(), self.bad.len() + self.good.len());
        let verb = if count == 1 { "was" } else { "were" };
        (count > 0).then(|| format!("{count} of {all} samples {verb} skipped: {}", name_some(&self.bad)))
    }
}

fn is_unsupported(error: &EvaluateError) -> bool {
    matches!(error, EvaluateError::Unsupported { .. })
}

/// Whether all of `failed`, of samples of which none ran, end at one op, and made-up samples do so, too.
fn fails_on_made_up(
    graph: &Graph,
    evaluator: &dyn Evaluate,
    prepared: &dyn Prepared,
    failed: &[(usize, EvaluateError)],
) -> bool {
    let op_of = |error: &EvaluateError| match error {
        EvaluateError::Failed { op, .. } => Some(op.clone()),
        _ => None,
    };
    let Some(op) = failed.first().and_then(|(_, error)| op_of(error)) else { return false };
    if failed.iter().any(|(_, error)| op_of(error).as_ref() != Some(&op)) {
        return false;
    }
    let made_up = Samples::made_up(graph, evaluator, 1).and_then(|samples| samples.get(0));
    let run = made_up.map(|sample| prepared.run(&sample.inputs, &mut |_, _| {}));
    matches!(run, Ok(Err(error)) if op_of(&error) == Some(op))
}

/// Whether it depends on the dimensions of float inputs alone whether `graph` runs on them: no number of theirs becomes an
/// index, a length or a condition.
fn fails_by_dimensions_alone(graph: &Graph) -> bool {
    let is_harmless = |id: &OpId| {
        let op = graph.op(*id);
        op.domain().is_empty()
            && op.regions().is_empty()
            && !["NonZero", "Compress", "Unique", "NonMaxSuppression"].iter().any(|kind| op.is(kind))
            && !makes_integers(graph, op)
    };
    graph.ops_in_id_order().iter().all(is_harmless)
}

/// Whether `op` is a Cast of what may be floats to what may be integers.
fn makes_integers(graph: &Graph, op: &Op) -> bool {
    let is_float = |value| graph.ty(value).is_none_or(|ty| ty.dtype.is_float());
    let is_other = |value| graph.ty(value).is_none_or(|ty| !ty.dtype.is_float());
    (op.is("Cast") || op.is("CastLike")) && op.input(0).is_some_and(is_float) && op.output(0).is_some_and(is_other)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use onnx_shrink_exec::{Interpreter, Options};
    use onnx_shrink_ir::text::parse_graph;
    use zip::CompressionMethod;

    use super::{BadSamples, Examined, fails_by_dimensions_alone};
    use crate::{
        progress::Silent,
        samples::{
            SampleOptions, Samples,
            npy::tests::npy,
            npz::tests::{floats, npz},
        },
    };

    /// A sum over rows of 4: `x` must be as long as a multiple of 4.
    const ROWS: &str = "g (float[n] x) => (float[r] y) <int64[2] rows = {-1, 4}, int64[1] axis = {1}> {
        m = Reshape (x, rows) y = ReduceSum <keepdims = 0> (m, axis) }";

    fn examined(text: &str, folder: &Path) -> (Samples, Examined) {
        let mut graph = parse_graph(text, 17).unwrap().graph;
        onnx_shrink_ir::infer::infer(&mut graph);
        let samples = Samples::list(&folder.into(), &graph, &SampleOptions::default()).unwrap();
        let found = samples.examine(&graph, &Interpreter::new(Options::default()), &Silent);
        (samples, found)
    }

    fn write(folder: &Path, name: &str, numbers: &[f32]) {
        npz(&folder.join(name), CompressionMethod::Stored, &[("x", floats(&[numbers.len()], numbers))]);
    }

    #[test]
    fn what_cannot_be_read_or_run_is_bad_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..8 {
            write(folder.path(), &format!("{index}.npz"), &[1.0; 8]);
        }
        write(folder.path(), "2.npz", &[f32::NAN; 8]);
        write(folder.path(), "5.npz", &[1.0; 7]);
        std::fs::write(folder.path().join("7.npz"), "PK").unwrap();
        let (samples, found) = examined(ROWS, folder.path());
        let reasons: Vec<&str> = found.bad.iter().map(|bad| bad.reason.as_str()).collect();
        assert_eq!(reasons.len(), 3, "{reasons:?}");
        assert!(found.bad[0].sample.ends_with("2.npz") && reasons[0].contains("not finite"), "{reasons:?}");
        assert!(reasons[1].starts_with("the model does not run on it: op `m` (Reshape) failed"), "{reasons:?}");
        assert!(reasons[2].starts_with("this is no .npz archive"), "{reasons:?}");
        assert!(found.not_run.is_none());
        let refused = found.choose(&samples, BadSamples::Refuse, &"calib".into()).unwrap_err().to_string();
        assert!(refused.starts_with("calib: 3 of 8 samples cannot be used: `"), "{refused}");
        assert_eq!(found.choose(&samples, BadSamples::Skip, &"calib".into()).unwrap().len(), 5);
        assert!(found.skipped().unwrap().starts_with("3 of 8 samples were skipped: `"));
    }

    #[test]
    fn an_op_without_a_kernel_is_no_samples_fault_but_nan_is() {
        let text = "g (float[n] x) => (float[n] y) { y = RandomNormalLike (x) }";
        let folder = tempfile::tempdir().unwrap();
        (0..20).for_each(|index| write(folder.path(), &format!("{index:02}.npz"), &[1.0; 4]));
        let (_, found) = examined(text, folder.path());
        assert!(found.bad.is_empty() && found.not_run.unwrap().contains("RandomNormalLike"));
        write(folder.path(), "13.npz", &[f32::INFINITY; 4]);
        let (_, found) = examined(text, folder.path());
        assert!(found.bad.len() == 1 && found.not_run.is_some());
    }

    #[test]
    fn what_made_up_samples_fail_at_is_no_samples_fault() {
        let told = |text: &str| {
            let folder = tempfile::tempdir().unwrap();
            (0..6).for_each(|index| write(folder.path(), &format!("{index}.npz"), &[1.0; 7]));
            let (_, found) = examined(text, folder.path());
            (found.bad.len(), found.not_run.is_some())
        };
        assert_eq!(told(ROWS), (6, false), "8 numbers would do");
        assert_eq!(told(&ROWS.replace("float[n]", "float[7]")), (0, true), "nothing would");
    }

    #[test]
    fn an_index_out_of_range_is_found_in_the_last_sample() {
        let text =
            "g (int64[1] x) => (float[1,2] y) <float[3, 2] table = {1, 2, 3, 4, 5, 6}> { y = Gather (table, x) }";
        let folder = tempfile::tempdir().unwrap();
        for (index, number) in [0i64, 2, 1, 3].into_iter().enumerate() {
            let array = npy("<i8", false, "(1,)", &number.to_le_bytes());
            npz(&folder.path().join(format!("{index}.npz")), CompressionMethod::Stored, &[("x", array)]);
        }
        let (samples, found) = examined(text, folder.path());
        assert!(found.bad.len() == 1 && found.bad[0].sample.ends_with("3.npz"), "{:?}", found.bad);
        assert_eq!(found.choose(&samples, BadSamples::Skip, &"".into()).unwrap().len(), 3);
    }

    #[test]
    fn numbers_that_become_indices_want_a_run_each() {
        let told = |text: &str| {
            let mut graph = parse_graph(text, 17).unwrap().graph;
            onnx_shrink_ir::infer::infer(&mut graph);
            fails_by_dimensions_alone(&graph)
        };
        assert!(told(ROWS));
        assert!(!told(
            "g (float[2] x) => (float[2] y) <float[3] table = {1, 2, 3}> {
            i = Cast <to = 7> (x) y = Gather (table, i) }"
        ));
        assert!(!told("g (float[2] x) => (int64[1,k] y) { y = NonZero (x) }"));
    }
}
