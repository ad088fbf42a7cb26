//! One op → a one-node ONNX model → an optimized tract plan.
use std::sync::{Arc, LazyLock};

use onnx_shrink_ir::{DataType, Tensor, proto::schema};
use tract_onnx::{Onnx, model::ParsingContext, pb, prelude::*};

use super::{convert::widened, held::has_type};
use crate::{
    kernel::{Call, KernelError},
    panics::contained,
};

static ONNX: LazyLock<Onnx> = LazyLock::new(|| tract_onnx::onnx().with_ignore_value_info(true));

/// What an input of a built op is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Input {
    /// Left out
    Absent,
    /// The same on every call of the op, baked in with this value
    Constant(Tensor),
    /// Baked in with this value
    Parameter(Tensor),
    /// Given on each call, of this type
    Source(DataType, Vec<usize>),
    /// Given on each call: any number of rows, of this type, rank and length
    Rows(DataType, usize, usize),
}

impl Input {
    /// Dimensions, and the numbers where they are the same on every call.
    pub(super) fn seen(&self) -> (&[usize], Option<&Tensor>) {
        match self {
            Input::Absent => (&[], None),
            Input::Constant(tensor) | Input::Parameter(tensor) => (tensor.dims(), Some(tensor)),
            Input::Source(_, dims) => (dims, None),
            Input::Rows(_, _, length) => (std::slice::from_ref(length), None),
        }
    }
}

/// An op, ready to run for some types and parameters.
#[derive(Debug)]
pub(super) struct Built {
    what: What,
    inputs: Vec<Input>,
    sources: Vec<usize>,
    plan: Arc<TypedSimplePlan>,
}

/// What an op is, besides its inputs.
#[derive(Debug, PartialEq)]
struct What {
    op_type: String,
    opset: i64,
    attributes: Vec<schema::AttributeProto>,
    /// Which outputs it has
    outputs: Vec<bool>,
    wide: bool,
    plain: bool,
}

impl Built {
    /// Whether this is the op of `call`, built the same way for the same `inputs`.
    pub(super) fn is(&self, call: &Call<'_>, inputs: &[Input], wide: bool, plain: bool) -> bool {
        let what = &self.what;
        what.op_type == call.op.op_type()
            && (what.opset, what.wide, what.plain) == (call.opset, wide, plain)
            && self.inputs == inputs
            && what.attributes == call.op.attributes()
            && call.op.outputs().iter().map(Option::is_some).eq(what.outputs.iter().copied())
    }

    /// Bytes of the constants that are baked in.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |input: &Input| match input {
            Input::Constant(tensor) | Input::Parameter(tensor) => tensor.byte_len(),
            Input::Absent | Input::Source(..) | Input::Rows(..) => 0,
        };
        self.inputs.iter().map(bytes).sum()
    }

    /// Builds the op of `call`. With `wide`, 16-bit floats are baked in as float, and sources are expected as float.
    /// With `plain`, tract rewrites nothing.
    pub(super) fn new(call: &Call<'_>, inputs: Vec<Input>, wide: bool, plain: bool) -> Result<Built, KernelError> {
        let model = one_node(call, &inputs, wide)?;
        let plan = contained(|| plan(&model, plain))
            .map_err(|panic| KernelError::Failed(format!("the engine panicked: {panic}")))?
            .map_err(|error| KernelError::Unsupported(format!("{error:#}")))?;
        let is_source = |&index: &usize| matches!(inputs[index], Input::Source(..) | Input::Rows(..));
        let sources = (0..inputs.len()).filter(is_source).collect();
        let what = What {
            op_type: call.op.op_type().to_owned(),
            opset: call.opset,
            attributes: call.op.attributes().to_vec(),
            outputs: call.op.outputs().iter().map(Option::is_some).collect(),
            wide,
            plain,
        };
        Ok(Built { what, inputs, sources, plan })
    }

    /// Whether this, one of the op's own, was built for such inputs.
    pub(super) fn fits(&self, inputs: &[Option<Tensor>]) -> bool {
        self.inputs.len() == inputs.len()
            && self.inputs.iter().zip(inputs).all(|(input, tensor)| match (input, tensor) {
                (Input::Absent, None) | (Input::Constant(_), Some(_)) => true,
                (Input::Parameter(known), Some(tensor)) => known == tensor,
                (Input::Source(dtype, dims), Some(tensor)) => *dtype == tensor.dtype() && dims == tensor.dims(),
                (Input::Rows(dtype, rank, length), Some(tensor)) => {
                    let dims = tensor.dims();
                    *dtype == tensor.dtype() && dims.len() == *rank && dims.last() == Some(length)
                }
                _ => false,
            })
    }

    /// The inputs that [`Built::run`] takes, by their position in the op.
    pub(super) fn sources(&self) -> &[usize] {
        &self.sources
    }

    /// The outputs that the op has, those left out skipped.
    pub(super) fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.plan.run(inputs) // a fresh state each time: nothing stays from one sample to the next
    }
}

