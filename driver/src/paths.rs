//! Which files a run reads and writes: no file is two of them.
//!
//! Files are told apart by what they are, not by their names: links of both kinds lead to the same one. Only a model may be
//! replaced by its own result. What is neither file nor folder (`/dev/null`, a pipe) may be anything any number of times.
//!
//! **Never** reads what a file holds (of the input, only where its data lie), **never** fails for what is not there.
use std::{
    borrow::Cow,
    fmt, fs,
    path::{Path, PathBuf},
};

use onnx_shrink_ir::proto::{self, ExternalData, Identity, SaveOptions};

use crate::{
    ExitCode, Failure, Request,
    request::io::{Input, Output},
    samples::{self, Data},
};

/// What a file is for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    InputModel,
    InputData,
    SampleFile(&'static str),
    Read(&'static str),
    OutputModel,
    /// The data file that the model gets; where the name is not given, another is found if need be
    OutputData,
    Write(&'static str),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::InputModel => write!(f, "the input model"),
            Role::InputData => write!(f, "a data file of the input model"),
            Role::SampleFile(option) => write!(f, "a sample of {option}"),
            Role::OutputModel => write!(f, "the output"),
            Role::OutputData => write!(f, "the output's external data"),
            Role::Read(option) | Role::Write(option) => write!(f, "{option}"),
        }
    }
}

struct File {
    role: Role,
    path: PathBuf,
    identity: Identity,
}

impl File {
    /// `None` for what may be several things at once.
    fn new(role: Role, path: &Path) -> Option<File> {
        let is_device = fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir());
        (!is_device).then(|| File { role, path: path.to_owned(), identity: Identity::of(path) })
    }
}

/// The files of a run.
#[derive(Default)]
pub struct Paths {
    reads: Vec<File>,
    writes: Vec<File>,
    /// Samples, with the option that names them: listed only where something that is there is written
    samples: Vec<(&'static str, PathBuf)>,
}

/// What `-` stands for. (Where the system has no such file, there is nothing to compare.)
fn stream<'a>(path: &'a Path, stream: &'a str) -> &'a Path {
    if path == Path::new("-") { Path::new(stream) } else { path }
}

impl Paths {
    /// Those of `request`.
    pub fn of(request: &Request) -> Paths {
        let mut paths = match &request.input {
            Input::File(path) => Paths::default().model(path),
            Input::Stdin => Paths::default().model(Path::new("-")),
            Input::Memory(_) => Paths::default(),
        }
        .samples("--data", request.data.as_ref().and_then(Data::path))
        .samples("--validation-data", request.validation_data.as_ref().and_then(Data::path));
        for file in &request.ranges.files {
            paths = paths.read("--ranges-in", file);
        }
        if let Some(folder) = &request.control.dump_dir {
            paths = paths.write("--dump-dir", folder);
        }
        let output = match request.output.as_ref().filter(|_| !request.control.dry_run) {
            Some(Output::File(path)) => path,
            Some(Output::Stdout) => {
                paths.writes.extend(File::new(Role::OutputModel, Path::new("/dev/stdout")));
                return paths;
            }
            Some(Output::Memory) | None => return paths,
        };
        paths.writes.extend(File::new(Role::OutputModel, output));
        let has_data = || paths.reads.iter().any(|file| file.role == Role::InputData);
        let data = match &request.external_data {
            ExternalData::Always { file_name: Some(name) } => Some(Cow::Borrowed(name.as_str())),
            ExternalData::Never => None,
            ExternalData::Auto | ExternalData::Keep if !has_data() => None,
            _ => output.file_name().map(|own| Cow::Owned(format!("{}.data", own.to_string_lossy()))),
        };
        if let Some(name) = data {
            paths.writes.extend(File::new(Role::OutputData, &output.with_file_name(name.as_ref())));
        }
        paths
    }

    /// And this model is read, with its data.
    pub fn model(mut self, path: &Path) -> Paths {
        let mut files = proto::files_of_model(stream(path, "/dev/stdin")).into_iter();
        self.reads.extend(files.next().and_then(|path| File::new(Role::InputModel, &path)));
        self.reads.extend(files.filter_map(|path| File::new(Role::InputData, &path)));
        self
    }

    /// And these samples are, which `option` names.
    pub fn samples(mut self, option: &'static str, path: Option<&Path>) -> Paths {
        if let Some(path) = path {
            self.samples.push((option, path.to_owned()));
            self = self.read(option, path);
        }
        self
    }

    /// And this file is, which `option` names.
    pub fn read(mut self, option: &'static str, path: &Path) -> Paths {
        self.reads.extend(File::new(Role::Read(option), path));
        self
    }

    /// And this one is written.
    pub fn write(mut self, option: &'static str, path: &Path) -> Paths {
        self.writes.extend(File::new(Role::Write(option), path));
        self
    }

    /// And text goes to standard output, unless the model does.
    pub fn print(self) -> Paths {
        let stdout = Path::new("/dev/stdout");
        if self.writes.iter().any(|file| file.role == Role::OutputModel && file.path == stdout) {
            return self;
        }
        self.write("standard output", stdout)
    }

    /// An error if a file is two of them.
    pub fn check(&self) -> Result<(), Failure> {
        for (index, written) in self.writes.iter().enumerate() {
            let others = self.reads.iter().chain(&self.writes[..index]);
            let is_other =
                |other: &&File| !may_be_both(other.role, written.role) && other.identity.is_same(&written.identity);
            if let Some(other) = others.into_iter().find(is_other) {
                return Err(refusal(written, other.role, &other.path));
            }
            // What is not there yet is no sample.
            if !written.path.is_file() {
                continue;
            }
            for (option, path) in &self.samples {
                let is_sample = |path: &PathBuf| Identity::of(path).is_same(&written.identity);
                if let Some(sample) = samples::files_of(path).into_iter().find(is_sample) {
                    return Err(refusal(written, Role::SampleFile(option), &sample));
                }
            }
        }
        Ok(())
    }
}

/// Whether a run may do both with one file: replace a model, or its data (which `proto::save` does where nobody else reads them).
fn may_be_both(read: Role, written: Role) -> bool {
    matches!((read, written), (Role::InputModel, Role::OutputModel) | (Role::InputData, Role::OutputData))
}

fn refusal(written: &File, other: Role, other_path: &Path) -> Failure {
    let (path, role) = (written.path.display(), written.role);
    let path_of_other = match other_path == written.path {
        true => String::new(),
        false => format!(", `{}`", other_path.display()),
    };
    Failure::usage(format_args!(
        "`{path}` would be both {role} and {other}{path_of_other}: one would overwrite the other; give {role} another name"
    ))
}

/// Whether the data file that the user named would take another model's data.
pub fn check_data_name(request: &Request) -> Result<(), Failure> {
    let Some(Output::File(output)) = request.output.as_ref().filter(|_| !request.control.dry_run) else {
        return Ok(());
    };
    let input = request.input.file().map(Path::to_owned);
    let options = SaveOptions { external: request.external_data.clone(), input };
    proto::check_data_name(output, &options).map_err(|error| Failure::new(ExitCode::Usage, error))
}
