//! Whether good completions are scored above bad ones: benchmarks of reward models.

use serde::{Deserialize, Serialize};

use super::field::{Field, Values};
use super::report::Measures;
use super::subject::{Request, Score, Scored, Subject};
use super::words::{CompareBy, Words};
use crate::error::{Error, Result};

/// A task of kind `rank`.
#[derive(Debug, Clone)]
pub(super) struct Rank {
    prompt: Field,
    delimiter: String,
    chosen: Side,
    rejected: Side,
    pub(super) by: CompareBy,
}

#[derive(Debug, Clone)]
enum Side {
    One(Field),
    Listed(Field),
}

/// What is asked of a row.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) request: Request,
    chosen: usize,
}

/// The scores of good and bad completions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankOutcome {
    /// Of the good ones.
    pub chosen: Vec<f64>,
    /// Of the bad ones.
    pub rejected: Vec<f64>,
}

impl Rank {
    pub(super) fn new(words: &Words, file: &str) -> Result<Self> {
        let missing = |key: &str, reason: &str| Error::config(format!("{file}: {key}"), reason);
        let side = |key: &str, one: &Option<String>, list: &Option<String>| match (one, list) {
            (Some(one), None) => Ok(Side::One(Field::new(file, key, one)?)),
            (None, Some(list)) => Ok(Side::Listed(Field::new(file, &format!("{key}_list"), list)?)),
            (Some(_), Some(_)) => Err(missing(key, "stands beside its list; leave one of them out")),
            (None, None) => Err(missing(
                key,
                "is missing; give a template, or a list of texts in JSON under the same name and _list",
            )),
        };
        let by = words.by.unwrap_or(CompareBy::LogRatio);
        if by == CompareBy::Judge {
            return Err(missing("by", "expected log_ratio, sum or mean; a judge is for tasks of kind \"win_rate\""));
        }
        let prompt = words.prompt.as_ref().ok_or_else(|| missing("prompt", "is missing; give a template"))?;
        Ok(Self {
            prompt: Field::new(file, "prompt", prompt)?,
            delimiter: words.delimiter.clone().unwrap_or_else(|| " ".into()),
            chosen: side("chosen", &words.chosen, &words.chosen_list)?,
            rejected: side("rejected", &words.rejected, &words.rejected_list)?,
            by,
        })
    }

    pub(super) fn ask(&self, values: &Values<'_>) -> Result<Question> {
        let texts = |side: &Side, name: &str| {
            let texts = match side {
                Side::One(field) => vec![field.text(values)?],
                Side::Listed(field) => field.list(values)?,
            };
            if texts.is_empty() {
                return Err(values.row.wrong(format!("{name}: the list is empty; expected one completion or more")));
            }
            Ok(texts)
        };
        let (chosen, rejected) = (texts(&self.chosen, "chosen")?, texts(&self.rejected, "rejected")?);
        let request = Request {
            origin: values.row.origin.clone(),
            prompt: self.prompt.text(values)?,
            delimiter: self.delimiter.clone(),
            continuations: chosen.iter().chain(&rejected).cloned().collect(),
        };
        Ok(Question { request, chosen: chosen.len() })
    }

    pub(super) fn measure(&self, rows: &[&RankOutcome], measures: &mut Measures) {
        let of = |of: fn(&RankOutcome) -> f64| rows.iter().map(|row| of(row)).collect::<Vec<f64>>();
        measures.mean("accuracy", &of(RankOutcome::best));
        measures.mean("pairs", &of(RankOutcome::pairs));
        measures.mean("margin", &of(RankOutcome::margin));
    }
}

impl Question {
    /// The good completions.
    pub(super) fn chosen(&self) -> &[String] {
        self.request.continuations.get(..self.chosen).unwrap_or_default()
    }

    pub(super) fn answered(self, scores: &[f64]) -> RankOutcome {
        let (chosen, rejected) = scores.split_at(self.chosen.min(scores.len()));
        RankOutcome { chosen: chosen.to_vec(), rejected: rejected.to_vec() }
    }
}

