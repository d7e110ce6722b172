//! The words of the command line.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::failure::EXIT_CODES;

/// Optimizer steps that a run can have.
const MOST_STEPS: u64 = 1_000_000_000;
/// Passes over the data that a run can have.
const MOST_EPOCHS: u64 = 1_000_000;
/// The largest whole number of TOML, in which configurations are written.
const MOST_SEED: u64 = i64::MAX as u64;

fn threads() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(0..=1024)
}

/// Align a language model to preferences: DPO, IPO, KTO and their family, on the CPU, without Python.
#[derive(Debug, Parser)]
#[command(name = "wick", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What `wick` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model on preferences, from a configuration file or from flags
    Train(Train),
    /// Measure a model on preferences without training it
    Eval(Eval),
    /// Let a model go on from a prompt
    Generate(Generate),
    /// Preference data: look at rows, measure them, write them in another form
    #[command(subcommand)]
    Data(Data),
    /// Measure how fast this machine trains
    #[command(subcommand)]
    Bench(Bench),
    /// The objectives: what each is, what it reads, and its settings
    Objectives(Objectives),
    /// See it work in a few minutes: a small model of its own learns to answer well
    Quickstart(Quickstart),
}

/// Keys of the configuration that have a flag of their own.
#[derive(Debug, Default, Args)]
pub(crate) struct Common {
    /// Configuration file (TOML); flags and --set override what it says
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of a Hugging Face model (config.json, *.safetensors, tokenizer.json) [model.path]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<String>,
    /// Directory of a PEFT adapter to start from [model.adapter]
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<String>,
    /// Preference data: a file (JSON lines, JSON, CSV, TSV, Parquet or Arrow, also .gz or .zst), a directory, a glob, or hub:owner/name[@revision] [data.path]
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    /// The subset of a data set of the Hub [data.subset]
    #[arg(long, value_name = "NAME")]
    pub(crate) subset: Option<String>,
    /// The split of a data set of the Hub (train by default), or of a directory that has several [data.split]
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// The loss: dpo, ipo, kto, …; `wick objectives` lists them [objective.type]
    #[arg(long, value_name = "NAME")]
    pub(crate) objective: Option<String>,
    /// Examples in a micro-batch [train.batch_size]
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<usize>,
    /// Longest prompt with completion, in tokens [data.max_length]
    #[arg(long, value_name = "N")]
    pub(crate) max_length: Option<usize>,
    /// Threads; all cores by default [train.threads]
    #[arg(long, value_name = "N", value_parser = threads())]
    pub(crate) threads: Option<usize>,
    /// Any other key of the configuration, as section.key=value; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// `wick train`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, allow_negative_numbers = true)]
pub(crate) struct Train {
    /// Keys of the configuration.
    #[command(flatten)]
    pub(crate) common: Common,
    /// Directory for the trained model, checkpoints and metrics [output.dir]
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: Option<String>,
    /// Optimizer steps [train.steps]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_STEPS))]
    pub(crate) steps: Option<u64>,
    /// Passes over the data [train.epochs]
    #[arg(long, value_name = "N", conflicts_with = "steps", value_parser = clap::value_parser!(u64).range(1..=MOST_EPOCHS))]
    pub(crate) epochs: Option<u64>,
    /// Peak learning rate [optimizer.learning_rate]
    #[arg(long, value_name = "X")]
    pub(crate) lr: Option<String>,
    /// Train a fresh LoRA adapter of this rank instead of all parameters [model.lora.rank]
    #[arg(long, value_name = "R", conflicts_with = "adapter")]
    pub(crate) lora: Option<usize>,
    /// Seed of the order of rows and of fresh weights [train.seed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=MOST_SEED))]
    pub(crate) seed: Option<u64>,
    /// Go on from the newest checkpoint in the output directory
    #[arg(long)]
    pub(crate) resume: bool,
    /// Show the resolved plan and stop
    #[arg(long)]
    pub(crate) print_plan: bool,
}

/// `wick objectives`
#[derive(Debug, Args)]
pub(crate) struct Objectives {
    /// One objective, by its name or another one for it; without it, the list of all
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// `wick eval`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Eval {
    /// Keys of the configuration.
    #[command(flatten)]
    pub(crate) common: Common,
    /// Directory of the reference model; without it that of the configuration, else the model itself (without its adapter, where it has one) [reference.path]
    #[arg(long, value_name = "DIR")]
    pub(crate) reference: Option<String>,
    /// Which rows of the data, such as 2000.. or ..500; with neither this nor --data nor --split, the held-out ones where the configuration has it [data.rows]
    #[arg(long, value_name = "RANGE")]
    pub(crate) rows: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `wick generate`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Generate {
    /// Directory of a Hugging Face model
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Directory of a PEFT adapter for it
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// What the model goes on from
    #[arg(long, short, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// Put the prompt into the model's chat template, as the user's turn
    #[arg(long)]
    pub(crate) chat: bool,
    /// Randomness; 0 takes the likeliest token each time
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub(crate) temperature: f64,
    /// Draw among the K likeliest tokens only
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Draw among the likeliest tokens that hold this share of the probability
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f64>,
    /// Seed of the draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub(crate) max_new_tokens: usize,
    /// Threads; all cores by default
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    pub(crate) threads: usize,
}

/// `wick data`
#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    /// Show some rows: parsed, or with a tokenizer token by token, with what is scored
    Inspect(DataInspect),
    /// Count and measure: rows kept and dropped, lengths, balance, ties, repeats, shared prompts, agreement
    Stats(DataStats),
    /// Write any form as TRL's JSON lines or Parquet
    Convert(DataConvert),
}

/// Which rows, and how they are read.
#[derive(Debug, Args)]
pub(crate) struct DataRows {
    /// A file, a directory, a glob, - for standard input, or hub:owner/name[@revision]
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// The form of the rows; told from the first one by default
    #[arg(long, value_name = "NAME", value_parser = crate::data::form)]
    pub(crate) form: Option<candlewick::data::Form>,
    /// Our name of a column and its place in the file, as completion=response, completion=solutions.0.text, or several for a list: completions=a,b; may be repeated
    #[arg(long, value_name = "NAME=PATH", value_parser = crate::data::column)]
    pub(crate) columns: Vec<(String, candlewick::data::ColumnPath)>,
    /// Which attribute or label decides, where rows have several
    #[arg(long, value_name = "NAME")]
    pub(crate) criterion: Option<String>,
    /// What becomes of completions that were found even
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = TiesWord::Drop)]
    pub(crate) ties: TiesWord,
    /// A number that every row must bring, as margin; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) numbers: Vec<String>,
    /// The subset of a data set of the Hub
    #[arg(long, value_name = "NAME")]
    pub(crate) subset: Option<String>,
    /// The split of a data set of the Hub; train by default
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// Which rows, counted from 0, such as 10..20 or ..500
    #[arg(long, value_name = "RANGE")]
    pub(crate) rows: Option<candlewick::data::RowRange>,
    /// Stop at the first row that cannot be used
    #[arg(long)]
    pub(crate) strict: bool,
    /// List every row that is dropped in this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(crate) dropped: Option<PathBuf>,
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
    /// Tokenize as for this model: a directory, or hub:owner/name[@revision]
    #[arg(long, visible_alias = "tokenizer", value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Longest prompt with completion, in tokens; without it nothing is cut
    #[arg(long, value_name = "N", requires = "model", value_parser = RangedU64ValueParser::<usize>::new().range(2..=1_000_000_000))]
    pub(crate) max_length: Option<usize>,
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
    /// With --to pairs: which of several rated completions are paired
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = PairingWord::BestWorst)]
    pub(crate) pairing: PairingWord,
    /// Leave out repeats: exact, near (similarity of 0.8), or near=S
    #[arg(long, value_name = "HOW", value_parser = crate::data::deduplicate)]
    pub(crate) deduplicate: Option<candlewick::data::Deduplicate>,
    /// At most so many labelled rows of the more frequent verdict for each of the other
    #[arg(long, value_name = "RATIO")]
    pub(crate) balance: Option<f64>,
    /// Write the rows of this share of the prompts to OUT with -held-out in its name instead
    #[arg(long, value_name = "SHARE")]
    pub(crate) held_out: Option<f64>,
    /// Seed of what --balance leaves out
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Replace files that are there already
    #[arg(long)]
    pub(crate) force: bool,
}

