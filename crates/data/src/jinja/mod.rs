//! Jinja as chat templates use it, with Python's values underneath and bounds on what a template can take.
//!
//! Templates are downloaded with a tokenizer and run over rows of data, so a render must end, and must not take the machine with
//! it: every step uses up [`STEPS`], every byte made [`BYTES`], no value grows beyond [`LARGEST`], and nothing nests deeper than
//! the stack holds. What it renders is what jinja2 renders in the environment that transformers gives it.
//!
//! `{% set x = x ~ x %}` in a loop doubles `x` each round: after twenty rounds it is an error, not a gigabyte.

mod expression;
mod filters;
mod format;
mod json;
mod lexer;
mod machine;
mod methods;
mod operators;
mod parser;
mod sequences;
mod syntax;
mod tests;
mod text;
mod value;

pub(crate) use text::is_space;

use serde_json::Value as Json;

use crate::moment::Moment;

/// The longest template, in bytes; the longest in use have some 30,000.
const LONGEST_SOURCE: usize = 1 << 20;
/// The largest value and the longest rendering, in bytes.
const LARGEST: usize = 1 << 24;
/// Bytes that one render may make, in all of its values.
const BYTES: usize = 1 << 28;
/// Steps that one render may take, at most a second or two; the templates in use take a few dozen a message.
const STEPS: u64 = 5_000_000;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    body: syntax::Body,
}

/// Why a template failed, and the line where it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fail {
    message: String,
    line: Option<usize>,
}

impl Fail {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: None }
    }

    /// The same at a line, unless one is known.
    fn at(mut self, line: usize) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

impl std::fmt::Display for Fail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line} of the template)"))
    }
}

impl std::error::Error for Fail {}

impl Template {
    pub(crate) fn new(source: &str) -> Result<Self, Fail> {
        if source.len() > LONGEST_SOURCE {
            let length = source.len();
            return Err(Fail::new(format!("a template of {length} bytes, expected at most {LONGEST_SOURCE}")));
        }
        Ok(Self { body: parser::parse(lexer::tokens(source)?)? })
    }

    /// The text it makes of its variables; `date` is what `strftime_now` tells.
    pub(crate) fn render<'v>(
        &self,
        variables: impl IntoIterator<Item = (&'v str, &'v Json)>,
        date: Option<Moment>,
    ) -> Result<String, Fail> {
        self.run(machine::Machine::new(date), variables)
    }

    /// The same, where an undefined value is an error unless it is asked whether it is defined, and so is None as a text.
    pub(crate) fn render_strictly<'v>(
        &self,
        variables: impl IntoIterator<Item = (&'v str, &'v Json)>,
    ) -> Result<String, Fail> {
        self.run(machine::Machine::new(None).strict(), variables)
    }

    fn run<'v>(
        &self,
        mut machine: machine::Machine,
        variables: impl IntoIterator<Item = (&'v str, &'v Json)>,
    ) -> Result<String, Fail> {
        for (name, value) in variables {
            machine.define(name, value::Value::of_json(value)?);
        }
        machine.run_all(&self.body)
    }
}

#[cfg(test)]
mod checks {
    use super::*;

    fn render(source: &str) -> Result<String, String> {
        let variables = [("x", serde_json::json!({"items": 1, "b": [1, 2.0, null, true, "it's"]}))];
        let template = Template::new(source).map_err(|fail| fail.to_string())?;
        template.render(variables.iter().map(|(name, value)| (*name, value)), None).map_err(|fail| fail.to_string())
    }

