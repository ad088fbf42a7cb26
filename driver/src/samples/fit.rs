//! Arrays of a sample to the inputs of a model: by name, of the input's rank or one less, dimension by dimension.
use std::collections::BTreeMap;

use onnx_shrink_ir::{Dim, Graph, Tensor, TensorType};

use super::{
    convert::convert,
    error::SampleProblem,
    raw::{FittedSample, Raw, UNNAMED},
};

/// Names under which a label may stand, unless an input has that name.
const LABELS: [&str; 3] = ["y", "label", "labels"];

/// An input of the model.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) name: String,
    /// `None`: nothing is known, so everything fits
    pub(super) ty: Option<TensorType>,
    /// Whether a sample may leave it out
    pub(super) optional: bool,
}

/// The inputs of the model, in order.
#[derive(Clone, Debug)]
pub(super) struct Inputs(Vec<Input>);

impl Inputs {
    pub(super) fn of(graph: &Graph) -> Result<Inputs, SampleProblem> {
        let mut inputs = Vec::new();
        for (index, &value) in graph.inputs().iter().enumerate() {
            let name = graph.name_of(value).to_owned();
            let optional = graph.default_of(value).is_some();
            let ty = graph.ty(value).cloned();
            let declared = graph.input_declaration(index).and_then(|info| info.r#type.as_ref());
            use onnx_shrink_ir::proto::schema::type_proto::Value;
            let tensor = declared.is_none_or(|ty| matches!(ty.value, None | Some(Value::TensorType(_))));
            if !tensor && !optional {
                return Err(SampleProblem::NoTensor { input: name });
            }
            inputs.push(Input { name, ty, optional });
        }
        Ok(Inputs(inputs))
    }

    /// Those that a sample must give.
    pub(super) fn required(&self) -> impl Iterator<Item = &Input> {
        self.0.iter().filter(|input| !input.optional)
    }

    /// The one input that a sample must give; an error, for `form`, if there are several.
    pub(super) fn single(&self, form: &'static str) -> Result<&Input, SampleProblem> {
        let mut required = self.required();
        match (required.next(), required.next()) {
            (Some(input), None) => Ok(input),
            _ => Err(SampleProblem::SeveralInputs { form, count: self.required().count(), wanted: self.wanted() }),
        }
    }

    /// Whether an array of this name is of use.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.0.iter().any(|input| input.name == name) || LABELS.contains(&name) || name == UNNAMED
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|input| input.name == name)
    }

    /// ``"`x` (float[1,3,8,8]), `sr` (int64)"``
    pub(super) fn wanted(&self) -> String {
        let describe = |input: &Input| match &input.ty {
            Some(ty) => format!("`{}` ({ty})", input.name),
            None => format!("`{}`", input.name),
        };
        self.required().map(describe).collect::<Vec<_>>().join(", ")
    }

    /// The sample that `raw` is; with `warn`, arrays that nothing wants are named in the log.
    pub(super) fn fit(&self, raw: Raw, name: String, warn: bool) -> Result<FittedSample, SampleProblem> {
        let mut arrays: Vec<(String, Option<Tensor>)> =
            raw.arrays.into_iter().map(|(name, tensor)| (name, Some(tensor))).collect();
        let found = arrays.iter().flat_map(|(name, tensor)| Some((name, tensor.as_ref()?)));
        let found = found.map(|(name, tensor)| format!("`{name}` ({})", tensor.ty()));
        let found: Vec<String> = found.chain(raw.others.iter().cloned()).collect();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        // One input and one array without a name belong together.
        if let Ok(single) = self.single("")
            && !arrays.iter().any(|(name, _)| *name == single.name)
            && let Some((name, _)) = arrays.iter_mut().find(|(name, _)| name == UNNAMED)
        {
            *name = single.name.clone();
        }
        let mut take = |wanted: &str| {
            arrays
                .iter_mut()
                .find(|(name, tensor)| name == wanted && tensor.is_some())
                .and_then(|(_, tensor)| tensor.take())
        };
        let mut inputs = Vec::with_capacity(self.0.len());
        let mut symbols = BTreeMap::new();
        for input in &self.0 {
            match take(&input.name) {
                Some(tensor) => inputs.push(Some(fit_one(input, &tensor, &mut symbols)?)),
                None if input.optional => inputs.push(None),
                None => {
                    let wanted = self.wanted();
                    return Err(SampleProblem::InputMissing { input: input.name.clone(), found, wanted });
                }
            }
        }
        let label = raw.label.or_else(|| LABELS.iter().find_map(|label| take(label)));
        let unused = arrays.iter().filter(|(_, tensor)| tensor.is_some()).map(|(name, _)| format!("`{name}`"));
        for array in unused.chain(raw.others).filter(|_| warn) {
            log::warn!("{name}: array {array} is no input of the model, and not used");
        }
        Ok(FittedSample { inputs, label, name })
    }
}

