//! What a task would ask of a row, without a model.

use serde::Serialize;

use super::field::{TaskRow, Values};
use super::forms::Asked;
use super::task::{Ask, Task};
use crate::error::Result;

/// One thing that is asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preview {
    /// The form, and whether the options stand in reversed order.
    pub form: Option<(String, bool)>,
    /// The prompt.
    pub prompt: String,
    /// What is scored after it, the delimiter included; empty where an answer is written.
    pub continuations: Vec<String>,
    /// What is right, in words; nothing where nothing is.
    pub right: Option<String>,
}

impl Task {
    /// Everything that is asked of a row: for a look at a new task, and to check it on all rows.
    ///
    /// # Errors
    /// A template that does not suit the row.
    pub fn preview(&self, row: &TaskRow) -> Result<Vec<Preview>> {
        let mut values = Values::of(row);
        self.group(&values)?;
        self.slices(&values)?;
        Ok(match &self.ask {
            Ask::Choice(ask) => {
                let question = ask.ask(&mut values)?;
                let right = question.right_in_words();
                question.asked.iter().map(|asked| shown(asked, right.clone())).collect()
            }
            Ask::YesNo(ask) => {
                let question = ask.ask(&mut values)?;
                let right = question.right().map(|right| if right { "yes" } else { "no" }.to_owned());
                question.asked.iter().map(|asked| shown(asked, right.clone())).collect()
            }
            Ask::Rating(ask) => {
                let question = ask.ask(&mut values)?;
                let key = if question.has_reversed_key() { "disagreement counts" } else { "agreement counts" };
                question.asked.iter().map(|asked| shown(asked, Some(key.to_owned()))).collect()
            }
            Ask::Rank(ask) => {
                let question = ask.ask(&values)?;
                let right = Some(question.chosen().join(", "));
                let continuations =
                    question.request.continuations.iter().map(|text| format!("{}{text}", question.request.delimiter));
                vec![Preview {
                    form: None,
                    continuations: continuations.collect(),
                    prompt: question.request.prompt.clone(),
                    right,
                }]
            }
            Ask::Generate(ask) => {
                let (prompt, right) = (ask.answers.prompt(&values)?, ask.right_in_words(&values)?);
                vec![Preview { form: None, prompt, continuations: Vec::new(), right }]
            }
            Ask::WinRate(ask) => {
                let (prompt, right) = (ask.answers.prompt(&values)?, ask.opponent(&values)?);
                vec![Preview { form: None, prompt, continuations: Vec::new(), right }]
            }
        })
    }
}

fn shown(asked: &Asked, right: Option<String>) -> Preview {
    let request = &asked.request;
    Preview {
        form: Some((asked.form.clone(), asked.reversed)),
        prompt: request.prompt.clone(),
        continuations: request.continuations.iter().map(|text| format!("{}{text}", request.delimiter)).collect(),
        right,
    }
}