    #[test]
    fn values_are_written_as_python_writes_them() {
        // Made with jinja2 3.1.6 in the environment of transformers 5.23.
        let cases = [
            ("{{ x }}", "{'items': 1, 'b': [1, 2.0, None, True, \"it's\"]}"),
            ("{{ x | tojson }}", "{\"items\": 1, \"b\": [1, 2.0, null, true, \"it's\"]}"),
            ("{{ x.b | tojson(indent=2) }}", "[\n  1,\n  2.0,\n  null,\n  true,\n  \"it's\"\n]"),
            (
                "{{ {'b': 'ü', 'a': 1} | tojson(sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}",
                "{\"a\":1,\"b\":\"\\u00fc\"}",
            ),
            ("{% for k, v in x.items() %}{{ k }}{{ loop.index }}{% endfor %}", "items1b2"),
            ("{{ x['items'] }}{{ x.b[-1] }}{{ x.b[::-1] }}{{ 'abc'[1:] }}", "1it's[\"it's\", True, None, 2.0, 1]bc"),
            ("{{ y }}{{ y ~ 'a' }}{{ y is defined }}{{ 'a' in y }}{{ y | length }}", "aFalseFalse0"),
            ("{{ 7 // -2 }} {{ -7 % 3 }} {{ 1 / 2 }} {{ 2 ** 3 }} {{ True + 1 }}", "-4 2 0.5 8 2"),
            (
                "{% set ns = namespace(a=1) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% set q = i %}{% endfor %}{{ ns.a }}{{ q }}",
                "4",
            ),
            ("{% macro m(a, b='z') %}[{{ a }}{{ b }}]{% endmacro %}{{ m('q') }}{{ m(b=1, a=2) }}", "[qz][21]"),
            ("{{ [3, 1, 2] | sort | map('string') | join('-') }}{{ x.b | select('none') | list }}", "1-2-3[None]"),
            ("{% if x is mapping and x.b is sequence and 'a' is string and x is not string %}y{% endif %}", "y"),
            ("a\n  {% if true %}\n b\n  {%- endif %}\n", "a\n b"),
            (
                "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                "023",
            ),
            ("{{ ' a b  c '.split() }}{{ 'a,b'.split(',', 1)[-1] }}{{ 'abc'.title() | upper }}", "['a', 'b', 'c']bABC"),
            ("{% raw %}{{ x }}{% endraw %}{# c #}{{ '{{' }}{{ {'a': {}} }}", "{{ x }}{{{'a': {}}"),
            ("{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x.b[0] }}", "11"),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn a_macro_sees_the_scopes_it_is_defined_in() {
        // Made with jinja2 3.1.6 in the environment of transformers 5.23.
        let cases = [
            ("{% with a = 1 %}{% macro m() %}{{ a }}{% endmacro %}{{ m() }}{% endwith %}", "1"),
            ("{% for a in [1, 2] %}{% macro m(b) %}{{ a }}{{ b }}{% endmacro %}{{ m('x') }}{% endfor %}", "1x2x"),
            (
                "{% for a in [1] %}{% macro m() %}{{ a }}{% endmacro %}{% for b in [3] %}{{ m() }}{% endfor %}{% endfor %}",
                "1",
            ),
            ("{% macro m() %}[{{ a }}]{% endmacro %}{% for a in [1] %}{{ m() }}{% endfor %}", "[]"),
            (
                "{% with a = 1 %}{% macro m() %}{{ a }}{% endmacro %}{% macro n(a) %}{{ m() }}{{ a }}{% endmacro %}{{ n(2) }}{% endwith %}",
                "12",
            ),
            ("{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "11"),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
        }
        // A macro that is carried out of its scope sees the variables alone.
        let carried = "{% set ns = namespace() %}{% with a = 1 %}{% macro m() %}[{{ a }}]{% endmacro %}{% set ns.m = m %}{% endwith %}{% with b = 2 %}{{ ns.m() }}{% endwith %}";
        assert_eq!(render(carried).as_deref(), Ok("[]"));
    }

    #[test]
    fn what_fails_names_its_line() {
        let cases = [
            ("\n{% for %}", "found `%}`, expected a name (line 2 of the template)"),
            ("a\n\n{{ x.y.z }}", "`y` of a dict is undefined, and `z` was asked of it (line 3 of the template)"),
            ("{{ 'a' + y }}", "cannot add a str and `y`, which is undefined (line 1 of the template)"),
            ("{{ raise_exception('no') }}", "the template refuses: no (line 1 of the template)"),
            ("{{ strftime_now('%Y') }}", "give one, as date = \"2026-03-07\""),
            ("{{ 1 / 0 }}", "a division by zero"),
            ("{{ 'a' | nothing }}", "the filter `nothing` is not known"),
            ("{{ 'a' | upper(1) }}", "too many arguments"),
            ("{% include 'a' %}", "the tag `include` is not read in chat templates"),
            ("{{ x.pop() }}", "which is undefined"),
            ("{{ x.__class__.__mro__ }}", "is undefined"),
            ("{{ x.b | tojson(indent=9223372036854775807) }}", "an indent of more than 64 characters"),
            ("{{ y | tojson }}", "has no JSON"),
            ("{{ 'a", "a string that does not end"),
        ];
        for (source, expected) in cases {
            let found = render(source).unwrap_err();
            assert!(found.contains(expected), "{source}: {found}");
        }
    }

    #[test]
    fn a_template_cannot_take_the_machine_with_it() {
        let around = |inner: &str| {
            format!(
                "{{% set ns = namespace(x='ab', l=[1]) %}}{{% for a in range(99999) %}}{{% for b in range(99999) %}}{inner}{{% endfor %}}{{% endfor %}}"
            )
        };
        // `x` has half a million characters.
        let large = |inner: &str| {
            format!(
                "{{% set ns = namespace(x='ab', l=[1]) %}}{{% set x = 'a' * 500000 %}}{{% for a in range(99999) %}}{inner}{{% endfor %}}"
            )
        };
        let deep = format!("{{{{ {}1{} }}}}", "[".repeat(5000), "]".repeat(5000));
        let hostile = [
            around(""),
            around("{{ ns.x }}"),
            around("{% set ns.x = ns.x ~ ns.x %}"),
            around("{% set ns.x = ns.x + ns.x %}"),
            around("{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
            around("{% set ns.x = ns.x | replace('a', 'aa') %}"),
            around("{% set ns.l = ns.l + ns.l %}"),
            around("{% set ns.l = [ns.l, ns.l] %}"),
            around("{% set ns.l = {'a': ns.l} %}"),
            around("{% set ns.l = ns %}"),
            around("{% set ns.x = [ns] %}"),
            large("{% set ns.l = x | trim('b' * 500000 ~ 'a') %}"),
            large("{% set ns.l = x | float %}"),
            large("{% set ns.l = x | int %}"),
            large("{% set ns.l = 'a'.find(x) %}"),
            large("{% set ns.l = 'a'.split(x) %}"),
            large("{% set ns.l = 'a' | replace(x, 'b') %}"),
            large("{% set ns.l = [ns.x] | map(attribute=x) | list %}"),
            large("{% set ns.l = [[1][x]] %}"),
            "{{ dict(range(99998) | batch(2)) | length }}".to_owned(),
            "{% set d = dict(range(9998) | batch(2)) %}{{ d == d.copy() }}".to_owned(),
            "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('a') }}".to_owned(),
            "{{ 'a' * 10 ** 12 }}{{ [0] * 10 ** 12 }}".to_owned(),
            "{{ 10 ** 10 ** 10 }}".to_owned(),
            "{{ range(10 ** 30) }}".to_owned(),
            "{{ 'a' | indent(10 ** 9) }}".to_owned(),
            "{{ 'a'.center(10 ** 20) }}{{ '1'.zfill(10 ** 9) }}".to_owned(),
            "{{ range(99999) | slice(10 ** 12) | list }}".to_owned(),
            "{{ 'a' | round(10 ** 12) }}".to_owned(),
            "{{ 'abc'[0:2:-1] ~ 'abc'[-170141183460469231731687303715884105727::-1] }}{{ 1 // 0 }}".to_owned(),
            deep.clone(),
            deep.replace('[', "(").replace(']', ")"),
            format!("{{{{ {}1 }}}}", "not ".repeat(5000)),
            format!("{{{{ {}1 }}}}", "- ".repeat(5000)),
            "{% if 1 %}".repeat(5000),
            format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(5000)),
            "x".repeat(LONGEST_SOURCE + 1),
        ];
        for source in &hostile {
            let found = render(source).map(|text| text.len());
            assert!(found.is_err(), "{}: {found:?}", &source[..source.len().min(200)]);
        }
        // Long is not deep.
        assert_eq!(render(&format!("{{{{ 1{} }}}}", " + 1".repeat(5000))).as_deref(), Ok("5001"));
        assert_eq!(render(&format!("{{{{ 'a'{} }}}}", " | upper".repeat(5000))).as_deref(), Ok("A"));
    }
}
