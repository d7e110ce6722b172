//! Filters of sequences and dicts.

use super::Fail;
use super::machine::{Given, Machine};
use super::value::Value;

impl Machine {
    pub(super) fn sequence_filter(&mut self, name: &str, value: Value, mut given: Given) -> Result<Value, Fail> {
        let made = match name {
            "list" => Value::list(self.iterate(&value)?)?,
            "first" => self.iterate(&value)?.into_iter().next().unwrap_or_else(|| nothing("first")),
            "last" => self.iterate(&value)?.pop().unwrap_or_else(|| nothing("last")),
            "reverse" => {
                let mut items = self.iterate(&value)?;
                items.reverse();
                match value {
                    Value::Str(_) => self.join(&items, "")?,
                    _ => Value::lazy(items)?,
                }
            }
            "join" => {
                let between = given.take(0, "d").unwrap_or_else(|| Value::from(""));
                let attribute = given.take(1, "attribute");
                let items = self.iterate(&value)?;
                let items = self.attributes(items, attribute.as_ref())?;
                let between = self.text(&between)?;
                self.join(&items, &between)?
            }
            "items" => match &value {
                Value::Undefined(_) => Value::list(Vec::new())?,
                Value::Dict(_) => self.pairs(&value)?,
                other => return Err(Fail::new(format!("items of {}", other.described()))),
            },
            "dictsort" => self.dict_sorted(&value, &mut given)?,
            "sort" => {
                let (reverse, case_sensitive) = (given.flag(0, "reverse"), given.flag(1, "case_sensitive"));
                let attribute = given.take(2, "attribute");
                let items = self.iterate(&value)?;
                Value::list(self.sorted(items, attribute.as_ref(), case_sensitive, reverse)?)?
            }
            "min" | "max" => {
                let case_sensitive = given.flag(0, "case_sensitive");
                let attribute = given.take(1, "attribute");
                let items = self.iterate(&value)?;
                // Of equals the first, whichever end is asked for.
                let items = self.sorted(items, attribute.as_ref(), case_sensitive, name == "max")?;
                items.into_iter().next().unwrap_or_else(|| nothing(name))
            }
            "unique" => {
                let case_sensitive = given.flag(0, "case_sensitive");
                let attribute = given.take(1, "attribute");
                let items = self.iterate(&value)?;
                let keys = self.keys(items.clone(), attribute.as_ref(), case_sensitive)?;
                let mut kept: Vec<(Value, Value)> = Vec::new();
                for (key, item) in keys.into_iter().zip(items) {
                    self.step(kept.len().saturating_mul(key.effort().max(64)))?;
                    if !kept.iter().any(|(other, _)| other.equals(&key)) {
                        kept.push((key, item));
                    }
                }
                Value::lazy(kept.into_iter().map(|(_, item)| item).collect())?
            }
            "sum" => {
                let attribute = given.take(0, "attribute");
                let mut total = given.take(1, "start").unwrap_or(Value::Int(0));
                let items = self.iterate(&value)?;
                for item in self.attributes(items, attribute.as_ref())? {
                    total = self.operate(super::syntax::Operator::Add, &total, &item)?;
                }
                total
            }
            "batch" | "slice" => {
                let count = given.required(0, "linecount")?;
                let fill = given.take(1, "fill_with");
                let items = self.iterate(&value)?;
                let count = count.integer().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
                let count = count.ok_or_else(|| Fail::new(format!("{name}: expected a whole number above 0")))?;
                self.grow(32 * items.len().max(if name == "slice" { count } else { 0 }))?;
                Value::lazy(if name == "batch" { batches(&items, count, fill)? } else { slices(&items, count, fill)? })?
            }
            "map" => return self.map(&value, given),
            "select" | "reject" | "selectattr" | "rejectattr" => return self.select(name, &value, given),
            _ => return Err(Fail::new(format!("the filter `{name}` is not known in chat templates"))),
        };
        given.finish(&format!("the filter `{name}`"))?;
        Ok(made)
    }

    pub(super) fn join(&mut self, items: &[Value], between: &str) -> Result<Value, Fail> {
        let mut out = String::new();
        for (index, item) in items.iter().enumerate() {
            let text = self.text(item)?;
            let between = if index > 0 { between } else { "" };
            self.grow(between.len() + text.len())?;
            out.push_str(between);
            out.push_str(&text);
            if out.len() > super::LARGEST {
                return Err(Fail::new(format!("a value larger than {} bytes", super::LARGEST)));
            }
        }
        Ok(Value::Str(out.into()))
    }

    /// The entries of a dict, as pairs.
    pub(super) fn pairs(&mut self, value: &Value) -> Result<Value, Fail> {
        let Value::Dict(dict) = value else {
            return Err(Fail::new(format!("items of {}", value.described())));
        };
        self.grow(64 * dict.entries.len())?;
        let pair = |(key, value): &(Value, Value)| Value::tuple(vec![key.clone(), value.clone()]);
        let pairs: Result<_, Fail> = dict.entries.iter().map(pair).collect();
        Value::list(pairs?)
    }

    /// What a dotted path leads to in an item.
    fn path(&mut self, item: &Value, path: &Value) -> Result<Value, Fail> {
        if path.integer().is_some() {
            return self.item(item, path);
        }
        let path = self.text(path)?;
        self.step(path.len())?;
        path.split('.').try_fold(item.clone(), |value, part| {
            let key = part.parse().map_or_else(|_| Value::from(part), Value::Int);
            self.item(&value, &key)
        })
    }

