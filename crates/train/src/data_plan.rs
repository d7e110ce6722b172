//! Rows of a plan: which they are, how they become tokens, how they are opened.
use std::collections::BTreeMap;
use std::path::PathBuf;

use candlewick_data::{
    Boundary, ColumnPath, CompletionTruncation, EncodeOptions, EndOfSequence, Form, MixtureEnd, Moment, NumberColumn,
    PromptRange, PromptTruncation, RowRange, ScoredTokens, Selection, SelectionOptions, Source, SourceOptions,
    TeacherColumn, Ties, Truncation,
};
use candlewick_losses::{Needs, Number, Rows, Scored, Teacher};
use serde::{Deserialize, Serialize};

use crate::config::{OrderKind, TrainWords};
use crate::data_words::{DataWords, EvaluationWords, PartWords};
use crate::error::{Error, Result};
use crate::plan::{at_least_one, required};

/// Rows and how they become tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DataPlan {
    /// Where they are: one place, or the parts of a mixture.
    pub parts: Vec<PartPlan>,
    /// When a pass over a mixture ends.
    pub mixture_end: MixtureEnd,
    /// What becomes of pairs on which the votes are even.
    pub ties: Ties,
    /// Rows left out as repeats, or for balance.
    pub selection: SelectionOptions,
    /// Whether pairs are read as two rows with a verdict each.
    pub unpair: bool,
    /// The prompts whose rows are trained on.
    pub prompts: PromptRange,
    /// Longest prompt with completion, in tokens.
    pub max_length: Option<usize>,
    /// Longest prompt, in tokens.
    pub max_prompt_length: Option<usize>,
    /// Longest completion, in tokens.
    pub max_completion_length: Option<usize>,
    /// Where a prompt ends among the tokens.
    pub boundary: Boundary,
    /// What happens to longer rows.
    pub truncation: Truncation,
    /// What happens to longer prompts.
    pub prompt_truncation: PromptTruncation,
    /// What happens to longer completions.
    pub completion_truncation: CompletionTruncation,
    /// Whether plain completions end with the end-of-sequence token.
    pub end_of_sequence: EndOfSequence,
    /// The day that chat templates are told which ask for one.
    pub date: Option<Moment>,
    /// Whether a rejected row is an error.
    pub strict: bool,
    /// Whether every step holds rows of both verdicts as long as there are both.
    pub stratified: bool,
    /// Threads that turn rows into tokens.
    pub workers: usize,
}

/// One place of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PartPlan {
    /// A file, a directory or a pattern.
    pub path: PathBuf,
    /// Files that are read in its place, where there are any.
    pub files: Vec<PathBuf>,
    /// Which split.
    pub split: Option<String>,
    /// The form of its rows.
    pub form: Form,
    /// Which rows.
    pub rows: RowRange,
    /// Our name of a column → where the file has it.
    pub columns: BTreeMap<String, ColumnPath>,
    /// Which of several labels or scores decides what is preferred.
    pub criterion: Option<String>,
    /// Its weight in a mixture.
    pub weight: f64,
}

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

impl DataPlan {
    pub(crate) fn resolve(words: DataWords, needs: &Needs, train: &TrainWords) -> Result<Self> {
        let stratified = resolve_stratified(words.stratified, needs, train)?;
        let limit = |length: usize| (length > 0).then_some(length);
        if words.mixture.is_empty() && words.mixture_end.is_some() {
            return Err(Error::config("data.mixture_end", "given, and there is no [[data.mixture]]; leave it out"));
        }
        let plan = Self {
            mixture_end: words.mixture_end.unwrap_or_default(),
            ties: words.ties,
            selection: SelectionOptions { deduplicate: words.deduplicate, balance: words.balance },
            unpair: words.unpair,
            prompts: PromptRange::default(),
            max_length: limit(words.max_length),
            max_prompt_length: limit(words.max_prompt_length),
            max_completion_length: limit(words.max_completion_length),
            boundary: words.boundary,
            truncation: words.truncation,
            prompt_truncation: words.prompt_truncation,
            completion_truncation: words.completion_truncation,
            end_of_sequence: words.end_of_sequence,
            date: words.date,
            strict: words.strict,
            stratified,
            workers: words.workers,
            parts: resolve_parts(words)?,
        };
        plan.check(needs)?;
        Ok(plan)
    }

