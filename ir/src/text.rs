//! ONNX's textual syntax: printer and parser. (Replaced by the text module's author.)
