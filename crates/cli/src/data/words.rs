//! The words of `wick data`.

use std::path::PathBuf;

use candlewick::data;
use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand, ValueEnum};

use crate::failure::EXIT_CODES;

/// `wick data`
#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    /// Show some rows: parsed, or with a tokenizer token by token, with what is scored
    Inspect(DataInspect),
    /// Count and measure: rows kept and dropped, lengths, balance, ties, repeats, shared prompts, agreement
    Stats(DataStats),
    /// Write any form as TRL's JSON lines or Parquet
    Convert(DataConvert),
    /// Put into prompts what their completions are like: scores (Rewards-in-Context), or ratings that are asked for (CDPO)
    Condition(DataCondition),
    /// Make rows of every kind about a little world, for trying things out: what is preferred in them can be learnt by a small model
    Make(DataMake),
}

/// Which rows, and how they are read.
#[derive(Debug, Args)]
pub(crate) struct DataRows {
    /// A file, a directory, a glob, - for standard input, or hub:owner/name@revision
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// The form of the rows; told from the first rows by default
    #[arg(long, value_name = "NAME", value_parser = super::form)]
    pub(crate) form: Option<data::Form>,
    /// Our name of a column and its place in the file, as completion=response, completion=solutions.0.text, or several for a list: completions=a,b; may be repeated
    #[arg(long, value_name = "NAME=PATH", value_parser = super::column)]
    pub(crate) columns: Vec<(String, data::ColumnPath)>,
    /// Which attribute or label decides, where rows have several
    #[arg(long, value_name = "NAME")]
    pub(crate) criterion: Option<String>,
    /// What becomes of completions that were found even
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = TiesWord::Drop)]
    pub(crate) ties: TiesWord,
    /// By which label pairs are ordered that bring labels of safety, as data.safety_order: helpful, safer or safe_dpo
    #[arg(long, value_name = "ORDER", value_parser = super::word::<data::SafetyOrder>)]
    pub(crate) safety_order: Option<data::SafetyOrder>,
    /// A number that every row must bring, as margin; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) numbers: Vec<String>,
    /// The subset of a data set of the Hub
    #[arg(long, value_name = "NAME")]
    pub(crate) subset: Option<String>,
    /// The split: of a data set of the Hub, train by default; or of a directory or glob that has several
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// Which rows, counted from 0, such as 10..20 or ..500
    #[arg(long, value_name = "RANGE")]
    pub(crate) rows: Option<data::RowRange>,
    /// Stop at the first row that cannot be used
    #[arg(long)]
    pub(crate) strict: bool,
    /// List every row that is dropped in this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(crate) dropped: Option<PathBuf>,
}

impl DataRows {
    /// All rows of a file, in the form that they are told to have.
    pub(crate) fn all(path: PathBuf) -> Self {
        Self {
            path,
            form: None,
            columns: Vec::new(),
            criterion: None,
            ties: TiesWord::Drop,
            safety_order: None,
            numbers: Vec::new(),
            subset: None,
            split: None,
            rows: None,
            strict: false,
            dropped: None,
        }
    }
}

/// What becomes of ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TiesWord {
    /// They are dropped
    Drop,
    /// They stay, the first completion as the chosen one
    Keep,
    /// They stay, with a preference of 0.5
    Soft,
}

/// What rows are tokenized with.
#[derive(Debug, Args)]
pub(crate) struct DataTokens {
    /// Tokenize as for this model: a directory, or hub:owner/name@revision
    #[arg(long, visible_alias = "tokenizer", value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Longest prompt with completion, in tokens; without it nothing is cut
    #[arg(long, value_name = "N", requires = "model", value_parser = RangedU64ValueParser::<usize>::new().range(2..=1_000_000_000))]
    pub(crate) max_length: Option<usize>,
    /// Longest prompt, in tokens
    #[arg(long, value_name = "N", requires = "model", value_parser = RangedU64ValueParser::<usize>::new().range(2..=1_000_000_000))]
    pub(crate) max_prompt_length: Option<usize>,
    /// Longest completion, in tokens
    #[arg(long, value_name = "N", requires = "model", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000_000))]
    pub(crate) max_completion_length: Option<usize>,
    /// What becomes of rows above --max-length, as data.truncation: keep_start, keep_end_of_prompt, reject or error
    #[arg(long, value_name = "WHAT", requires = "max_length", value_parser = super::word::<data::Truncation>)]
    pub(crate) truncation: Option<data::Truncation>,
    /// Where the completion begins, as data.boundary: offsets or common_prefix
    #[arg(long, value_name = "HOW", requires = "model", value_parser = super::word::<data::Boundary>)]
    pub(crate) boundary: Option<data::Boundary>,
    /// How plain texts end, as data.end_of_sequence: append or keep
    #[arg(long, value_name = "HOW", requires = "model", value_parser = super::word::<data::EndOfSequence>)]
    pub(crate) end_of_sequence: Option<data::EndOfSequence>,
    /// The day that a chat template is told which asks for one, as 2026-03-07
    #[arg(long, value_name = "DATE", requires = "model")]
    pub(crate) date: Option<data::Moment>,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal that can
    Auto,
    /// Always
    Always,
    /// Never; what is scored stands in brackets
    Never,
}

/// `wick data inspect`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DataInspect {
    /// Which rows.
    #[command(flatten)]
    pub(crate) rows: DataRows,
    /// The tokenizer.
    #[command(flatten)]
    pub(crate) tokens: DataTokens,
    /// How many rows; 3 by default, all of --rows where that is given
    #[arg(short, value_name = "N")]
    pub(crate) number: Option<u64>,
    /// Show the id of every token
    #[arg(long, requires = "model")]
    pub(crate) ids: bool,
    /// Colours
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    pub(crate) color: Colour,
}

