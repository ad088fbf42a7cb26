//! What a user says about how the work is done: which passes, which shapes, what is shown on the way.
//!
//! **Never** says what the result is for: that is the rest of [`Request`](crate::Request).
use std::path::PathBuf;

use onnx_shrink_ir::{Graph, ValueId};
use onnx_shrink_passes::{
    Options,
    pipeline::{self, Pipeline},
    registry,
};

use crate::failure::{Failure, did_you_mean};

/// How the work is done.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Just these lossless passes, in this order, once; empty: all, until nothing changes
    pub passes: Vec<String>,
    /// Of all passes only these, in their usual order; empty: all
    pub only: Vec<String>,
    /// The pass after whose first run the lossless part ends; nothing is quantized then
    pub stop_after: Option<String>,
    /// Whether the graph is verified after every rewrite
    pub verify_each: bool,
    /// The folder for texts that show what was done
    pub dump_dir: Option<PathBuf>,
    /// Whether all is done but the writing
    pub dry_run: bool,
    /// Shapes of inputs
    pub input_shapes: Vec<InputShape>,
    /// Numbers for named dimensions
    pub dims: Vec<(String, usize)>,
    /// Whether initializers that are inputs, too, become constants
    pub freeze_initializers: bool,
    /// The op, tensor or pass of which everything is to be told
    pub explain: Option<String>,
}

/// The shape of one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputShape {
    /// Its name; `None`: the model has one input
    pub name: Option<String>,
    /// Its dimensions
    pub dims: Vec<usize>,
}

/// The shapes in `NAME:1x3x224x224`, `NAME:1,3,224,224`, `NAME:[1,3,224,224]`, or several of them with commas between
/// (`a:1x3,b:1x4`). The name may be left out, where there is one input.
pub fn parse_shapes(text: &str) -> Result<Vec<InputShape>, String> {
    let wrong = || format!("`{text}` is no shape; write NAME:1x3x224x224");
    let mut shapes: Vec<InputShape> = Vec::new();
    // "a:1x3,b:1x4": a comma before a piece with a colon begins another input, others stand between dimensions.
    for piece in text.split(',') {
        let (name, dims) = match piece.rsplit_once(':') {
            Some(("", _)) => return Err(wrong()),
            Some((name, dims)) => (Some(name.to_owned()), dims),
            None => (None, piece),
        };
        let dims = dims.trim().trim_start_matches('[').trim_end_matches(']').trim();
        let numbers: Vec<usize> = match dims {
            "" => Vec::new(),
            dims => {
                dims.split(['x', 'X']).map(|dim| dim.trim().parse()).collect::<Result<_, _>>().map_err(|_| wrong())?
            }
        };
        match shapes.last_mut() {
            Some(last) if name.is_none() => last.dims.extend(numbers),
            _ => shapes.push(InputShape { name, dims: numbers }),
        }
    }
    Ok(shapes)
}

/// The numbers in `NAME=8`, or several of them with commas between.
pub fn parse_dims(text: &str) -> Result<Vec<(String, usize)>, String> {
    let one = |piece: &str| {
        let (name, number) = piece.rsplit_once('=')?;
        Some((name.trim().to_owned(), number.trim().parse().ok()?))
    };
    text.split(',').map(one).collect::<Option<_>>().ok_or_else(|| format!("`{text}` is not NAME=NUMBER"))
}

/// Names that users of other tools know passes by. (onnxoptimizer's; peers that wrap it have the same.)
const KNOWN_ELSEWHERE: &[(&str, &str)] = &[
    ("fuse_bn_into_conv", "fold-batch-norm"),
    ("fuse_pad_into_conv", "fold-pad"),
    ("fuse_add_bias_into_conv", "fold-arithmetic"),
    ("eliminate_deadend", "eliminate-dead"),
    ("eliminate_unused_initializer", "eliminate-dead"),
    ("eliminate_if_with_const_cond", "inline-if"),
    ("eliminate_identity", "eliminate-identity"),
    ("eliminate_nop_cast", "eliminate-identity"),
    ("eliminate_nop_dropout", "eliminate-identity"),
    ("eliminate_nop_pad", "eliminate-identity"),
    ("eliminate_nop_reshape", "eliminate-identity"),
    ("eliminate_nop_transpose", "eliminate-identity"),
    ("fuse_consecutive_transposes", "simplify-islands"),
    ("fuse_consecutive_squeezes", "simplify-islands"),
    ("constant_folding", "fold-constants"),
];

/// The pass that `name` names, here or in other tools, for the flag `flag`.
pub fn pass_named(flag: &str, name: &str) -> Result<String, Failure> {
    let known = registry::names();
    let elsewhere = KNOWN_ELSEWHERE.iter().find(|(other, _)| *other == name).map(|(_, ours)| *ours);
    let dashed = name.replace('_', "-");
    if let Some(ours) = elsewhere.or_else(|| known.get(dashed.as_str()).copied()) {
        return Ok(ours.to_owned());
    }
    let meant = did_you_mean(&dashed, known.iter().copied());
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    Err(Failure::usage(format_args!("{flag} {name}: there is no such pass{meant}; there are: {known}")))
}

