//! Load: a file becomes a model, and no tensor is read on the way.
//!
//! The file is mapped, walked over once ([`limits`](crate::limits)), decoded, and its external data mapped as well. What is
//! not a model gets a sentence that says what it seems to be.
//!
//! **Never** copies a payload, **never** blocks on a pipe, **never** decodes what exceeds the limits.
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use crate::{
    error::{LoadError, Place, Problem},
    external_data::{Reader, is_external},
    limits::{Limits, UnknownField, scan},
    map_file::map_file,
    schema::{ModelProto, TensorProto},
    tensors::{self, Owner},
};

/// A model as it was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The model. External tensors have both: `raw_data`, a slice of the mapped data file, and, untouched, `data_location`
    /// and `external_data`. [`save`](crate::save()) and [`encode`](crate::encode) know what to do with such a tensor.
    pub model: ModelProto,
    /// The file, exactly as it was.
    pub bytes: Bytes,
    /// What this version of ONNX does not know: not in `model`, so writing that would lose it.
    pub unknown: Vec<UnknownField>,
}

/// Loads the model in the file `path`, with its external data.
pub fn load(path: &Path, limits: &Limits) -> Result<Loaded, LoadError> {
    let bytes = map_file(path).map_err(|problem| whole(path, problem.into()))?;
    load_from(bytes, path, Reader::new(path.parent(), Some(path)), limits)
}

/// Loads a model that is in memory: from standard input, for example.
///
/// `name` stands in errors; `folder` is where external data lies: without one, a model that has some is an error.
pub fn load_bytes(bytes: Bytes, name: &Path, folder: Option<&Path>, limits: &Limits) -> Result<Loaded, LoadError> {
    load_from(bytes, name, Reader::new(folder, None), limits)
}

/// Reads a tensor that is a file of its own, as `test_data_set_0/input_0.pb` is.
pub fn read_tensor(path: &Path) -> Result<TensorProto, LoadError> {
    let bytes = map_file(path).map_err(|problem| whole(path, problem.into()))?;
    let (mut tensor, _) =
        decode::<TensorProto>(&bytes, "TensorProto", &Limits::default()).map_err(|problem| whole(path, problem))?;
    resolve(&mut tensor, Owner::File, path, &mut Reader::new(path.parent(), Some(path)))?;
    Ok(tensor)
}

fn load_from(bytes: Bytes, file: &Path, mut reader: Reader, limits: &Limits) -> Result<Loaded, LoadError> {
    let decoded = decode::<ModelProto>(&bytes, "ModelProto", limits);
    let (mut model, unknown) = decoded.map_err(|problem| whole(file, problem))?;
    if model.graph.is_none() && model.functions.is_empty() {
        return Err(whole(file, recognize(&bytes).unwrap_or(Problem::NoGraph)));
    }
    tensors::unique::model(&mut model, &mut |tensor, owner| resolve(tensor, owner, file, &mut reader))?;
    Ok(Loaded { model, bytes, unknown })
}

fn resolve(tensor: &mut TensorProto, owner: Owner<'_>, file: &Path, reader: &mut Reader) -> Result<(), LoadError> {
    if !is_external(tensor) {
        return Ok(());
    }
    reader.resolve(tensor).map_err(|problem| LoadError {
        file: file.to_owned(),
        place: Place::Tensor(owner.describe(tensor.name.as_deref())),
        problem: problem.into(),
    })
}

fn whole(file: &Path, problem: Problem) -> LoadError {
    LoadError { file: file.to_owned(), place: Place::WholeFile, problem: problem.into() }
}

fn decode<M: Message + Default>(
    bytes: &Bytes,
    root: &'static str,
    limits: &Limits,
) -> Result<(M, Vec<UnknownField>), Problem> {
    if bytes.is_empty() {
        return Err(Problem::Empty);
    }
    let unknown = scan(bytes, root, limits).map_err(|problem| match problem {
        Problem::NotOnnx { .. } | Problem::Truncated { .. } | Problem::Damaged { .. } => {
            recognize(bytes).unwrap_or(problem)
        }
        _ => problem,
    })?;
    match M::decode(bytes.clone()) {
        Ok(message) => Ok((message, unknown)),
        Err(error) => Err(recognize(bytes).unwrap_or(Problem::Decode(error))),
    }
}