/// `wick data stats`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DataStats {
    /// Which rows.
    #[command(flatten)]
    pub(crate) rows: DataRows,
    /// The tokenizer.
    #[command(flatten)]
    pub(crate) tokens: DataTokens,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What rows are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum To {
    /// Every row as what it is
    Auto,
    /// prompt, chosen, rejected; of labelled rows, two of the same prompt make one
    Pairs,
    /// prompt, completion, label
    Unpaired,
    /// prompt, completions, ratings
    Ranked,
    /// prompt, completion
    Demonstrations,
}

/// Which rated completions are paired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum PairingWord {
    /// The best with the worst
    BestWorst,
    /// Each with the next worse one
    Adjacent,
    /// Each with every worse one
    All,
}

/// `wick data convert`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DataConvert {
    /// Which rows.
    #[command(flatten)]
    pub(crate) rows: DataRows,
    /// The file to write: .jsonl, .jsonl.gz, .jsonl.zst or .parquet
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// What the rows are written as
    #[arg(long, value_name = "FORM", value_enum, default_value_t = To::Auto)]
    pub(crate) to: To,
    /// With --to pairs: which of several rated completions are paired; best_worst by default
    #[arg(long, value_name = "WHICH", value_enum, requires = "to")]
    pub(crate) pairing: Option<PairingWord>,
    /// Leave out repeats: exact, near (similarity of 0.8), or near=S
    #[arg(long, value_name = "HOW", value_parser = super::deduplicate)]
    pub(crate) deduplicate: Option<data::Deduplicate>,
    /// At most so many labelled rows of the more frequent verdict for each of the other
    #[arg(long, value_name = "RATIO")]
    pub(crate) balance: Option<f64>,
    /// Write the rows of this share of the prompts to OUT with -held-out in its name instead
    #[arg(long, value_name = "SHARE")]
    pub(crate) held_out: Option<f64>,
    /// Seed of what --balance leaves out; 0 by default
    #[arg(long, value_name = "N", requires = "balance")]
    pub(crate) seed: Option<u64>,
    /// Replace files that are there already
    #[arg(long)]
    pub(crate) force: bool,
}

/// `wick data condition`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DataCondition {
    /// Which rows.
    #[command(flatten)]
    pub(crate) rows: DataRows,
    /// The file to write: .jsonl, .jsonl.gz, .jsonl.zst or .parquet
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Write each completion under a prompt that says its scores: numbers of the row, of a pair those that end in _chosen and _rejected; -NAME where less is better
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', allow_hyphen_values = true, conflicts_with_all = ["preference", "control"])]
    pub(crate) scores: Vec<String>,
    /// How much each score of --scales counts: prompts ask for the scores that it comes to
    #[arg(long, value_name = "P,…", value_delimiter = ',', requires = "scales", conflicts_with = "control")]
    pub(crate) preference: Vec<f64>,
    /// How --preference becomes scores: p/‖p‖₂ of each range (unit, the default), or min(n·p, 1) of it (capped)
    #[arg(long, value_name = "RULE", requires = "preference", value_parser = super::word::<data::DesiredScores>)]
    pub(crate) rule: Option<data::DesiredScores>,
    /// The means and spreads that --scores wrote beside an earlier OUT; without it --scores measures them on these rows
    #[arg(long, value_name = "FILE", conflicts_with = "control")]
    pub(crate) scales: Option<PathBuf>,
    /// Ask for a level of an aspect (helpfulness=5), for that of a completion of the row (helpfulness=row), or let more be better (helpfulness=free); may be repeated. Pairs are ordered by how near they come
    #[arg(long, value_name = "ASPECT=LEVEL", value_parser = super::condition::control)]
    pub(crate) control: Vec<(String, data::Level)>,
    /// How much an aspect of --control counts; 1 by default; may be repeated
    #[arg(long, value_name = "ASPECT=W", requires = "control", value_parser = super::condition::weight)]
    pub(crate) weight: Vec<(String, f64)>,
    /// How much a distance from a level counts beside a rating; 1 by default
    #[arg(long, value_name = "L", requires = "control")]
    pub(crate) distance: Option<f64>,
    /// Seed of the completion whose level is asked for where that is =row; 0 by default
    #[arg(long, value_name = "N", requires = "control")]
    pub(crate) seed: Option<u64>,
    /// Replace files that are there already
    #[arg(long)]
    pub(crate) force: bool,
}

/// What `wick data make` makes rows about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum World {
    /// Things, people and places: rows of every kind
    Scenes,
    /// Requests, some of which should not be granted: pairs with labels of helpfulness and of safety
    Safety,
}

/// `wick data make`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DataMake {
    /// Where the files go; those of an earlier call are replaced
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// What the rows are about
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = World::Scenes)]
    pub(crate) world: World,
    /// Rows of each file to train on
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000_000))]
    pub(crate) rows: usize,
    /// Pairs held out, about prompts that no other row has; of scenes no prompt occurs twice
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = RangedU64ValueParser::<usize>::new().range(1..=20_000))]
    pub(crate) held_out: usize,
    /// Decides everything
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Share of the rows whose preference, verdict or rating is turned round; the column `flipped` says which. Of safety each of the two labels for itself
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub(crate) noise: f64,
    /// Undesirable completions for each desirable one, among the rows with a verdict
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub(crate) imbalance: usize,
    /// Put a small model into model/ beside them: of scenes the one that knows this world, before it has learnt the preferences, of safety one with random weights
    #[arg(long)]
    pub(crate) model: bool,
    /// Let this model, which has learnt them, say what it thinks of the pairs: taught.jsonl, with log-probabilities under it and under the model before
    #[arg(long, value_name = "DIR")]
    pub(crate) teacher: Option<PathBuf>,
}
