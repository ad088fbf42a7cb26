//! `--target`: the engine that the model shall run on, and `--target help`, the table of them.
use std::fmt::Write as _;

use clap::{
    Arg, Args, Command, Error,
    builder::{PossibleValue, TypedValueParser},
    error::{ContextKind, ContextValue, ErrorKind},
};
use onnx_shrink_driver::request::did_you_mean;
use onnx_shrink_ir::DataType;
use onnx_shrink_passes::{
    target::Pairing,
    target::{Bias, Ends, ORT_CPU, Places, TARGETS, Target, WANT_FLOAT},
};

/// The argument that names the target.
#[derive(Debug, Args)]
pub struct TargetArguments {
    /// What the model shall run on; `help` lists the engines and what each wants
    #[arg(long, value_name = "NAME", default_value = ORT_CPU.name, value_parser = TargetParser)]
    #[arg(help_heading = "Quantization", hide_possible_values = true)]
    pub target: &'static Target,
}

/// Reads the name of a target. `help` ends the run with the table on standard output, whatever else was given.
#[derive(Clone, Debug)]
struct TargetParser;

impl TypedValueParser for TargetParser {
    type Value = &'static Target;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &std::ffi::OsStr) -> Result<&'static Target, Error> {
        let name = value.to_string_lossy();
        if name == "help" {
            let mut answer = Error::new(ErrorKind::DisplayHelp);
            answer.insert(ContextKind::Custom, ContextValue::String(table()));
            return Err(answer);
        }
        let unknown = || {
            let meant = did_you_mean(&name, TARGETS.iter().map(|target| target.name));
            format!("there is no target `{name}`{meant}; there are: {}; `--target help` tells more\n", Target::names())
        };
        Target::named(&name).ok_or_else(|| Error::raw(ErrorKind::InvalidValue, unknown()).with_cmd(command))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(TARGETS.iter().map(|target| PossibleValue::new(target.name))))
    }
}

/// What each target wants, a line each, and which engines want the float model.
fn table() -> String {
    let titles = ["target", "activations", "weights", "biases", "runs in 8 bits", "forms", "stores"];
    let mut rows = vec![titles.map(str::to_owned)];
    rows.extend(TARGETS.iter().map(row));
    let widths: Vec<usize> =
        (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text.push('\n');
    for target in &TARGETS {
        let _ = writeln!(text, "{:12}  {}", target.name, target.about);
    }
    text.push_str("\nengines that want the float model (the lossless result, without --int8):\n");
    for (engine, reason) in WANT_FLOAT {
        let _ = writeln!(text, "{engine:12}  {reason}");
    }
    text
}

fn row(target: &Target) -> [String; 7] {
    let mut stores: Vec<&str> = if target.stores { vec!["int8"] } else { Vec::new() };
    stores.extend(target.small);
    let stores = if stores.is_empty() { "nothing".to_owned() } else { stores.join(", ") };
    if target.places == Places::Nothing {
        let [name, x, w, b, places, forms] =
            [target.name, "float", "float", "float", "nothing", "none"].map(str::to_owned);
        return [name, x, w, b, places, forms, stores];
    }
    let mut forms = target.formats.to_vec();
    if target.dynamic {
        forms.push("dynamic");
    }
    let signed = |ty| if ty == DataType::Int8 { "s8" } else { "u8" };
    let scales = if target.power_of_two { ", scales 2^n" } else { "" };
    let zero = if target.symmetric { "symmetric" } else { "asymmetric" };
    let per = match target.per_channel {
        [] => "per tensor".to_owned(),
        [only] => format!("per channel of {only}"),
        _ => "per channel".to_owned(),
    };
    let sums = if target.pairing == Pairing::Neighbours { ", 16-bit pairs" } else { ", full range" };
    let places = match target.places {
        Places::Cheapest(_) => "what is faster",
        Places::All => "all layers",
        Places::EveryTensor => "every tensor",
        Places::Nothing => "nothing",
    };
    let ends = match target.ends {
        Ends::Never => "",
        Ends::Linear => ", Gemm may end in float",
        Ends::Weighted => ", layers may end in float",
    };
    let bias = match target.bias {
        Bias::Int32 => "s32",
        Bias::Float => "float",
    };
    [
        target.name.to_owned(),
        format!("{} {zero}{scales}", signed(target.activations)),
        format!("{} {per}{sums}", signed(target.weights)),
        bias.to_owned(),
        format!("{places}{ends}"),
        forms.join(", "),
        stores,
    ]
}
