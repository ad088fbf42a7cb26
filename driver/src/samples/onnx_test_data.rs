//! ONNX's own form of samples: folders `test_data_set_N` with `input_0.pb`, `input_1.pb` …, each one tensor.
//!
//! A tensor whose name is that of an input belongs to it; the others go to the inputs without a default, in order. What the
//! outputs should be (`output_N.pb`) is not read: the original model says that.
use std::{fs, path::PathBuf};

use onnx_shrink_ir::{convert::tensor_from_proto, proto};

use super::{error::SampleProblem, fit::Inputs, raw::Raw, source::Source};

/// Folders of one sample each.
pub(super) struct TestData(pub(super) Vec<PathBuf>);

impl Source for TestData {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn name(&self, index: usize) -> String {
        self.0[index].display().to_string()
    }

    fn read(&self, index: usize, inputs: &Inputs) -> Result<Raw, SampleProblem> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0[index])? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let number = name.strip_prefix("input_").and_then(|rest| rest.strip_suffix(".pb"));
            if let Some(number) = number.and_then(|number| number.parse::<usize>().ok()) {
                files.push((number, path));
            }
        }
        files.sort();
        let mut arrays = Vec::with_capacity(files.len());
        for (number, path) in files {
            let tensor =
                proto::read_tensor(&path).map_err(|error| SampleProblem::TensorFile(number, Box::new(error)))?;
            let place = inputs.required().nth(number).map(|input| input.name.clone());
            let name = match tensor.name() {
                own if inputs.has(own) => own.to_owned(),
                own => place.unwrap_or_else(|| own.to_owned()),
            };
            let problem = |error: onnx_shrink_ir::convert::ConvertError| SampleProblem::Array {
                array: name.clone(),
                problem: error.to_string(),
            };
            let tensor = tensor_from_proto(&tensor).map_err(problem)?;
            arrays.push((name, tensor));
        }
        Ok(Raw { arrays, others: Vec::new(), label: None })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use onnx_shrink_ir::{DataType, Tensor, convert::tensor_to_proto, proto::prost::Message};

    use crate::samples::{SampleOptions, Samples, npz::tests::graph};

    #[test]
    fn inputs_are_found_by_name_and_place() {
        let folder = tempfile::tempdir().unwrap();
        let graph = graph(&[("a", DataType::Float, &[]), ("b", DataType::Float, &[])]);
        for (set, names) in [(2, ["b", "a"]), (10, ["", ""])] {
            let set_folder = folder.path().join(format!("test_data_set_{set}"));
            fs::create_dir(&set_folder).unwrap();
            for (number, name) in names.iter().enumerate() {
                let tensor = tensor_to_proto(&Tensor::scalar((10 * set + number) as f32), name);
                fs::write(set_folder.join(format!("input_{number}.pb")), tensor.encode_to_vec()).unwrap();
            }
            fs::write(set_folder.join("output_0.pb"), "ignored").unwrap();
        }
        let numbers = |path: &std::path::Path| {
            let samples = Samples::open(path, &graph, &SampleOptions::default()).unwrap();
            let sample = |index| samples.get(index).unwrap().inputs;
            let number = |tensor: Option<Tensor>| tensor.unwrap().to_scalar_f64().unwrap();
            (0..samples.len()).map(|index| sample(index).into_iter().map(number).collect()).collect::<Vec<Vec<f64>>>()
        };
        assert_eq!(numbers(folder.path()), [[21., 20.], [100., 101.]]);
        assert_eq!(numbers(&folder.path().join("test_data_set_10")), [[100., 101.]]);
    }
}
