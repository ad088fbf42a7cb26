//! Raises a model: `raise_opset IN OUT TARGET`. Says on stderr what was rewritten, and ends with status 1 and the reason when it cannot.
use std::process::ExitCode;

use onnx_shrink_ir::{
    export, import,
    proto::{prost::Message, schema::ModelProto},
    raise::raise,
};

fn run(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [input, output, target] = arguments else { return Err("usage: raise_opset IN OUT TARGET".into()) };
    let proto = ModelProto::decode(bytes::Bytes::from(std::fs::read(input)?))?;
    let mut model = import(proto)?;
    let raised = raise(&mut model, target.parse()?)?;
    std::fs::write(output, export(&model).encode_to_vec())?;
    log::info!("{raised:?}");
    Ok(())
}

#[allow(clippy::print_stderr)]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
