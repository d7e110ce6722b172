//! The columns of a table, from the values that rows put in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields as ArrowFields, Schema};
use serde_json::Value;

use super::Unfit;
use super::row::{Fields, TOOLS};

/// A table with more fields than this, nested ones counted, is taken for rows that have no columns in common.
const MOST_FIELDS: usize = 4096;

/// What to do about values that do not fit.
const USE_LINES: &str = "a Parquet column holds one type: write .jsonl instead";

/// Columns in the order in which they were met.
#[derive(Debug, Default)]
pub(super) struct Table {
    columns: Vec<(String, Shape)>,
    fields: usize,
}

/// The type of values.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// None was seen.
    Nothing,
    Truth,
    Whole,
    Number,
    Text,
    List(Box<Shape>),
    Object(BTreeMap<String, Shape>),
}

/// Schemas of tools have keys of their own: they are kept as JSON.
pub(super) fn tools_as_text(fields: &mut Fields) {
    for (_, value) in fields.iter_mut().filter(|(name, _)| name == TOOLS) {
        *value = Value::String(value.to_string());
    }
}

impl Table {
    /// Widens the columns so that they hold a row.
    pub(super) fn add(&mut self, row: &Fields) -> Result<(), Unfit> {
        for (name, value) in row {
            let column = match self.columns.iter_mut().position(|(other, _)| other == name) {
                Some(place) => &mut self.columns[place].1,
                None => {
                    self.fields += 1;
                    self.columns.push((name.clone(), Shape::Nothing));
                    let last = self.columns.len() - 1;
                    &mut self.columns[last].1
                }
            };
            column.widen(value, name, &mut self.fields)?;
            if self.fields > MOST_FIELDS {
                let message = format!("the rows have more than {MOST_FIELDS} different columns and keys; {USE_LINES}");
                return Err(Unfit { column: name.clone(), message });
            }
        }
        Ok(())
    }

    /// The table's Arrow schema.
    pub(super) fn schema(&self) -> Result<Schema, Unfit> {
        let fields: Result<Vec<Field>, Unfit> =
            self.columns.iter().map(|(name, shape)| shape.field(name, name)).collect();
        Ok(Schema::new(fields?))
    }
}

impl Shape {
    fn widen(&mut self, value: &Value, path: &str, fields: &mut usize) -> Result<(), Unfit> {
        let new = match value {
            Value::Null => return Ok(()),
            Value::Bool(_) => Self::Truth,
            Value::Number(number) if number.is_i64() => Self::Whole,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::Text,
            Value::Array(_) => Self::List(Box::new(Self::Nothing)),
            Value::Object(_) => Self::Object(BTreeMap::new()),
        };
        match (&*self, &new) {
            (Self::Nothing, _) | (Self::Whole, Self::Number) => *self = new,
            (Self::Number, Self::Whole) => {}
            (have, new) if std::mem::discriminant(have) == std::mem::discriminant(new) => {}
            (have, new) => {
                let message = format!("is {} and was {} in rows before; {USE_LINES}", new.name(), have.name());
                return Err(Unfit { column: path.to_owned(), message });
            }
        }
        match (self, value) {
            (Self::List(item), Value::Array(values)) => {
                let path = format!("{path}[]");
                values.iter().try_for_each(|value| item.widen(value, &path, fields))
            }
            (Self::Object(own), Value::Object(values)) => values.iter().try_for_each(|(key, value)| {
                let field = own.entry(key.clone()).or_insert_with(|| {
                    *fields += 1;
                    Self::Nothing
                });
                if *fields > MOST_FIELDS {
                    return Ok(());
                }
                field.widen(value, &format!("{path}.{key}"), fields)
            }),
            _ => Ok(()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "null",
            Self::Truth => "a boolean",
            Self::Whole | Self::Number => "a number",
            Self::Text => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    fn field(&self, name: &str, path: &str) -> Result<Field, Unfit> {
        Ok(Field::new(name, self.data_type(path)?, true))
    }

    fn data_type(&self, path: &str) -> Result<DataType, Unfit> {
        Ok(match self {
            // Only nulls, or lists without items: any type does.
            Self::Nothing | Self::Text => DataType::Utf8,
            Self::Truth => DataType::Boolean,
            Self::Whole => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::List(item) => DataType::List(Arc::new(item.field("item", &format!("{path}[]"))?)),
            Self::Object(fields) if fields.is_empty() => {
                let message = "is an object without keys in every row, which Parquet cannot hold: write .jsonl instead"
                    .to_owned();
                return Err(Unfit { column: path.to_owned(), message });
            }
            Self::Object(fields) => {
                let field = |(name, shape): (&String, &Self)| shape.field(name, &format!("{path}.{name}"));
                DataType::Struct(fields.iter().map(field).collect::<Result<ArrowFields, _>>()?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(value: &Value) -> Fields {
        value.as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    #[test]
    fn types_are_widened_over_rows() {
        let mut table = Table::default();
        table.add(&row(&json!({"a": [{"x": 1}], "b": null}))).unwrap();
        table.add(&row(&json!({"a": [{"x": 0.5, "y": "t"}], "c": true}))).unwrap();
        let schema = table.schema().unwrap();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let item = DataType::Struct(
            vec![Field::new("x", DataType::Float64, true), Field::new("y", DataType::Utf8, true)].into(),
        );
        assert_eq!(*schema.field(0).data_type(), DataType::List(Arc::new(Field::new("item", item, true))));
        assert_eq!((schema.field(1).data_type(), schema.field(2).data_type()), (&DataType::Utf8, &DataType::Boolean));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let mut table = Table::default();
        table.add(&row(&json!({"a": [{"x": "text"}]}))).unwrap();
        let unfit = table.add(&row(&json!({"a": [{"x": {"k": 1}}]}))).unwrap_err();
        assert_eq!(unfit.column, "a[].x");
        assert!(unfit.message.contains("is an object and was a string"), "{}", unfit.message);
        let mut empty = Table::default();
        empty.add(&row(&json!({"a": {"x": {}}}))).unwrap();
        assert_eq!(empty.schema().unwrap_err().column, "a.x");
        let mut wide = Table::default();
        let keys: serde_json::Map<String, Value> = (0..5000).map(|key| (key.to_string(), json!(1))).collect();
        assert!(wide.add(&row(&json!({ "a": keys }))).unwrap_err().message.contains("more than 4096"));
    }
}
