//! Images as samples: decode, resize, take the middle, to numbers, scale, mean, std, in that order.
//!
//! The formula for a pixel p of 0 to 255 is (p · scale − mean) / std. Resizing filters as Pillow's BILINEAR does (the
//! results differ by one level at most). Nothing is done that was not asked for: an image of another size than the model's
//! is an error that says which flags would do.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use image::{DynamicImage, ImageReader, Limits, imageops::FilterType};
use ndarray::{ArrayD, IxDyn};
use onnx_shrink_ir::{DataType, Dim, Tensor};

use super::{
    error::SampleProblem,
    fit::{Input, Inputs},
    options::{Channels, Layout, Resize, SampleOptions},
    raw::Raw,
    source::Source,
};

/// Largest image that is decoded, in pixels a side and bytes.
const MAX_SIDE: u32 = 1 << 15;
const MAX_DECODED: u64 = 1 << 30;

/// The files of labels that lie beside images.
pub(super) const LABELS: [&str; 2] = ["labels.txt", "labels.csv"];

/// Images for a model with one input.
pub(super) struct Images {
    files: Vec<PathBuf>,
    labels: BTreeMap<String, i64>,
    options: SampleOptions,
    input: String,
    dtype: DataType,
    /// Whether the channels are the last axis
    last: bool,
    /// Whether there is a batch axis
    batch: bool,
    channels: usize,
    /// What the model wants, where it is fixed
    height: Option<usize>,
    width: Option<usize>,
}

impl Images {
    /// Images in `files`, with the labels that lie in `folder`.
    pub(super) fn new(
        files: Vec<PathBuf>,
        folder: Option<&Path>,
        inputs: &Inputs,
        options: &SampleOptions,
    ) -> Result<Images, SampleProblem> {
        let input = inputs.single("a folder of images")?;
        let labels = match folder {
            Some(folder) => read_labels(folder)?,
            None => BTreeMap::new(),
        };
        let (shape, dtype) = shape_of(input)?;
        let (batch, axes) = match shape.len() {
            4 => (true, &shape[1..]),
            3 => (false, &shape[..]),
            rank => {
                let name = &input.name;
                return Err(SampleProblem::Format(format!(
                    "the model's input `{name}` has rank {rank}: no image input"
                )));
            }
        };
        let counts = |dim: &Dim| matches!(dim, Dim::Known(1 | 3));
        let last = match options.layout {
            Layout::Nchw => false,
            Layout::Nhwc => true,
            Layout::Auto if counts(&axes[0]) => false,
            Layout::Auto if counts(&axes[2]) => true,
            Layout::Auto => {
                let name = &input.name;
                return Err(SampleProblem::Format(format!(
                    "no axis of the model's input `{name}` is 1 or 3: say --layout nchw or nhwc"
                )));
            }
        };
        let (channels, height, width) = match last {
            false => (&axes[0], &axes[1], &axes[2]),
            true => (&axes[2], &axes[0], &axes[1]),
        };
        let channels = channels.known().unwrap_or(3);
        if !matches!(channels, 1 | 3) {
            let layout = if last { "nhwc" } else { "nchw" };
            return Err(SampleProblem::Format(format!(
                "the model's input `{}` has {channels} channels in layout {layout}: images have 1 or 3",
                input.name
            )));
        }
        for (flag, numbers) in [("mean", &options.mean), ("std", &options.std)] {
            if !matches!(numbers.len(), 0 | 1) && numbers.len() != channels {
                let found = numbers.len();
                return Err(SampleProblem::Format(format!(
                    "--{flag} has {found} numbers, the model's images {channels} channels"
                )));
            }
        }
        if options.std.iter().any(|&std| std == 0.0 || !std.is_finite()) {
            return Err(SampleProblem::Format("--std must not be 0".to_owned()));
        }
        Ok(Images {
            files,
            labels,
            options: options.clone(),
            input: input.name.clone(),
            dtype,
            last,
            batch,
            channels,
            height: height.known(),
            width: width.known(),
        })
    }