    fn check(&self, needs: &Needs) -> Result<()> {
        if self.unpair && needs.rows != Rows::LABELLED {
            return Err(Error::config(
                "data.unpair",
                "true, and the objective of [objective] reads more than rows with a verdict; leave it out",
            ));
        }
        if self.selection.balance.is_some() && !needs.rows.labelled {
            return Err(Error::config(
                "data.balance",
                "given, and the objective of [objective] reads no verdicts; leave it out",
            ));
        }
        if self.selection.balance.is_some() && self.unpair {
            return Err(Error::config(
                "data.balance",
                "given beside data.unpair, which gives as many rows of either verdict; leave one of them out",
            ));
        }
        Ok(())
    }

    /// What messages call the training rows.
    pub fn name(&self) -> String {
        self.parts.iter().map(|part| part.path.display().to_string()).collect::<Vec<_>>().join(" + ")
    }

    pub(crate) fn encode_options(&self, scored: Scored) -> EncodeOptions {
        EncodeOptions {
            max_length: self.max_length,
            max_prompt_length: self.max_prompt_length,
            max_completion_length: self.max_completion_length,
            boundary: self.boundary,
            truncation: self.truncation,
            prompt_truncation: self.prompt_truncation,
            completion_truncation: self.completion_truncation,
            end_of_sequence: self.end_of_sequence,
            scored: match scored {
                Scored::All => ScoredTokens::All,
                Scored::Edits => ScoredTokens::Edits,
            },
            date: self.date,
        }
    }

    /// The training rows, with what an objective needs of them.
    pub(crate) fn open(&self, needs: &Needs) -> Result<Source> {
        self.without_repeats(self.of_prompts(self.all(needs)?, self.prompts))
    }

    /// Held-out rows.
    pub(crate) fn open_held_out(&self, rows: &HeldOut, needs: &Needs) -> Result<Source> {
        match rows {
            HeldOut::Rows(part) => self.part(part, needs),
            HeldOut::Prompts(range) => Ok(self.of_prompts(self.all(needs)?, *range)),
        }
    }

    fn all(&self, needs: &Needs) -> Result<Source> {
        match self.parts.as_slice() {
            [part] => self.part(part, needs),
            parts => {
                let parts = parts.iter().map(|part| Ok((self.part(part, needs)?, part.weight)));
                Ok(Source::mixture(parts.collect::<Result<_>>()?, self.mixture_end)?)
            }
        }
    }

    fn of_prompts(&self, source: Source, range: PromptRange) -> Source {
        if range == PromptRange::default() { source } else { source.only(move |row| range.contains(row)) }
    }

    /// All rows are looked at once for it.
    fn without_repeats(&self, source: Source) -> Result<Source> {
        if self.selection == SelectionOptions::default() {
            return Ok(source);
        }
        let mut failure = None;
        let records = source.records()?.map_while(|record| record.map_err(|error| failure = Some(error)).ok());
        let selection = Selection::of(records, &self.selection);
        if let Some(error) = failure {
            return Err(error.into());
        }
        let selection = selection?;
        Ok(source.leaving_out(move |row, origin| selection.rejection(row, origin)))
    }

    fn part(&self, part: &PartPlan, needs: &Needs) -> Result<Source> {
        Ok(Source::open(&self.source_options(part, needs))?)
    }

    pub(crate) fn source_options(&self, part: &PartPlan, needs: &Needs) -> SourceOptions {
        let number = |number: &Number| NumberColumn { name: number.name.into(), low: number.low, high: number.high };
        SourceOptions {
            path: part.path.clone(),
            files: part.files.clone(),
            split: part.split.clone(),
            form: part.form,
            rows: part.rows,
            columns: part.columns.clone(),
            criterion: part.criterion.clone(),
            ties: self.ties,
            strict: self.strict,
            unpair: self.unpair,
            numbers: needs.numbers.iter().map(number).collect(),
            teacher: match needs.teacher {
                Teacher::None => TeacherColumn::None,
                Teacher::LogProbs => TeacherColumn::LogProbs,
                Teacher::WithReference => TeacherColumn::WithReference,
            },
        }
    }
}

impl PartPlan {
    fn resolve(key: &str, words: PartWords) -> Result<Self> {
        if words.subset.is_some() {
            return Err(Error::config(
                format!("{key}.subset"),
                "given, and data sets of the Hub alone have subsets; name the directory of the subset in path",
            ));
        }
        Ok(Self {
            path: required(&format!("{key}.path"), "a data file or a directory of them", words.path)?,
            files: words.files,
            split: words.split,
            form: words.form,
            rows: words.rows,
            columns: words.columns,
            criterion: words.criterion,
            weight: words.weight,
        })
    }
}

