//! Resizing.
use super::Reader;
use crate::graph::{Graph, OpId, ValueId};

/// How numbers between the input's are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeMode {
    /// The nearest of the input's
    Nearest,
    /// Linear in each axis
    Linear,
    /// Cubic in each axis: results may lie outside of the input's range
    Cubic,
}

/// How positions of the output become positions of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeCoordinates {
    /// `half_pixel`, `pytorch_half_pixel`, `half_pixel_symmetric`, `tf_half_pixel_for_nn`
    HalfPixel,
    /// `align_corners`
    AlignCorners,
    /// `asymmetric`: the only way of Upsample and before opset 11
    Asymmetric,
    /// `tf_crop_and_resize`: of a part of the input, with numbers of its own outside
    CropAndResize,
}

/// Where the factors of a resize stand.
#[derive(Clone, Debug, PartialEq)]
pub enum ResizeScales {
    /// In an input
    Input(ValueId),
    /// In the node
    Stated(Vec<f32>),
}

/// `Resize`, or the `Upsample` of opsets before 10.
#[derive(Clone, Debug)]
pub struct Resize {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// Factors of the sizes, one an axis
    pub scales: Option<ResizeScales>,
    /// The output's sizes, one an axis; they win over `scales`
    pub sizes: Option<ValueId>,
    /// How numbers are found
    pub mode: ResizeMode,
    /// How positions are found
    pub coordinates: ResizeCoordinates,
    /// The axes that scales and sizes are of, as written; `None`: all
    pub axes: Option<Vec<i64>>,
    /// Whether the sizes are bounds, within which the aspect ratio is kept
    pub keeps_aspect_ratio: bool,
}

impl Resize {
    /// The op as a resize; `None` when it is none or not understood (Upsample before opset 7 included).
    pub fn of(graph: &Graph, op: OpId) -> Option<Resize> {
        let opset = graph.opset();
        let is_upsample = graph.op(op).op_type() == "Upsample";
        let mut reader = Reader::of(graph, op, if is_upsample { "Upsample" } else { "Resize" })?;
        let mode = match reader.string("mode")?.unwrap_or("nearest") {
            "nearest" => ResizeMode::Nearest,
            "linear" => ResizeMode::Linear,
            "cubic" => ResizeMode::Cubic,
            _ => return None,
        };
        let usual = if is_upsample || opset < 11 { "asymmetric" } else { "half_pixel" };
        let coordinates = match reader.string("coordinate_transformation_mode")?.unwrap_or(usual) {
            "half_pixel" | "pytorch_half_pixel" | "half_pixel_symmetric" | "tf_half_pixel_for_nn" => {
                ResizeCoordinates::HalfPixel
            }
            "align_corners" => ResizeCoordinates::AlignCorners,
            "asymmetric" => ResizeCoordinates::Asymmetric,
            "tf_crop_and_resize" => ResizeCoordinates::CropAndResize,
            _ => return None,
        };
        let axes = reader.ints("axes")?;
        let keeps_aspect_ratio = match reader.string("keep_aspect_ratio_policy")?.unwrap_or("stretch") {
            "stretch" => false,
            "not_larger" | "not_smaller" => true,
            _ => return None,
        };
        for name in ["antialias", "cubic_coeff_a", "exclude_outside", "extrapolation_value", "nearest_mode"] {
            reader.ignore(name); // which of the input's numbers are weighed, and how
        }
        let stated = reader.floats("scales")?.map(ResizeScales::Stated);
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        let since_11 = !is_upsample && opset >= 11;
        let scales = reader.op.input(if since_11 { 2 } else { 1 }).map(ResizeScales::Input).or(stated);
        let sizes = reader.op.input(3).filter(|_| since_11);
        reader.finish(4, 1)?;
        Some(Resize { x, y, scales, sizes, mode, coordinates, axes, keeps_aspect_ratio })
    }

    /// Whether every number of the output is one of the input's.
    pub fn only_selects(&self) -> bool {
        self.mode == ResizeMode::Nearest && self.coordinates != ResizeCoordinates::CropAndResize
    }
}

#[cfg(test)]
mod tests {
    use super::{Resize, ResizeCoordinates, ResizeMode, ResizeScales};
    use crate::text::parse_graph;

    fn read(op: &str, opset: i64) -> Option<Resize> {
        let text = format!("g (float[1,2,4,4] x, float[4] s, int64[4] n, float[8] r) => (float y) {{ y = {op} }}");
        let graph = parse_graph(&text, opset).expect("a graph").graph;
        Resize::of(&graph, graph.ops()[0])
    }

    #[test]
    fn each_version_has_its_scales_where_they_stand() {
        let stated = read("Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (x)", 8).expect("a resize");
        assert_eq!(stated.scales, Some(ResizeScales::Stated(vec![1.0, 1.0, 2.0, 2.0])));
        let second = read("Resize <mode = \"linear\"> (x, s)", 10).expect("a resize");
        assert!(matches!(second.scales, Some(ResizeScales::Input(_))) && second.mode == ResizeMode::Linear);
        let sized = read("Resize (x, r, s, n)", 13).expect("a resize");
        assert!(sized.sizes.is_some() && sized.coordinates == ResizeCoordinates::HalfPixel);
    }

    #[test]
    fn what_it_does_not_know_is_refused() {
        assert!(read("Resize <mode = \"curved\"> (x, r, s)", 13).is_none());
        assert!(read("Resize <depth = 1> (x, r, s)", 13).is_none());
        let cropped = "Resize <coordinate_transformation_mode = \"tf_crop_and_resize\"> (x, r, s)";
        assert_eq!(read(cropped, 13).map(|resize| resize.coordinates), Some(ResizeCoordinates::CropAndResize));
    }
}
