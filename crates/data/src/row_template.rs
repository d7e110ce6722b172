//! Templates over the columns of a row, in the engine of chat templates.

use std::sync::Arc;

use serde_json::Value;

use crate::jinja::{Fail, Template};

/// A text with places for values, in Jinja, as task files hold them: `"Question: {{ question }}\nAnswer:"`.
///
/// The engine and its bounds are those of chat templates. Unlike there, a name that is not defined is an error (unless it is
/// asked `is defined`, or has a `default`), None is no text, and a newline at the end stays.
///
/// ```
/// use candlewick_data::RowTemplate;
/// let template = RowTemplate::new("{{ question }} {{ options | join('/') }}")?;
/// let (question, options) = (serde_json::json!("Left or right?"), serde_json::json!(["left", "right"]));
/// assert_eq!(template.render([("question", &question), ("options", &options)])?, "Left or right? left/right");
/// assert!(template.render([("question", &question)]).unwrap_err().to_string().contains("`options` is undefined"));
/// # Ok::<(), candlewick_data::TemplateError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RowTemplate {
    source: String,
    compiled: Arc<Template>,
}

impl RowTemplate {
    /// Parses the template.
    ///
    /// # Errors
    /// What is no template, with its line.
    pub fn new(source: &str) -> Result<Self, Fail> {
        // Jinja takes the last newline away.
        let with_end = if source.ends_with(['\n', '\r']) { format!("{source}\n") } else { source.to_owned() };
        Ok(Self { source: source.to_owned(), compiled: Arc::new(Template::new(&with_end)?) })
    }

    /// What was parsed.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text with the values in their places; of values with the same name the last one counts.
    ///
    /// # Errors
    /// A name that is not defined, an operation that its values do not have, too much work, each with the line.
    pub fn render<'v>(&self, values: impl IntoIterator<Item = (&'v str, &'v Value)>) -> Result<String, Fail> {
        self.compiled.render_strictly(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str) -> Result<String, String> {
        let values = [
            ("a", json!("x")),
            ("none", json!(null)),
            ("list", json!(["p", " q "])),
            ("row", json!({"two words": "b; c"})),
        ];
        let template = RowTemplate::new(source).map_err(|fail| fail.to_string())?;
        template.render(values.iter().map(|(name, value)| (*name, value))).map_err(|fail| fail.to_string())
    }

    #[test]
    fn newlines_at_the_end_stay() {
        assert_eq!(render("{{ a }}\n").as_deref(), Ok("x\n"));
        assert_eq!(render("{{ a }}\n\n").as_deref(), Ok("x\n\n"));
        assert_eq!(render("{{ a }}").as_deref(), Ok("x"));
        assert_eq!(render("{% if a %}\ny\n{% endif %}\n").as_deref(), Ok("y\n"));
    }

    #[test]
    fn what_is_undefined_is_an_error_where_it_matters() {
        for source in [
            "{{ b }}",
            "{% if b %}{% endif %}",
            "{{ b == 1 }}",
            "{{ not b }}",
            "{{ a ~ b }}",
            "{{ b | trim }}",
            "{% for x in b %}{% endfor %}",
            "{{ row.b }}",
            "{{ row['three words'] }}",
            "{{ b.c }}",
        ] {
            let found = render(source).unwrap_err();
            assert!(found.contains("is undefined"), "{source}: {found}");
        }
        assert!(render("{{ none }}").unwrap_err().contains("an empty cell"));
        assert_eq!(
            render("{{ none or '' }}{{ b | default('d') }}{{ b is defined }}{{ row.b | d('e') }}").as_deref(),
            Ok("dFalsee")
        );
        assert_eq!(
            render("{{ row['two words'].split(';') | map('trim') | list | tojson }}").as_deref(),
            Ok("[\"b\", \"c\"]")
        );
    }
}
