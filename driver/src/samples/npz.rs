//! .npz: a ZIP archive of .npy members, each named for its array; and arrays with a leading sample axis.
//!
//! An archive with all samples is not held in memory: what is stored is read where it lies, what is compressed is inflated
//! once, into a temporary file without a name.
//!
//! **Never** gives numbers of a member whose checksum is wrong: each is read to its end, where that is compared.
use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use onnx_shrink_ir::Tensor;
use zip::{CompressionMethod, ZipArchive};

use super::{
    error::SampleProblem,
    fit::Inputs,
    npy::Header,
    raw::{Raw, UNNAMED},
    source::Source,
};

/// Most bytes that one member of an archive may inflate to.
const MAX_INFLATED: u64 = 64 << 30;
/// What deflate can do at best is 1032 to 1; an array of zeros comes near that. Below this size it is no matter.
const HARMLESS: u64 = 64 << 20;

type Archive = ZipArchive<BufReader<File>>;

fn open_archive(path: &Path) -> Result<Archive, SampleProblem> {
    let file = BufReader::new(File::open(path)?);
    ZipArchive::new(file).map_err(|error| SampleProblem::Format(format!("this is no .npz archive: {error}")))
}

fn in_array(array: &str) -> impl Fn(String) -> SampleProblem {
    let array = array.to_owned();
    move |problem| SampleProblem::Array { array: array.clone(), problem }
}

