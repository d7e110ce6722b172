//! From tokens to the syntax of a template. Nothing nests deeper than [`DEEPEST`].

use std::sync::Arc;

use super::Fail;
use super::lexer::{Kind, Token};
use super::syntax::{Body, For, Macro, Node, Statement, Target};

/// How deep blocks and expressions may nest.
pub(super) const DEEPEST: usize = 60;

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    loops: usize,
}

pub(super) fn parse(tokens: Vec<Token>) -> Result<Body, Fail> {
    let mut parser = Parser { tokens, at: 0, depth: 0, loops: 0 };
    let (body, _) = parser.body(&[])?;
    Ok(body)
}

impl Parser {
    pub(super) fn kind(&self) -> &Kind {
        self.tokens.get(self.at).map_or(&Kind::End, |token| &token.kind)
    }

    pub(super) fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.line)
    }

    pub(super) fn next(&mut self) -> Kind {
        let kind = self.kind().clone();
        self.at += 1;
        kind
    }

    pub(super) fn fail(&self, message: impl Into<String>) -> Fail {
        Fail::new(message).at(self.line())
    }

    pub(super) fn unexpected(&self, expected: &str) -> Fail {
        let found = match self.kind() {
            Kind::End => "the end of the template".to_owned(),
            Kind::Name(name) => format!("`{name}`"),
            Kind::Operator(operator) => format!("`{operator}`"),
            Kind::BlockEnd => "`%}`".to_owned(),
            Kind::PrintEnd => "`}}`".to_owned(),
            other => format!("{other:?}"),
        };
        self.fail(format!("found {found}, expected {expected}"))
    }

    pub(super) fn is_operator(&self, operator: &str) -> bool {
        matches!(self.kind(), Kind::Operator(found) if *found == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), Kind::Name(found) if found == name)
    }

    pub(super) fn take_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        self.at += usize::from(found);
        found
    }

    pub(super) fn take_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect_operator(&mut self, operator: &str) -> Result<(), Fail> {
        if self.take_operator(operator) { Ok(()) } else { Err(self.unexpected(&format!("`{operator}`"))) }
    }

    pub(super) fn name(&mut self) -> Result<String, Fail> {
        match self.kind() {
            Kind::Name(name) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    /// One level deeper, as far as that goes.
    pub(super) fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Fail>) -> Result<T, Fail> {
        if self.depth >= DEEPEST {
            return Err(self.fail(format!("nested more than {DEEPEST} levels deep")));
        }
        self.depth += 1;
        let made = inner(self);
        self.depth -= 1;
        made
    }

    /// Statements up to one of these words, which is taken and returned.
    fn body(&mut self, until: &[&str]) -> Result<(Body, String), Fail> {
        self.nested(|parser| parser.statements(until))
    }

    fn statements(&mut self, until: &[&str]) -> Result<(Body, String), Fail> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let node = match self.next() {
                Kind::End if until.is_empty() => return Ok((body, String::new())),
                Kind::End => return Err(self.fail(format!("the template ends before `{}`", until.join("` or `")))),
                Kind::Data(text) => Node::Text(text),
                Kind::PrintBegin => {
                    let value = self.tuple()?;
                    self.expect(&Kind::PrintEnd)?;
                    Node::Print(value)
                }
                _ => {
                    let word = self.name()?;
                    if until.contains(&word.as_str()) {
                        return Ok((body, word));
                    }
                    self.block(&word)?
                }
            };
            body.push(Statement { line, node });
        }
    }

    fn expect(&mut self, kind: &Kind) -> Result<(), Fail> {
        if self.kind() == kind {
            self.at += 1;
            return Ok(());
        }
        Err(self.unexpected(if *kind == Kind::BlockEnd { "`%}`" } else { "`}}`" }))
    }

    fn end(&mut self) -> Result<(), Fail> {
        self.expect(&Kind::BlockEnd)
    }

    /// The body of a block and the end of its last tag.
    fn closed(&mut self, word: &str) -> Result<Body, Fail> {
        self.end()?;
        let (body, _) = self.body(&[word])?;
        self.end()?;
        Ok(body)
    }

    fn block(&mut self, word: &str) -> Result<Node, Fail> {
        match word {
            "if" => self.branches(),
            "for" => self.repeat(),
            "set" => self.set(),
            "macro" => self.definition(),
            "with" => {
                let mut names = Vec::new();
                while !matches!(self.kind(), Kind::BlockEnd) {
                    if !names.is_empty() {
                        self.expect_operator(",")?;
                    }
                    let target = self.target(false)?;
                    self.expect_operator("=")?;
                    names.push((target, self.expression()?));
                }
                Ok(Node::With { names, body: self.closed("endwith")? })
            }
            "filter" => {
                let filters = self.filters_of_a_block()?;
                Ok(Node::Filter { filters, body: self.closed("endfilter")? })
            }
            "generation" => Ok(Node::Generation(self.closed("endgeneration")?)),
            "break" | "continue" => {
                if self.loops == 0 {
                    return Err(self.fail(format!("`{word}` outside a loop")));
                }
                self.end()?;
                Ok(if word == "break" { Node::Break } else { Node::Continue })
            }
            "call" | "block" | "extends" | "include" | "import" | "from" | "do" | "autoescape" | "trans" => {
                Err(self.fail(format!("the tag `{word}` is not read in chat templates")))
            }
            _ => Err(self.fail(format!("the tag `{word}` is unknown or out of place"))),
        }
    }

    fn branches(&mut self) -> Result<Node, Fail> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple()?;
            self.end()?;
            let (body, word) = self.body(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            if word == "elif" {
                continue;
            }
            let otherwise = if word == "else" { self.closed("endif")? } else { Vec::new() };
            if word == "endif" {
                self.end()?;
            }
            return Ok(Node::If { branches, otherwise });
        }
    }

    fn repeat(&mut self) -> Result<Node, Fail> {
        let target = self.target(true)?;
        if !self.take_name("in") {
            return Err(self.unexpected("`in`"));
        }
        let over = self.tuple_without_choice()?;
        let condition = if self.take_name("if") { Some(self.expression()?) } else { None };
        if self.is_name("recursive") {
            return Err(self.fail("loops that call themselves (`recursive`) are not read in chat templates"));
        }
        self.end()?;
        self.loops += 1;
        let found = self.body(&["else", "endfor"]);
        self.loops -= 1;
        let (body, word) = found?;
        let otherwise = if word == "else" { self.closed("endfor")? } else { Vec::new() };
        if word == "endfor" {
            self.end()?;
        }
        Ok(Node::For(Box::new(For { target, over, condition, body, otherwise })))
    }

    fn set(&mut self) -> Result<Node, Fail> {
        let target = self.target(true)?;
        if self.take_operator("=") {
            let value = self.tuple()?;
            self.end()?;
            return Ok(Node::Set { target, value });
        }
        let filters = if self.take_operator("|") { self.filters_of_a_block()? } else { Vec::new() };
        Ok(Node::SetBlock { target, filters, body: self.closed("endset")? })
    }

    fn definition(&mut self) -> Result<Node, Fail> {
        let name = self.name()?;
        self.expect_operator("(")?;
        let mut parameters: Vec<(String, Option<_>)> = Vec::new();
        while !self.take_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let parameter = self.name()?;
            let default = if self.take_operator("=") { Some(self.expression()?) } else { None };
            parameters.push((parameter, default));
        }
        // A loop around the definition is not one around its body.
        let loops = std::mem::take(&mut self.loops);
        let body = self.closed("endmacro");
        self.loops = loops;
        Ok(Node::Macro(Arc::new(Macro { name, parameters, body: body? })))
    }

    /// A name, a field of a namespace, or several names.
    fn target(&mut self, several: bool) -> Result<Target, Fail> {
        let mut targets = Vec::new();
        loop {
            targets.push(self.single_target()?);
            if !several || !self.take_operator(",") {
                break;
            }
            if self.is_name("in") || self.is_operator("=") {
                return Ok(Target::Several(targets));
            }
        }
        Ok(if targets.len() == 1 { targets.remove(0) } else { Target::Several(targets) })
    }

    fn single_target(&mut self) -> Result<Target, Fail> {
        if self.take_operator("(") {
            let inner = self.nested(|parser| parser.target(true))?;
            self.expect_operator(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if self.take_operator(".") { Ok(Target::Field(name, self.name()?)) } else { Ok(Target::Name(name)) }
    }
}
