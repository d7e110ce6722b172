//! The ways to ask the same: several prompts, and the options in both orders.

use serde_json::json;

use super::field::{Field, Values};
use super::subject::Request;
use super::words::{Orders, Words};
use crate::error::{Error, Result};

/// How a task with options asks.
#[derive(Debug, Clone)]
pub(super) struct Forms {
    forms: Vec<Form>,
    orders: Orders,
    delimiter: String,
    unconditional: Option<Field>,
}

#[derive(Debug, Clone)]
struct Form {
    name: String,
    prompt: Field,
    labels: Option<Vec<String>>,
}

/// One way to ask for one row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    /// Which form.
    pub(super) form: String,
    /// Whether the options stood in reversed order.
    pub(super) reversed: bool,
    /// The continuations, in the order of the choices whatever order they were shown in.
    pub(super) request: Request,
    /// The same under the unconditional prompt.
    pub(super) unconditional: Option<Request>,
}

impl Forms {
    pub(super) fn new(words: &Words, file: &str) -> Result<Self> {
        let wrong = |key: &str, reason: String| Err(Error::config(format!("{file}: {key}"), reason));
        let forms = match (&words.prompt, &words.forms) {
            (Some(prompt), None) => {
                vec![Form { name: "prompt".into(), prompt: Field::new(file, "prompt", prompt)?, labels: None }]
            }
            (None, Some(forms)) if !forms.is_empty() => {
                let mut named = Vec::with_capacity(forms.len());
                for (i, form) in forms.iter().enumerate() {
                    let name = form.name.clone().unwrap_or_else(|| format!("form {}", i + 1));
                    if named.iter().any(|other: &Form| other.name == name) {
                        return wrong("forms", format!("two forms are named {name:?}; rename one"));
                    }
                    let prompt = Field::new(file, &format!("forms[{i}].prompt"), &form.prompt)?;
                    named.push(Form { name, prompt, labels: form.labels.clone() });
                }
                named
            }
            (Some(_), Some(_)) => {
                return wrong("forms", "stands beside `prompt`; put the prompt into a form of its own".into());
            }
            _ => return wrong("prompt", "is missing; give a template, or several as [[forms]]".into()),
        };
        Ok(Self {
            forms,
            orders: words.orders,
            delimiter: words.delimiter.clone().unwrap_or_else(|| " ".into()),
            unconditional: Field::optional(file, "unconditional", words.unconditional.as_ref())?,
        })
    }

    /// Every way to ask for these choices.
    pub(super) fn ask(&self, values: &mut Values<'_>, choices: &[String]) -> Result<Vec<Asked>> {
        let orders: &[bool] = match self.orders {
            Orders::Given => &[false],
            Orders::Both => &[false, true],
        };
        let mut all = Vec::with_capacity(self.forms.len() * orders.len());
        for form in &self.forms {
            if let Some(labels) = form.labels.as_ref().filter(|labels| labels.len() < choices.len()) {
                let reason = format!(
                    "{} choices, and the form {:?} has {} labels; give more",
                    choices.len(),
                    form.name,
                    labels.len()
                );
                return Err(values.row.wrong(reason));
            }
            for &reversed in orders {
                let shown: Vec<&String> =
                    if reversed { choices.iter().rev().collect() } else { choices.iter().collect() };
                values.set("options", json!(shown));
                values.set("labels", json!(form.labels.as_deref().unwrap_or_default()));
                let place = |i: usize| if reversed { choices.len() - 1 - i } else { i };
                let continuations: Vec<String> = match &form.labels {
                    Some(labels) => (0..choices.len()).map(|i| labels[place(i)].clone()).collect(),
                    None => choices.to_vec(),
                };
                let request = |prompt: String| Request {
                    origin: values.row.origin.clone(),
                    prompt,
                    delimiter: self.delimiter.clone(),
                    continuations: continuations.clone(),
                };
                let unconditional = self.unconditional.as_ref().map(|field| field.text(values)).transpose()?;
                let prompt = form.prompt.text(values)?;
                let unconditional = unconditional.map(&request);
                let request = request(prompt);
                all.push(Asked { form: form.name.clone(), reversed, unconditional, request });
            }
        }
        Ok(all)
    }
}