/// Reads the `rest` of a member, at most `most` bytes, so that its checksum is compared.
fn check_rest(rest: &mut dyn Read, most: u64) -> Result<(), String> {
    let read = io::copy(&mut rest.take(most), &mut io::sink());
    match read {
        Ok(found) if found < most => Ok(()),
        Ok(_) => Err("it holds far more bytes than its header says: it is damaged; make it again".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(DAMAGED.to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// What is wrong with a member whose checksum or compression is.
const DAMAGED: &str = "its bytes are not those that its checksum (CRC-32) is of: it is damaged; copy or make it again";

/// Names of the members: the array, and the place in the archive. In the archive's order.
fn arrays_of(archive: &Archive) -> Vec<(String, usize)> {
    // (A name that is no text is no input's.)
    let name = |index| Some((archive.name_for_index(index)?.ok()?.strip_suffix(".npy")?.to_owned(), index));
    (0..archive.len()).filter_map(name).collect()
}

/// Reads the arrays of `path` that `inputs` have a use for; of the others only what they are.
fn read_arrays(path: &Path, inputs: &Inputs) -> Result<Raw, SampleProblem> {
    let mut archive = open_archive(path)?;
    let members = arrays_of(&archive);
    if members.is_empty() {
        return Err(SampleProblem::Format("the archive holds no .npy arrays; make it with numpy.savez".to_owned()));
    }
    let (mut arrays, mut others) = (Vec::with_capacity(members.len()), Vec::new());
    for (name, index) in members {
        let member = archive.by_index(index).map_err(|error| in_array(&name)(error.to_string()))?;
        let mut member = BufReader::new(member);
        let header = match Header::read(&mut member) {
            Ok(header) => header,
            // An array that nothing wants may be of any kind: Python objects, for example.
            Err(_) if !inputs.wants(&name) => {
                others.push(format!("`{name}`"));
                continue;
            }
            Err(problem) => return Err(in_array(&name)(problem)),
        };
        if inputs.wants(&name) {
            let tensor = header.tensor(&mut member).map_err(in_array(&name))?;
            check_rest(&mut member, HARMLESS).map_err(in_array(&name))?;
            arrays.push((name, tensor));
        } else {
            others.push(format!("`{name}` ({})", header.describe()));
        }
    }
    Ok(Raw { arrays, others, label: None })
}

/// A folder of .npz files, each one sample.
pub(super) struct NpzFolder(pub(super) Vec<PathBuf>);

impl Source for NpzFolder {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn name(&self, index: usize) -> String {
        self.0[index].display().to_string()
    }

    fn read(&self, index: usize, inputs: &Inputs) -> Result<Raw, SampleProblem> {
        read_arrays(&self.0[index], inputs)
    }
}

/// A folder of .npy files, each one sample of a model with one input.
pub(super) struct NpyFolder(pub(super) Vec<PathBuf>);

impl Source for NpyFolder {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn name(&self, index: usize) -> String {
        self.0[index].display().to_string()
    }

    fn read(&self, index: usize, _: &Inputs) -> Result<Raw, SampleProblem> {
        let mut file = BufReader::new(File::open(&self.0[index])?);
        let header = Header::read(&mut file).map_err(SampleProblem::Format)?;
        let tensor = header.tensor(&mut file).map_err(SampleProblem::Format)?;
        Ok(Raw { arrays: vec![(UNNAMED.to_owned(), tensor)], others: Vec::new(), label: None })
    }
}

/// An array of samples in a file.
struct Column {
    name: String,
    /// Of one sample
    header: Header,
    file: Mutex<File>,
    /// Where the first sample begins
    start: u64,
    /// Bytes of one sample
    stride: u64,
}

impl Column {
    /// The array that begins at `at`; with its number of samples.
    fn new(name: String, mut file: File, at: u64) -> Result<(Column, usize), String> {
        let io = |error: io::Error| format!("cannot be read: {error}");
        file.seek(SeekFrom::Start(at)).map_err(io)?;
        let header = Header::read(&mut BufReader::new(&mut file))?;
        let sample = header.of_sample()?;
        let stride = sample.byte_len()?;
        let column = Column { name, file: Mutex::new(file), start: at + header.len, stride, header: sample };
        Ok((column, header.dims[0]))
    }

    fn read(&self, index: usize) -> Result<Tensor, String> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (index as u64).checked_mul(self.stride).and_then(|at| at.checked_add(self.start));
        let at = at.ok_or("its shape has too many elements")?;
        file.seek(SeekFrom::Start(at)).map_err(|error| format!("cannot be read: {error}"))?;
        self.header.tensor(&mut *file)
    }
}

/// Arrays whose leading axis is the samples'.
pub(super) struct Columns {
    path: PathBuf,
    columns: Vec<Column>,
    len: usize,
}

impl Columns {
    /// One .npy file, for a model with one input.
    pub(super) fn of_npy(path: &Path) -> Result<Columns, SampleProblem> {
        let (column, len) = Column::new(UNNAMED.to_owned(), File::open(path)?, 0).map_err(SampleProblem::Format)?;
        Ok(Columns { path: path.to_owned(), columns: vec![column], len })
    }

    /// One .npz file.
    pub(super) fn of_npz(path: &Path, inputs: &Inputs) -> Result<Columns, SampleProblem> {
        let mut archive = open_archive(path)?;
        let mut columns: Vec<Column> = Vec::new();
        let mut len: Option<(usize, String)> = None;
        let mut all = Vec::new();
        for (name, index) in arrays_of(&archive) {
            all.push(format!("`{name}`"));
            if !inputs.wants(&name) {
                log::warn!("{}: array `{name}` is no input of the model, and not used", path.display());
                continue;
            }
            let (column, count) = column_of(path, &mut archive, index, &name).map_err(in_array(&name))?;
            match &len {
                Some((other, first)) if *other != count => {
                    return Err(SampleProblem::Format(format!(
                        "array `{first}` has {other} samples and `{name}` has {count}: \
                         the leading axis of each array must be the samples'"
                    )));
                }
                _ => len = Some((count, name)),
            }
            columns.push(column);
        }
        match len {
            Some((len, _)) => Ok(Columns { path: path.to_owned(), columns, len }),
            None => Err(SampleProblem::InputMissing {
                input: inputs.required().next().map_or_else(String::new, |input| input.name.clone()),
                found: if all.is_empty() { "none".to_owned() } else { all.join(", ") },
                wanted: inputs.wanted(),
            }),
        }
    }
}

fn column_of(path: &Path, archive: &mut Archive, index: usize, name: &str) -> Result<(Column, usize), String> {
    let io = |error: io::Error| format!("cannot be read: {error}");
    let mut member = archive.by_index(index).map_err(|error| error.to_string())?;
    if member.compression() == CompressionMethod::Stored {
        let start = member.data_start().expect("a member that was opened has its data somewhere");
        let column = Column::new(name.to_owned(), File::open(path).map_err(io)?, start)?;
        check_rest(&mut member, u64::MAX)?;
        return Ok(column);
    }
    let mut member = BufReader::new(member);
    let header = Header::read(&mut member)?;
    let needed = header.byte_len()?;
    if needed > MAX_INFLATED {
        return Err(format!("{needed} bytes, at most {MAX_INFLATED} are inflated; split the file"));
    }
    let packed = member.get_ref().compressed_size();
    if needed > HARMLESS && packed.saturating_mul(2000) < needed {
        return Err(format!("{packed} bytes cannot hold the {needed} that its header announces; it is damaged"));
    }
    // The header is written again, as numbers only: a column begins with one.
    let mut file = tempfile::tempfile().map_err(io)?;
    let found = io::copy(&mut (&mut member).take(needed), &mut file).map_err(io)?;
    if found < needed {
        return Err(format!("it is cut off: {needed} bytes by its header, {found} are there"));
    }
    check_rest(&mut member, HARMLESS)?;
    file.flush().map_err(io)?;
    let sample = header.of_sample()?;
    let stride = sample.byte_len()?;
    Ok((Column { name: name.to_owned(), file: Mutex::new(file), start: 0, stride, header: sample }, header.dims[0]))
}

impl Source for Columns {
    fn len(&self) -> usize {
        self.len
    }

    fn name(&self, index: usize) -> String {
        format!("{}[{index}]", self.path.display())
    }

    fn read(&self, index: usize, _: &Inputs) -> Result<Raw, SampleProblem> {
        let column = |column: &Column| Ok((column.name.clone(), column.read(index).map_err(in_array(&column.name))?));
        let arrays = self.columns.iter().map(column).collect::<Result<_, SampleProblem>>()?;
        Ok(Raw { arrays, others: Vec::new(), label: None })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        fs::File,
        io::Write,
        path::{Path, PathBuf},
    };

    use onnx_shrink_ir::proto::schema::GraphProto;
    use onnx_shrink_ir::{
        DataType, Graph, Tensor, TensorType, import,
        proto::schema::{ModelProto, ValueInfoProto},
    };
    use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

    use crate::samples::{SampleOptions, Samples, npy::tests::npy};

    /// A graph with these inputs and nothing else.
    pub(crate) fn graph(inputs: &[(&str, DataType, &[usize])]) -> Graph {
        let info = |&(name, dtype, dims): &(&str, DataType, &[usize])| ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: Some(TensorType::fixed(dtype, dims).to_proto()),
            ..ValueInfoProto::default()
        };
        let graph = GraphProto { input: inputs.iter().map(info).collect(), ..GraphProto::default() };
        import(ModelProto { graph: Some(graph), ..ModelProto::default() }).unwrap().graph
    }

    /// Floats as an .npy file.
    pub(crate) fn floats(dims: &[usize], numbers: &[f32]) -> Vec<u8> {
        let shape: Vec<String> = dims.iter().map(|dim| format!("{dim},")).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        npy("<f4", false, &format!("({})", shape.join(" ")), &bytes)
    }

    pub(crate) fn npz(path: &Path, method: CompressionMethod, arrays: &[(&str, Vec<u8>)]) -> PathBuf {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        for (name, bytes) in arrays {
            zip.start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(method)).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        path.to_owned()
    }

    fn open(path: &Path, graph: &Graph) -> Result<Samples, String> {
        let opened = Samples::open(path, graph, &SampleOptions::default());
        opened.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn one_archive_holds_all_samples_stored_or_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let graph = graph(&[("x", DataType::Float, &[1, 2])]);
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            let arrays =
                [("x", floats(&[3, 2], &[0., 1., 2., 3., 4., 5.])), ("y", npy("|u1", false, "(3,)", &[7, 8, 9]))];
            let samples = open(&npz(&folder.path().join("all.npz"), method, &arrays), &graph).unwrap();
            assert_eq!(samples.len(), 3);
            let sample = samples.get(2).unwrap();
            assert_eq!(sample.inputs, [Some(Tensor::from_vec(&[1, 2], vec![4f32, 5.0]))]);
            assert_eq!(sample.label, Some(Tensor::scalar(9u8)));
            assert!(sample.name.ends_with("all.npz[2]"), "{}", sample.name);
        }
    }

    #[test]
    fn a_wrong_checksum_is_noticed_wherever_a_member_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let graph = graph(&[("x", DataType::Float, &[1, 2])]);
        let path = folder.path().join("0.npz");
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            for samples in [&[1, 2][..], &[3, 1, 2]] {
                let numbers = vec![0.25; samples.iter().product()];
                let open = |path: &Path| open(path, &graph);
                // One archive for each sample: their folder. One for all: the file.
                let place = if samples.len() == 2 { folder.path() } else { &path };
                npz(&path, method, &[("x", floats(samples, &numbers)), ("y", npy("|u1", false, "(1,)", &[7]))]);
                if samples.len() == 2 {
                    open(place).unwrap();
                }
                let good = std::fs::read(&path).unwrap();
                // The checksum in the directory at the end of the archive.
                let entry = good.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
                let mut bad = good.clone();
                bad[entry + 16] ^= 1;
                std::fs::write(&path, bad).unwrap();
                let error = open(place).unwrap_err();
                assert!(
                    error.contains("0.npz") && error.contains("array `x`: ") && error.contains("CRC-32"),
                    "{error}"
                );
                // A number.
                if method == CompressionMethod::Stored {
                    let number = good.windows(4).position(|four| four == 0.25f32.to_le_bytes()).unwrap();
                    let mut bad = good.clone();
                    bad[number + 2] ^= 1;
                    std::fs::write(&path, bad).unwrap();
                    let error = open(place).unwrap_err();
                    assert!(error.contains("array `x`: ") && error.contains("CRC-32"), "{error}");
                }
            }
        }
    }

    #[test]
    fn lengths_that_differ_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let graph = graph(&[("x", DataType::Float, &[1, 1])]);
        let arrays = [("x", floats(&[2, 1], &[0., 1.])), ("y", npy("|u1", false, "(3,)", &[7, 8, 9]))];
        let error = open(&npz(&folder.path().join("all.npz"), CompressionMethod::Stored, &arrays), &graph).unwrap_err();
        assert!(error.contains("array `x` has 2 samples and `y` has 3"), "{error}");
    }

    #[test]
    fn a_folder_is_sorted_by_name_and_split_by_fours() {
        let folder = tempfile::tempdir().unwrap();
        let graph = graph(&[("x", DataType::Float, &[1])]);
        for index in [5, 0, 3, 4, 1, 2, 7, 6] {
            let path = folder.path().join(format!("{index}.npz"));
            npz(&path, CompressionMethod::Deflated, &[("x", floats(&[1], &[index as f32]))]);
        }
        let (calibration, held_out) = open(folder.path(), &graph).unwrap().split();
        let numbers = |samples: &Samples| {
            let number = |index| samples.get(index).unwrap().inputs[0].as_ref().unwrap().to_scalar_f64().unwrap();
            (0..samples.len()).map(number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&calibration), [0., 1., 2., 4., 5., 6.]);
        assert_eq!(numbers(&held_out), [3., 7.]);
        assert_eq!(numbers(&calibration.subset(&[5, 0])), [6., 0.]);
    }

    #[test]
    fn errors_name_file_and_array() {
        let folder = tempfile::tempdir().unwrap();
        let graph = graph(&[("x", DataType::Float, &[1])]);
        let path = folder.path().join("s.npz");
        let stored = CompressionMethod::Stored;
        let error = |arrays: &[(&str, Vec<u8>)]| {
            npz(&path, stored, arrays);
            open(folder.path(), &graph).unwrap_err()
        };
        let none = error(&[("z", floats(&[1], &[0.]))]);
        assert!(none.contains("s.npz") && none.contains("input `x`: the arrays are `z`"), "{none}");
        let cut = error(&[("x", floats(&[9], &[0.]))]);
        assert!(cut.contains("array `x`: it is cut off"), "{cut}");
        let object = error(&[("x", npy("|O", false, "(1,)", b"?"))]);
        assert!(object.contains("array `x`: it holds Python objects"), "{object}");
        std::fs::write(&path, "no archive").unwrap();
        let text = open(folder.path(), &graph).unwrap_err();
        assert!(text.contains("this is no .npz archive"), "{text}");
    }

    #[test]
    fn npy_is_for_one_input() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        std::fs::write(&path, floats(&[3, 2], &[0., 1., 2., 3., 4., 5.])).unwrap();
        let one = graph(&[("x", DataType::Float, &[1, 2])]);
        let samples = open(&path, &one).unwrap();
        assert_eq!((samples.len(), samples.get(1).unwrap().inputs[0].as_ref().unwrap().dims()), (3, &[1, 2][..]));
        let two = graph(&[("x", DataType::Float, &[1, 2]), ("z", DataType::Float, &[1])]);
        let error = open(&path, &two).unwrap_err();
        assert!(error.contains("can give one input, the model has 2: `x` (float[1,2]), `z` (float[1])"), "{error}");
        let error = open(folder.path(), &one).unwrap_err(); // as a folder, the array would be one sample
        assert!(error.contains("axis 0 must be 1"), "{error}");
    }
}
