//! Values of a template, with Python's truth, equality and text.
//!
//! A value knows how deep it nests and how large its text may become, and is refused beyond a limit when it is made: whatever is
//! done with a value afterwards is bounded by that.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

use super::Fail;
use super::syntax::Macro;
use super::text;

/// How deep values may nest.
const DEEPEST: usize = 100;

/// What a namespace holds, in the order it was set.
pub(super) type Attributes = Vec<(Rc<str>, Value)>;

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// With what was looked for, for messages.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Rc<str>),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    /// What `map` and its like give: to go through, without a length.
    Lazy(Rc<Items>),
    Dict(Rc<Dict>),
    Namespace(Rc<RefCell<Attributes>>),
    Function(Function),
    Method(Rc<(Value, String)>),
    /// With the scopes that it sees.
    Macro(Arc<Macro>, Place),
    Loop(Rc<Loop>),
}

/// Where a macro was defined.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// From which scope on it sees them, and how many there were.
    pub(super) visible: usize,
    pub(super) depth: usize,
    /// The number of the innermost one.
    pub(super) scope: u64,
}

/// What stands in the environment beside the variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Range,
    Dict,
    Namespace,
    RaiseException,
    StrftimeNow,
}

#[derive(Debug, Default)]
pub(super) struct Items {
    pub(super) items: Vec<Value>,
    depth: usize,
    size: usize,
    effort: usize,
}

#[derive(Debug, Default)]
pub(super) struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    depth: usize,
    size: usize,
    effort: usize,
}

/// `loop` of one round.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) items: Rc<Vec<Value>>,
    pub(super) index: usize,
}

impl Items {
    pub(super) fn new(items: Vec<Value>) -> Result<Rc<Self>, Fail> {
        let (depth, size) = measure(items.iter())?;
        let effort = items.iter().fold(16, |effort: usize, item| effort.saturating_add(item.effort()));
        Ok(Rc::new(Self { items, depth, size, effort }))
    }
}

impl Dict {
    /// Later entries take the place of earlier ones with the same key.
    pub(super) fn new(entries: Vec<(Value, Value)>) -> Result<Rc<Self>, Fail> {
        let (depth, size) = measure(entries.iter().flat_map(|(key, value)| [key, value]))?;
        // Each key is looked for among all of the other's.
        let sum = |efforts: &mut dyn Iterator<Item = usize>| efforts.fold(16, usize::saturating_add);
        let keys = sum(&mut entries.iter().map(|(key, _)| key.effort())).saturating_mul(entries.len());
        let effort = keys.saturating_add(sum(&mut entries.iter().map(|(_, value)| value.effort())));
        Ok(Rc::new(Self { entries, depth, size, effort }))
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// About the bytes that are looked at to find a key.
    pub(super) fn effort_of_find(&self, wanted: &Value) -> usize {
        self.entries.len().saturating_mul(wanted.effort()).min(self.effort)
    }

    pub(super) fn of_text(&self, name: &str) -> Option<&Value> {
        self.entries.iter().find(|(key, _)| matches!(key, Value::Str(key) if **key == *name)).map(|(_, value)| value)
    }

    pub(super) fn find(&self, wanted: &Value) -> Option<&Value> {
        self.entries.iter().find(|(key, _)| key.equals(wanted)).map(|(_, value)| value)
    }
}

/// Puts an entry in its place, or last.
pub(super) fn put(entries: &mut Vec<(Value, Value)>, key: Value, value: Value) {
    match entries.iter_mut().find(|(other, _)| other.equals(&key)) {
        Some(entry) => entry.1 = value,
        None => entries.push((key, value)),
    }
}

fn measure<'v>(values: impl Iterator<Item = &'v Value>) -> Result<(usize, usize), Fail> {
    let (mut depth, mut size) = (0, 16);
    for value in values {
        depth = depth.max(value.depth());
        size += value.size();
    }
    if depth >= DEEPEST {
        return Err(Fail::new(format!(
            "values nested more than {DEEPEST} levels deep, or a namespace inside of a value"
        )));
    }
    if size > super::LARGEST {
        return Err(Fail::new(format!("a value larger than {} bytes", super::LARGEST)));
    }
    Ok((depth + 1, size))
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.into())
    }
}