    /// The image at its size.
    fn decode(&self, path: &Path) -> Result<DynamicImage, SampleProblem> {
        let bytes = fs::read(path)?;
        // Half a JPEG decodes without an error, the rest of it grey.
        if bytes.starts_with(&[0xff, 0xd8]) && !bytes.windows(2).any(|two| two == [0xff, 0xd9]) {
            return Err(SampleProblem::Format("the JPEG file is cut off; copy it again".to_owned()));
        }
        let mut reader = ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format()?;
        let mut limits = Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        limits.max_alloc = Some(MAX_DECODED);
        reader.limits(limits);
        let mut image = reader.decode()?;
        if let Some(resize) = self.options.resize {
            let (width, height) = target_size(image.width(), image.height(), resize);
            if u64::from(width) * u64::from(height) > MAX_DECODED / 4 {
                return Err(SampleProblem::Format(format!("--resize makes it {width}x{height} pixels: too large")));
            }
            image = match (width, height) == (image.width(), image.height()) {
                true => image,
                false => image.resize_exact(width, height, FilterType::Triangle),
            };
        }
        if let Some((width, height)) = self.options.crop {
            if width > image.width() || height > image.height() {
                let (from_width, from_height) = (image.width(), image.height());
                return Err(SampleProblem::Format(format!(
                    "--crop {width}x{height} of an image of {from_width}x{from_height} pixels; say --resize {} before it",
                    width.max(height)
                )));
            }
            let middle = |whole: u32, part: u32| (f64::from(whole - part) / 2.0).round_ties_even() as u32;
            image = image.crop_imm(middle(image.width(), width), middle(image.height(), height), width, height);
        }
        let fits = |wanted: Option<usize>, size: u32| wanted.is_none_or(|wanted| wanted == size as usize);
        if !fits(self.width, image.width()) || !fits(self.height, image.height()) {
            let (width, height) = (image.width(), image.height());
            let wanted_width = self.width.unwrap_or(width as usize);
            let wanted_height = self.height.unwrap_or(height as usize);
            let exact = format!("--resize {wanted_width}x{wanted_height}");
            let hint = match self.options.resize {
                None => {
                    let shorter = wanted_width.max(wanted_height);
                    format!(
                        "{exact}, or --resize {shorter} --crop {wanted_width}x{wanted_height} to keep its proportions"
                    )
                }
                Some(Resize::Shorter(_)) if self.options.crop.is_none() => {
                    format!("--crop {wanted_width}x{wanted_height} too, or {exact}")
                }
                Some(_) => exact,
            };
            let input = self.input.clone();
            return Err(SampleProblem::ImageSize { width, height, input, wanted_width, wanted_height, hint });
        }
        Ok(image)
    }

    fn tensor(&self, image: &DynamicImage) -> Result<Tensor, SampleProblem> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let pixels = if self.channels == 1 { image.to_luma8().into_raw() } else { image.to_rgb8().into_raw() };
        let scale = self.options.scale.unwrap_or(if self.dtype.is_float() { 1.0 / 255.0 } else { 1.0 });
        let of = |numbers: &[f32], channel: usize, default: f32| {
            numbers.get(channel).or(numbers.first()).copied().unwrap_or(default)
        };
        let count = self.channels;
        let number = |row: usize, column: usize, channel: usize| {
            let source = if self.options.channels == Channels::Bgr { count - 1 - channel } else { channel };
            let pixel = f32::from(pixels[(row * width + column) * count + source]);
            f64::from((pixel * scale - of(&self.options.mean, channel, 0.0)) / of(&self.options.std, channel, 1.0))
        };
        let mut dims = if self.last { vec![height, width, count] } else { vec![count, height, width] };
        let mut array = ArrayD::from_shape_fn(IxDyn(&dims), |at| match self.last {
            true => number(at[0], at[1], at[2]),
            false => number(at[1], at[2], at[0]),
        });
        if self.batch {
            dims.insert(0, 1);
            array =
                array.into_shape_with_order(IxDyn(&dims)).map_err(|error| SampleProblem::Format(error.to_string()))?;
        }
        if self.dtype.is_integer() {
            let (least, largest) = array.iter().fold((0f64, 0f64), |(low, high), &x| (low.min(x), high.max(x)));
            let range = if self.dtype == DataType::Int8 { -128.0..=127.0 } else { -32768.0..=32767.0 };
            let range = if self.dtype == DataType::Uint8 { 0.0..=255.0 } else { range };
            if !range.contains(&least) || !range.contains(&largest) {
                return Err(SampleProblem::Format(format!(
                    "pixels from {least} to {largest} do not fit the model's {} input; change --scale or --mean",
                    self.dtype
                )));
            }
        }
        Tensor::from_f64(self.dtype, &array).ok_or_else(|| {
            SampleProblem::Format(format!("images do not become {}, the type of the model's input", self.dtype))
        })
    }
}

