//! Evaluates expressions: operators, comparisons, attributes, items, slices.

use std::rc::Rc;

use super::Fail;
use super::machine::Machine;
use super::methods;
use super::syntax::{Comparison, Expr, Operator, Post};
use super::value::{Dict, Loop, Value};

impl Machine {
    pub(super) fn eval(&mut self, expr: &Expr) -> Result<Value, Fail> {
        self.step(0)?;
        match expr {
            Expr::Str(text) => self.make(text.as_str()),
            Expr::Int(number) => Ok(Value::Int(*number)),
            Expr::Float(number) => Ok(Value::Float(*number)),
            Expr::Bool(value) => Ok(Value::Bool(*value)),
            Expr::None => Ok(Value::None),
            Expr::Name(name) => self.defined(self.look_up(name)),
            _ => self.nested(|machine| machine.compound(expr)),
        }
    }

    fn compound(&mut self, expr: &Expr) -> Result<Value, Fail> {
        match expr {
            Expr::List(items) => Value::list(self.eval_all(items)?),
            Expr::Tuple(items) => Value::tuple(self.eval_all(items)?),
            Expr::Dict(entries) => self.dict(entries),
            Expr::Chain(first, rest) => {
                let mut value = self.eval(first)?;
                for (operator, operand) in rest {
                    let operand = self.eval(operand)?;
                    value = self.operate(*operator, &value, &operand)?;
                }
                Ok(value)
            }
            Expr::Concat(parts) => self.concat(parts),
            Expr::Negative(value) => match self.eval(value)? {
                Value::Float(number) => Ok(Value::Float(-number)),
                value => value
                    .integer()
                    .and_then(i128::checked_neg)
                    .map(Value::Int)
                    .ok_or_else(|| Fail::new(format!("no negative of {}", value.described()))),
            },
            Expr::Positive(value) => {
                let value = self.eval(value)?;
                match value.number() {
                    Some(_) => Ok(value),
                    None => Err(Fail::new(format!("no sign for {}", value.described()))),
                }
            }
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value)?.is_true())),
            Expr::And(all) => self.first_that(all, false),
            Expr::Or(all) => self.first_that(all, true),
            Expr::Compare(first, rest) => self.comparisons(first, rest),
            Expr::Choice { then, condition, otherwise } => {
                if self.eval(condition)?.is_true() {
                    return self.eval(then);
                }
                match otherwise {
                    Some(otherwise) => self.eval(otherwise),
                    None => self.defined(Value::Undefined("the value of an `if` without `else`".into())),
                }
            }
            Expr::Postfix(value, posts) => {
                let mut value = match &**value {
                    // Whether it has to be defined is up to what is asked of it.
                    Expr::Name(name) => {
                        self.step(0)?;
                        self.look_up(name)
                    }
                    other => self.eval(other)?,
                };
                for post in posts {
                    if !asks_whether_defined(post) {
                        value = self.defined(value)?;
                    }
                    value = self.post(value, post)?;
                }
                self.defined(value)
            }
            simple => self.eval(simple),
        }
    }

    fn dict(&mut self, entries: &[(Expr, Expr)]) -> Result<Value, Fail> {
        let mut made = Vec::with_capacity(entries.len());
        self.grow(32 * entries.len())?;
        for (key, value) in entries {
            let (key, value) = (self.eval(key)?, self.eval(value)?);
            self.put(&mut made, key, value)?;
        }
        Ok(Value::Dict(Dict::new(made)?))
    }

    fn concat(&mut self, parts: &[Expr]) -> Result<Value, Fail> {
        let mut out = String::new();
        for part in parts {
            let part = self.eval(part)?;
            let text = self.text(&part)?;
            self.grow(out.len() + text.len())?;
            out.push_str(&text);
        }
        Ok(Value::Str(out.into()))
    }

    /// The first of the values whose truth is this, or the last.
    fn first_that(&mut self, all: &[Expr], truth: bool) -> Result<Value, Fail> {
        let mut value = Value::None;
        for one in all {
            value = self.eval(one)?;
            if value.is_true() == truth {
                break;
            }
        }
        Ok(value)
    }

    fn comparisons(&mut self, first: &Expr, rest: &[(Comparison, Expr)]) -> Result<Value, Fail> {
        let mut left = self.eval(first)?;
        for (comparison, right) in rest {
            let right = self.eval(right)?;
            if !self.holds(&left, *comparison, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    pub(super) fn holds(&mut self, left: &Value, comparison: Comparison, right: &Value) -> Result<bool, Fail> {
        match comparison {
            Comparison::Equal | Comparison::NotEqual => {
                self.step(left.effort().min(right.effort()))?;
                Ok(left.equals(right) == (comparison == Comparison::Equal))
            }
            Comparison::In => self.contains(right, left),
            Comparison::NotIn => Ok(!self.contains(right, left)?),
            _ => {
                self.step(left.effort_of_order().min(right.effort_of_order()))?;
                let ordering = left.compare(right)?;
                Ok(match comparison {
                    Comparison::Less => ordering.is_lt(),
                    Comparison::LessEqual => ordering.is_le(),
                    Comparison::Greater => ordering.is_gt(),
                    _ => ordering.is_ge(),
                })
            }
        }
    }

    pub(super) fn contains(&mut self, container: &Value, wanted: &Value) -> Result<bool, Fail> {
        self.step(container.size())?;
        match (container, wanted) {
            (Value::Str(text), Value::Str(part)) => Ok(text.contains(&**part)),
            (Value::Str(_), other) => Err(Fail::new(format!("cannot look for {} in a str", other.described()))),
            (Value::List(items) | Value::Tuple(items) | Value::Lazy(items), _) => {
                self.step(items.items.len().saturating_mul(wanted.effort()).min(container.effort()))?;
                Ok(items.items.iter().any(|item| item.equals(wanted)))
            }
            (Value::Dict(dict), _) => {
                self.step(dict.effort_of_find(wanted))?;
                Ok(dict.find(wanted).is_some())
            }
            (Value::Undefined(_), _) => Ok(false),
            _ => Err(Fail::new(format!("cannot look into {}", container.described()))),
        }
    }

    pub(super) fn operate(&mut self, operator: Operator, left: &Value, right: &Value) -> Result<Value, Fail> {
        let impossible = || {
            let verb = match operator {
                Operator::Add => "add",
                Operator::Subtract => "subtract",
                Operator::Multiply => "multiply",
                Operator::Power => "raise",
                _ => "divide",
            };
            Fail::new(format!("cannot {verb} {} and {}", left.described(), right.described()))
        };
        match (operator, left, right) {
            (Operator::Add, Value::Str(left), Value::Str(right)) => {
                self.grow(left.len() + right.len())?;
                return Ok(Value::Str([&**left, &**right].concat().into()));
            }
            (Operator::Add, Value::List(left), Value::List(right)) => {
                self.grow(16 * (left.items.len() + right.items.len()))?;
                return Value::list(left.items.iter().chain(&right.items).cloned().collect());
            }
            (Operator::Add, Value::Tuple(left), Value::Tuple(right)) => {
                self.grow(16 * (left.items.len() + right.items.len()))?;
                return Value::tuple(left.items.iter().chain(&right.items).cloned().collect());
            }
            (Operator::Multiply, Value::Str(text), times) | (Operator::Multiply, times, Value::Str(text)) => {
                let times = times.integer().ok_or_else(impossible)?;
                let times = self.times(text.len(), times)?;
                return Ok(Value::Str(text.repeat(times).into()));
            }
            (Operator::Multiply, Value::List(items), times) | (Operator::Multiply, times, Value::List(items)) => {
                let times = times.integer().ok_or_else(impossible)?;
                let times = self.times(16 * items.items.len(), times)?;
                return Value::list(items.items.iter().cycle().take(items.items.len() * times).cloned().collect());
            }
            (Operator::Remainder, Value::Str(format), _) => {
                let values = match right.items() {
                    Some(items) if matches!(right, Value::Tuple(_)) => items.to_vec(),
                    _ => vec![right.clone()],
                };
                return self.percent(format, values);
            }
            _ => {}
        }
        let number = match (left.integer(), right.integer()) {
            (Some(left), Some(right)) => integers(operator, left, right),
            _ => match (left.number(), right.number()) {
                (Some(left), Some(right)) => floats(operator, left, right),
                _ => return Err(impossible()),
            },
        };
        number.ok_or_else(|| Fail::new("a division by zero, or a number that cannot be written"))
    }

    /// How often something is repeated, if there is room for that.
    fn times(&mut self, bytes: usize, times: i128) -> Result<usize, Fail> {
        let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
        self.grow(bytes.saturating_mul(times))?;
        Ok(if bytes == 0 { 0 } else { times })
    }

    pub(super) fn post(&mut self, value: Value, post: &Post) -> Result<Value, Fail> {
        self.step(0)?;
        match post {
            Post::Attribute(name) => self.attribute(&value, name),
            Post::Item(key) => {
                let key = self.eval(key)?;
                self.item(&value, &key)
            }
            Post::Slice(parts) => self.slice(&value, parts),
            Post::Call(arguments) => {
                let given = self.given(arguments)?;
                self.call(&value, given)
            }
            Post::Filter(name, arguments) => {
                let given = self.given(arguments)?;
                self.filter(name, value, given)
            }
            Post::Test { name, arguments, negated } => {
                let given = self.given(arguments)?;
                Ok(Value::Bool(self.test(name, &value, given)? != *negated))
            }
        }
    }

    /// `value.name`: a method goes before an entry of the same name.
    pub(super) fn attribute(&mut self, value: &Value, name: &str) -> Result<Value, Fail> {
        if let Value::Undefined(what) = value {
            return Err(Fail::new(format!("{what} is undefined, and `{name}` was asked of it")));
        }
        if methods::has(value, name) {
            return Ok(Value::Method(Rc::new((value.clone(), name.to_owned()))));
        }
        // What is not there is told with its name.
        self.grow(name.len())?;
        let found = match value {
            _ if name.starts_with('_') => None,
            Value::Dict(dict) => {
                self.step(dict.entries.len().saturating_mul(16 + name.len()).min(dict.size()))?;
                dict.of_text(name).cloned()
            }
            Value::Namespace(fields) => {
                self.step(16 * fields.borrow().len())?;
                fields.borrow().iter().find(|(other, _)| **other == *name).map(|(_, value)| value.clone())
            }
            Value::Loop(round) => loop_attribute(round, name),
            _ => None,
        };
        Ok(found.unwrap_or_else(|| Value::Undefined(format!("`{name}` of {}", value.kind()).into())))
    }

    /// `value[key]`: an entry goes before a method of the same name.
    pub(super) fn item(&mut self, value: &Value, key: &Value) -> Result<Value, Fail> {
        let found = match (value, key.integer()) {
            (Value::Dict(dict), _) => {
                self.step(dict.effort_of_find(key))?;
                dict.find(key).cloned()
            }
            (Value::List(items) | Value::Tuple(items), Some(index)) => {
                place(index, items.items.len()).and_then(|index| items.items.get(index)).cloned()
            }
            (Value::Str(text), Some(index)) => {
                self.step(text.len())?;
                let index = place(index, text.chars().count());
                index.and_then(|index| text.chars().nth(index)).map(|found| Value::from(found.to_string().as_str()))
            }
            _ => None,
        };
        match (found, key) {
            (Some(found), _) => Ok(found),
            (None, Value::Str(name)) => self.attribute(value, name),
            (None, _) if value.is_undefined() => {
                Err(Fail::new(format!("{}, and an item was asked of it", value.described())))
            }
            (None, _) => {
                let key = self.text(key)?;
                self.grow(key.len())?;
                Ok(Value::Undefined(format!("item {key} of {}", value.kind()).into()))
            }
        }
    }

    fn slice(&mut self, value: &Value, parts: &[Option<Expr>; 3]) -> Result<Value, Fail> {
        let mut bounds = [None; 3];
        for (bound, part) in bounds.iter_mut().zip(parts) {
            if let Some(part) = part {
                let part = self.eval(part)?;
                *bound = match part {
                    Value::None => None,
                    other => Some(
                        other
                            .integer()
                            .ok_or_else(|| Fail::new(format!("a slice from or to {}", other.described())))?,
                    ),
                };
            }
        }
        match value {
            Value::Str(text) => {
                self.grow(4 * text.len())?;
                let characters: Vec<char> = text.chars().collect();
                let places = places(bounds, characters.len())?;
                let sliced: String = places.into_iter().filter_map(|place| characters.get(place)).collect();
                self.make(sliced)
            }
            Value::List(items) | Value::Tuple(items) => {
                self.grow(16 * items.items.len())?;
                let places = places(bounds, items.items.len())?;
                let sliced = places.into_iter().filter_map(|place| items.items.get(place)).cloned().collect();
                if matches!(value, Value::List(_)) { Value::list(sliced) } else { Value::tuple(sliced) }
            }
            other => Err(Fail::new(format!("cannot slice {}", other.described()))),
        }
    }
}
/// Whether an undefined value is a right one for this.
fn asks_whether_defined(post: &Post) -> bool {
    match post {
        Post::Filter(name, _) => matches!(name.as_str(), "default" | "d"),
        Post::Test { name, .. } => matches!(name.as_str(), "defined" | "undefined"),
        _ => false,
    }
}

/// An index from the start, or with a negative one from the end.
fn place(index: i128, length: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(length as i128)? } else { index };
    usize::try_from(index).ok()
}

/// The places that Python's `start:stop:step` names.
fn places([start, stop, step]: [Option<i128>; 3], length: usize) -> Result<Vec<usize>, Fail> {
    let (step, length) = (step.unwrap_or(1), length as i128);
    if step == 0 {
        return Err(Fail::new("a slice with a step of 0"));
    }
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |given: Option<i128>, otherwise: i128| match given {
        Some(given) if given < 0 => given.saturating_add(length).clamp(lowest, highest),
        Some(given) => given.clamp(lowest, highest),
        None => otherwise,
    };
    let (from, to) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (start, stop) = (bound(start, from), bound(stop, to));
    let mut places = Vec::new();
    let mut next = Some(start);
    while let Some(place) = next.filter(|place| if step > 0 { *place < stop } else { *place > stop }) {
        places.extend(usize::try_from(place).ok());
        next = place.checked_add(step);
    }
    Ok(places)
}

fn loop_attribute(round: &Loop, name: &str) -> Option<Value> {
    let (index, length) = (round.index, round.items.len());
    let neighbour = |at: Option<usize>| {
        let found = at.and_then(|at| round.items.get(at)).cloned();
        Some(found.unwrap_or_else(|| Value::Undefined(format!("`{name}` of the loop").into())))
    };
    match name {
        "index" => Some(Value::int(index + 1)),
        "index0" => Some(Value::int(index)),
        "revindex" => Some(Value::int(length - index)),
        "revindex0" => Some(Value::int(length - index - 1)),
        "first" => Some(Value::Bool(index == 0)),
        "last" => Some(Value::Bool(index + 1 == length)),
        "length" => Some(Value::int(length)),
        "depth" => Some(Value::Int(1)),
        "depth0" => Some(Value::Int(0)),
        "previtem" => neighbour(index.checked_sub(1)),
        "nextitem" => neighbour(index.checked_add(1)),
        _ => None,
    }
}

fn integers(operator: Operator, left: i128, right: i128) -> Option<Value> {
    let number = match operator {
        Operator::Add => left.checked_add(right),
        Operator::Subtract => left.checked_sub(right),
        Operator::Multiply => left.checked_mul(right),
        Operator::Divide => {
            return (right != 0).then(|| Value::Float(left as f64 / right as f64));
        }
        Operator::FloorDivide => {
            let quotient = left.checked_div(right)?;
            Some(quotient - i128::from(left.checked_rem(right)? != 0 && (left < 0) != (right < 0)))
        }
        Operator::Remainder => {
            let remainder = left.checked_rem(right)?;
            Some(if remainder != 0 && (remainder < 0) != (right < 0) { remainder + right } else { remainder })
        }
        Operator::Power => match u32::try_from(right) {
            Ok(power) => left.checked_pow(power),
            Err(_) => return floats(operator, left as f64, right as f64),
        },
    };
    number.map(Value::Int)
}

fn floats(operator: Operator, left: f64, right: f64) -> Option<Value> {
    let divides = matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Remainder);
    if divides && right == 0.0 {
        return None;
    }
    // As CPython: the remainder has the sign of the divisor.
    let mut remainder = left % right;
    if remainder != 0.0 && (remainder < 0.0) != (right < 0.0) {
        remainder += right;
    }
    if operator == Operator::Power && ((left < 0.0 && right.fract() != 0.0) || (left == 0.0 && right < 0.0)) {
        return None;
    }
    Some(Value::Float(match operator {
        Operator::Add => left + right,
        Operator::Subtract => left - right,
        Operator::Multiply => left * right,
        Operator::Divide => left / right,
        Operator::FloorDivide => ((left - remainder) / right).round(),
        Operator::Remainder if remainder == 0.0 => 0.0f64.copysign(right),
        Operator::Remainder => remainder,
        Operator::Power => left.powf(right),
    }))
}
