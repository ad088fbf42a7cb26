//! Fixes dimensions that a model leaves open: of an input, or by the name of a symbol.
//!
//! **Never** changes a dimension that is known.
use onnx_shrink_proto::schema::{
    TypeProto, ValueInfoProto,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

use crate::{
    graph::{Graph, ValueId},
    types::{Dim, TensorType},
};

/// Why a shape cannot be fixed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FixError {
    /// It contradicts what the model says
    #[error("the input `{input}` is {declared}, which cannot be {wanted:?}")]
    Contradiction {
        /// The input
        input: String,
        /// Its type in the model
        declared: String,
        /// The dimensions that are wanted
        wanted: Vec<usize>,
    },
    /// It is no tensor
    #[error("the input `{0}` is no tensor")]
    NoTensor(String),
}

impl Graph {
    /// Gives the graph input `input` the dimensions `dims`; symbols among its dimensions get their number everywhere.
    pub fn fix_input_shape(&mut self, input: ValueId, dims: &[usize]) -> Result<(), FixError> {
        let name = || self.name_of(input).to_owned();
        let ty = self.ty(input).cloned().ok_or_else(|| FixError::NoTensor(name()))?;
        let fits = ty.shape.as_ref().is_none_or(|shape| {
            shape.len() == dims.len()
                && shape.iter().zip(dims).all(|(dim, wanted)| dim.known().is_none_or(|known| known == *wanted))
        });
        if !fits {
            return Err(FixError::Contradiction { input: name(), declared: ty.to_string(), wanted: dims.to_vec() });
        }
        for (dim, &number) in ty.shape.iter().flatten().zip(dims) {
            if let Dim::Symbol(symbol) = dim {
                self.fix_symbol(symbol, number);
            }
        }
        let fixed = TensorType::fixed(ty.dtype, dims);
        let place = self.inputs().iter().position(|value| *value == input);
        if let Some(info) = place.and_then(|place| self.rest.input.get_mut(place)) {
            info.r#type = Some(fixed.to_proto());
        }
        self.value_mut(input).ty = Some(fixed);
        Ok(())
    }

    /// Every dimension that is called `symbol` is `number`, in bodies, too. Returns how many there were.
    pub fn fix_symbol(&mut self, symbol: &str, number: usize) -> usize {
        let mut count = 0;
        for id in self.values() {
            let value = self.value_mut(id);
            for dim in value.ty.iter_mut().filter_map(|ty| ty.shape.as_mut()).flatten() {
                if matches!(dim, Dim::Symbol(name) if name == symbol) {
                    *dim = Dim::Known(number);
                    count += 1;
                }
            }
            if let Some((_, info)) = &mut value.origin.info {
                fix_declaration(info, symbol, number);
            }
        }
        for info in self.rest.input.iter_mut().chain(&mut self.rest.output) {
            fix_declaration(info, symbol, number);
        }
        for op in self.ops_in_id_order() {
            for region in 0..self.op(op).regions().len() {
                count += self.region_mut(op, region).map_or(0, |body| body.fix_symbol(symbol, number));
            }
        }
        count
    }
}

fn fix_declaration(info: &mut ValueInfoProto, symbol: &str, number: usize) {
    let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) = &mut info.r#type else { return };
    for Dimension { value, .. } in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim) {
        if matches!(value, Some(dimension::Value::DimParam(name)) if name == symbol) {
            *value = Some(dimension::Value::DimValue(i64::try_from(number).unwrap_or(i64::MAX)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use crate::{testing::parse_graph, text::print_graph};

    #[test]
    fn an_input_gets_its_shape_and_its_symbols_are_fixed_everywhere() {
        let mut graph = parse_graph("g (float[N,3] x, float[N] m) => (float[N,3] y) { y = Relu (x) }");
        let x = graph.find("x").unwrap();
        graph.fix_input_shape(x, &[2, 3]).unwrap();
        let text = print_graph(&graph);
        assert!(text.contains("float[2,3] x, float[2] m") && text.contains("float[2,3] y"), "{text}");
        let error = graph.fix_input_shape(x, &[2, 4]).unwrap_err().to_string();
        assert_eq!(error, "the input `x` is float[2,3], which cannot be [2, 4]");
    }
}
