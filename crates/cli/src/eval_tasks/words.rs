//! The words of `wick eval --task`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;

/// Questions from task files in place of preference data.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Tasks")]
pub(crate) struct TaskArguments {
    /// Ask the questions of a task in place of preference data: a task file, or the name of a built-in task; may be repeated. Of a configuration file, the sections model and reference and train.threads count
    #[arg(long = "task", value_name = "NAME|FILE")]
    pub(crate) tasks: Vec<String>,
    /// The rows of the task, in place of those it names; of several tasks once for each, in their order
    #[arg(long, value_name = "PATH", requires = "tasks")]
    pub(crate) task_rows: Vec<PathBuf>,
    /// Only the first N rows of each task
    #[arg(long, value_name = "N", requires = "tasks", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub(crate) limit: Option<usize>,
    /// Show what would be asked of the first N rows of each task, and stop
    #[arg(long, value_name = "N", requires = "tasks", value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    pub(crate) preview: Option<usize>,
    /// Put every prompt into the model's chat template, as the user's turn
    #[arg(long, requires = "tasks")]
    pub(crate) chat: bool,
    /// Command that judges answers: it reads one JSON object a line and answers one a line (see docs/benchmarks.md)
    #[arg(long, value_name = "COMMAND", requires = "tasks")]
    pub(crate) judge: Option<String>,
    /// Run the judge commands that task files name; without this no command of a file is ever run
    #[arg(long, requires = "tasks")]
    pub(crate) allow_commands: bool,
    /// Seconds that a judge may take for one answer; 60 by default
    #[arg(long, value_name = "SECONDS", requires = "tasks", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) judge_timeout: Option<u64>,
    /// Directory of a model that answers too, for win rates
    #[arg(long, value_name = "DIR", requires = "tasks")]
    pub(crate) against: Option<PathBuf>,
    /// Directory of a model whose log-ratio to --reward-reference decides which answer is better, for win rates with by = "log_ratio"
    #[arg(long, value_name = "DIR", requires = "tasks", requires = "reward_reference")]
    pub(crate) reward: Option<PathBuf>,
    /// Directory of the reference of --reward
    #[arg(long, value_name = "DIR", requires = "reward")]
    pub(crate) reward_reference: Option<PathBuf>,
    /// Write what the model said to each row here, one JSON object a line
    #[arg(long, value_name = "FILE", requires = "tasks")]
    pub(crate) task_items: Option<PathBuf>,
}
