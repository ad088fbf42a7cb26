//! Text → `GraphProto` or `ModelProto`, and from there through import.
//!
//! **Never** looks further ahead than one token, and recurses over bodies and nested types only, as deep as messages may.
use bytes::Bytes;
use onnx_shrink_proto::schema::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

use super::{
    ATTRIBUTE_TYPES, ParseError, TYPE_WORDS,
    lexer::{Lexer, Token, is_special_real},
    values::{Packer, literal_bits, literal_count, literal_kind},
};
use crate::{import::import, model::Model, tensor::element_count, types::DataType};

type Result<T> = std::result::Result<T, ParseError>;

/// How deep bodies and types may nest: protobuf readers stop at 100 messages, three of which a body takes.
const MAX_DEPTH: usize = 33;

/// The model around the bare graph that `text` is, `g (…) => (…) {…}`, for version `opset` of ONNX's own ops.
/// Other domains that its nodes name are imported as version 1.
pub fn parse_graph(text: &str, opset: i64) -> std::result::Result<Model, ParseError> {
    let mut parser = Parser::new(text)?;
    let graph = parser.graph()?;
    parser.end()?;
    let mut domains = vec![String::new()];
    collect_domains(&graph, &mut domains);
    let import_of = |domain: String| {
        let version = if domain.is_empty() { opset } else { 1 };
        OperatorSetIdProto { domain: Some(domain), version: Some(version) }
    };
    // The oldest format that every reader of this opset knows: ONNX 1.12 wrote 8, from opset 21 on 10 is required.
    let ir_version = if opset >= 21 { 10 } else { 8 };
    let opset_import = domains.into_iter().map(import_of).collect();
    Ok(import(ModelProto { ir_version: Some(ir_version), opset_import, graph: Some(graph), ..ModelProto::default() })?)
}

/// The model that `text` states: `<ir_version: 8, opset_import: ["" : 17]> g (…) => (…) {…}`.
pub fn parse_model(text: &str) -> std::result::Result<Model, ParseError> {
    let mut parser = Parser::new(text)?;
    let mut model = ModelProto::default();
    if parser.matches('<')? {
        parser.header(&mut model)?;
    }
    model.graph = Some(parser.graph()?);
    if parser.token != Token::End {
        return parser.expected("the end of the text (functions are not read from text)");
    }
    Ok(import(model)?)
}

