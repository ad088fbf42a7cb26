//! Ops that have no counterpart in a later opset.
use super::edit::Edit;

/// Scan 8 runs over a batch of sequences, each with a length of its own; from 9 on there is no batch.
pub(super) fn scan_9(_: &mut Edit<'_>) -> Result<(), String> {
    Err("Scan of opset 8 takes a batch of sequences, which later ones do not".to_owned())
}

/// Upsample 1 has two attributes for the scales of 4-D images.
pub(super) fn upsample_7(_: &mut Edit<'_>) -> Result<(), String> {
    Err("attributes `height_scale` and `width_scale` are not converted".to_owned())
}

/// In RNN, GRU and LSTM 1 the attribute `output_sequence` said which outputs are made.
pub(super) fn recurrent_7(_: &mut Edit<'_>) -> Result<(), String> {
    Err("attribute `output_sequence` is not converted".to_owned())
}

/// Ops that ONNX tried out under its own domain and dropped.
pub(super) fn experimental(edit: &mut Edit<'_>) -> Result<(), String> {
    Err(format!("{} was an experimental op and left ONNX", edit.op().op_type()))
}
