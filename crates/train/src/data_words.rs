//! The words of `[data]` and `[evaluation]`.
use std::collections::BTreeMap;
use std::path::PathBuf;

use candlewick_data::{
    Balance, Boundary, ColumnPath, CompletionTruncation, Deduplicate, EndOfSequence, Form, MixtureEnd, Moment,
    PromptTruncation, RowRange, SafetyOrder, Ties, Truncation,
};
use serde::{Deserialize, Serialize};

/// `[data]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct DataWords {
    /// A file, a directory or a pattern with `*`. Required, unless `mixture` is given.
    pub path: Option<PathBuf>,
    /// Files to read in place of what `path` names, in this order; `path` then is only what messages call them.
    pub files: Vec<PathBuf>,
    /// Which configuration of a data set of the Hub.
    pub subset: Option<String>,
    /// Which split of a directory that has several.
    pub split: Option<String>,
    /// The form of its rows.
    pub form: Form,
    /// Which rows, such as `"..2000"` or `"2000.."`; all by default.
    pub rows: RowRange,
    /// Our name of a column → where the file has it, as `completion = "response"`.
    pub columns: BTreeMap<String, ColumnPath>,
    /// Which of several labels or scores decides what is preferred.
    pub criterion: Option<String>,
    /// Numbers that are the same for every row, as `safer = 0`, in place of columns of these names.
    pub numbers: BTreeMap<String, f64>,
    /// Several sources with weights in place of `path`.
    pub mixture: Vec<PartWords>,
    /// When a pass over a mixture ends.
    pub mixture_end: Option<MixtureEnd>,
    /// What becomes of pairs on which the votes are even.
    pub ties: Ties,
    /// By which label pairs are ordered that bring labels of safety: `helpful`, `safer` or `safe_dpo`.
    pub safety_order: Option<SafetyOrder>,
    /// Whether rows that repeat earlier ones are left out: `"exact"`, or `{ near = { similarity = 0.8 } }`.
    pub deduplicate: Option<Deduplicate>,
    /// Whether rows of the more frequent verdict are left out: `{ ratio = 1.0 }`.
    pub balance: Option<Balance>,
    /// Whether pairs are read as two rows with a verdict each.
    pub unpair: bool,
    /// Longest prompt with completion, in tokens; 0 for no limit.
    pub max_length: usize,
    /// Longest prompt, in tokens; 0 for no limit.
    pub max_prompt_length: usize,
    /// Longest completion, in tokens; 0 for no limit.
    pub max_completion_length: usize,
    /// Where a prompt ends and its completion begins among the tokens.
    pub boundary: Boundary,
    /// What happens to rows longer than `max_length`.
    pub truncation: Truncation,
    /// What happens to prompts longer than `max_prompt_length`.
    pub prompt_truncation: PromptTruncation,
    /// What happens to completions longer than `max_completion_length`.
    pub completion_truncation: CompletionTruncation,
    /// Whether completions of plain text end with the end-of-sequence token.
    pub end_of_sequence: EndOfSequence,
    /// The day that chat templates are told which ask for one, as `"2026-03-07"`.
    pub date: Option<Moment>,
    /// Whether a rejected row is an error; otherwise it is left out and counted.
    pub strict: bool,
    /// Whether every step holds rows of both verdicts as long as there are both: then rows come later than their place in
    /// the order. By default where rows are shuffled, the objective reads verdicts only, and a step has two rows or more.
    pub stratified: Option<bool>,
    /// Threads that turn rows into tokens ahead of the step that needs them; 0 for none. The rows and their order do not
    /// depend on it.
    pub workers: usize,
}

impl Default for DataWords {
    fn default() -> Self {
        Self {
            path: None,
            files: Vec::new(),
            subset: None,
            split: None,
            form: Form::default(),
            rows: RowRange::default(),
            columns: BTreeMap::new(),
            criterion: None,
            numbers: BTreeMap::new(),
            mixture: Vec::new(),
            mixture_end: None,
            ties: Ties::default(),
            safety_order: None,
            deduplicate: None,
            balance: None,
            unpair: false,
            max_length: 1024,
            max_prompt_length: 0,
            max_completion_length: 0,
            boundary: Boundary::default(),
            truncation: Truncation::default(),
            prompt_truncation: PromptTruncation::default(),
            completion_truncation: CompletionTruncation::default(),
            end_of_sequence: EndOfSequence::default(),
            date: None,
            strict: false,
            stratified: None,
            workers: 1,
        }
    }
}

/// `[[data.mixture]]`: one source of several.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PartWords {
    /// A file, a directory or a pattern with `*`. Required.
    pub path: Option<PathBuf>,
    /// Files to read in place of what `path` names.
    pub files: Vec<PathBuf>,
    /// Which configuration of a data set of the Hub.
    pub subset: Option<String>,
    /// Which split of a directory that has several.
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
    pub numbers: BTreeMap<String, f64>,
    /// How many rows it gives beside those of the other parts.
    pub weight: f64,
}

impl Default for PartWords {
    fn default() -> Self {
        Self {
            path: None,
            files: Vec::new(),
            subset: None,
            split: None,
            form: Form::default(),
            rows: RowRange::default(),
            columns: BTreeMap::new(),
            criterion: None,
            numbers: BTreeMap::new(),
            weight: 1.0,
        }
    }
}

/// `[evaluation]`; tokenization is that of `[data]`, and so are form and columns, unless that is a mixture.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct EvaluationWords {
    /// The rows; by default those of `[data]`, and then `rows` or `split` must be given, or `held_out`.
    pub path: Option<PathBuf>,
    /// Files to read in place of what `path` names.
    pub files: Vec<PathBuf>,
    /// Which configuration of a data set of the Hub.
    pub subset: Option<String>,
    /// Which split of a directory that has several.
    pub split: Option<String>,
    /// Which rows.
    pub rows: Option<RowRange>,
    /// The share of the prompts of `[data]` that is held out, with all their rows; nothing else is given then.
    pub held_out: Option<f64>,
    /// Steps between evaluations; 0 for one at the end only.
    pub every: u64,
    /// Whether to evaluate before the first step too.
    pub at_start: bool,
    /// Examples scored at once; by default `train.batch_size`.
    pub batch_size: Option<usize>,
    /// Columns by whose words the rows are told apart where results are shown by slice, such as `["category", "annotator"]`.
    pub slices: Vec<String>,
}
