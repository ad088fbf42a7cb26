//! Prints `name<TAB>type` of every value of a model's main graph, as inferred. For comparing with other tools by hand.
#![allow(clippy::print_stdout, reason = "printing is what this example does")]
use std::{error::Error, path::Path};

use onnx_shrink_ir::{
    import, infer,
    proto::{Limits, load},
};

fn main() -> Result<(), Box<dyn Error>> {
    for path in std::env::args().skip(1) {
        println!("# {path}");
        let model = load(Path::new(&path), &Limits::default()).map_err(|error| error.to_string());
        let mut model = match model.and_then(|loaded| import(loaded.model).map_err(|error| error.to_string())) {
            Ok(model) => model,
            Err(error) => {
                println!("! {error}");
                continue;
            }
        };
        let start = std::time::Instant::now();
        infer::infer(&mut model.graph);
        println!("@ {:?}", start.elapsed());
        for value in model.graph.values() {
            if let Some(ty) = model.graph.ty(value) {
                println!("{}\t{ty}", model.graph.name_of(value));
            }
        }
    }
    Ok(())
}
