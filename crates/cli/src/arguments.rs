//! The words of the command line.

use std::path::PathBuf;

use anyhow::Result;
use candlewick::train::{DeviceKind, Dtype, Error, Hardware};
use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};

use crate::data::words::Data;
use crate::eval_tasks::words::TaskArguments;
use crate::failure::{EXIT_CODES, Failure};
use crate::pareto::words::Pareto;
use crate::safety::Safety;
use crate::sample::Sample;
use crate::score::Score;

/// Optimizer steps that a run can have.
const MOST_STEPS: u64 = 1_000_000_000;
/// Passes over the data that a run can have.
const MOST_EPOCHS: u64 = 1_000_000;
/// The largest whole number of TOML, in which configurations are written.
const MOST_SEED: u64 = i64::MAX as u64;

pub(crate) fn threads() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(0..=1024)
}

/// Align a language model to preferences: DPO, IPO, KTO and their family, on the CPU or a GPU, without Python.
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
    /// Score rows by the reference before any run, into a cache that runs share
    Precompute(Precompute),
    /// Measure a model on preferences, or on the questions of tasks, without training it
    Eval(Eval),
    /// Let a model answer the prompts of a file, several times each
    Sample(Sample),
    /// Score rows by a reward or cost model: its numbers beside them, and how well they agree with the rows
    Score(Score),
    /// Constraints: limits of cost, their multipliers, and pairs to train with, from scored completions
    #[command(subcommand)]
    Safety(Safety),
    /// Compare objectives, settings and seeds on one model and the same rows
    Compare(Compare),
    /// Train a sweep of settings, or take policies that are there, and show which of them nothing beats in several objectives
    Pareto(Pareto),
    /// Name the training rows that moved a model towards an answer, and those that seem wrongly labelled
    Why(Why),
    /// Show what a run learned, in what order and at what price, from what it left in its directory
    Report(Report),
    /// The checkpoints of a run: list them, verify them, export what one holds
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Make one model or adapter of several by their weights, or put an adapter into its base
    Merge(Merge),
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
    /// Preference data: a file (JSON lines, JSON, CSV, TSV, Parquet or Arrow, also .gz or .zst), a directory, a glob, or hub:owner/name@revision [data.path]
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
    /// Where to compute: cpu, or cuda or cuda:N in a build with the feature cuda [train.device]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceKind>,
    /// What to compute in, f32 or bf16; by default f32 on the cpu and bf16 on a device [train.dtype]
    #[arg(long, value_name = "DTYPE")]
    pub(crate) dtype: Option<Dtype>,
    /// Any other key of the configuration, as section.key=value; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// Where a command without a configuration computes, and in what.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Place {
    /// Where to compute: cpu, or cuda or cuda:N in a build with the feature cuda
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub(crate) device: DeviceKind,
    /// What to compute in, f32 or bf16; by default f32 on the cpu and bf16 on a device, where what is trained is f32 too
    #[arg(long, value_name = "DTYPE")]
    pub(crate) dtype: Option<Dtype>,
}

impl Place {
    /// Opens the device, if one is named.
    pub(crate) fn open(self) -> Result<(Hardware, Dtype)> {
        let dtype = Dtype::resolve(self.dtype, self.device).map_err(|_| {
            Failure::Usage("--dtype bf16: the cpu does not compute in it; add --device cuda, or leave it out".into())
        })?;
        let hardware = Hardware::open(self.device).map_err(|error| match error {
            Error::Config { reason, .. } => Failure::Usage(format!("--device {reason}")).into(),
            other => anyhow::Error::new(other),
        })?;
        Ok((hardware, dtype))
    }
}

/// Keys of a single run that have a flag of their own.
#[derive(Debug, Default, Args)]
pub(crate) struct Course {
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
    /// How far and what.
    #[command(flatten)]
    pub(crate) course: Course,
    /// Seed of the order of rows and of fresh weights [train.seed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=MOST_SEED))]
    pub(crate) seed: Option<u64>,
    /// Go on from the newest checkpoint in the output directory
    #[arg(long)]
    pub(crate) resume: bool,
    /// Show the resolved plan and the memory it takes, and stop
    #[arg(long)]
    pub(crate) print_plan: bool,
}