    fn attributes(&mut self, items: Vec<Value>, attribute: Option<&Value>) -> Result<Vec<Value>, Fail> {
        match attribute {
            None | Some(Value::None) => Ok(items),
            Some(attribute) => items.iter().map(|item| self.path(item, attribute)).collect(),
        }
    }

    /// What items are sorted by.
    fn keys(&mut self, items: Vec<Value>, attribute: Option<&Value>, case_sensitive: bool) -> Result<Vec<Value>, Fail> {
        let keys = self.attributes(items, attribute)?;
        keys.into_iter()
            .map(|key| match key {
                Value::Str(text) if !case_sensitive => self.make(text.to_lowercase()),
                other => Ok(other),
            })
            .collect()
    }

    fn sorted(
        &mut self,
        items: Vec<Value>,
        attribute: Option<&Value>,
        case_sensitive: bool,
        reverse: bool,
    ) -> Result<Vec<Value>, Fail> {
        let keys = self.keys(items.clone(), attribute, case_sensitive)?;
        let mut keyed: Vec<(Value, Value)> = keys.into_iter().zip(items).collect();
        let efforts = keyed.iter().fold(0usize, |sum, (key, _)| sum.saturating_add(key.effort_of_order()));
        self.step(efforts.saturating_mul(20))?;
        let mut failed = None;
        keyed.sort_by(|(left, _), (right, _)| {
            let ordering = left.compare(right).unwrap_or_else(|fail| {
                failed.get_or_insert(fail);
                std::cmp::Ordering::Equal
            });
            if reverse { ordering.reverse() } else { ordering }
        });
        match failed {
            Some(fail) => Err(fail),
            None => Ok(keyed.into_iter().map(|(_, item)| item).collect()),
        }
    }

    fn dict_sorted(&mut self, value: &Value, given: &mut Given) -> Result<Value, Fail> {
        let case_sensitive = given.flag(0, "case_sensitive");
        let by = given.take(1, "by").unwrap_or_else(|| Value::from("key"));
        let reverse = given.flag(2, "reverse");
        let by = match &*self.text(&by)? {
            "key" => Value::Int(0),
            "value" => Value::Int(1),
            other => return Err(Fail::new(format!("dictsort: by {other:?}, expected key or value"))),
        };
        let pairs = self.pairs(value)?;
        let pairs = self.iterate(&pairs)?;
        Value::list(self.sorted(pairs, Some(&by), case_sensitive, reverse)?)
    }

    fn map(&mut self, value: &Value, mut given: Given) -> Result<Value, Fail> {
        let items = if value.is_true() { self.iterate(value)? } else { Vec::new() };
        let mut made = Vec::with_capacity(items.len());
        if given.has_named("attribute") {
            let attribute = given.take(usize::MAX, "attribute").unwrap_or(Value::None);
            let otherwise = given.take(usize::MAX, "default");
            given.finish("the filter `map`")?;
            for item in items {
                let found = self.path(&item, &attribute)?;
                made.push(match &otherwise {
                    Some(otherwise) if found.is_undefined() => otherwise.clone(),
                    _ => found,
                });
            }
            return Value::lazy(made);
        }
        let filter = given.required(0, "filter")?;
        let filter = self.text(&filter)?;
        let (positional, named) = (given.rest(), given.rest_named());
        for item in items {
            let given = Given::of(positional.clone(), named.clone());
            made.push(self.nested(|machine| machine.filter(&filter, item, given))?);
        }
        Value::lazy(made)
    }

    fn select(&mut self, name: &str, value: &Value, mut given: Given) -> Result<Value, Fail> {
        let items = if value.is_true() { self.iterate(value)? } else { Vec::new() };
        let attribute = if name.ends_with("attr") { Some(given.required(0, "attribute")?) } else { None };
        let mut rest = given.rest().into_iter();
        let test = rest.next();
        let positional: Vec<Value> = rest.collect();
        given.finish(&format!("the filter `{name}`"))?;
        let mut kept = Vec::new();
        for item in items {
            let looked_at = match &attribute {
                Some(attribute) => self.path(&item, attribute)?,
                None => item.clone(),
            };
            let holds = match &test {
                Some(test) => {
                    let test = self.text(test)?;
                    self.test(&test, &looked_at, Given::of(positional.clone(), Vec::new()))?
                }
                None => looked_at.is_true(),
            };
            if holds == name.starts_with("select") {
                kept.push(item);
            }
        }
        Value::lazy(kept)
    }
}

fn nothing(what: &str) -> Value {
    Value::Undefined(format!("`{what}` of an empty sequence").into())
}

fn batches(items: &[Value], count: usize, fill: Option<Value>) -> Result<Vec<Value>, Fail> {
    let batch = |batch: &[Value]| {
        let mut batch = batch.to_vec();
        if let Some(fill) = &fill
            && count <= super::LARGEST / 16
        {
            batch.resize(count, fill.clone());
        }
        Value::list(batch)
    };
    items.chunks(count).map(batch).collect()
}

fn slices(items: &[Value], count: usize, fill: Option<Value>) -> Result<Vec<Value>, Fail> {
    let (each, longer) = (items.len() / count, items.len() % count);
    let mut rest = items;
    (0..count)
        .map(|slice| {
            let (own, after) = rest.split_at(each + usize::from(slice < longer));
            rest = after;
            let filled = fill.iter().filter(|_| slice >= longer).cloned();
            Value::list(own.iter().cloned().chain(filled).collect())
        })
        .collect()
}