impl Value {
    pub(super) fn list(items: Vec<Value>) -> Result<Self, Fail> {
        Ok(Self::List(Items::new(items)?))
    }

    pub(super) fn tuple(items: Vec<Value>) -> Result<Self, Fail> {
        Ok(Self::Tuple(Items::new(items)?))
    }

    pub(super) fn lazy(items: Vec<Value>) -> Result<Self, Fail> {
        Ok(Self::Lazy(Items::new(items)?))
    }

    pub(super) fn int(number: usize) -> Self {
        Self::Int(number as i128)
    }

    pub(super) fn of_json(json: &serde_json::Value) -> Result<Self, Fail> {
        Self::of_json_within(json, DEEPEST)
    }

    fn of_json_within(json: &serde_json::Value, levels: usize) -> Result<Self, Fail> {
        use serde_json::Value as Json;
        let Some(levels) = levels.checked_sub(1) else {
            return Err(Fail::new(format!("values nested more than {DEEPEST} levels deep")));
        };
        Ok(match json {
            Json::Null => Self::None,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(number), _, _) => Self::Int(number.into()),
                (_, Some(number), _) => Self::Int(number.into()),
                (_, _, number) => Self::Float(number.unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::from(text.as_str()),
            Json::Array(items) => {
                let items: Result<_, Fail> = items.iter().map(|item| Self::of_json_within(item, levels)).collect();
                Self::list(items?)?
            }
            Json::Object(entries) => {
                let entry = |(key, value): (&String, &Json)| {
                    Ok((Self::from(key.as_str()), Self::of_json_within(value, levels)?))
                };
                let entries: Result<_, Fail> = entries.iter().map(entry).collect();
                Self::Dict(Dict::new(entries?)?)
            }
        })
    }

    fn depth(&self) -> usize {
        match self {
            Self::List(items) | Self::Tuple(items) | Self::Lazy(items) => items.depth,
            Self::Dict(dict) => dict.depth,
            // What may come to hold itself is never put into another value.
            Self::Namespace(_) | Self::Loop(_) | Self::Method(_) => DEEPEST,
            _ => 0,
        }
    }

