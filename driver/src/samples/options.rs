//! How files become samples.
use std::str::FromStr;

/// Order of the axes of an image input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// From the input's shape: the axis that is 1 or 3
    #[default]
    Auto,
    /// Batch, channels, height, width
    Nchw,
    /// Batch, height, width, channels
    Nhwc,
}

/// Order of the channels of an image input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channels {
    /// Red, green, blue
    #[default]
    Rgb,
    /// Blue, green, red
    Bgr,
}

/// How an image is brought to size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// To this width and height
    Exact(u32, u32),
    /// The shorter side to this, the other in proportion (rounded down)
    Shorter(u32),
}

impl FromStr for Resize {
    type Err = String;

    fn from_str(text: &str) -> Result<Resize, String> {
        match text.parse::<u32>() {
            Ok(0) => Err("0 pixels are none".to_owned()),
            Ok(side) => Ok(Resize::Shorter(side)),
            Err(_) => parse_size(text).map(|(width, height)| Resize::Exact(width, height)),
        }
    }
}

/// A size as `224x224`: width and height.
pub fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once(['x', 'X']).and_then(|(width, height)| width.parse().ok().zip(height.parse().ok()));
    match parts {
        Some((width, height)) if width > 0 && height > 0 => Ok((width, height)),
        _ => Err(format!("`{text}` is no size; write width and height as 224x224")),
    }
}

/// How files become samples. All of it is about images: arrays are taken as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleOptions {
    /// Subtracted from each channel, after `scale`; empty: 0
    pub mean: Vec<f32>,
    /// Each channel is divided by it, after `mean`; empty: 1
    pub std: Vec<f32>,
    /// Pixels of 0 to 255 are multiplied by it; `None`: 1/255 for float inputs, 1 for integer ones
    pub scale: Option<f32>,
    /// Order of the axes
    pub layout: Layout,
    /// Order of the channels
    pub channels: Channels,
    /// Size to bring the image to
    pub resize: Option<Resize>,
    /// Size of the middle part to take, after `resize`
    pub crop: Option<(u32, u32)>,
}

impl SampleOptions {
    /// The first flag of these that was given.
    pub fn given(&self) -> Option<&'static str> {
        let flags = [
            (!self.mean.is_empty(), "--mean"),
            (!self.std.is_empty(), "--std"),
            (self.scale.is_some(), "--scale"),
            (self.layout != Layout::Auto, "--layout"),
            (self.channels != Channels::Rgb, "--channels"),
            (self.resize.is_some(), "--resize"),
            (self.crop.is_some(), "--crop"),
        ];
        flags.into_iter().find(|(given, _)| *given).map(|(_, flag)| flag)
    }
}