fn collect_domains(graph: &GraphProto, domains: &mut Vec<String>) {
    for node in &graph.node {
        let domain = node.domain();
        if domain != "ai.onnx" && !domains.iter().any(|known| known == domain) {
            domains.push(domain.to_owned());
        }
        for attribute in &node.attribute {
            attribute.g.iter().for_each(|body| collect_domains(body, domains));
            attribute.graphs.iter().for_each(|body| collect_domains(body, domains));
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    /// The token to be read next, and where it begins
    token: Token<'a>,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Parser<'a>> {
        let mut lexer = Lexer::new(text);
        let (at, token) = lexer.next()?;
        Ok(Parser { text, lexer, token, at, depth: 0 })
    }

    fn expected<T>(&self, what: &str) -> Result<T> {
        Err(ParseError::at(self.text, self.at, what, &self.token.describe()))
    }

    fn take(&mut self) -> Result<Token<'a>> {
        let (at, token) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn peeks(&self, mark: char) -> bool {
        self.token == Token::Mark(mark)
    }

    fn matches(&mut self, mark: char) -> Result<bool> {
        let matches = self.peeks(mark);
        if matches {
            self.take()?;
        }
        Ok(matches)
    }

    fn expect(&mut self, mark: char) -> Result<()> {
        if self.matches(mark)? { Ok(()) } else { self.expected(&format!("`{mark}`")) }
    }

    /// After an element of a list: whether another one comes; otherwise `close` is read.
    fn another(&mut self, close: char) -> Result<bool> {
        if self.matches(',')? {
            return Ok(true);
        }
        if self.matches(close)? { Ok(false) } else { self.expected(&format!("`,` or `{close}`")) }
    }

    fn end(&self) -> Result<()> {
        if self.token == Token::End { Ok(()) } else { self.expected("the end of the text") }
    }

    /// An identifier or a quoted name, if there is one.
    fn optional_name(&mut self) -> Result<Option<String>> {
        if !matches!(self.token, Token::Word(_) | Token::Text(_)) {
            return Ok(None);
        }
        Ok(match self.take()? {
            Token::Word(word) => Some(word.to_owned()),
            Token::Text(text) => Some(text),
            _ => None,
        })
    }

    fn name(&mut self, what: &str) -> Result<String> {
        match self.optional_name()? {
            Some(name) => Ok(name),
            None => self.expected(what),
        }
    }

    fn string(&mut self) -> Result<String> {
        if !matches!(self.token, Token::Text(_)) {
            return self.expected("a string in double quotes");
        }
        self.name("a string")
    }

    fn integer(&mut self) -> Result<i64> {
        let number = match self.token {
            Token::Integer(text) => text.parse().ok(),
            _ => None,
        };
        match number {
            Some(number) => {
                self.take()?;
                Ok(number)
            }
            None => self.expected("an integer of 64 bits"),
        }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return self.expected(&format!("less nesting (the limit is {MAX_DEPTH})"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    // ---- models and graphs

    fn header(&mut self, model: &mut ModelProto) -> Result<()> {
        loop {
            let Token::Word(key) = self.token else { return self.expected("a property of the model, as `ir_version`") };
            let place = (self.at, self.token.clone());
            self.take()?;
            self.expect(':')?;
            match key {
                "ir_version" => model.ir_version = Some(self.integer()?),
                "model_version" => model.model_version = Some(self.integer()?),
                "producer_name" => model.producer_name = Some(self.string()?),
                "producer_version" => model.producer_version = Some(self.string()?),
                "domain" => model.domain = Some(self.string()?),
                "doc_string" => model.doc_string = Some(self.string()?),
                "opset_import" => {
                    model.opset_import = self.pairs(Self::integer, |domain, version| OperatorSetIdProto {
                        domain: Some(domain),
                        version: Some(version),
                    })?;
                }
                "metadata_props" => {
                    model.metadata_props = self.pairs(Self::string, |key, value| StringStringEntryProto {
                        key: Some(key),
                        value: Some(value),
                    })?;
                }
                _ => {
                    let known = "ir_version, opset_import, producer_name, producer_version, domain, model_version, \
                                 doc_string or metadata_props";
                    return Err(ParseError::at(self.text, place.0, known, &place.1.describe()));
                }
            }
            if !self.another('>')? {
                return Ok(());
            }
        }
    }

    /// `["key" : value, …]`
    fn pairs<V, T>(&mut self, value: fn(&mut Self) -> Result<V>, make: fn(String, V) -> T) -> Result<Vec<T>> {
        self.expect('[')?;
        let mut pairs = Vec::new();
        if self.matches(']')? {
            return Ok(pairs);
        }
        loop {
            let key = self.string()?;
            self.expect(':')?;
            let value = value(self)?;
            pairs.push(make(key, value));
            if !self.another(']')? {
                return Ok(pairs);
            }
        }
    }

    fn graph(&mut self) -> Result<GraphProto> {
        let name = self.name("the name of a graph")?;
        self.graph_named(name)
    }

    fn graph_named(&mut self, name: String) -> Result<GraphProto> {
        self.deeper(|parser| {
            let mut graph = GraphProto { name: Some(name), ..GraphProto::default() };
            parser.expect('(')?;
            for (info, initializer) in parser.values(')', true)? {
                graph.input.push(info);
                graph.initializer.extend(initializer);
            }
            if parser.token != Token::Arrow {
                return parser.expected("`=>`");
            }
            parser.take()?;
            parser.expect('(')?;
            graph.output = parser.values(')', false)?.into_iter().map(|(info, _)| info).collect();
            if parser.matches('<')? {
                for (info, initializer) in parser.values('>', true)? {
                    match initializer {
                        Some(tensor) => graph.initializer.push(tensor),
                        None => graph.value_info.push(info),
                    }
                }
            }
            if !parser.matches('{')? {
                return parser.expected("`{` and the nodes");
            }
            while !parser.matches('}')? {
                let node = parser.node()?;
                graph.node.push(node);
            }
            Ok(graph)
        })
    }

    /// Values with their types and, where `initializers` allows it, their data, up to `close`.
    fn values(&mut self, close: char, initializers: bool) -> Result<Vec<(ValueInfoProto, Option<TensorProto>)>> {
        let mut values = Vec::new();
        if self.matches(close)? {
            return Ok(values);
        }
        loop {
            let at = self.at;
            let ty = if self.at_type() { Some(self.ty()?) } else { None };
            let name = self.name(if ty.is_some() { "the name of a value" } else { "a type or the name of a value" })?;
            let initializer = if initializers && self.matches('=')? {
                let tensor = self.tensor(ty.as_ref(), at)?;
                Some(TensorProto { name: Some(name.clone()), ..tensor })
            } else {
                None
            };
            values.push((ValueInfoProto { name: Some(name), r#type: ty, ..ValueInfoProto::default() }, initializer));
            if !self.another(close)? {
                return Ok(values);
            }
        }
    }

    // ---- types and tensors

    fn at_type(&self) -> bool {
        matches!(self.token, Token::Word(word) if dtype_named(word).is_some() || TYPE_WORDS.contains(&word))
    }

    fn ty(&mut self) -> Result<TypeProto> {
        self.deeper(|parser| {
            let Token::Word(word) = parser.token else { return parser.expected("a type") };
            let value = if let Some(dtype) = dtype_named(word) {
                parser.take()?;
                let shape = parser.shape()?;
                type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(dtype as i32), shape })
            } else if TYPE_WORDS.contains(&word) {
                parser.take()?;
                parser.expect('(')?;
                let value = parser.compound_type(word)?;
                parser.expect(')')?;
                value
            } else {
                return parser.expected("a type, as `float[1,3]`");
            };
            Ok(TypeProto { denotation: None, value: Some(value) })
        })
    }

    /// What stands in the parentheses after `word`.
    fn compound_type(&mut self, word: &str) -> Result<type_proto::Value> {
        Ok(match word {
            "seq" => {
                let elem_type = Some(Box::new(self.ty()?));
                type_proto::Value::SequenceType(Box::new(type_proto::Sequence { elem_type }))
            }
            "optional" => {
                let elem_type = Some(Box::new(self.ty()?));
                type_proto::Value::OptionalType(Box::new(type_proto::Optional { elem_type }))
            }
            "map" => {
                let key_type = Some(self.dtype()? as i32);
                self.expect(',')?;
                let value_type = Some(Box::new(self.ty()?));
                type_proto::Value::MapType(Box::new(type_proto::Map { key_type, value_type }))
            }
            "sparse_tensor" => {
                let elem_type = Some(self.dtype()? as i32);
                let shape = self.shape()?;
                type_proto::Value::SparseTensorType(type_proto::SparseTensor { elem_type, shape })
            }
            _ => {
                let mut opaque = type_proto::Opaque::default();
                if !self.peeks(')') {
                    opaque.name = Some(self.qualified()?);
                    if self.matches(',')? {
                        opaque.domain = opaque.name.take();
                        opaque.name = Some(self.name("the name of an opaque type")?);
                    }
                }
                type_proto::Value::OpaqueType(opaque)
            }
        })
    }

    fn dtype(&mut self) -> Result<DataType> {
        let dtype = match self.token {
            Token::Word(word) => dtype_named(word),
            _ => None,
        };
        match dtype {
            Some(dtype) => {
                self.take()?;
                Ok(dtype)
            }
            None => self.expected("an element type, as `float`"),
        }
    }

    /// Nothing (rank 0), `[]` (rank unknown) or `[dimension, …]`.
    fn shape(&mut self) -> Result<Option<TensorShapeProto>> {
        let mut shape = TensorShapeProto::default();
        if !self.matches('[')? {
            return Ok(Some(shape));
        }
        if self.matches(']')? {
            return Ok(None);
        }
        loop {
            let value = if self.matches('?')? {
                None
            } else if let Some(name) = self.optional_name()? {
                Some(dimension::Value::DimParam(name))
            } else if matches!(self.token, Token::Integer(_)) {
                Some(dimension::Value::DimValue(self.integer()?))
            } else {
                return self.expected("a dimension: a number, a name or `?`");
            };
            shape.dim.push(Dimension { denotation: None, value });
            if !self.another(']')? {
                return Ok(Some(shape));
            }
        }
    }

    /// `{value, …}` for a tensor of type `ty`, which stands at byte `at`.
    fn tensor(&mut self, ty: Option<&TypeProto>, at: usize) -> Result<TensorProto> {
        let needs = |found: &str| {
            Err(ParseError::at(
                self.text,
                at,
                "a tensor type whose dimensions are numbers, for a value with data",
                found,
            ))
        };
        let Some(TypeProto { value: Some(type_proto::Value::TensorType(ty)), .. }) = ty else {
            return needs("no tensor type");
        };
        let Some(dtype) = ty.elem_type.and_then(DataType::from_number) else { return needs("no element type") };
        let Some(shape) = &ty.shape else { return needs("an unknown rank") };
        let mut dims = Vec::with_capacity(shape.dim.len());
        for dim in &shape.dim {
            match &dim.value {
                Some(dimension::Value::DimValue(number)) if *number >= 0 => dims.push(*number),
                Some(dimension::Value::DimValue(number)) => return needs(&format!("dimension {number}")),
                Some(dimension::Value::DimParam(name)) => return needs(&format!("dimension `{name}`")),
                None => return needs("dimension `?`"),
            }
        }
        let sizes: Vec<usize> = dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect();
        let Some(count) = element_count(&sizes).and_then(|count| literal_count(dtype, count)) else {
            return needs("more elements than memory has");
        };
        let mut tensor = TensorProto { dims, data_type: Some(dtype as i32), ..TensorProto::default() };
        if self.peeks('[') {
            return self.expected("values in braces (external data is not read from text)");
        }
        self.expect('{')?;
        let mut packer = Packer::new(dtype);
        let mut found = 0;
        while !self.peeks('}') {
            if found > 0 {
                self.expect(',')?;
            }
            if found == count {
                return self.expected(&format!("`}}`: {dtype}{sizes:?} has {count} values"));
            }
            if dtype == DataType::String && matches!(self.token, Token::Text(_)) {
                tensor.string_data.push(Bytes::from(self.string()?));
            } else if let Some(bits) = literal_bits(dtype, &self.token) {
                packer.push(bits);
                self.take()?;
            } else {
                return self.expected(&literal_kind(dtype));
            }
            found += 1;
        }
        if found < count {
            return self.expected(&format!("{count} values for {dtype}{sizes:?}, of which {found} are there"));
        }
        self.expect('}')?;
        tensor.raw_data = (dtype != DataType::String).then(|| packer.into_bytes().into());
        Ok(tensor)
    }

    // ---- nodes and attributes

    fn node(&mut self) -> Result<NodeProto> {
        let mut node = NodeProto::default();
        if self.matches('[')? {
            node.name = Some(self.name("the name of a node")?);
            self.expect(']')?;
        }
        node.output = self.names()?;
        if !self.matches('=')? {
            return self.expected("a node, as `y = Op (x)`, or `}`");
        }
        let qualified = self.qualified_parts()?;
        if let Some((op_type, domain)) = qualified.split_last() {
            node.op_type = Some(op_type.clone());
            node.domain = (!domain.is_empty()).then(|| domain.join("."));
        }
        if self.matches(':')? {
            node.overload = Some(self.name("the name of an overload")?);
        }
        node.attribute = self.attributes()?;
        self.expect('(')?;
        node.input = self.names()?;
        self.expect(')')?;
        if node.attribute.is_empty() {
            node.attribute = self.attributes()?;
        }
        Ok(node)
    }

    /// Names with commas between them. `""`, or nothing before a comma, is a name left out; a last comma means nothing.
    fn names(&mut self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        loop {
            match self.optional_name()? {
                Some(name) => names.push(name),
                None if self.peeks(',') => names.push(String::new()),
                None => return Ok(names),
            }
            if !self.matches(',')? {
                return Ok(names);
            }
        }
    }

    fn qualified_parts(&mut self) -> Result<Vec<String>> {
        let mut parts = vec![self.name("the name of an op")?];
        while self.matches('.')? {
            parts.push(self.name("a name after the `.`")?);
        }
        Ok(parts)
    }

    fn qualified(&mut self) -> Result<String> {
        Ok(self.qualified_parts()?.join("."))
    }

    fn attributes(&mut self) -> Result<Vec<AttributeProto>> {
        let mut attributes = Vec::new();
        if !self.matches('<')? {
            return Ok(attributes);
        }
        loop {
            attributes.push(self.attribute()?);
            if !self.another('>')? {
                return Ok(attributes);
            }
        }
    }

    fn attribute(&mut self) -> Result<AttributeProto> {
        let name = self.name("the name of an attribute")?;
        let mut declared = AttributeType::Undefined;
        if self.matches(':')? {
            let kind = ATTRIBUTE_TYPES.iter().find(|(name, _)| self.token == Token::Word(name));
            let Some((_, kind)) = kind else { return self.expected("an attribute type, as `int` or `floats`") };
            declared = *kind;
            self.take()?;
        }
        self.expect('=')?;
        let at = self.at;
        let attribute = if self.matches('[')? { self.list(declared)? } else { self.single(declared)? };
        if declared != AttributeType::Undefined && attribute.r#type() != declared {
            let found = attribute.r#type().as_str_name();
            return Err(ParseError::at(self.text, at, &format!("a value of type {}", declared.as_str_name()), found));
        }
        Ok(AttributeProto { name: Some(name), ..attribute })
    }

    fn list(&mut self, declared: AttributeType) -> Result<AttributeProto> {
        use AttributeType::*;
        let mut list = AttributeProto { r#type: Some(declared as i32), ..AttributeProto::default() };
        if self.peeks(']') {
            if !matches!(declared, Floats | Ints | Strings | Tensors | Graphs | TypeProtos) {
                return self.expected("a value (an empty list needs its type: `name: ints = []`)");
            }
            self.take()?;
            return Ok(list);
        }
        let mut of = match declared {
            Floats => Float,
            Ints => Int,
            Strings => String,
            Tensors => Tensor,
            Graphs => Graph,
            TypeProtos => TypeProto,
            _ => Undefined,
        };
        loop {
            let at = self.at;
            let element = self.single(of)?;
            let kind = element.r#type();
            if of != Undefined && kind != of {
                let what = format!("another value of type {}", of.as_str_name());
                return Err(ParseError::at(self.text, at, &what, kind.as_str_name()));
            }
            of = kind;
            list.floats.extend(element.f);
            list.ints.extend(element.i);
            list.strings.extend(element.s);
            list.tensors.extend(element.t.map(|tensor| *tensor));
            list.graphs.extend(element.g.map(|graph| *graph));
            list.type_protos.extend(element.tp.map(|ty| *ty));
            if !self.another(']')? {
                break;
            }
        }
        let kind = match of {
            Float => Floats,
            Int => Ints,
            String => Strings,
            Tensor => Tensors,
            Graph => Graphs,
            _ => TypeProtos,
        };
        Ok(AttributeProto { r#type: Some(kind as i32), ..list })
    }

    /// One value. An integer is a float where one is declared.
    fn single(&mut self, declared: AttributeType) -> Result<AttributeProto> {
        let of = |kind: AttributeType| AttributeProto { r#type: Some(kind as i32), ..AttributeProto::default() };
        let at = self.at;
        match self.token {
            Token::Integer(text) if declared == AttributeType::Float => self.float(text),
            Token::Real(text) => self.float(text),
            Token::Word(word) if is_special_real(word) => self.float(word),
            Token::Integer(_) => Ok(AttributeProto { i: Some(self.integer()?), ..of(AttributeType::Int) }),
            Token::Mark('@') => {
                self.take()?;
                let name = self.name("the name of an attribute of the function")?;
                Ok(AttributeProto { ref_attr_name: Some(name), ..of(declared) })
            }
            Token::Text(_) => {
                let text = self.string()?;
                if self.peeks('(') {
                    let graph = self.graph_named(text)?;
                    return Ok(AttributeProto { g: Some(Box::new(graph)), ..of(AttributeType::Graph) });
                }
                Ok(AttributeProto { s: Some(Bytes::from(text)), ..of(AttributeType::String) })
            }
            Token::Word(_) if self.at_type() => {
                let ty = self.ty()?;
                let name = self.optional_name()?;
                let equals = self.matches('=')?;
                if name.is_none() && !equals && !self.peeks('{') {
                    return Ok(AttributeProto { tp: Some(Box::new(ty)), ..of(AttributeType::TypeProto) });
                }
                let tensor = TensorProto { name, ..self.tensor(Some(&ty), at)? };
                Ok(AttributeProto { t: Some(Box::new(tensor)), ..of(AttributeType::Tensor) })
            }
            Token::Word(_) => {
                let graph = self.graph()?;
                Ok(AttributeProto { g: Some(Box::new(graph)), ..of(AttributeType::Graph) })
            }
            _ => self.expected("a value: a number, a string, a tensor, a type or a graph"),
        }
    }

    fn float(&mut self, text: &str) -> Result<AttributeProto> {
        let Ok(number) = text.parse::<f32>() else { return self.expected("a number") };
        self.take()?;
        let kind = Some(AttributeType::Float as i32);
        Ok(AttributeProto { f: Some(number), r#type: kind, ..AttributeProto::default() })
    }
}

fn dtype_named(word: &str) -> Option<DataType> {
    DataType::ALL.iter().copied().find(|dtype| dtype.name() == word)
}