/// `tensor` as the input wants it.
fn fit_one<'a>(
    input: &'a Input,
    tensor: &Tensor,
    symbols: &mut BTreeMap<&'a str, (usize, &'a str)>,
) -> Result<Tensor, SampleProblem> {
    let array = &input.name;
    let Some(ty) = &input.ty else { return finite(array, tensor.clone()) };
    let unfit = |hint: String| SampleProblem::DoesNotFit {
        array: array.clone(),
        found: tensor.ty(),
        expected: ty.clone(),
        hint,
    };
    let mut tensor = tensor.clone();
    if let Some(shape) = &ty.shape {
        if tensor.dims().len() + 1 == shape.len() {
            if let Dim::Known(batch) = shape[0]
                && batch > 1
            {
                return Err(unfit(format!("the model takes batches of {batch}: a sample must hold them all")));
            }
            let dims: Vec<usize> = std::iter::once(1).chain(tensor.dims().iter().copied()).collect();
            tensor = tensor.reshaped(&dims).unwrap_or(tensor);
        }
        if tensor.dims().len() != shape.len() {
            let without = match shape.len() {
                0 => String::new(),
                rank => format!(", or {} without the batch axis", rank - 1),
            };
            return Err(unfit(format!("its rank must be {}{without}", shape.len())));
        }
        for (axis, (&size, dim)) in tensor.dims().iter().zip(shape).enumerate() {
            match dim {
                Dim::Known(wanted) if *wanted != size => {
                    return Err(unfit(format!("axis {axis} must be {wanted}")));
                }
                Dim::Symbol(symbol) => {
                    let (other, first) = *symbols.entry(symbol).or_insert((size, array));
                    if other != size {
                        return Err(SampleProblem::Symbol {
                            symbol: symbol.clone(),
                            one: other,
                            first: first.to_owned(),
                            other: size,
                            second: array.clone(),
                        });
                    }
                }
                _ => {}
            }
        }
    }
    finite(array, tensor.clone())?; // before the conversion, whose words for it are worse
    convert(&tensor, ty.dtype).map_err(unfit)
}

