//! Held-out rows of a plan: which they are, and that they are not trained on.
use std::path::PathBuf;

use candlewick_data::{PromptRange, RowRange, Source};
use candlewick_losses::Needs;
use serde::{Deserialize, Serialize};

use crate::data_plan::{DataPlan, PartPlan};
use crate::data_words::{EvaluationWords, PartWords};
use crate::error::{Error, Result};
use crate::plan::at_least_one;

/// Held-out rows and when they are scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EvaluationPlan {
    /// The rows.
    pub rows: HeldOut,
    /// Steps between evaluations; 0 for one at the end only.
    pub every: u64,
    /// Whether to evaluate before the first step too.
    pub at_start: bool,
    /// Examples scored at once.
    pub batch_size: usize,
    /// Columns by whose words the rows are told apart in what is measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<String>,
}

/// Which rows are held out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HeldOut {
    /// Rows of a place of their own, or of their own range.
    Rows(Box<PartPlan>),
    /// The rows of some prompts of the training data.
    Prompts(PromptRange),
}

/// The plan of an evaluation; where it holds prompts out, the training rows are those of the others.
pub(crate) fn resolve_evaluation(
    words: EvaluationWords,
    data: &mut DataPlan,
    batch_size: usize,
) -> Result<EvaluationPlan> {
    let EvaluationWords { every, at_start, .. } = words;
    let slices = words.slices.clone();
    let batch_size = at_least_one("evaluation.batch_size", words.batch_size.unwrap_or(batch_size) as u64)? as usize;
    let rows = match words.held_out {
        Some(share) => hold_out(share, &words, data)?,
        None => HeldOut::Rows(Box::new(of_its_own(words, data)?)),
    };
    Ok(EvaluationPlan { rows, every, at_start, batch_size, slices })
}

fn hold_out(share: f64, words: &EvaluationWords, data: &mut DataPlan) -> Result<HeldOut> {
    let given = [
        ("path", words.path.is_some()),
        ("files", !words.files.is_empty()),
        ("subset", words.subset.is_some()),
        ("split", words.split.is_some()),
        ("rows", words.rows.is_some()),
    ];
    if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
        let reason = "given beside evaluation.held_out, which takes rows of [data]; give one of them";
        return Err(Error::config(format!("evaluation.{name}"), reason));
    }
    let (train, held_out) = PromptRange::split(share).map_err(|_| {
        let reason = format!("{share}; expected a share of the prompts between 0 and 1, such as 0.05");
        Error::config("evaluation.held_out", reason)
    })?;
    data.prompts = train;
    Ok(HeldOut::Prompts(held_out))
}

fn of_its_own(words: EvaluationWords, data: &DataPlan) -> Result<PartPlan> {
    let EvaluationWords { path, files, subset, split, rows, .. } = words;
    let rows = rows.unwrap_or_default();
    let [like] = data.parts.as_slice() else {
        let part = PartWords { path, files, subset, split, rows, ..PartWords::default() };
        let part = PartPlan::resolve("evaluation", part)?;
        return data.parts.iter().try_for_each(|other| check_ranges(&part, other)).map(|()| part);
    };
    let of_data = path.is_none() && files.is_empty();
    let words = PartWords {
        path: path.or_else(|| Some(like.path.clone())),
        files: if of_data { like.files.clone() } else { files },
        split: split.or_else(|| like.split.clone().filter(|_| of_data)),
        subset,
        form: like.form,
        rows,
        columns: like.columns.clone(),
        criterion: like.criterion.clone(),
        numbers: like.numbers.clone(),
        weight: 1.0,
    };
    let part = PartPlan::resolve("evaluation", words)?;
    check_ranges(&part, like).map(|()| part)
}

/// That no row of a place is both held out and trained on.
fn check_ranges(part: &PartPlan, other: &PartPlan) -> Result<()> {
    let same_place = (&part.path, &part.files, &part.split) == (&other.path, &other.files, &other.split);
    if same_place && overlap(part.rows, other.rows) { Err(overlapping(part, other)) } else { Ok(()) }
}

fn overlapping(part: &PartPlan, other: &PartPlan) -> Error {
    let reason = format!(
        "{} overlaps data.rows, {}, of the same file; give disjoint ranges such as \"..2000\" and \"2000..\", or \
         evaluation.held_out = 0.05 for a share of the prompts",
        part.rows, other.rows
    );
    Error::config("evaluation.rows", reason)
}

fn overlap(one: RowRange, other: RowRange) -> bool {
    let before = |a: RowRange, b: RowRange| a.end.is_some_and(|end| end <= b.start);
    !before(one, other) && !before(other, one)
}

/// That no file is both trained on and held out, whatever it is called; ranges of the same files may be disjoint.
pub(crate) fn check_apart(data: &DataPlan, held_out: &HeldOut, opened: [&Source; 2], needs: &Needs) -> Result<()> {
    let HeldOut::Rows(part) = held_out else { return Ok(()) };
    let [training, held_out] = opened;
    let real = |source: &Source| -> Vec<PathBuf> {
        source.paths().into_iter().map(|path| path.canonicalize().unwrap_or(path)).collect()
    };
    let held_out = real(held_out);
    for other in &data.parts {
        let files = if data.parts.len() == 1 { real(training) } else { real(&data.part(other, needs)?) };
        if files == held_out {
            if overlap(part.rows, other.rows) {
                return Err(overlapping(part, other));
            }
        } else if let Some(both) = held_out.iter().find(|file| files.contains(file)) {
            let reason =
                format!("reads {}, which the training rows are read from too; name other files", both.display());
            return Err(Error::config("evaluation.path", reason));
        }
    }
    Ok(())
}
