//! Wrong rewrites that are planted are found, named, dumped and left out; all others stay.
use std::{fs, path::Path};

use onnx_shrink_driver::{Control, Report, Request, Silent, shrink::shrink_with};
use onnx_shrink_ir::{Graph, NewOp, Patch, import, proto, text};
use onnx_shrink_passes::{
    Class, Context, Description, Pass, Result, When,
    pipeline::{self, Pipeline},
};
use tempfile::TempDir;

use crate::support::{folder, names, run};

/// What a planted pass does to a Relu.
#[derive(Clone, Copy)]
enum Harm {
    /// Another function
    Negate,
    /// No function: an Add of one number
    Break,
    /// A panic
    Panic,
}

/// A pass that harms the Relus at these places among the Relus of a graph; 99 stands for none.
struct Saboteur {
    places: &'static [usize],
    harm: Harm,
}

impl Pass for Saboteur {
    fn description(&self) -> &'static Description {
        const { &Description { name: "saboteur", class: Class::Exact, about: "", when: When::Lossless } }
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        let relus = graph.ops_of("Relu");
        let harmed = |graph: &Graph| ["Neg", "Add"].iter().flat_map(|kind| graph.ops_of(kind)).count() > 1;
        if relus.len() < 3 || harmed(graph) {
            return Ok(()); // once
        }
        for place in self.places {
            let relu = relus[*place];
            let (x, y) = (graph.op(relu).input(0).unwrap(), graph.op(relu).output(0).unwrap());
            let kind = match self.harm {
                Harm::Negate => "Neg",
                Harm::Break => "Add",
                Harm::Panic => panic!("planted"),
            };
            let mut patch = Patch::new(relu);
            let new = patch.op(NewOp::new(kind), &[Some(x.into())], "harm", graph.ty(y).cloned());
            patch.replace(y, new);
            cx.apply(graph, patch)?;
        }
        Ok(())
    }
}

/// A run on `digits_cnn` with the saboteur behind all other passes.
fn sabotaged(places: &'static [usize], harm: Harm, dump: bool) -> (TempDir, Report) {
    let folder = folder();
    let control = Control { dump_dir: dump.then(|| folder.path().join("dump")), ..Control::default() };
    let output = Some(folder.path().join("out.onnx").into());
    let request = Request { output, control, ..Request::new(folder.path().join("in.onnx")) };
    let mut passes = pipeline::lossless();
    passes.push(Box::new(Saboteur { places, harm }));
    let shrunk = shrink_with(&request, &Silent, Pipeline::of(passes)).unwrap_or_else(|failure| panic!("{failure}"));
    (folder, shrunk.report)
}

/// The bytes that the release binary writes.
fn honest() -> Vec<u8> {
    let folder = folder();
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "out.onnx"]).code, 0);
    fs::read(folder.path().join("out.onnx")).unwrap()
}

fn written(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("out.onnx")).unwrap()
}

#[test]
fn one_wrong_rewrite_is_found_and_all_others_stay() {
    let (folder, report) = sabotaged(&[1], Harm::Negate, true);
    let [culprit] = &report.culprits[..] else { panic!("{:?}", report.culprits) };
    assert_eq!((culprit.pass, culprit.op_type.as_str()), ("saboteur", "Relu"));
    assert!(culprit.reason.contains("differs by"), "{}", culprit.reason);
    assert!(
        report.warnings[0].contains(&format!("saboteur at `{}` (Relu) was left out", culprit.op)),
        "{:?}",
        report.warnings
    );
    assert!(report.lossless.is_some() && report.gates.iter().all(|gate| gate.passed));
    assert_eq!(report.done_by_pass()["fold-batch-norm"], 4);
    assert!(written(folder.path()) == honest(), "all but the wrong one was done");
    // What reproduces it is a small model of what was around it, which can be read.
    let stem = Path::new(culprit.dump.as_ref().unwrap());
    assert!(stem.ends_with("dump/culprit-1-saboteur"), "{stem:?}");
    let dumped = names(&folder.path().join("dump"));
    for ending in ["before.onnx", "before.onnxtxt", "after.onnxtxt"] {
        assert!(dumped.contains(&format!("culprit-1-saboteur.{ending}")), "{dumped:?}");
    }
    let before = proto::load(&folder.path().join("dump/culprit-1-saboteur.before.onnx"), &proto::Limits::default());
    let before = import(before.unwrap().model).unwrap().graph;
    assert!(before.op_count() > 1 && before.ops().iter().any(|op| before.label_of(*op) == culprit.op));
    let after = fs::read_to_string(folder.path().join("dump/culprit-1-saboteur.after.onnxtxt")).unwrap();
    assert!(after.contains("Neg"), "{after}");
    assert!(text::parse_graph(&after, 17).is_ok(), "{after}");
}

#[test]
fn two_wrong_rewrites_are_both_found() {
    let (folder, report) = sabotaged(&[0, 2], Harm::Negate, false);
    assert_eq!(report.culprits.len(), 2, "{:?}", report.culprits);
    assert_ne!(report.culprits[0].op, report.culprits[1].op);
    assert!(written(folder.path()) == honest());
}

#[test]
fn a_rewrite_that_breaks_the_graph_is_found() {
    let (folder, report) = sabotaged(&[1], Harm::Break, false);
    let [culprit] = &report.culprits[..] else { panic!("{:?}", report.culprits) };
    assert!(culprit.reason.contains("the graph is broken: V3"), "{}", culprit.reason);
    assert!(written(folder.path()) == honest());
}

#[test]
fn a_pass_that_panics_is_left_out() {
    let (folder, report) = sabotaged(&[1], Harm::Panic, false);
    let [culprit] = &report.culprits[..] else { panic!("{:?}", report.culprits) };
    assert_eq!((culprit.pass, culprit.op.as_str()), ("saboteur", ""));
    assert!(culprit.reason.contains("planted"), "{}", culprit.reason);
    assert!(written(folder.path()) == honest());
}
