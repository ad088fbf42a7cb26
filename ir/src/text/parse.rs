//! Text → `GraphProto` or `ModelProto`, and from there through import.
//!
//! **Never** looks further ahead than one token, and recurses over bodies and nested types only, as deep as messages may.
use onnx_shrink_proto::schema::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, ValueInfoProto,
};

use super::{
    ParseError,
    lexer::{Lexer, Token},
};
use crate::{import::import, model::Model};

pub(super) type Result<T> = std::result::Result<T, ParseError>;

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

pub(super) struct Parser<'a> {
    pub(super) text: &'a str,
    lexer: Lexer<'a>,
    /// The token to be read next, and where it begins
    pub(super) token: Token<'a>,
    pub(super) at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Parser<'a>> {
        let mut lexer = Lexer::new(text);
        let (at, token) = lexer.next()?;
        Ok(Parser { text, lexer, token, at, depth: 0 })
    }

    pub(super) fn expected<T>(&self, what: &str) -> Result<T> {
        Err(ParseError::at(self.text, self.at, what, &self.token.describe()))
    }

    pub(super) fn take(&mut self) -> Result<Token<'a>> {
        let (at, token) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    pub(super) fn peeks(&self, mark: char) -> bool {
        self.token == Token::Mark(mark)
    }

    pub(super) fn matches(&mut self, mark: char) -> Result<bool> {
        let matches = self.peeks(mark);
        if matches {
            self.take()?;
        }
        Ok(matches)
    }

    pub(super) fn expect(&mut self, mark: char) -> Result<()> {
        if self.matches(mark)? { Ok(()) } else { self.expected(&format!("`{mark}`")) }
    }

    /// After an element of a list: whether another one comes; otherwise `close` is read.
    pub(super) fn another(&mut self, close: char) -> Result<bool> {
        if self.matches(',')? {
            return Ok(true);
        }
        if self.matches(close)? { Ok(false) } else { self.expected(&format!("`,` or `{close}`")) }
    }

    fn end(&self) -> Result<()> {
        if self.token == Token::End { Ok(()) } else { self.expected("the end of the text") }
    }

    /// An identifier or a quoted name, if there is one.
    pub(super) fn optional_name(&mut self) -> Result<Option<String>> {
        if !matches!(self.token, Token::Word(_) | Token::Text(_)) {
            return Ok(None);
        }
        Ok(match self.take()? {
            Token::Word(word) => Some(word.to_owned()),
            Token::Text(text) => Some(text),
            _ => None,
        })
    }

    pub(super) fn name(&mut self, what: &str) -> Result<String> {
        match self.optional_name()? {
            Some(name) => Ok(name),
            None => self.expected(what),
        }
    }

    pub(super) fn string(&mut self) -> Result<String> {
        if !matches!(self.token, Token::Text(_)) {
            return self.expected("a string in double quotes");
        }
        self.name("a string")
    }

    pub(super) fn integer(&mut self) -> Result<i64> {
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

    pub(super) fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
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
    pub(super) fn pairs<V, T>(
        &mut self,
        value: fn(&mut Self) -> Result<V>,
        make: fn(String, V) -> T,
    ) -> Result<Vec<T>> {
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

    pub(super) fn graph(&mut self) -> Result<GraphProto> {
        let name = self.name("the name of a graph")?;
        self.graph_named(name)
    }

    pub(super) fn graph_named(&mut self, name: String) -> Result<GraphProto> {
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

    // ---- nodes

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

    pub(super) fn qualified(&mut self) -> Result<String> {
        Ok(self.qualified_parts()?.join("."))
    }
}