impl Source for Images {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn name(&self, index: usize) -> String {
        self.files[index].display().to_string()
    }

    fn read(&self, index: usize, _: &Inputs) -> Result<Raw, SampleProblem> {
        let path = &self.files[index];
        let tensor = self.tensor(&self.decode(path)?)?;
        let name = path.file_name().expect("a file that was decoded has a name").to_string_lossy();
        let label = self.labels.get(name.as_ref()).map(|&label| Tensor::scalar(label));
        Ok(Raw { arrays: vec![(self.input.clone(), tensor)], others: Vec::new(), label })
    }
}

fn shape_of(input: &Input) -> Result<(Vec<Dim>, DataType), SampleProblem> {
    let known = input.ty.as_ref().and_then(|ty| Some((ty.shape.clone()?, ty.dtype)));
    known.ok_or_else(|| {
        SampleProblem::Format(format!("the shape of the model's input `{}` is not known; give .npz files", input.name))
    })
}

/// Width and height after `resize`.
fn target_size(width: u32, height: u32, resize: Resize) -> (u32, u32) {
    let longer = |long: u32, short: u32, side: u32| {
        let longer = u64::from(long) * u64::from(side) / u64::from(short.max(1));
        u32::try_from(longer).unwrap_or(u32::MAX).max(1)
    };
    match resize {
        Resize::Exact(width, height) => (width, height),
        Resize::Shorter(side) if width <= height => (side, longer(height, width, side)),
        Resize::Shorter(side) => (longer(width, height, side), side),
    }
}