/// `wick precompute`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, allow_negative_numbers = true)]
pub(crate) struct Precompute {
    /// Keys of the configuration.
    #[command(flatten)]
    pub(crate) common: Common,
    /// Directory of the cache; by default the one in output.dir, where a run looks for it [reference.path]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Add to a cache that holds other references alone [reference.shared]
    #[arg(long)]
    pub(crate) shared: bool,
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
    /// Columns by whose words accuracy and calibration are shown apart, as category,annotator [evaluation.slices]
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub(crate) slices: Vec<String>,
    /// The preference that a Panacea adapter is told, a number for each of its objectives, of sum 1: 0.3,0.7. Equal ones by default
    #[arg(long, value_name = "X,X", value_delimiter = ',')]
    pub(crate) preference: Vec<f64>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Questions from task files.
    #[command(flatten)]
    pub(crate) tasks: TaskArguments,
}

/// `wick compare`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Compare {
    /// Keys of the configuration.
    #[command(flatten)]
    pub(crate) common: Common,
    /// Directory for the runs and what comes out; a comparison that stands there goes on
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// What is compared, with default settings, in place of compare.objectives and compare.arms: dpo,ipo,kto
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) objectives: Option<Vec<String>>,
    /// How many seeds [compare.seeds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) seeds: Option<u64>,
    /// Optimizer steps of a run [train.steps]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_STEPS))]
    pub(crate) steps: Option<u64>,
    /// Runs at the same time; by default as many as there are threads and memory allows
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub(crate) parallel: Option<usize>,
    /// Run nothing: report what has run so far
    #[arg(long)]
    pub(crate) report: bool,
    /// Print one JSON object in place of the table
    #[arg(long)]
    pub(crate) json: bool,
}

/// `wick why`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Why {
    /// Keys of the configuration: that of the run that is asked about.
    #[command(flatten)]
    pub(crate) common: Common,
    /// Directory of the run, whose result is asked about [output.dir]
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: Option<String>,
    /// Which rows moved the model towards its answer to this prompt; with --answer
    #[arg(long, value_name = "TEXT", requires = "answer", conflicts_with_all = ["rows", "mislabelled"])]
    pub(crate) prompt: Option<String>,
    /// The answer
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    pub(crate) answer: Option<String>,
    /// Which rows moved the model on these: a file of rows as those it was trained on
    #[arg(long, value_name = "FILE", conflicts_with = "mislabelled")]
    pub(crate) rows: Option<PathBuf>,
    /// Which training rows seem wrongly labelled: those that most oppose the held-out ones
    #[arg(long)]
    pub(crate) mislabelled: bool,
    /// Rows that are shown
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub(crate) top: usize,
    /// Training rows that are looked at, from the first
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000_000))]
    pub(crate) limit: Option<usize>,
    /// Numbers in the sketch of a gradient; a cosine is known to about one over their root
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = RangedU64ValueParser::<usize>::new().range(64..=1 << 20))]
    pub(crate) dimensions: usize,
    /// Print a JSON object a row
    #[arg(long)]
    pub(crate) json: bool,
}

/// `wick report`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Report {
    /// Directory of the run, which may still go on [output.dir]
    #[arg(value_name = "DIR")]
    pub(crate) run: PathBuf,
    /// Where the page goes; report.html in the directory of the run by default
    #[arg(long, value_name = "FILE")]
    pub(crate) page: Option<PathBuf>,
    /// Print one JSON object in place of words
    #[arg(long)]
    pub(crate) json: bool,
}

/// `wick checkpoint`
#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// Show the checkpoints of a run, and whether each is whole
    List(CheckpointPlace),
    /// Check every file of the checkpoints of a run, or of one checkpoint, against its checksum; exit code 4 where one is damaged
    Verify(CheckpointPlace),
    /// Write what a checkpoint holds as a Hugging Face model or a PEFT adapter
    Export(CheckpointExport),
}

/// `wick checkpoint list` and `verify`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct CheckpointPlace {
    /// Directory of a run, or of one checkpoint
    #[arg(value_name = "DIR")]
    pub(crate) place: PathBuf,
    /// Print a JSON object a checkpoint
    #[arg(long)]
    pub(crate) json: bool,
}

/// `wick checkpoint export`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct CheckpointExport {
    /// Directory of a checkpoint, or of a run, of which the newest whole one is taken
    #[arg(value_name = "DIR")]
    pub(crate) place: PathBuf,
    /// Where the model or adapter goes; nothing may be there
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
}

