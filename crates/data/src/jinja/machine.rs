//! Runs a template: statements, names and their scopes, calls.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::syntax::{Arguments, Body, Expr, For, Macro, Node, Post, Target};
use super::value::{Dict, Function, Loop, Place, Value, put};
use super::{BYTES, Fail, LARGEST, STEPS};
use crate::moment::Moment;

/// How deep statements, expressions and macros may be inside of each other.
const DEEPEST: usize = 200;

pub(super) struct Machine {
    /// The first holds the variables; what is set inside of a loop, a macro or a `with` stays inside.
    scopes: Vec<Scope>,
    /// Scopes entered so far.
    entered: u64,
    /// A macro sees the first scope and those from here on.
    visible: usize,
    out: String,
    steps: u64,
    bytes: usize,
    depth: usize,
    date: Option<Moment>,
    /// Undefined values, and None as a text, are errors.
    strict: bool,
}

/// Names and their values, with a number that no other scope of the render has.
struct Scope {
    names: HashMap<String, Value>,
    number: u64,
}

/// What happens after a statement.
#[derive(PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// Arguments of a call, each taken once by its place or its name.
pub(super) struct Given {
    positional: Vec<Option<Value>>,
    named: Vec<(String, Option<Value>)>,
}

impl Given {
    pub(super) fn of(positional: Vec<Value>, named: Vec<(String, Value)>) -> Self {
        let named = named.into_iter().map(|(name, value)| (name, Some(value))).collect();
        Self { positional: positional.into_iter().map(Some).collect(), named }
    }

    pub(super) fn take(&mut self, place: usize, name: &str) -> Option<Value> {
        if let Some(value) = self.positional.get_mut(place).and_then(Option::take) {
            return Some(value);
        }
        self.named.iter_mut().find(|(other, _)| other == name).and_then(|(_, value)| value.take())
    }

    pub(super) fn required(&mut self, place: usize, name: &str) -> Result<Value, Fail> {
        self.take(place, name).ok_or_else(|| Fail::new(format!("the argument `{name}` is missing")))
    }

    /// Whether it is given and true.
    pub(super) fn flag(&mut self, place: usize, name: &str) -> bool {
        self.take(place, name).is_some_and(|value| value.is_true())
    }

    /// All arguments that are left, in their places.
    pub(super) fn rest(&mut self) -> Vec<Value> {
        self.positional.iter_mut().filter_map(Option::take).collect()
    }

    pub(super) fn rest_named(&mut self) -> Vec<(String, Value)> {
        self.named.drain(..).filter_map(|(name, value)| Some((name, value?))).collect()
    }

    pub(super) fn has_named(&self, name: &str) -> bool {
        self.named.iter().any(|(other, value)| other == name && value.is_some())
    }

    /// Nothing may be left.
    pub(super) fn finish(self, what: &str) -> Result<(), Fail> {
        if let Some((name, _)) = self.named.iter().find(|(_, value)| value.is_some()) {
            return Err(Fail::new(format!("{what}: no argument is named `{name}`")));
        }
        if self.positional.iter().any(Option::is_some) {
            return Err(Fail::new(format!("{what}: too many arguments")));
        }
        Ok(())
    }
}

impl Machine {
    pub(super) fn new(date: Option<Moment>) -> Self {
        let scopes = vec![Scope { names: HashMap::new(), number: 0 }];
        let (steps, bytes) = (STEPS, BYTES);
        Self { scopes, entered: 0, visible: 1, out: String::new(), steps, bytes, depth: 0, date, strict: false }
    }

    /// The same, to which an undefined value is an error unless it is asked whether it is defined, and so is None as a text.
    pub(super) fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// The value, unless it is undefined and must not be.
    pub(super) fn defined(&self, value: Value) -> Result<Value, Fail> {
        match value {
            Value::Undefined(name) if self.strict => Err(Fail::new(format!("{name} is undefined"))),
            value => Ok(value),
        }
    }