fn plan(model: &pb::ModelProto, plain: bool) -> TractResult<Arc<TypedSimplePlan>> {
    let graph = model.graph.as_ref().ok_or_else(|| std::io::Error::other("no graph"))?;
    let parse = || {
        // Not `ONNX.parse`, which logs a warning for each op of an opset that is newer than it.
        let context = ParsingContext {
            onnx_operator_set_version: model.opset_import.first().map_or(0, |import| import.version),
            framework: &ONNX,
            model,
            parent_graphs: Vec::new(),
            model_dir: None,
            template: InferenceModel::default(),
        };
        let parsed = context.parse_graph(graph)?;
        match parsed.unresolved_inputs.first() {
            Some(name) => Err(std::io::Error::other(format!("nothing makes {name}")).into()),
            None => Ok::<_, TractError>(parsed.model),
        }
    };
    if plain {
        return parse()?.into_typed()?.into_runnable();
    }
    match parse()?.into_optimized().and_then(|model| model.into_runnable()) {
        Ok(plan) => Ok(plan),
        Err(error) => match parse()?.into_typed().and_then(|model| model.into_runnable()) {
            Ok(plan) => Ok(plan),
            Err(_) => Err(error),
        },
    }
}

fn one_node(call: &Call<'_>, inputs: &[Input], wide: bool) -> Result<pb::ModelProto, KernelError> {
    let mut graph = pb::GraphProto { name: "op".to_owned(), ..pb::GraphProto::default() };
    let mut node = pb::NodeProto { op_type: call.op.op_type().to_owned(), ..pb::NodeProto::default() };
    for (index, input) in inputs.iter().enumerate() {
        let name = format!("i{index}");
        match (input, call.optional(index)) {
            (Input::Absent, _) | (_, None) => {
                node.input.push(String::new());
                continue;
            }
            // Resize: an empty tensor stands for an input that is left out.
            (Input::Constant(_) | Input::Parameter(_), Some(tensor))
                if tensor.is_empty() && call.op.is("Resize") && call.opset >= 13 =>
            {
                node.input.push(String::new());
                continue;
            }
            (Input::Source(dtype, dims), _) => {
                let dims: Vec<Option<usize>> = dims.iter().copied().map(Some).collect();
                graph.input.push(declaration(&name, source_type(*dtype, wide), &dims)?);
            }
            (Input::Rows(dtype, rank, length), _) => {
                let mut dims = vec![None; rank - 1];
                dims.push(Some(*length));
                graph.input.push(declaration(&name, source_type(*dtype, wide), &dims)?);
            }
            (Input::Constant(_) | Input::Parameter(_), Some(tensor)) => {
                let wide = wide.then(|| widened(tensor)).flatten();
                graph.initializer.push(initializer(call, index, wide.as_ref().unwrap_or(tensor), &name)?);
            }
        }
        node.input.push(name);
    }
    while node.input.last().is_some_and(String::is_empty) {
        node.input.pop(); // tract counts inputs
    }
    for (index, output) in call.op.outputs().iter().enumerate() {
        if output.is_none() {
            node.output.push(String::new());
            continue;
        }
        let name = format!("o{index}");
        graph.output.push(pb::ValueInfoProto { name: name.clone(), ..pb::ValueInfoProto::default() });
        node.output.push(name);
    }
    while node.output.last().is_some_and(String::is_empty) {
        node.output.pop();
    }
    // `pads` means nothing beside an automatic padding; tract would prefer it.
    let automatic = call.string("auto_pad", "NOTSET") != "NOTSET";
    for attribute in call.op.attributes() {
        if !(automatic && attribute.name() == "pads") {
            node.attribute.push(converted(call, attribute)?);
        }
    }
    if call.op.is("Resize") && call.opset < 11 {
        // Opset 10 rounds down; tract would round to the nearest.
        let (name, floor) = ("nearest_mode".to_owned(), b"floor".to_vec());
        let text = pb::attribute_proto::AttributeType::String as i32;
        node.attribute.push(pb::AttributeProto { name, r#type: text, s: floor, ..pb::AttributeProto::default() });
    }
    graph.node.push(node);
    let import = pb::OperatorSetIdProto { domain: String::new(), version: call.opset };
    Ok(pb::ModelProto { ir_version: 8, opset_import: vec![import], graph: Some(graph), ..pb::ModelProto::default() })
}

/// The type as which a value of `dtype` is given.
fn source_type(dtype: DataType, wide: bool) -> DataType {
    let half = matches!(dtype, DataType::Float16 | DataType::Bfloat16);
    if wide && half { DataType::Float } else { dtype }
}

/// An input; `None` is a dimension that each call has its own length of.
fn declaration(name: &str, dtype: DataType, dims: &[Option<usize>]) -> Result<pb::ValueInfoProto, KernelError> {
    use pb::{tensor_shape_proto::Dimension, tensor_shape_proto::dimension::Value as Dim, type_proto};
    let dim = |(axis, dim): (usize, &Option<usize>)| {
        let value = match dim {
            Some(dim) => i64::try_from(*dim).ok().map(Dim::DimValue),
            None => Some(Dim::DimParam(format!("D{axis}"))),
        };
        Dimension { value, ..Dimension::default() }
    };
    let shape = pb::TensorShapeProto { dim: dims.iter().enumerate().map(dim).collect() };
    if !has_type(dtype) {
        return Err(KernelError::Unsupported(format!("inputs of {dtype}")));
    }
    let tensor = type_proto::Tensor { elem_type: dtype as i32, shape: Some(shape) };
    let kind = pb::TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..pb::TypeProto::default() };
    Ok(pb::ValueInfoProto { name: name.to_owned(), r#type: Some(kind), ..pb::ValueInfoProto::default() })
}

fn initializer(call: &Call<'_>, index: usize, tensor: &Tensor, name: &str) -> Result<pb::TensorProto, KernelError> {
    let mut proto = tensor_proto(tensor)?;
    proto.name = name.to_owned();
    // Scalars that exporters write as vectors of one element; tract wants them as the standard says.
    let scalar = matches!((call.op.op_type(), index), ("CumSum", 1));
    if scalar && tensor.len() == 1 {
        proto.dims.clear();
    }
    Ok(proto)
}

fn tensor_proto(tensor: &Tensor) -> Result<pb::TensorProto, KernelError> {
    let dtype = tensor.dtype();
    let Some(bytes) = tensor.bytes().filter(|_| has_type(dtype)) else {
        return Err(KernelError::Unsupported(format!("constants of {dtype}")));
    };
    Ok(pb::TensorProto {
        dims: tensor.dims().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect(),
        data_type: dtype as i32,
        raw_data: bytes.to_vec(),
        ..pb::TensorProto::default()
    })
}

fn converted(call: &Call<'_>, attribute: &schema::AttributeProto) -> Result<pb::AttributeProto, KernelError> {
    let mut copy = pb::AttributeProto {
        name: attribute.name().to_owned(),
        r#type: attribute.r#type.unwrap_or(0),
        f: attribute.f(),
        i: attribute.i(),
        s: attribute.s().to_vec(),
        floats: attribute.floats.clone(),
        ints: attribute.ints.clone(),
        strings: attribute.strings.iter().map(|text| text.to_vec()).collect(),
        ..pb::AttributeProto::default()
    };
    if attribute.t.is_some() {
        let tensor = call.op.tensor(attribute.name());
        let tensor =
            tensor.ok_or_else(|| KernelError::Failed(format!("attribute `{}` is malformed", attribute.name())))?;
        copy.t = Some(tensor_proto(&tensor)?);
    }
    Ok(copy)
}