fn passes_named(flag: &str, names: &[String]) -> Result<Vec<String>, Failure> {
    names.iter().map(|name| pass_named(flag, name)).collect()
}

impl Control {
    /// The lossless passes that shall run.
    pub fn pipeline(&self) -> Result<Pipeline, Failure> {
        let passes = passes_named("--passes", &self.passes)?;
        let pipeline = if passes.is_empty() {
            Pipeline::default()
        } else {
            Pipeline::named(&passes).map_err(|name| {
                Failure::usage(format_args!("--passes {name}: it runs behind the lossless passes, by its own flag"))
            })?
        };
        Ok(match &self.stop_after {
            Some(pass) => pipeline.stop_after(&pass_named("--stop-after", pass)?),
            None => pipeline,
        })
    }

    /// What passes need to know: with `skip` and `exact` of the request.
    pub fn options(&self, skip: &[String], exact: bool) -> Result<Options, Failure> {
        let only = passes_named("--only", &self.only)?;
        Ok(Options {
            skip: passes_named("--skip", skip)?.into_iter().collect(),
            only: (!only.is_empty()).then(|| only.into_iter().collect()),
            exact,
            verify_each: self.verify_each || cfg!(debug_assertions),
            ..Options::default()
        })
    }

    /// Whether the run ends before anything approximate: a lossless pass is the last.
    pub fn stops_early(&self) -> bool {
        let lossless = pipeline::lossless();
        let stop = self.stop_after.as_ref().and_then(|pass| pass_named("--stop-after", pass).ok());
        stop.is_some_and(|stop| lossless.iter().any(|pass| pass.name() == stop))
    }

    /// Gives `graph` the shapes and numbers that the user fixed.
    pub fn fix_shapes(&self, graph: &mut Graph) -> Result<(), Failure> {
        for (symbol, number) in &self.dims {
            if graph.fix_symbol(symbol, *number) == 0 {
                return Err(Failure::usage(format_args!("--free-dim {symbol}: no dimension has this name")));
            }
        }
        for shape in &self.input_shapes {
            let input = input_named(graph, shape.name.as_deref())?;
            graph
                .fix_input_shape(input, &shape.dims)
                .map_err(|error| Failure::usage(format_args!("--input-shape: {error}")))?;
        }
        Ok(())
    }
}

fn input_named(graph: &Graph, name: Option<&str>) -> Result<ValueId, Failure> {
    let inputs = graph.inputs();
    let names = || inputs.iter().map(|input| format!("`{}`", graph.name_of(*input))).collect::<Vec<_>>().join(", ");
    match (name, inputs) {
        (None, [input]) => Ok(*input),
        (None, _) => Err(Failure::usage(format_args!("--input-shape: name the input; there are {}", names()))),
        (Some(name), _) => inputs.iter().copied().find(|input| graph.name_of(*input) == name).ok_or_else(|| {
            Failure::usage(format_args!("--input-shape {name}: there is no such input; there are {}", names()))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Control, InputShape, parse_dims, parse_shapes, pass_named};

    fn shape(name: Option<&str>, dims: &[usize]) -> InputShape {
        InputShape { name: name.map(str::to_owned), dims: dims.to_vec() }
    }

    #[test]
    fn shapes_are_read_in_all_spellings() {
        for text in ["x:1x3x8x8", "x:1,3,8,8", "x:[1,3,8,8]", "x:[1, 3, 8, 8]"] {
            assert_eq!(parse_shapes(text), Ok(vec![shape(Some("x"), &[1, 3, 8, 8])]), "{text}");
        }
        assert_eq!(parse_shapes("1x3"), Ok(vec![shape(None, &[1, 3])]));
        assert_eq!(parse_shapes("a:1x3,b:0:2,2"), Ok(vec![shape(Some("a"), &[1, 3]), shape(Some("b:0"), &[2, 2])]));
        assert_eq!(parse_shapes("s:[]"), Ok(vec![shape(Some("s"), &[])]));
        for text in ["x:1xtwo", ":1x2", "x:-1x2", "x:1.5"] {
            assert!(parse_shapes(text).is_err(), "{text}");
        }
        assert_eq!(parse_dims("N=1,H=8"), Ok(vec![("N".to_owned(), 1), ("H".to_owned(), 8)]));
        assert!(parse_dims("N").is_err());
    }

    #[test]
    fn passes_have_the_names_of_other_tools_too() {
        let named = |name| pass_named("--skip", name).map_err(|failure| failure.to_string());
        assert_eq!(named("fuse_bn_into_conv").as_deref(), Ok("fold-batch-norm"));
        assert_eq!(named("fold_constants").as_deref(), Ok("fold-constants"));
        assert!(named("no-such").unwrap_err().contains("there is no such pass; there are: "));
        let control = Control { passes: vec!["store-int8".to_owned()], ..Control::default() };
        assert!(control.pipeline().is_err());
    }
}
