//! Preference data of every public format, streamed to token ids and masks.
//!
//! A file of rows becomes the batches of a run in four moves, each a type:
//! [`Source`] (rows, in a [`Form`]) → [`Encoder`] (a [`Row`] to an [`Example`]: ids, and which of them are scored) →
//! [`Stream`] (an epoch in [`Order`], rejected rows in a [`Report`]) → [`Batches`] (micro-batches of optimizer steps, with a
//! [`Cursor`] that brings a stopped run back to the same rows).
//!
//! ```no_run
//! use candlewick_data::{Batches, BatchOptions, EncodeOptions, Encoder, Order, Source, SourceOptions};
//! use std::{path::Path, sync::Arc};
//!
//! let encoder = Arc::new(Encoder::from_dir(Path::new("model"), EncodeOptions::default())?);
//! let source = Source::open(&SourceOptions::new("pairs.jsonl.gz"))?;
//! let order = Order::Shuffled { seed: 0, buffer: 10_000 };
//! let mut batches = Batches::new(source, encoder.clone(), BatchOptions { order, ..BatchOptions::default() })?;
//! while let Some(step) = batches.next_step()? {
//!     for batch in &step {
//!         assert!(!batch.examples.is_empty());
//!     }
//! }
//! assert_eq!(batches.report().rejected_rows(), 0, "{}", batches.report());
//! # Ok::<(), candlewick_data::Error>(())
//! ```
//!
//! Rows are pairs, labelled rows, demonstrations, completions ranked by ratings, or completions with a judgment in words; the
//! layouts of files are listed at [`Form`]. Beside its texts a row may have to bring
//!
//! | what | asked for by | goes to |
//! |---|---|---|
//! | numbers, such as a margin or a share of votes | [`SourceOptions::numbers`] | [`Example::numbers`] |
//! | a teacher's log-probabilities, a few tokens a place | [`SourceOptions::teacher`] | [`Completion::teacher`] |
//!
//! and what it lacks sets it aside, with column, found and expected in the [`Report`]. Of a pair that is a revision and its
//! first version, [`ScoredTokens::Edits`] scores only what was changed. [`BatchOptions::stratified`] lets every step hold
//! both labels as long as there are both.
//!
//! Memory holds one step, the lines of the shuffle buffer, and for stratified steps [`LOOK_AHEAD`] examples; it does not grow
//! with the file. The crate knows no tensor and no device, prints nothing and starts no thread.

mod batches;
mod describe;
mod edits;
mod encode;
mod error;
mod form;
mod jinja;
mod judged;
mod mismatch;
mod moment;
mod numbers;
mod order;
mod read;
mod report;
mod row;
mod rows;
mod sequence;
mod source;
mod split;
mod stratify;
mod stream;
mod teacher;
mod template;
mod tokens;
mod truncate;

pub use batches::{BatchOptions, Batches, LastStep, split as split_step};
pub use encode::{Boundary, EncodeOptions, Encoder, EndOfSequence, ScoredTokens, Truncation};
pub use error::{Error, Reason, Rejection};
pub use form::Form;
pub use mismatch::fill as fill_mismatched;
pub use moment::Moment;
pub use numbers::NumberColumn;
pub use order::Order;
pub use read::MAX_LINE_BYTES;
pub use report::{Counts, LISTED_REJECTIONS, Report};
pub use row::{
    Annotation, Batch, Completion, Context, Example, Message, Origin, Record, Row, TeacherToken, Text, Unit,
};
pub use rows::RowRange;
pub use source::{Source, SourceOptions};
pub use stratify::LOOK_AHEAD;
pub use stream::{Cursor, Stream};
pub use teacher::TeacherColumn;
pub use template::{Ending, RenderOptions};
pub use tokens::TokenizerFiles;