/// How often an item was answered alike: asked in both orders, and asked in different forms. Nothing where there is but one.
pub(super) fn consistency(asked: &[(&str, bool, usize)]) -> (Option<f64>, Option<f64>) {
    let (mut orders, mut forms) = (Vec::new(), Vec::new());
    for (i, (form, reversed, answer)) in asked.iter().enumerate() {
        for (other_form, other_reversed, other) in &asked[..i] {
            let same = f64::from(u8::from(answer == other));
            match (form == other_form, reversed == other_reversed) {
                (true, false) => orders.push(same),
                (false, true) => forms.push(same),
                _ => {}
            }
        }
    }
    (crate::stats::mean(&orders), crate::stats::mean(&forms))
}

#[cfg(test)]
mod tests {
    use super::super::field::TaskRow;
    use super::*;
    use candlewick_data::Origin;

    fn forms(text: &str) -> Result<Forms> {
        Forms::new(&Words::parse(text, "t.toml").expect("words"), "t.toml")
    }

    #[test]
    fn labels_belong_to_places_and_texts_to_choices() {
        let text = "kind = \"choice\"\norders = \"both\"\n\
                    [[forms]]\nname = \"letters\"\nlabels = [\"A\", \"B\", \"C\"]\n\
                    prompt = \"{% for o in options %}{{ labels[loop.index0] }}:{{ o }} {% endfor %}\"\n\
                    [[forms]]\nname = \"texts\"\nprompt = \"{{ options | join(' or ') }}?\"\n";
        let forms = forms(text).expect("forms");
        let row = TaskRow { origin: Origin::memory(1), number: 0, columns: serde_json::Map::new() };
        let mut values = Values::of(&row);
        let asked = forms.ask(&mut values, &["go".into(), "stay".into()]).expect("asked");
        let shown: Vec<(&str, bool, &str, Vec<&str>)> = asked
            .iter()
            .map(|a| {
                let continuations = a.request.continuations.iter().map(String::as_str).collect();
                (a.form.as_str(), a.reversed, a.request.prompt.as_str(), continuations)
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("letters", false, "A:go B:stay ", vec!["A", "B"]),
                ("letters", true, "A:stay B:go ", vec!["B", "A"]),
                ("texts", false, "go or stay?", vec!["go", "stay"]),
                ("texts", true, "stay or go?", vec!["go", "stay"]),
            ]
        );
        let four: Vec<String> = ["a", "b", "c", "d"].map(String::from).to_vec();
        let error = forms.ask(&mut values, &four).expect_err("too few labels").to_string();
        assert!(error.contains("4 choices") && error.contains("\"letters\" has 3 labels"), "{error}");
    }

    #[test]
    fn a_task_asks_in_one_way_at_least() {
        assert!(forms("kind = \"choice\"").expect_err("none").to_string().contains("t.toml: prompt: is missing"));
        let both = "kind = \"choice\"\nprompt = \"x\"\n[[forms]]\nprompt = \"y\"";
        assert!(forms(both).expect_err("both").to_string().contains("t.toml: forms: stands beside"));
        let twice =
            "kind = \"choice\"\n[[forms]]\nname = \"a\"\nprompt = \"y\"\n[[forms]]\nname = \"a\"\nprompt = \"z\"";
        assert!(forms(twice).expect_err("twice").to_string().contains("two forms"));
        let broken = "kind = \"choice\"\nprompt = \"{{ x \"";
        assert!(forms(broken).expect_err("broken").to_string().contains("t.toml: prompt: "));
    }

    #[test]
    fn consistency_counts_pairs_of_one_difference() {
        let asked = [("a", false, 0), ("a", true, 0), ("b", false, 0), ("b", true, 1)];
        assert_eq!(consistency(&asked), (Some(0.5), Some(0.5)));
        assert_eq!(consistency(&asked[..1]), (None, None));
    }
}
