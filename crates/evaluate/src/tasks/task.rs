//! A task, read from its file and checked.

use std::path::{Path, PathBuf};

use super::builtin;
use super::choice::Choice;
use super::field::{Field, Values};
use super::generate::Generate;
use super::rank::Rank;
use super::rating::Rating;
use super::win_rate::WinRate;
use super::words::{CompareBy, Match, TaskKind, Words};
use super::yes_no::YesNo;
use crate::error::{Error, Result};

/// A task: what is asked of each row of a file, and how the answers are scored.
///
/// ```
/// use candlewick_evaluate::tasks::Task;
/// let task = Task::parse(
///     r#"
///     name = "capitals"
///     kind = "choice"
///     prompt = "The capital of {{ country }} is"
///     choices = ["{{ right }}", "{{ wrong }}"]
///     answer = "0"
///     "#,
///     "capitals.toml",
/// )?;
/// assert_eq!((task.name(), task.rows()), ("capitals", None));
/// let wrong = Task::parse("kind = \"choice\"\nprompt = \"{{ \"\n", "t.toml").unwrap_err().to_string();
/// assert!(wrong.starts_with("t.toml: "), "{wrong}");
/// # Ok::<(), candlewick_evaluate::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Task {
    name: String,
    file: String,
    kind: TaskKind,
    description: Option<String>,
    rows: Option<PathBuf>,
    header: Option<Vec<String>>,
    only: Option<Field>,
    group: Option<Field>,
    slices: Vec<String>,
    judge: Option<String>,
    pub(super) ask: Ask,
}

/// What is asked, by kind.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    Choice(Choice),
    YesNo(YesNo),
    Rating(Rating),
    Generate(Generate),
    WinRate(WinRate),
    Rank(Rank),
}

/// What a task needs beside the model and its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskNeeds {
    /// It cannot do without a judge.
    pub judge: bool,
    /// It asks a judge if there is one.
    pub may_ask_judge: bool,
    /// The model's reference, or its adapter.
    pub reference: bool,
    /// Another model to answer beside it.
    pub opponent: bool,
    /// A model whose rewards decide, with its reference or adapter.
    pub reward: bool,
}

impl Task {
    /// A task by its name among the [built-in ones](super::builtin_tasks), or by the path of its file.
    ///
    /// # Errors
    /// Neither; a file that cannot be read or is no task.
    pub fn open(name: &str) -> Result<Self> {
        if let Some(text) = builtin::text(name) {
            return Self::parse(text, name);
        }
        let path = Path::new(name);
        if !path.is_file() && path.extension().is_none() {
            let known: Vec<&str> = builtin::names().collect();
            let reason =
                format!("{name:?} is neither a file nor a built-in task; the built-in ones are {}", known.join(", "));
            return Err(Error::config("task", reason));
        }
        let text = std::fs::read_to_string(path).map_err(Error::io("reading the task", path))?;
        let mut task = Self::parse(&text, name)?;
        if let (Some(rows), Some(folder)) = (&task.rows, path.parent()) {
            task.rows = Some(folder.join(rows));
        }
        Ok(task)
    }

    /// A task from its text; `file` names it in messages, and where it has no name. Its rows are where it says.
    ///
    /// # Errors
    /// What is no task, with line or key.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let words = Words::parse(text, file)?;
        let ask = match words.kind {
            TaskKind::Choice => Ask::Choice(Choice::new(&words, file)?),
            TaskKind::Pair => Ask::Choice(Choice::pair(&words, file)?),
            TaskKind::YesNo => Ask::YesNo(YesNo::new(&words, file)?),
            TaskKind::Rating => Ask::Rating(Rating::new(&words, file)?),
            TaskKind::Generate => Ask::Generate(Generate::new(&words, file)?),
            TaskKind::WinRate => Ask::WinRate(WinRate::new(&words, file)?),
            TaskKind::Rank => Ask::Rank(Rank::new(&words, file)?),
        };
        if words.header.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::config(format!("{file}: header"), "is empty; name the columns, or leave it out"));
        }
        let stem =
            || Path::new(file).file_stem().map_or_else(|| file.to_owned(), |stem| stem.to_string_lossy().into_owned());
        Ok(Self {
            name: words.name.clone().unwrap_or_else(stem),
            file: file.to_owned(),
            kind: words.kind,
            only: Field::optional(file, "only", words.only.as_ref())?,
            group: Field::optional(file, "group", words.group.as_ref())?,
            description: words.description,
            rows: words.rows,
            header: words.header,
            slices: words.slices,
            judge: words.judge,
            ask,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kind.
    pub fn kind(&self) -> TaskKind {
        self.kind
    }

    /// What it says of itself.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The file of its rows, where it names one.
    pub fn rows(&self) -> Option<&Path> {
        self.rows.as_deref()
    }

    /// The command that it names as its judge. It comes with the task file, as a download does: whoever starts it must have been
    /// told to by the user.
    pub fn judge_command(&self) -> Option<&str> {
        self.judge.as_deref()
    }

    /// What it needs.
    pub fn needs(&self) -> TaskNeeds {
        let mut needs = TaskNeeds::default();
        match &self.ask {
            Ask::Choice(_) | Ask::YesNo(_) | Ask::Rating(_) => {}
            Ask::Generate(task) => (needs.judge, needs.may_ask_judge) = (task.by == Match::Judge, task.may_ask()),
            Ask::WinRate(task) => {
                needs.opponent = task.needs_opponent();
                needs.reward = task.by == CompareBy::LogRatio;
                (needs.judge, needs.may_ask_judge) = (!needs.reward, !needs.reward);
            }
            Ask::Rank(task) => needs.reference = task.by == CompareBy::LogRatio,
        }
        needs
    }

    /// Where a key of it stands, for messages.
    pub(super) fn place(&self, key: &str) -> String {
        format!("{}: {key}", self.file)
    }

    pub(super) fn header(&self) -> Option<&[String]> {
        self.header.as_deref()
    }

    /// Whether a row is one of the task's.
    pub(super) fn takes(&self, values: &Values<'_>) -> Result<bool> {
        Ok(match &self.only {
            Some(only) => only.truth(values)?.unwrap_or(false),
            None => true,
        })
    }

    pub(super) fn group(&self, values: &Values<'_>) -> Result<Option<String>> {
        self.group.as_ref().map(|group| group.text(values)).transpose()
    }

    /// The columns by which it is sliced and what the row has in them.
    pub(super) fn slices(&self, values: &Values<'_>) -> Result<Vec<(String, String)>> {
        let mut slices = Vec::with_capacity(self.slices.len() + 1);
        if let Ask::Rating(rating) = &self.ask
            && let Some(dimension) = rating.dimension(values)?
        {
            slices.push(("dimension".to_owned(), dimension));
        }
        for name in &self.slices {
            let Some(value) = values.row.column(name) else {
                let known: Vec<&str> = values.row.columns.keys().map(String::as_str).collect();
                let reason = format!("slices: the row has no column {name:?}; it has {}", known.join(", "));
                return Err(values.row.wrong(reason));
            };
            slices.push((name.clone(), value));
        }
        Ok(slices)
    }
}