/// `wick bench`
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Time optimizer steps on rows in file order (AdamW, rate 1e-5, beta 0.1, clip at norm 1)
    Step(BenchStep),
    /// Time a file's way to token ids: every row once, in file order, no length cut
    Data(BenchData),
}

/// `wick bench data`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct BenchData {
    /// Directory of a tokenizer or model in Hugging Face's layout
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Rows, in any form
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// Where a completion begins: by one tokenization, or by TRL's rule of two
    #[arg(long, value_enum, default_value = "offsets")]
    pub(crate) boundary: BenchBoundary,
    /// Threads that tokenize; 0 for none beside the one that reads
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    pub(crate) workers: usize,
    /// Print one JSON line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Names of the rules by which a completion begins.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum BenchBoundary {
    /// By the offsets of one tokenization
    Offsets,
    /// Where prompt alone and prompt with completion part
    CommonPrefix,
}

/// `wick bench step`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct BenchStep {
    /// Directory of a Hugging Face model
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Pairs: JSON lines with prompt, chosen and rejected
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// Rows in a step
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) batch: usize,
    /// Measured steps
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) steps: usize,
    /// Steps before them
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) warmup: usize,
    /// The loss, with its default hyperparameters
    #[arg(long, value_name = "NAME", default_value = "dpo")]
    pub(crate) objective: String,
    /// Train a LoRA adapter of this rank, alpha twice that, on all seven linears; 0 trains everything
    #[arg(long, value_name = "R", default_value_t = 0)]
    pub(crate) lora: usize,
    /// With --lora: start from this PEFT adapter, which must have that rank, or write the seeded start there
    #[arg(long, value_name = "DIR", requires = "lora")]
    pub(crate) adapter: Option<PathBuf>,
    /// Compute the reference's log-probabilities before the clock starts
    #[arg(long)]
    pub(crate) precompute: bool,
    /// Longest prompt with completion, in tokens; longer ones are cut at their end
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) max_length: usize,
    /// Threads; all cores by default
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    pub(crate) threads: usize,
    /// Print one JSON line with the keys of the peers' programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// `wick quickstart`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Quickstart {
    /// Where everything goes; what an earlier quickstart left there is replaced
    #[arg(long, short, value_name = "DIR", default_value = "wick-quickstart")]
    pub(crate) output: PathBuf,
    /// Train the untuned model here, in some minutes, instead of using the one that ships with wick
    #[arg(long)]
    pub(crate) from_scratch: bool,
    /// With --from-scratch: put the untuned model here and stop
    #[arg(long, value_name = "DIR", requires = "from_scratch")]
    pub(crate) export: Option<PathBuf>,
    /// Seed of the pairs and of their order
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=MOST_SEED))]
    pub(crate) seed: u64,
    /// Threads; all cores by default
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    pub(crate) threads: usize,
    /// Steps on pairs, for tests.
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u64).range(1..=MOST_EPOCHS))]
    pub(crate) steps: Option<u64>,
    /// Steps on text with --from-scratch, for tests.
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u64).range(1..=MOST_EPOCHS))]
    pub(crate) text_steps: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_words_fit_together() {
        Arguments::command().debug_assert();
    }
}