    /// About the bytes of its text, and of its memory.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Str(text) => 16 + text.len(),
            Self::List(items) | Self::Tuple(items) | Self::Lazy(items) => items.size,
            Self::Dict(dict) => dict.size,
            _ => 16,
        }
    }

    /// About the bytes that are looked at to tell whether another value equals it.
    pub(super) fn effort(&self) -> usize {
        match self {
            Self::List(items) | Self::Tuple(items) | Self::Lazy(items) => items.effort,
            Self::Dict(dict) => dict.effort,
            other => other.size(),
        }
    }

    /// The same for which of the two comes first: on each level the first difference is looked for.
    pub(super) fn effort_of_order(&self) -> usize {
        self.effort().saturating_mul(self.depth() + 1)
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "an undefined value",
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an int",
            Self::Float(_) => "a float",
            Self::Str(_) => "a str",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Lazy(_) => "a generator",
            Self::Dict(_) => "a dict",
            Self::Namespace(_) => "a namespace",
            Self::Function(_) | Self::Method(_) => "a function",
            Self::Macro(..) => "a macro",
            Self::Loop(_) => "a loop",
        }
    }

    /// What it is, with the name of what was looked for.
    pub(super) fn described(&self) -> String {
        match self {
            Self::Undefined(name) => format!("{name}, which is undefined"),
            other => other.kind().to_owned(),
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(number) => *number != 0,
            Self::Float(number) => number.abs() > 0.0 || number.is_nan(),
            Self::Str(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.items.is_empty(),
            Self::Dict(dict) => !dict.entries.is_empty(),
            _ => true,
        }
    }

    /// The items of what can be gone through by index.
    pub(super) fn items(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) | Self::Tuple(items) => Some(&items.items),
            _ => None,
        }
    }

    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Bool(value) => Some(f64::from(u8::from(*value))),
            Self::Int(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// An int, which a bool is too.
    pub(super) fn integer(&self) -> Option<i128> {
        match self {
            Self::Bool(value) => Some(i128::from(*value)),
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    #[expect(clippy::float_cmp, reason = "equality of a template's numbers is exact, as Python's")]
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Str(left), Self::Str(right)) => left == right,
            (Self::List(left), Self::List(right)) | (Self::Tuple(left), Self::Tuple(right)) => {
                left.items.len() == right.items.len()
                    && left.items.iter().zip(&right.items).all(|(left, right)| left.equals(right))
            }
            (Self::Dict(left), Self::Dict(right)) => {
                left.entries.len() == right.entries.len()
                    && left.entries.iter().all(|(key, value)| right.find(key).is_some_and(|other| other.equals(value)))
            }
            (Self::Function(left), Self::Function(right)) => left == right,
            (Self::Namespace(left), Self::Namespace(right)) => Rc::ptr_eq(left, right),
            (Self::Macro(left, _), Self::Macro(right, _)) => Arc::ptr_eq(left, right),
            _ => match (self.integer(), other.integer()) {
                (Some(left), Some(right)) => left == right,
                _ => matches!((self.number(), other.number()), (Some(left), Some(right)) if left == right),
            },
        }
    }

    pub(super) fn compare(&self, other: &Self) -> Result<Ordering, Fail> {
        let ordering = match (self, other) {
            (Self::Str(left), Self::Str(right)) => Some(left.cmp(right)),
            (Self::List(left), Self::List(right)) | (Self::Tuple(left), Self::Tuple(right)) => {
                let differ = left.items.iter().zip(&right.items).find(|(left, right)| !left.equals(right));
                return match differ {
                    Some((left, right)) => left.compare(right),
                    None => Ok(left.items.len().cmp(&right.items.len())),
                };
            }
            _ => match (self.integer(), other.integer()) {
                (Some(left), Some(right)) => Some(left.cmp(&right)),
                _ => match (self.number(), other.number()) {
                    (Some(left), Some(right)) => left.partial_cmp(&right),
                    _ => None,
                },
            },
        };
        ordering.ok_or_else(|| Fail::new(format!("cannot compare {} with {}", self.described(), other.described())))
    }

    /// `str` of it, added to a text.
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Self::Str(text) => out.push_str(text),
            Self::Undefined(_) => {}
            other => other.write_repr(out),
        }
    }

    fn write_repr(&self, out: &mut String) {
        let all = |items: &[Value], out: &mut String| {
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                item.write_repr(out);
            }
        };
        match self {
            Self::Undefined(_) => out.push_str("Undefined"),
            Self::None => out.push_str("None"),
            Self::Bool(value) => out.push_str(if *value { "True" } else { "False" }),
            Self::Int(number) => out.push_str(&number.to_string()),
            Self::Float(number) => out.push_str(&text::float(*number)),
            Self::Str(text) => text::quoted(text, out),
            Self::List(items) | Self::Lazy(items) => {
                out.push('[');
                all(&items.items, out);
                out.push(']');
            }
            Self::Tuple(items) => {
                out.push('(');
                all(&items.items, out);
                out.push_str(if items.items.len() == 1 { ",)" } else { ")" });
            }
            Self::Dict(dict) => {
                out.push('{');
                for (index, (key, value)) in dict.entries.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    key.write_repr(out);
                    out.push_str(": ");
                    value.write_repr(out);
                }
                out.push('}');
            }
            Self::Namespace(_) | Self::Function(_) | Self::Method(_) | Self::Macro(..) | Self::Loop(_) => {
                out.push('<');
                out.push_str(self.kind());
                out.push('>');
            }
        }
    }
}