fn resolve_parts(words: DataWords) -> Result<Vec<PartPlan>> {
    let DataWords { path, files, subset, split, form, rows, columns, criterion, mixture, .. } = words;
    if mixture.is_empty() {
        let part = PartWords { path, files, subset, split, form, rows, columns, criterion, weight: 1.0 };
        return Ok(vec![PartPlan::resolve("data", part)?]);
    }
    let given = [
        ("path", path.is_some()),
        ("files", !files.is_empty()),
        ("subset", subset.is_some()),
        ("split", split.is_some()),
        ("form", form != Form::default()),
        ("rows", rows != RowRange::default()),
        ("columns", !columns.is_empty()),
        ("criterion", criterion.is_some()),
    ];
    if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
        return Err(Error::config(
            format!("data.{name}"),
            "given beside [[data.mixture]], whose parts each have their own; move it there",
        ));
    }
    mixture
        .into_iter()
        .enumerate()
        .map(|(index, part)| PartPlan::resolve(&format!("data.mixture[{index}]"), part))
        .collect()
}

/// The plan of an evaluation; where it holds prompts out, the training rows are those of the others.
pub(crate) fn resolve_evaluation(
    words: EvaluationWords,
    data: &mut DataPlan,
    batch_size: usize,
) -> Result<EvaluationPlan> {
    let EvaluationWords { every, at_start, .. } = words;
    let batch_size = at_least_one("evaluation.batch_size", words.batch_size.unwrap_or(batch_size) as u64)? as usize;
    let rows = match words.held_out {
        Some(share) => hold_out(share, &words, data)?,
        None => HeldOut::Rows(Box::new(of_its_own(words, data)?)),
    };
    Ok(EvaluationPlan { rows, every, at_start, batch_size })
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
    let (train, held_out) =
        PromptRange::split(share).map_err(|error| Error::config("evaluation.held_out", error.to_string()))?;
    data.prompts = train;
    Ok(HeldOut::Prompts(held_out))
}

fn of_its_own(words: EvaluationWords, data: &DataPlan) -> Result<PartPlan> {
    let EvaluationWords { path, files, subset, split, rows, .. } = words;
    let rows = rows.unwrap_or_default();
    let [like] = data.parts.as_slice() else {
        let part = PartWords { path, files, subset, split, rows, ..PartWords::default() };
        return PartPlan::resolve("evaluation", part);
    };
    let of_data = path.is_none() && files.is_empty();
    let words = PartWords {
        path: path.or_else(|| Some(like.path.clone())),
        files: if of_data && split.is_none() { like.files.clone() } else { files },
        split: split.or_else(|| like.split.clone().filter(|_| of_data)),
        subset,
        form: like.form,
        rows,
        columns: like.columns.clone(),
        criterion: like.criterion.clone(),
        weight: 1.0,
    };
    let part = PartPlan::resolve("evaluation", words)?;
    let before = |a: RowRange, b: RowRange| a.end.is_some_and(|end| end <= b.start);
    let same_place = (&part.path, &part.files, &part.split) == (&like.path, &like.files, &like.split);
    if same_place && !before(rows, like.rows) && !before(like.rows, rows) {
        return Err(Error::config(
            "evaluation.rows",
            format!(
                "{rows} overlaps data.rows, {}, of the same file; give disjoint ranges such as \"..2000\" and \"2000..\", or \
                 evaluation.held_out = 0.05 for a share of the prompts",
                like.rows
            ),
        ));
    }
    Ok(part)
}

fn resolve_stratified(given: Option<bool>, needs: &Needs, train: &TrainWords) -> Result<bool> {
    if given == Some(true) && !needs.rows.labelled {
        return Err(Error::config(
            "data.stratified",
            "true, and the objective of [objective] reads no verdicts; leave it out",
        ));
    }
    let verdicts_only = needs.rows == Rows::LABELLED;
    let two_rows = train.batch_size.saturating_mul(train.micro_batches) > 1;
    Ok(given.unwrap_or(verdicts_only && two_rows && train.order == OrderKind::Shuffled && train.bucket.is_none()))
}