/// Labels by file name, from `labels.txt` or `labels.csv`: a line is a name and a number, with a comma, a tab or a blank
/// between; a first line without a number is a heading.
fn read_labels(folder: &Path) -> Result<BTreeMap<String, i64>, SampleProblem> {
    let file = LABELS.map(|name| folder.join(name)).into_iter().find(|file| file.is_file());
    let Some(file) = file else { return Ok(BTreeMap::new()) };
    let place = |line: usize, what: &str| SampleProblem::Format(format!("{}, line {line}: {what}", file.display()));
    let mut labels = BTreeMap::new();
    for (number, line) in (1..).zip(fs::read_to_string(&file)?.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parts = line.rsplit_once([',', '\t']).or_else(|| line.rsplit_once(' '));
        let parts = parts.map(|(name, label)| (name.trim().trim_matches('"'), label.trim().trim_matches('"')));
        let Some((name, label)) = parts else { return Err(place(number, "this is no `name,label`")) };
        match label.parse() {
            Ok(label) => {
                labels.insert(name.to_owned(), label);
            }
            Err(_) if number == 1 => {} // a heading
            Err(_) => return Err(place(number, &format!("the label `{label}` is no whole number"))),
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use image::RgbImage;
    use onnx_shrink_ir::{DataType, Graph, Tensor};

    use super::target_size;
    use crate::samples::{Channels, FittedSample, Resize, SampleOptions, Samples, npz::tests::graph};

    /// A folder with `a.png`, of 4x2 pixels; pixel (column, row) is (10 column, 10 row, 255).
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let image = RgbImage::from_fn(4, 2, |x, y| image::Rgb([10 * x as u8, 10 * y as u8, 255]));
        image.save(folder.path().join("a.png")).unwrap();
        folder
    }

    fn first(path: &Path, graph: &Graph, options: &SampleOptions) -> Result<FittedSample, String> {
        let opened = Samples::open(path, graph, options).and_then(|samples| samples.get(0));
        opened.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn pixels_become_numbers_in_the_order_asked_for() {
        let folder = folder();
        fs::write(folder.path().join("labels.csv"), "name,label\na.png,7\n").unwrap();
        let nhwc = graph(&[("x", DataType::Uint8, &[1, 2, 4, 3])]);
        let sample = first(folder.path(), &nhwc, &SampleOptions::default()).unwrap();
        assert_eq!(sample.label, Some(Tensor::scalar(7i64)));
        let bytes = sample.inputs[0].as_ref().unwrap().to_f64().unwrap();
        assert_eq!((bytes[[0, 1, 3, 0]], bytes[[0, 1, 3, 1]], bytes[[0, 1, 3, 2]]), (30.0, 10.0, 255.0));

        let nchw = graph(&[("x", DataType::Float, &[1, 3, 2, 4])]);
        let options = SampleOptions {
            mean: vec![0.5, 0.0, 0.25],
            std: vec![0.5],
            channels: Channels::Bgr,
            ..SampleOptions::default()
        };
        let numbers = first(folder.path(), &nchw, &options).unwrap().inputs[0].as_ref().unwrap().to_f64().unwrap();
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        near(numbers[[0, 0, 1, 3]], (1.0 - 0.5) / 0.5);
        near(numbers[[0, 2, 1, 3]], (30.0 / 255.0 - 0.25) / 0.5);
    }

    #[test]
    fn another_size_is_an_error_that_says_what_to_do() {
        let folder = folder();
        let small = graph(&[("x", DataType::Float, &[1, 3, 2, 2])]);
        let error = first(folder.path(), &small, &SampleOptions::default()).unwrap_err();
        assert!(
            error.contains("has 4x2 pixels") && error.contains("say --resize 2x2, or --resize 2 --crop 2x2"),
            "{error}"
        );
        let crop = SampleOptions { crop: Some((2, 2)), ..SampleOptions::default() };
        let numbers = first(folder.path(), &small, &crop).unwrap().inputs[0].as_ref().unwrap().to_f64().unwrap();
        assert!((numbers[[0, 0, 0, 0]] - 10.0 / 255.0).abs() < 1e-6);
        let resize = SampleOptions { resize: Some(Resize::Exact(2, 2)), ..SampleOptions::default() };
        assert_eq!(first(folder.path(), &small, &resize).unwrap().inputs[0].as_ref().unwrap().dims(), [1, 3, 2, 2]);
        let large = SampleOptions { crop: Some((9, 9)), ..SampleOptions::default() };
        assert!(first(folder.path(), &small, &large).unwrap_err().contains("say --resize 9 before it"));
    }

    #[test]
    fn damaged_images_and_odd_models_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let options = SampleOptions::default();
        fs::write(folder.path().join("a.jpg"), [0xff, 0xd8, 0xff, 0xe0, 0, 0]).unwrap();
        let image = graph(&[("x", DataType::Float, &[1, 3, 2, 2])]);
        assert!(first(folder.path(), &image, &options).unwrap_err().contains("cut off"));
        fs::write(folder.path().join("a.jpg"), "text").unwrap();
        assert!(first(folder.path(), &image, &options).unwrap_err().contains("not an image"));
        let flat = graph(&[("x", DataType::Float, &[1, 64])]);
        assert!(first(folder.path(), &flat, &options).unwrap_err().contains("rank 2: no image input"));
        let many = graph(&[("x", DataType::Float, &[1, 8, 2, 8])]);
        assert!(first(folder.path(), &many, &options).unwrap_err().contains("--layout"));
        let means = SampleOptions { mean: vec![0.0, 1.0], ..SampleOptions::default() };
        assert!(first(folder.path(), &image, &means).unwrap_err().contains("--mean has 2 numbers"));
    }

    #[test]
    fn the_shorter_side_is_brought_to_size() {
        assert_eq!(target_size(640, 480, Resize::Shorter(256)), (341, 256));
        assert_eq!(target_size(480, 640, Resize::Shorter(256)), (256, 341));
        assert_eq!(target_size(5, 7, Resize::Exact(3, 2)), (3, 2));
    }
}
