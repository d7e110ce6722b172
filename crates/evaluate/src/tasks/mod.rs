//! Questions to a model, from a file: multiple choice, pairs of statements, yes or no, scales, written answers, win rates, and the
//! ranking of completions.
//!
//! A [`Task`] is a TOML file: a kind, templates over the columns of a row, and the place of the rows. [`TaskRows`] are the rows of any
//! file that `candlewick-data` reads, a [`Subject`] is a model with its tokenizer, and [`run_task`] brings them together to a
//! [`TaskReport`], in which every number has its count and interval, over all rows and by slice.
//!
//! | kind | asks | reports, among others |
//! |---|---|---|
//! | `choice` | for the likeliest of several continuations, in several forms and orders | accuracy by sum, mean, characters, bytes and mutual information; the mass of the right ones; calibration; consistency; BBQ's bias scores |
//! | `pair` | which of two texts is likelier | the same |
//! | `yes_no` | for yes against no, in several spellings | accuracy, area under the curve, calibration |
//! | `rating` | for a place on a scale, by dimension, with items keyed either way | scores, consistency under other words and reversed options |
//! | `generate` | for an answer | accuracy by a rule, refusals where they are wanted and where not, a judge's score |
//! | `win_rate` | whose answer is better | wins, ties, consistency in both orders |
//! | `rank` | for scores of good and bad completions | accuracy, by subset |
//!
//! A continuation's probability is that of the tokens that any of its characters belongs to, when prompt and continuation are
//! tokenized together ([`Encoder::encode_continuations`](candlewick_data::Encoder::encode_continuations)); nothing is appended.
//!
//! Nothing here starts a program: a judge is handed in ([`Judge`]), and the command that a task names is only told
//! ([`Task::judge_command`]).

mod builtin;
mod choice;
mod field;
mod forms;
mod generate;
mod judge;
mod matching;
mod preview;
mod rank;
mod rating;
mod report;
mod rows;
mod run;
mod subject;
mod task;
mod win_rate;
mod words;
mod yes_no;

pub use builtin::builtin_tasks;
pub use choice::{BiasRole, ChoiceOutcome, ChoiceVariant};
pub use field::TaskRow;
pub use generate::AnswerOutcome;
pub use judge::{Judge, JudgeQuestion, Winner};
pub use preview::Preview;
pub use rank::RankOutcome;
pub use rating::{RatingOutcome, RatingVariant};
pub use report::{Metric, Slice, TaskReport};
pub use rows::TaskRows;
pub use run::{Outcome, Parties, TaskItem, TaskRun, run_task};
pub use subject::Subject;
pub use task::{Task, TaskNeeds};
pub use win_rate::ComparisonOutcome;
pub use words::{ChoiceScore, CompareBy, Match, Orders, TaskKind};
pub use yes_no::YesNoOutcome;
