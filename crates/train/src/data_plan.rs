//! Rows of a plan: which they are, how they become tokens, how they are opened.
use std::collections::BTreeMap;
use std::path::PathBuf;

use candlewick_data::{
    Boundary, ColumnPath, CompletionTruncation, EncodeOptions, EndOfSequence, Form, MixtureEnd, Moment, NumberColumn,
    PromptRange, PromptTruncation, RowRange, SafetyOrder, ScoredTokens, SelectionOptions, Selector, Source,
    SourceOptions, TeacherColumn, Ties, Truncation,
};
use candlewick_losses::{Needs, Number, Rows, Scored, StepWide, Teacher};
use serde::{Deserialize, Serialize};

use crate::budget::TokenBudget;
use crate::config::{OrderKind, TrainWords};
use crate::data_words::{DataWords, PartWords};
use crate::error::{Error, Result};
use crate::held_out::HeldOut;
use crate::plan::required;

/// Rows and how they become tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DataPlan {
    /// Where they are: one place, or the parts of a mixture.
    pub parts: Vec<PartPlan>,
    /// When a pass over a mixture ends.
    #[serde(default)]
    pub mixture_end: MixtureEnd,
    /// What becomes of pairs on which the votes are even.
    #[serde(default)]
    pub ties: Ties,
    /// By which label pairs are ordered that bring labels of safety.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety_order: Option<SafetyOrder>,
    /// Rows left out as repeats, or for balance.
    #[serde(default)]
    pub selection: SelectionOptions,
    /// Whether pairs are read as two rows with a verdict each.
    #[serde(default)]
    pub unpair: bool,
    /// The prompts whose rows are trained on.
    #[serde(default)]
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
    #[serde(default)]
    pub prompt_truncation: PromptTruncation,
    /// What happens to longer completions.
    #[serde(default)]
    pub completion_truncation: CompletionTruncation,
    /// Whether plain completions end with the end-of-sequence token.
    pub end_of_sequence: EndOfSequence,
    /// The day that chat templates are told which ask for one.
    pub date: Option<Moment>,
    /// Whether a rejected row is an error.
    pub strict: bool,
    /// Whether every step holds rows of both verdicts as long as there are both.
    #[serde(default)]
    pub stratified: bool,
    /// Threads that turn rows into tokens.
    #[serde(default)]
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
    /// Numbers that are the same for every row of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, f64>,
    /// Its weight in a mixture.
    pub weight: f64,
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
            safety_order: words.safety_order,
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
        plan.check(needs, train)?;
        Ok(plan)
    }

    fn check(&self, needs: &Needs, train: &TrainWords) -> Result<()> {
        self.check_numbers(needs)?;
        let balance = self.selection.balance.is_some();
        let reads_preference = needs.numbers.iter().any(|number| number.name == "preference");
        let repeats = self.parts.len() > 1 && self.mixture_end == MixtureEnd::AllExhausted;
        let refusals = [
            (
                self.unpair && needs.rows != Rows::LABELLED,
                "data.unpair",
                "true, and the objective of [objective] reads more than rows with a verdict; leave it out",
            ),
            (
                balance && !needs.rows.labelled,
                "data.balance",
                "given, and the objective of [objective] reads no verdicts; leave it out",
            ),
            (
                balance && self.unpair,
                "data.balance",
                "given beside data.unpair, which gives as many rows of either verdict; leave one of them out",
            ),
            (
                self.safety_order.is_some() && !needs.rows.pairs && !self.unpair,
                "data.safety_order",
                "given, and the objective of [objective] reads no pairs; leave it out, or set data.unpair = true where it reads \
                 verdicts",
            ),
            (
                self.ties == Ties::Soft && !reads_preference,
                "data.ties",
                "\"soft\", and the objective of [objective] reads no number `preference`; choose \"drop\" or \"keep\", or an \
                 objective.type that does, as soft_dpo",
            ),
            (
                self.selection.deduplicate.is_some() && repeats,
                "data.deduplicate",
                "given beside data.mixture_end = \"all_exhausted\", by which rows of shorter parts come again; leave one of them out",
            ),
            (
                self.max_length.is_none() && self.truncation != Truncation::default(),
                "data.truncation",
                "given, and data.max_length = 0 limits nothing; leave it out",
            ),
            (
                self.max_prompt_length.is_none() && self.prompt_truncation != PromptTruncation::default(),
                "data.prompt_truncation",
                "given, and there is no data.max_prompt_length; leave it out, or give the limit",
            ),
            (
                self.max_completion_length.is_none() && self.completion_truncation != CompletionTruncation::default(),
                "data.completion_truncation",
                "given, and there is no data.max_completion_length; leave it out, or give the limit",
            ),
            (
                train.tokens != TokenBudget::Tokens(0) && needs.step_wide == StepWide::Mismatched,
                "train.tokens",
                "given, and the loss of objective.type compares mismatched completions, which are gathered after rows are \
                 packed; leave it out, and set train.batch_size and train.micro_batches",
            ),
            (
                train.bucket.is_some() && self.stratified,
                "train.bucket",
                "given beside data.stratified = true: rows are brought together by length or by verdict, not by both; leave \
                 one of them out",
            ),
        ];
        match refusals.into_iter().find(|(is_refused, ..)| *is_refused) {
            Some((_, key, reason)) => Err(Error::config(key, reason)),
            None => Ok(()),
        }
    }

    /// Every number that a part gives to its rows is read by someone.
    fn check_numbers(&self, needs: &Needs) -> Result<()> {
        const OF_ORDER: [&str; 4] = ["better", "safer", "safe_chosen", "safe_rejected"];
        let is_read = |name: &str| {
            let by_order = self.safety_order.is_some() && OF_ORDER.contains(&name);
            by_order || needs.numbers.iter().any(|number| number.name == name)
        };
        for (index, part) in self.parts.iter().enumerate() {
            let Some(name) = part.numbers.keys().find(|name| !is_read(name)) else { continue };
            let read: Vec<&str> = needs.numbers.iter().map(|number| number.name).collect();
            let read = if read.is_empty() { "no numbers".to_owned() } else { read.join(", ") };
            let key = if self.parts.len() == 1 { "data".to_owned() } else { format!("data.mixture[{index}]") };
            return Err(Error::config(
                format!("{key}.numbers.{name}"),
                format!("given, and the objective of [objective] reads {read}; leave it out"),
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
        let source = self.without_repeats(self.all(needs)?)?;
        Ok(self.of_prompts(source, self.prompts))
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

    /// All rows are looked at once for it. They are told by their numbers, so that no row is passed over: those of other
    /// prompts are counted, and no pair is taken apart.
    fn without_repeats(&self, source: Source) -> Result<Source> {
        if self.selection == SelectionOptions::default() {
            return Ok(source);
        }
        let mut selector = Selector::new(&self.selection)?;
        for record in source.clone().unpaired(false).records()? {
            match record? {
                Ok((origin, record)) if self.prompts.contains(&record.row) => selector.add(&origin, &record),
                _ => selector.skip(),
            }
        }
        let selection = selector.finish()?;
        Ok(source.leaving_out(move |row, origin| selection.rejection(row, origin)))
    }

    pub(crate) fn part(&self, part: &PartPlan, needs: &Needs) -> Result<Source> {
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
            given_numbers: part.numbers.clone(),
            safety_order: self.safety_order,
            ties: self.ties,
            strict: self.strict,
            unpair: self.unpair,
            numbers: needs.numbers.iter().map(number).collect(),
            labels: Vec::new(),
            teacher: match needs.teacher {
                Teacher::None => TeacherColumn::None,
                Teacher::LogProbs => TeacherColumn::LogProbs,
                Teacher::WithReference => TeacherColumn::WithReference,
            },
        }
    }
}

impl PartPlan {
    pub(crate) fn resolve(key: &str, words: PartWords) -> Result<Self> {
        if !(words.weight.is_finite() && words.weight > 0.0) {
            let reason = format!("{}; expected a number above 0; leave a part out that is not wanted", words.weight);
            return Err(Error::config(format!("{key}.weight"), reason));
        }
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
            numbers: words.numbers,
            weight: words.weight,
        })
    }
}

fn resolve_parts(words: DataWords) -> Result<Vec<PartPlan>> {
    let DataWords { path, files, subset, split, form, rows, columns, criterion, numbers, mixture, .. } = words;
    if mixture.is_empty() {
        let part = PartWords { path, files, subset, split, form, rows, columns, criterion, numbers, weight: 1.0 };
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
        ("numbers", !numbers.is_empty()),
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