/// `wick merge`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, allow_negative_numbers = true)]
pub(crate) struct Merge {
    /// Directory of a model that is merged, or hub:owner/name; once for each
    #[arg(long = "model", value_name = "DIR", required_unless_present = "adapters", conflicts_with = "adapters")]
    pub(crate) models: Vec<PathBuf>,
    /// Directory of a PEFT adapter that is merged, or hub:owner/name; once for each
    #[arg(long = "adapter", value_name = "DIR")]
    pub(crate) adapters: Vec<PathBuf>,
    /// Directory of the model that all were trained from; with --adapter it is what they are put into
    #[arg(long, value_name = "DIR")]
    pub(crate) base: Option<PathBuf>,
    /// How (docs/merging.md)
    #[arg(long, value_enum, default_value = "linear")]
    pub(crate) method: MergeMethod,
    /// Weights, one a model in their order; 1 each by default
    #[arg(long, value_name = "X", value_delimiter = ',', allow_hyphen_values = true)]
    pub(crate) weight: Vec<f64>,
    /// Divide by the weights; true by default for linear, ties and dare_ties
    #[arg(long, value_name = "true|false")]
    pub(crate) normalize: Option<bool>,
    /// The factor of the merged task vector; 1 by default
    #[arg(long, value_name = "X")]
    pub(crate) lambda: Option<f64>,
    /// slerp: from 0, the first model, to 1, the second; 0.5 by default
    #[arg(long, value_name = "X")]
    pub(crate) t: Option<f64>,
    /// slerp: what is one vector; every tensor by default
    #[arg(long, value_enum)]
    pub(crate) by: Option<MergeVector>,
    /// ties, dare_linear, dare_ties: the share of the elements that is kept, one for all or one a model
    #[arg(long, value_name = "X", value_delimiter = ',')]
    pub(crate) density: Vec<f64>,
    /// dare_linear, dare_ties: divide what is kept by the density; true by default
    #[arg(long, value_name = "true|false")]
    pub(crate) rescale: Option<bool>,
    /// dare_linear, dare_ties: seed of the draw; 0 by default
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// iso_cts: the share of directions that are common; 0.8 by default
    #[arg(long, value_name = "X")]
    pub(crate) common_space_fraction: Option<f64>,
    /// Rank of the merged adapter; without it nothing is lost, where that is possible
    #[arg(long, value_name = "R", conflicts_with_all = ["models", "base"])]
    pub(crate) rank: Option<usize>,
    /// Take a Panacea adapter at this preference, a number for each of its objectives, of sum 1: 0.3,0.7
    #[arg(long, value_name = "X,X", value_delimiter = ',', conflicts_with = "models")]
    pub(crate) preference: Vec<f64>,
    /// Type of the numbers that are written; that of the base by default, else that of the first model or adapter
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<MergeDtype>,
    /// Where the result goes; nothing may be there
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
}

/// Names of the methods of `wick merge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum MergeMethod {
    /// A weighted mean of the weights
    Linear,
    /// The base and a weighted sum of task vectors
    TaskArithmetic,
    /// Along the arc between two models, or with --base between their task vectors
    Slerp,
    /// Trimmed task vectors, averaged where their signs agree
    Ties,
    /// Task vectors with elements dropped at random, added up
    DareLinear,
    /// The same, averaged where their signs agree
    DareTies,
    /// The sum of task matrices with equal singular values
    IsoC,
    /// The same over common and task-specific directions
    IsoCts,
}

/// What `wick merge --method slerp` takes for one vector.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum MergeVector {
    /// Every tensor
    Tensor,
    /// All tensors of a layer together
    Layer,
}

/// Types of numbers in weight files.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum MergeDtype {
    /// 64 bits
    Float64,
    /// 32 bits
    Float32,
    /// 16 bits, IEEE
    Float16,
    /// 16 bits, the upper half of 32
    Bfloat16,
}

/// `wick generate`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, allow_negative_numbers = true)]
pub(crate) struct Generate {
    /// Directory of a Hugging Face model
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Directory of a PEFT adapter for it
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// The preference that a Panacea adapter is told, a number for each of its objectives, of sum 1: 0.3,0.7. Equal ones by default
    #[arg(long, value_name = "X,X", value_delimiter = ',')]
    pub(crate) preference: Vec<f64>,
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
    /// Where the model answers.
    #[command(flatten)]
    pub(crate) place: Place,
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

/// What a timed step computes twice.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum BenchRecompute {
    /// Nothing but what is cheap
    Nothing,
    /// Every layer, of which only the input is kept
    Layers,
}

/// `wick bench step`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct BenchStep {
    /// Directory of a Hugging Face model
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// JSON lines with prompt, chosen and rejected; with an objective of verdicts, prompt, completion (or response) and label
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
    /// What the backward computes again instead of keeping it
    #[arg(long, value_enum, default_value = "nothing")]
    pub(crate) recompute: BenchRecompute,
    /// Longest prompt with completion, in tokens; longer ones are cut at their end
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) max_length: usize,
    /// Threads; all cores by default
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    pub(crate) threads: usize,
    /// Where steps are made.
    #[command(flatten)]
    pub(crate) place: Place,
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