    pub(super) fn define(&mut self, name: &str, value: Value) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(name.to_owned(), value);
        }
    }

    fn enter(&mut self) {
        self.entered += 1;
        self.scopes.push(Scope { names: HashMap::new(), number: self.entered });
    }

    pub(super) fn run_all(mut self, body: &Body) -> Result<String, Fail> {
        self.run(body)?;
        Ok(self.out)
    }

    /// Uses up steps, in proportion to the bytes looked at.
    pub(super) fn step(&mut self, bytes: usize) -> Result<(), Fail> {
        let steps = 1 + bytes as u64 / 64;
        self.steps = self
            .steps
            .checked_sub(steps)
            .ok_or_else(|| Fail::new(format!("stopped after {STEPS} steps: the template goes on for too long")))?;
        Ok(())
    }

    /// Uses up bytes for a value about to be made.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Fail> {
        self.step(bytes)?;
        if bytes > LARGEST {
            return Err(Fail::new(format!("a value larger than {LARGEST} bytes")));
        }
        self.bytes = self
            .bytes
            .checked_sub(bytes)
            .ok_or_else(|| Fail::new(format!("stopped after making {BYTES} bytes: the template makes too much")))?;
        Ok(())
    }

    pub(super) fn text(&mut self, value: &Value) -> Result<Rc<str>, Fail> {
        if let Value::Str(text) = value {
            return Ok(text.clone());
        }
        if self.strict && matches!(value, Value::None) {
            return Err(Fail::new(
                "None, such as an empty cell is, where a text is wanted; write `x or ''` if it may be empty",
            ));
        }
        self.grow(value.size())?;
        let mut out = String::new();
        value.write(&mut out);
        self.grow(out.len())?;
        Ok(out.into())
    }

    pub(super) fn make(&mut self, text: impl Into<Rc<str>>) -> Result<Value, Fail> {
        let text = text.into();
        self.grow(text.len())?;
        Ok(Value::Str(text))
    }

    /// The items of a value that can be gone through.
    pub(super) fn iterate(&mut self, value: &Value) -> Result<Vec<Value>, Fail> {
        let items: Vec<Value> = match value {
            Value::List(items) | Value::Tuple(items) | Value::Lazy(items) => {
                self.grow(16 * items.items.len())?;
                items.items.clone()
            }
            Value::Dict(dict) => dict.entries.iter().map(|(key, _)| key.clone()).collect(),
            Value::Str(text) => {
                self.grow(32 * text.len())?;
                text.chars().map(|character| Value::from(character.encode_utf8(&mut [0; 4]) as &str)).collect()
            }
            Value::Undefined(_) => Vec::new(),
            other => return Err(Fail::new(format!("cannot go through {}", other.kind()))),
        };
        self.grow(16 * items.len())?;
        Ok(items)
    }

    /// One level deeper, as far as that goes.
    pub(super) fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Fail>) -> Result<T, Fail> {
        if self.depth >= DEEPEST {
            return Err(Fail::new(format!("more than {DEEPEST} levels deep")));
        }
        self.depth += 1;
        let done = inner(self);
        self.depth -= 1;
        done
    }

    fn run(&mut self, body: &Body) -> Result<Flow, Fail> {
        for statement in body {
            self.step(0)?;
            let flow = self.nested(|machine| machine.statement(&statement.node));
            match flow.map_err(|fail| fail.at(statement.line))? {
                Flow::Next => {}
                other => return Ok(other),
            }
        }
        Ok(Flow::Next)
    }

    fn emit(&mut self, text: &str) -> Result<(), Fail> {
        self.grow(text.len())?;
        if self.out.len() + text.len() > LARGEST {
            return Err(Fail::new(format!("a rendering longer than {LARGEST} bytes")));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn statement(&mut self, node: &Node) -> Result<Flow, Fail> {
        match node {
            Node::Text(text) => self.emit(text)?,
            Node::Print(value) => {
                let value = self.eval(value)?;
                let text = self.text(&value)?;
                self.emit(&text)?;
            }
            Node::If { branches, otherwise } => {
                for (condition, body) in branches {
                    if self.eval(condition)?.is_true() {
                        return self.run(body);
                    }
                }
                return self.run(otherwise);
            }
            Node::For(repeat) => return self.repeat(repeat),
            Node::Set { target, value } => {
                let value = self.eval(value)?;
                self.assign(target, value)?;
            }
            Node::SetBlock { target, filters, body } => {
                let (text, flow) = self.captured(body)?;
                let value = self.filtered(text, filters)?;
                self.assign(target, value)?;
                return Ok(flow);
            }
            Node::Filter { filters, body } => {
                let (text, flow) = self.captured(body)?;
                let value = self.filtered(text, filters)?;
                let text = self.text(&value)?;
                self.emit(&text)?;
                return Ok(flow);
            }
            Node::Macro(definition) => {
                let scope = self.scopes.last().map_or(0, |scope| scope.number);
                let place = Place { visible: self.visible, depth: self.scopes.len(), scope };
                self.define(&definition.name, Value::Macro(definition.clone(), place));
            }
            Node::With { names, body } => {
                let mut values = Vec::with_capacity(names.len());
                for (_, value) in names {
                    values.push(self.eval(value)?);
                }
                self.enter();
                for ((target, _), value) in names.iter().zip(values) {
                    self.assign(target, value)?;
                }
                let flow = self.run(body);
                self.scopes.pop();
                return flow;
            }
            Node::Generation(body) => {
                self.enter();
                let flow = self.run(body);
                self.scopes.pop();
                return flow;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    /// The text of a body, apart from the output, in a scope of its own.
    fn captured(&mut self, body: &Body) -> Result<(Value, Flow), Fail> {
        let outer = std::mem::take(&mut self.out);
        self.enter();
        let flow = self.run(body);
        self.scopes.pop();
        let text = std::mem::replace(&mut self.out, outer);
        Ok((Value::Str(text.into()), flow?))
    }

    fn filtered(&mut self, value: Value, filters: &[Post]) -> Result<Value, Fail> {
        filters.iter().try_fold(value, |value, filter| self.post(value, filter))
    }

    fn repeat(&mut self, repeat: &For) -> Result<Flow, Fail> {
        let over = self.eval(&repeat.over)?;
        let mut items = self.iterate(&over)?;
        if let Some(condition) = &repeat.condition {
            let mut kept = Vec::with_capacity(items.len());
            for item in items {
                self.enter();
                let keep = self.assign(&repeat.target, item.clone()).and_then(|()| self.eval(condition));
                self.scopes.pop();
                if keep?.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            return self.run(&repeat.otherwise);
        }
        let items = Rc::new(items);
        for index in 0..items.len() {
            self.enter();
            self.define("loop", Value::Loop(Rc::new(Loop { items: items.clone(), index })));
            let item = items.get(index).cloned().unwrap_or(Value::None);
            let flow = self.assign(&repeat.target, item).and_then(|()| self.run(&repeat.body));
            self.scopes.pop();
            if flow? == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn assign(&mut self, target: &Target, value: Value) -> Result<(), Fail> {
        match target {
            Target::Name(name) => self.define(name, value),
            Target::Field(name, field) => match self.look_up(name) {
                Value::Namespace(fields) => {
                    if matches!(value, Value::Namespace(_) | Value::Loop(_) | Value::Method(_)) {
                        return Err(Fail::new(format!("{} cannot be put into a namespace", value.kind())));
                    }
                    if field.starts_with('_') {
                        return Err(Fail::new(format!("a namespace takes no field named `{field}`")));
                    }
                    let mut fields = fields.borrow_mut();
                    self.step(16 * fields.len())?;
                    match fields.iter_mut().find(|(other, _)| **other == **field) {
                        Some(entry) => entry.1 = value,
                        None => fields.push((field.as_str().into(), value)),
                    }
                }
                other => return Err(Fail::new(format!("cannot set a field of {}", other.described()))),
            },
            Target::Several(targets) => {
                let items = self.iterate(&value)?;
                if items.len() != targets.len() {
                    return Err(Fail::new(format!("{} values for {} names", items.len(), targets.len())));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.nested(|machine| machine.assign(target, item))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn look_up(&self, name: &str) -> Value {
        let inner = self.scopes.get(self.visible..).unwrap_or_default();
        if let Some(value) = inner.iter().rev().chain(self.scopes.first()).find_map(|scope| scope.names.get(name)) {
            return value.clone();
        }
        match name {
            "range" => Value::Function(Function::Range),
            "dict" => Value::Function(Function::Dict),
            "namespace" => Value::Function(Function::Namespace),
            "raise_exception" => Value::Function(Function::RaiseException),
            "strftime_now" => Value::Function(Function::StrftimeNow),
            _ => Value::Undefined(format!("`{name}`").into()),
        }
    }

    pub(super) fn given(&mut self, arguments: &Arguments) -> Result<Given, Fail> {
        let mut given = Given { positional: Vec::new(), named: Vec::new() };
        for argument in &arguments.positional {
            given.positional.push(Some(self.eval(argument)?));
        }
        for (name, argument) in &arguments.named {
            given.named.push((name.clone(), Some(self.eval(argument)?)));
        }
        Ok(given)
    }

    pub(super) fn call(&mut self, function: &Value, mut given: Given) -> Result<Value, Fail> {
        match function {
            Value::Method(method) => self.method(&method.0, &method.1, given),
            Value::Macro(definition, place) => self.nested(|machine| machine.expand(definition, *place, given)),
            Value::Function(Function::RaiseException) => {
                let message = given.required(0, "message")?;
                Err(Fail::new(format!("the template refuses: {}", self.text(&message)?)))
            }
            Value::Function(Function::StrftimeNow) => {
                let format = given.required(0, "format")?;
                given.finish("strftime_now")?;
                let date = self.date.ok_or_else(|| {
                    Fail::new(
                        "the template asks for today's date (strftime_now) and none is given; give one, as date = \"2026-03-07\" \
                         in [data] or --date 2026-03-07: rows then give the same tokens on every day",
                    )
                })?;
                let format = self.text(&format)?;
                // A code of two characters becomes up to some thirty.
                self.grow(format.len().saturating_mul(16))?;
                let written = date.strftime(&format).map_err(Fail::new)?;
                self.make(written)
            }
            Value::Function(Function::Range) => self.range(given),
            Value::Function(kind @ (Function::Dict | Function::Namespace)) => {
                let mut entries = match given.take(0, "") {
                    None => Vec::new(),
                    Some(Value::Dict(dict)) => dict.entries.clone(),
                    Some(pairs) => {
                        let mut entries = Vec::new();
                        for pair in self.iterate(&pairs)? {
                            match pair.items() {
                                Some([key, value]) => self.put(&mut entries, key.clone(), value.clone())?,
                                _ => return Err(Fail::new("expected pairs of a key and a value")),
                            }
                        }
                        entries
                    }
                };
                for (name, value) in given.rest_named() {
                    self.put(&mut entries, Value::from(name.as_str()), value)?;
                }
                given.finish("dict")?;
                self.grow(32 * entries.len())?;
                let dict = Dict::new(entries)?;
                if *kind == Function::Dict {
                    return Ok(Value::Dict(dict));
                }
                let mut fields = Vec::with_capacity(dict.entries.len());
                for (name, value) in &dict.entries {
                    fields.push((self.text(name)?, value.clone()));
                }
                Ok(Value::Namespace(Rc::new(std::cell::RefCell::new(fields))))
            }
            other => Err(Fail::new(format!("cannot call {}", other.described()))),
        }
    }

    fn range(&mut self, mut given: Given) -> Result<Value, Fail> {
        const LONGEST: i128 = 100_000;
        let numbers: Vec<Option<i128>> = given.rest().iter().map(Value::integer).collect();
        given.finish("range")?;
        let (start, stop, step) = match numbers[..] {
            [Some(stop)] => (0, stop, 1),
            [Some(start), Some(stop)] => (start, stop, 1),
            [Some(start), Some(stop), Some(step)] if step != 0 => (start, stop, step),
            _ => return Err(Fail::new("range: expected one to three whole numbers, the third not 0")),
        };
        let mut items = Vec::new();
        let mut next = Some(start);
        while let Some(number) = next.filter(|number| if step > 0 { *number < stop } else { *number > stop }) {
            if items.len() as i128 >= LONGEST {
                return Err(Fail::new(format!("range: more than {LONGEST} numbers")));
            }
            items.push(Value::Int(number));
            next = number.checked_add(step);
        }
        self.grow(16 * items.len())?;
        Value::list(items)
    }

    /// Puts an entry in its place, or last.
    pub(super) fn put(&mut self, entries: &mut Vec<(Value, Value)>, key: Value, value: Value) -> Result<(), Fail> {
        self.step(entries.len().saturating_mul(key.effort()))?;
        put(entries, key, value);
        Ok(())
    }

    /// What a macro writes. It sees the variables of the scopes it was defined in, as they are now, as long as these last.
    fn expand(&mut self, definition: &Arc<Macro>, place: Place, given: Given) -> Result<Value, Fail> {
        let top = place.depth.checked_sub(1).and_then(|top| self.scopes.get(top));
        let (visible, depth) = match top.is_some_and(|scope| scope.number == place.scope) {
            true => (place.visible, place.depth),
            false => (1, 1),
        };
        let aside = self.scopes.split_off(depth);
        let visible = std::mem::replace(&mut self.visible, visible);
        self.enter();
        let written = self.filled(definition, given);
        self.scopes.truncate(depth);
        self.scopes.extend(aside);
        self.visible = visible;
        written
    }

    /// What a macro writes with these arguments, in its own scope.
    fn filled(&mut self, definition: &Macro, mut given: Given) -> Result<Value, Fail> {
        self.step(definition.parameters.len().saturating_mul(given.named.len()).saturating_mul(8))?;
        for (place, (name, default)) in definition.parameters.iter().enumerate() {
            let value = match (given.take(place, name), default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.eval(default)?,
                (None, None) => Value::Undefined(format!("the parameter `{name}`").into()),
            };
            self.define(name, value);
        }
        given.finish(&format!("the macro `{}`", definition.name))?;
        Ok(self.captured(&definition.body)?.0)
    }

    pub(super) fn eval_all(&mut self, all: &[Expr]) -> Result<Vec<Value>, Fail> {
        self.grow(16 * all.len())?;
        all.iter().map(|one| self.eval(one)).collect()
    }
}
