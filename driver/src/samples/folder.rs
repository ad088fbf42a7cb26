//! Which form a path is: a folder's entries by kind, or one file.
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    error::SampleProblem,
    fit::Inputs,
    images::{Images, LABELS},
    npz::{Columns, NpyFolder, NpzFolder},
    onnx_test_data::TestData,
    options::SampleOptions,
    source::Source,
};

/// Forms of samples in a folder, in the order in which they are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Npz,
    Npy,
    Image,
    TestSet,
    /// `input_0.pb`: the folder itself is a test_data_set
    TestInput,
}

fn form_of(path: &Path) -> Option<Form> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    if path.is_dir() {
        return name.starts_with("test_data_set").then_some(Form::TestSet);
    }
    match path.extension()?.to_string_lossy().to_lowercase().as_str() {
        "npz" => Some(Form::Npz),
        "npy" => Some(Form::Npy),
        "jpg" | "jpeg" | "png" => Some(Form::Image),
        "pb" if name.starts_with("input_") => Some(Form::TestInput),
        _ => None,
    }
}

/// The source of the samples in `path`.
pub(super) fn open(path: &Path, inputs: &Inputs, options: &SampleOptions) -> Result<Arc<dyn Source>, SampleProblem> {
    if !path.exists() {
        return Err(SampleProblem::Missing);
    }
    if !path.is_dir() && !path.is_file() {
        let pipe = "this is a pipe or a device, where nothing can be read twice; copy it to a file first";
        return Err(SampleProblem::Format(pipe.to_owned()));
    }
    if let Some(flag) = options.given() {
        // Who gives it thinks that these arrays still have to be scaled.
        let is_image = match path.is_dir() {
            true => entries(path)?.0 == Form::Image,
            false => matches!(form_of(path), Some(Form::Image) | None),
        };
        if !is_image {
            return Err(SampleProblem::Format(format!(
                "{flag} is for images, and arrays are taken as they are: leave it out, or scale the arrays when they are made"
            )));
        }
    }
    if !path.is_dir() {
        return match form_of(path) {
            Some(Form::Npz) => Ok(Arc::new(Columns::of_npz(path, inputs)?)),
            Some(Form::Npy) => {
                inputs.single("an .npy file")?;
                Ok(Arc::new(Columns::of_npy(path)?))
            }
            Some(Form::Image) => Ok(Arc::new(Images::new(vec![path.to_owned()], None, inputs, options)?)),
            _ => Err(SampleProblem::UnknownForm),
        };
    }
    let (form, files) = entries(path)?;
    Ok(match form {
        Form::Npz => Arc::new(NpzFolder(files)),
        Form::Npy => {
            inputs.single("a folder of .npy files")?;
            Arc::new(NpyFolder(files))
        }
        Form::Image => Arc::new(Images::new(files, Some(path), inputs, options)?),
        Form::TestSet => Arc::new(TestData(files)),
        Form::TestInput => Arc::new(TestData(vec![path.to_owned()])),
    })
}

/// The samples of a folder, sorted by name, all of one form.
fn entries(folder: &Path) -> Result<(Form, Vec<PathBuf>), SampleProblem> {
    let mut samples: Vec<(Form, PathBuf)> = Vec::new();
    let mut others = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        match form_of(&path) {
            _ if name.starts_with('.') => {}
            Some(form) => samples.push((form, path)),
            None => others.push(name),
        }
    }
    let Some(first) = samples.first() else {
        others.sort();
        let found = match others.len() {
            0 => "no files are".to_owned(),
            count => format!(
                "no samples are ({count} other entries: {}{})",
                others[..count.min(3)].join(", "),
                if count > 3 { " …" } else { "" }
            ),
        };
        return Err(SampleProblem::Empty { found });
    };
    let form = first.0;
    if let Some(other) = samples.iter().find(|sample| sample.0 != form) {
        let name = |path: &Path| {
            let name = path.file_name().expect("an entry of a folder has a name");
            format!("`{}`", name.to_string_lossy())
        };
        let (mut one, mut other) = (name(&first.1), name(&other.1));
        if one > other {
            std::mem::swap(&mut one, &mut other);
        }
        return Err(SampleProblem::Mixed { one, other });
    }
    let mut files: Vec<PathBuf> = samples.into_iter().map(|(_, path)| path).collect();
    match form {
        // test_data_set_10 comes after test_data_set_2.
        Form::TestSet => files.sort_by_cached_key(|path| (number_at_end(path), path.clone())),
        _ => files.sort(),
    }
    Ok((form, files))
}

/// The files that samples in `path` are read from, whatever their form; none where there is nothing.
pub fn files_of(path: &Path) -> Vec<PathBuf> {
    let listed =
        |folder: &Path| fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let is_labels = |path: &Path| path.file_name().is_some_and(|name| LABELS.iter().any(|labels| name == *labels));
    let mut files: Vec<PathBuf> = listed(path)
        .filter(|path| form_of(path).is_some() || is_labels(path))
        .flat_map(|path| if path.is_dir() { listed(&path).collect() } else { vec![path] })
        .collect();
    files.sort();
    files
}

/// The number that a name ends with; names without one come first.
fn number_at_end(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let digits = name.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use onnx_shrink_ir::DataType;

    use crate::samples::{
        SampleOptions, Samples,
        npz::tests::{floats, graph},
    };

    #[test]
    fn empty_mixed_and_foreign_folders_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let graph = graph(&[("x", DataType::Float, &[1])]);
        let error = |name: &str| {
            let error = Samples::open(folder.path().join(name), &graph, &SampleOptions::default()).unwrap_err();
            format!("{:#}", anyhow::Error::from(error)).replace(&folder.path().display().to_string(), "")
        };
        assert!(error("none").contains("no such file or folder"));
        assert!(error("").contains("no files are in it; wanted are .npz files"), "{}", error(""));
        fs::write(folder.path().join("notes.md"), "").unwrap();
        fs::write(folder.path().join(".hidden.npz"), "").unwrap();
        assert!(error("").contains("(1 other entries: notes.md)"), "{}", error(""));
        assert!(error("notes.md").contains("no form of samples"));
        fs::write(folder.path().join("a.npy"), floats(&[1], &[0.])).unwrap();
        fs::write(folder.path().join("b.png"), "").unwrap();
        assert!(error("").contains("it mixes `a.npy` and `b.png`"), "{}", error(""));
    }
}
