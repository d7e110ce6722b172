//! Jinja's tests: `is defined` and the others.

use super::Fail;
use super::machine::{Given, Machine};
use super::syntax::Comparison;
use super::value::Value;

/// Filters and tests by name, for `is filter` and `is test`.
const TESTS: [&str; 37] = [
    "defined",
    "undefined",
    "none",
    "boolean",
    "true",
    "false",
    "integer",
    "float",
    "number",
    "string",
    "mapping",
    "iterable",
    "sequence",
    "callable",
    "sameas",
    "escaped",
    "in",
    "eq",
    "==",
    "equalto",
    "ne",
    "!=",
    "lt",
    "<",
    "lessthan",
    "le",
    "<=",
    "gt",
    ">",
    "greaterthan",
    "ge",
    ">=",
    "odd",
    "even",
    "divisibleby",
    "lower",
    "upper",
];

impl Machine {
    pub(super) fn test(&mut self, name: &str, value: &Value, mut given: Given) -> Result<bool, Fail> {
        let comparison = match name {
            "eq" | "==" | "equalto" => Some(Comparison::Equal),
            "ne" | "!=" => Some(Comparison::NotEqual),
            "lt" | "<" | "lessthan" => Some(Comparison::Less),
            "le" | "<=" => Some(Comparison::LessEqual),
            "gt" | ">" | "greaterthan" => Some(Comparison::Greater),
            "ge" | ">=" => Some(Comparison::GreaterEqual),
            "in" => Some(Comparison::In),
            _ => None,
        };
        let holds = match name {
            _ if comparison.is_some() => {
                let other = given.required(0, "other")?;
                self.holds(value, comparison.unwrap_or(Comparison::Equal), &other)?
            }
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "true" => matches!(value, Value::Bool(true)),
            "false" => matches!(value, Value::Bool(false)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => value.number().is_some(),
            "string" => matches!(value, Value::Str(_)),
            "mapping" => matches!(value, Value::Dict(_)),
            "sequence" => {
                matches!(value, Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined(_))
            }
            "iterable" => matches!(
                value,
                Value::Str(_)
                    | Value::List(_)
                    | Value::Tuple(_)
                    | Value::Lazy(_)
                    | Value::Dict(_)
                    | Value::Undefined(_)
                    | Value::Loop(_)
            ),
            "callable" => matches!(value, Value::Function(_) | Value::Method(_) | Value::Macro(..)),
            "escaped" => false,
            "sameas" => {
                let other = given.required(0, "other")?;
                self.step(value.effort().min(other.effort()))?;
                std::mem::discriminant(value) == std::mem::discriminant(&other) && value.equals(&other)
            }
            "odd" | "even" | "divisibleby" => {
                let by = if name == "divisibleby" { given.required(0, "num")? } else { Value::Int(2) };
                let remainder = self.operate(super::syntax::Operator::Remainder, value, &by)?;
                remainder.equals(&Value::Int(i128::from(name == "odd")))
            }
            "lower" | "upper" => {
                let text = self.text(value)?;
                self.step(text.len())?;
                let has_case = text.chars().any(|character| character.is_lowercase() || character.is_uppercase());
                let other = |character: char| {
                    if name == "lower" { character.is_uppercase() } else { character.is_lowercase() }
                };
                has_case && !text.chars().any(other)
            }
            "test" => {
                let text = self.text(value)?;
                TESTS.contains(&&*text) || &*text == "test"
            }
            _ => return Err(Fail::new(format!("the test `{name}` is not known in chat templates"))),
        };
        given.finish(&format!("the test `{name}`"))?;
        Ok(holds)
    }
}
