//! Texts with places for values: `str.format` and the `%` of Python, in their plain forms.

use super::Fail;
use super::machine::Machine;
use super::value::Value;

impl Machine {
    /// `'%s of %d' % (a, b)`.
    pub(super) fn percent(&mut self, format: &str, values: Vec<Value>) -> Result<Value, Fail> {
        let mut values = values.into_iter();
        let mut out = String::new();
        let mut rest = format;
        while let Some((before, after)) = rest.split_once('%') {
            out.push_str(before);
            let mut codes = after.chars();
            let code = codes.next();
            rest = codes.as_str();
            if code == Some('%') {
                out.push('%');
                continue;
            }
            let value = values.next().ok_or_else(|| Fail::new("more places than values in a text with `%`"))?;
            let text = match code {
                Some('s') => self.text(&value)?,
                Some('r') => {
                    let listed = Value::list(vec![value])?;
                    let text = self.text(&listed)?;
                    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(&text).into()
                }
                Some('d' | 'i') => match value {
                    Value::Float(number) => format!("{:.0}", number.trunc()).into(),
                    other => match other.integer() {
                        Some(number) => number.to_string().into(),
                        None => return Err(Fail::new(format!("%d of {}", other.described()))),
                    },
                },
                _ => return Err(Fail::new("of places with `%`, %s, %r, %d and %% are read in chat templates")),
            };
            self.grow(out.len() + text.len())?;
            out.push_str(&text);
        }
        if values.next().is_some() {
            return Err(Fail::new("more values than places in a text with `%`"));
        }
        out.push_str(rest);
        self.make(out)
    }

    /// `'{} of {name}'.format(a, name=b)`.
    pub(super) fn format(
        &mut self,
        format: &str,
        positional: &[Value],
        named: &[(String, Value)],
    ) -> Result<Value, Fail> {
        let wrong = || Fail::new("of places in braces, {}, {0} and {name} are read in chat templates");
        let mut out = String::new();
        let mut next = 0;
        let mut rest = format;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                out.push_str(brace);
                rest = after;
                continue;
            }
            let (field, after) = rest.split_once('}').filter(|_| brace == "{").ok_or_else(wrong)?;
            rest = after;
            let value = if field.is_empty() {
                next += 1;
                positional.get(next - 1)
            } else if let Ok(place) = field.parse::<usize>() {
                positional.get(place)
            } else if field.chars().all(|character| character.is_alphanumeric() || character == '_') {
                named.iter().find(|(name, _)| name == field).map(|(_, value)| value)
            } else {
                return Err(wrong());
            };
            let value = value.ok_or_else(|| Fail::new(format!("no value for the place {{{field}}}")))?;
            let text = self.text(value)?;
            self.grow(out.len() + text.len())?;
            out.push_str(&text);
        }
        out.push_str(rest);
        self.make(out)
    }
}