fn finite(array: &str, tensor: Tensor) -> Result<Tensor, SampleProblem> {
    if tensor.dtype().is_float()
        && let Some(numbers) = tensor.to_f64_vec()
        && let Some(place) = numbers.iter().position(|number| !number.is_finite())
    {
        return Err(SampleProblem::NotFinite { array: array.to_owned(), value: numbers[place], place });
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{DataType, Dim, Tensor, TensorType};

    use super::{Input, Inputs};
    use crate::samples::{FittedSample, raw::Raw};

    fn input(name: &str, dtype: DataType, shape: &[Dim]) -> Input {
        Input { name: name.to_owned(), ty: Some(TensorType { dtype, shape: Some(shape.to_vec()) }), optional: false }
    }

    fn fit(inputs: &[Input], arrays: &[(&str, Tensor)]) -> Result<FittedSample, String> {
        let arrays = arrays.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        let inputs = Inputs(inputs.to_vec());
        inputs
            .fit(Raw { arrays, others: Vec::new(), label: None }, "s.npz".to_owned(), true)
            .map_err(|error| error.to_string())
    }

    fn zeros(dims: &[usize]) -> Tensor {
        Tensor::from_vec(dims, vec![0f32; dims.iter().product()])
    }

    #[test]
    fn arrays_go_to_inputs_by_name_and_get_a_batch_axis() {
        let batch = Dim::Symbol("N".to_owned());
        let inputs = [
            input("a", DataType::Float, &[batch.clone(), Dim::Known(2)]),
            Input { optional: true, ..input("c", DataType::Float, &[]) },
            input("b", DataType::Int64, &[batch, Dim::Unknown]),
        ];
        let b = Tensor::from_vec(&[1, 3], vec![1i32, 2, 3]);
        let sample =
            fit(&inputs, &[("y", Tensor::scalar(4i64)), ("b", b), ("a", zeros(&[2])), ("z", zeros(&[]))]).unwrap();
        assert_eq!(sample.inputs[0].as_ref().unwrap().dims(), [1, 2]);
        assert!(sample.inputs[1].is_none());
        assert_eq!(sample.inputs[2], Some(Tensor::from_vec(&[1, 3], vec![1i64, 2, 3])));
        assert_eq!(sample.label, Some(Tensor::scalar(4i64)));
    }

    #[test]
    fn an_input_named_y_is_no_label() {
        let sample = fit(&[input("y", DataType::Float, &[])], &[("y", zeros(&[]))]).unwrap();
        assert!(sample.label.is_none() && sample.inputs[0].is_some());
    }

    #[test]
    fn one_array_without_a_name_is_the_one_input() {
        let one = [input("x", DataType::Float, &[Dim::Known(1), Dim::Known(2)])];
        assert!(fit(&one, &[("arr_0", zeros(&[1, 2]))]).is_ok());
        let two = [one[0].clone(), input("z", DataType::Float, &[])];
        let error = fit(&two, &[("arr_0", zeros(&[1, 2]))]).unwrap_err();
        assert_eq!(
            error,
            "no array for the model's input `x`: the arrays are `arr_0` (float[1,2]), the model wants `x` (float[1,2]), `z` (float)"
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let known = |dims: &[usize]| dims.iter().map(|&dim| Dim::Known(dim)).collect::<Vec<_>>();
        let x = |dims: &[usize]| [input("x", DataType::Float, &known(dims))];
        for (inputs, tensor, part) in [
            (x(&[4, 2]), zeros(&[2]), "the model takes batches of 4"),
            (x(&[1, 2]), zeros(&[1, 3]), "array `x` is float[1,3], the model's input is float[1,2]; axis 1 must be 2"),
            (x(&[1, 2, 2]), zeros(&[2]), "its rank must be 3, or 2 without the batch axis"),
            (x(&[2]), Tensor::from_vec(&[2], vec![1.0, f32::NAN]), "not finite (NaN, at place 1)"),
            (x(&[1]), Tensor::scalar(f64::INFINITY), "not finite (inf, at place 0)"),
            (
                [input("x", DataType::Uint8, &[])],
                Tensor::scalar(300i64),
                "300 (at place 0) is out of the range of uint8",
            ),
        ] {
            let error = fit(&inputs, &[("x", tensor)]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let n = || Dim::Symbol("N".to_owned());
        let two = [input("a", DataType::Float, &[n()]), input("b", DataType::Float, &[n()])];
        let error = fit(&two, &[("a", zeros(&[2])), ("b", zeros(&[3]))]).unwrap_err();
        assert!(error.contains("dimension `N` is 2 in `a` and 3 in `b`"), "{error}");
    }
}