/// What a file that is no model seems to be. Only asked once decoding failed: a model is never turned away by this.
pub(crate) fn recognize(bytes: &Bytes) -> Option<Problem> {
    let head = &bytes[..bytes.len().min(512)];
    let text = head.trim_ascii_start();
    let what = match () {
        () if text.starts_with(b"version https://git-lfs") => {
            "a Git LFS pointer to one; run `git lfs pull` to get the file itself"
        }
        () if text.starts_with(b"<!") || text.to_ascii_lowercase().starts_with(b"<html") => {
            "an HTML page; perhaps a download that failed"
        }
        () if text.starts_with(b"{") || text.starts_with(b"[") => "JSON text",
        () if text.starts_with(b"<") => "text (XML, or ONNX's textual form); export it as binary ONNX",
        () if head.starts_with(b"PK\x03\x04") => {
            "a ZIP archive (a PyTorch, Keras or packed file); export or unpack it first"
        }
        () if head.starts_with(b"\x1f\x8b") => "a gzip archive; unpack it first",
        () if head.starts_with(b"\x89HDF") => "an HDF5 file (Keras); export it to ONNX first",
        () if head.get(4..8) == Some(b"TFL3") => "a TensorFlow Lite model; convert it to ONNX first",
        () if head.get(4..8) == Some(b"ORTM") => {
            "a model in ONNX Runtime's own format; use the .onnx file it was made from"
        }
        () if head.starts_with(b"\x80\x02") || head.starts_with(b"\x80\x04") => {
            "a Python pickle; export the model to ONNX first"
        }
        () if std::str::from_utf8(head)
            .is_ok_and(|text| !text.contains(|c: char| c.is_control() && !c.is_whitespace())) =>
        {
            "text"
        }
        () if is_tensor(bytes) => "a single tensor, as the inputs of test cases are",
        () => return None,
    };
    Some(Problem::SomethingElse { what })
}