impl RankOutcome {
    /// Whether the highest score is that of a good completion; level counts half.
    pub fn best(&self) -> f64 {
        let largest = |scores: &[f64]| scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        order(largest(&self.chosen), largest(&self.rejected))
    }

    /// The share of pairs of a good and a bad completion that are in order.
    pub fn pairs(&self) -> f64 {
        let pairs = self.chosen.iter().flat_map(|good| self.rejected.iter().map(move |bad| order(*good, *bad)));
        pairs.sum::<f64>() / (self.chosen.len() * self.rejected.len()).max(1) as f64
    }

    fn margin(&self) -> f64 {
        let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len().max(1) as f64;
        mean(&self.chosen) - mean(&self.rejected)
    }
}

/// 1 where the first is higher, half where they are level. What is no number is never higher.
pub(super) fn order(first: f64, second: f64) -> f64 {
    match first.partial_cmp(&second) {
        Some(std::cmp::Ordering::Greater) => 1.0,
        Some(std::cmp::Ordering::Equal) => 0.5,
        _ => 0.0,
    }
}

/// The numbers by which completions are compared. Without a reference a model is compared with itself without its adapter.
pub(super) fn rewards(
    by: CompareBy,
    subject: &mut Subject,
    reference: Option<&mut Subject>,
    requests: &[Request],
) -> Result<Vec<std::result::Result<Vec<f64>, String>>> {
    let own = subject.score(requests)?;
    let number = |by: fn(&Score) -> f64| {
        own.iter()
            .map(|scored: &Scored| scored.as_ref().map(|all| all.iter().map(by).collect()).map_err(Clone::clone))
            .collect()
    };
    match by {
        CompareBy::Sum => return Ok(number(|score| score.log_prob)),
        CompareBy::Mean => return Ok(number(|score| score.log_prob / score.tokens.max(1) as f64)),
        CompareBy::LogRatio | CompareBy::Judge => {}
    }
    let theirs = match reference {
        Some(reference) => reference.score(requests)?,
        None if subject.has_adapter() => {
            subject.without_adapter();
            let scored = subject.score(requests);
            subject.with_adapter();
            scored?
        }
        None => {
            let reason =
                "log_ratio compares a model with its reference; name the reference, or load the model with its adapter";
            return Err(Error::config("by", reason));
        }
    };
    let ratios = own.into_iter().zip(theirs).map(|(own, theirs)| {
        let (own, theirs) = (own?, theirs?);
        Ok(own.iter().zip(&theirs).map(|(own, theirs)| own.log_prob - theirs.log_prob).collect())
    });
    Ok(ratios.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_completions_are_to_be_on_top() {
        let row = RankOutcome { chosen: vec![1.0, 3.0], rejected: vec![2.0, 0.0] };
        assert_eq!((row.best(), row.pairs(), row.margin()), (1.0, 0.75, 1.0));
        let level = RankOutcome { chosen: vec![1.0], rejected: vec![1.0] };
        assert_eq!((level.best(), level.pairs()), (0.5, 0.5));
        let broken = RankOutcome { chosen: vec![f64::NAN], rejected: vec![1.0] };
        assert_eq!((broken.best(), broken.pairs()), (0.0, 0.0));
    }

    #[test]
    fn both_sides_have_to_be_named_once() {
        let refused = |more: &str| {
            let text = format!("kind = \"rank\"\nprompt = \"p\"\n{more}\n");
            Rank::new(&Words::parse(&text, "t.toml").expect("words"), "t.toml").expect_err("refused").to_string()
        };
        assert!(refused("chosen = \"c\"").contains("t.toml: rejected: is missing"));
        assert!(
            refused("chosen = \"c\"\nchosen_list = \"c\"\nrejected = \"r\"").contains("t.toml: chosen: stands beside")
        );
        assert!(refused("chosen = \"c\"\nrejected = \"r\"\nby = \"judge\"").contains("t.toml: by"));
    }
}