fn is_tensor(bytes: &Bytes) -> bool {
    let known = scan(bytes, "TensorProto", &Limits::default()).is_ok_and(|unknown| unknown.is_empty());
    known && TensorProto::decode(bytes.clone()).is_ok_and(|tensor| tensor.data_type.is_some())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use bytes::Bytes;
    use prost::Message;

    use super::{load, load_bytes, read_tensor};
    use crate::{
        limits::Limits,
        save::encode,
        schema::{AttributeProto, ModelProto, TensorProto},
        testing::{model, node, sentence, tensor},
    };

    fn refused(bytes: &[u8]) -> String {
        let bytes = Bytes::copy_from_slice(bytes);
        sentence(&load_bytes(bytes, Path::new("m.onnx"), None, &Limits::default()).unwrap_err())
    }

    #[test]
    fn bytes_survive_and_tensors_stay_in_the_map() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let attribute = AttributeProto { t: Some(Box::new(tensor("c", vec![1; 5000]))), ..Default::default() };
        let mut model = model(vec![tensor("w", vec![7; 100_000]), tensor("b", vec![8; 3])]);
        model.graph.as_mut().unwrap().node.push(node(attribute));
        let bytes = model.encode_to_vec();
        fs::write(&path, &bytes).unwrap();
        let loaded = load(&path, &Limits::default()).unwrap();
        assert_eq!(loaded.model, model);
        assert_eq!(loaded.bytes, bytes);
        assert_eq!(loaded.unknown, []);
        assert_eq!(encode(&loaded.model).concat(), bytes);
        let map = loaded.bytes.as_ptr_range();
        let graph = loaded.model.graph.unwrap();
        for tensor in graph.initializer.iter().chain(graph.node[0].attribute[0].t.as_deref()) {
            let data = tensor.raw_data.as_ref().unwrap().as_ptr_range();
            assert!(map.start <= data.start && data.end <= map.end);
        }
    }

    #[test]
    fn absent_and_zero_stay_apart() {
        for value in [None, Some(0)] {
            let mut model = model(vec![]);
            model.model_version = value;
            model.doc_string = value.map(|_| String::new());
            model.graph.as_mut().unwrap().node.push(node(AttributeProto { i: value, ..Default::default() }));
            let bytes = Bytes::from(model.encode_to_vec());
            let loaded = load_bytes(bytes.clone(), Path::new("-"), None, &Limits::default()).unwrap();
            assert_eq!(loaded.model, model);
            assert_eq!(encode(&loaded.model).concat(), bytes);
        }
    }

    #[test]
    fn what_is_no_model_is_named() {
        assert_eq!(refused(b""), "m.onnx: the file is empty; copy or download it again");
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        assert!(refused(pointer).contains("a Git LFS pointer to one; run `git lfs pull`"));
        assert!(refused(b"{\"model\": 1}").contains("is not an ONNX model but JSON text"));
        assert!(refused(b"\n <!DOCTYPE html><html>").contains("an HTML page"));
        assert!(refused(b"<html>").contains("an HTML page"));
        assert!(refused(b"PK\x03\x04\x14\x00").contains("a ZIP archive"));
        assert!(refused(b"Hello, this is a note").ends_with("but text"));
        assert!(refused(&[0xff; 100]).contains("is not an ONNX model, or it is damaged at byte 0"));
        let tensor = refused(&tensor("w", vec![0; 10]).encode_to_vec());
        assert!(tensor.contains("not an ONNX model but a single tensor"), "{tensor}");
        assert!(refused(&[8, 10]).contains("the model has no graph"));
    }

    #[test]
    fn a_model_that_ends_early_is_named() {
        let bytes = model(vec![tensor("w", vec![7; 1000])]).encode_to_vec();
        let sentence = refused(&bytes[..500]);
        let end = "; copy or download it again";
        assert_eq!(
            sentence,
            format!("m.onnx: the file ends after 500 bytes, at least {} are needed{end}", bytes.len())
        );
    }

    #[test]
    fn text_that_is_not_utf8_is_an_error_without_repetition() {
        let sentence = refused(&[8, 10, 0x3a, 3, 0x12, 1, 0xff]);
        assert!(sentence.contains("UTF-8") && sentence.contains("GraphProto.name"), "{sentence}");
        assert_eq!(sentence.matches("UTF-8").count(), 1, "{sentence}");
    }

    #[test]
    fn unknown_fields_are_reported() {
        let bytes = [model(vec![]).encode_to_vec(), vec![0x9a, 0x06, 3, b'a', b'b', b'c']].concat();
        let loaded = load_bytes(bytes.into(), Path::new("-"), None, &Limits::default()).unwrap();
        assert_eq!(loaded.unknown[0].to_string(), "field 99 in ModelProto");
    }

    #[test]
    fn a_tensor_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input_0.pb");
        fs::write(&path, tensor("x", vec![1, 2, 3]).encode_to_vec()).unwrap();
        assert_eq!(read_tensor(&path).unwrap(), tensor("x", vec![1, 2, 3]));
        assert_eq!(TensorProto::default(), TensorProto::decode(&b""[..]).unwrap());
        fs::write(&path, b"").unwrap();
        assert!(sentence(&read_tensor(&path).unwrap_err()).ends_with("the file is empty; copy or download it again"));
    }

    #[test]
    fn a_path_that_is_no_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| sentence(&load(path, &Limits::default()).unwrap_err());
        assert!(refused(folder.path()).ends_with(": this is a folder, not a file"));
        assert!(refused(&folder.path().join("m.onnx")).ends_with("m.onnx: no such file"));
        assert!(refused(&folder.path().join("no/m.onnx")).ends_with("m.onnx: no such file"));
        #[cfg(unix)]
        assert!(refused(Path::new("/dev/null")).contains("not a regular file but a pipe or a device"));
    }

    #[test]
    fn a_library_of_functions_is_a_model() {
        let library = ModelProto { functions: vec![Default::default()], ..Default::default() };
        let bytes = Bytes::from(library.encode_to_vec());
        assert_eq!(load_bytes(bytes, Path::new("-"), None, &Limits::default()).unwrap().model, library);
    }
}
