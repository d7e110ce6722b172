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
//! Files are JSON lines, JSON arrays, CSV or TSV, Parquet or Arrow, plain or in gzip or zstd, one by one, in directories or by
//! patterns ([`SourceOptions::path`]). Parquet and Arrow need the feature `columnar` and zstd the feature of its name; both are
//! on by default.
//!
//! Rows are pairs, labelled rows, demonstrations, completions ranked by ratings, or completions with a judgment in words; the
//! layouts of files are listed at [`Form`]. A row that cannot be used is a [`Rejection`] with its place and a [`Reason`], never a
//! gap; [`Source::records`] gives rows before they are tokens, [`Stats`] measures them and [`Writer`] writes them. Beside its
//! texts a row may have to bring
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
//! Several sources become one by [`Source::mixture`], and one is shared out over devices by [`Source::sharded`].
//! [`BatchOptions::tokens`] packs a step by tokens, [`BatchOptions::bucket`] gathers rows of like length, and
//! [`BatchOptions::workers`] encodes on threads, with the same steps whatever their number.
//!
//! Before any of it whole rows may be left out or turned into others: [`Selection`] finds repeats and balances verdicts,
//! [`PromptRange`] splits so that no prompt is on both sides, [`unpair`], [`pair_up`] and [`ranked_pairs`] make rows of one
//! kind from those of another. Pairs with labels of safety are ordered by one of them ([`SafetyOrder`]), and prompts are made to say
//! what their completions are like ([`scores_in_context`], [`Control`]). [`SafetyWorld`] makes rows with such labels, whose
//! truth is known.
//!
//! Memory holds one step, the rows of the shuffle buffer as bytes, the rows that threads are at (at most 64 a thread), and
//! [`LOOK_AHEAD`] examples for stratified steps or those of [`BatchOptions::bucket`] steps; it does not grow with the file. The
//! crate knows no tensor and no device, prints nothing, and starts no thread unless asked for workers.
//!
//! # Limits
//! Files and templates come from others, so memory stays bounded whatever they hold; what is beyond is an error or a rejected row.
//!
//! | of | at most |
//! |---|---|
//! | a row | [`MAX_LINE_BYTES`] as JSON |
//! | a Parquet file | a footer of 64 MiB; 65,536 columns, 64 deep; pages of 256 MiB uncompressed |
//! | a Parquet column of lists | 2²⁴ values a page, 2²⁶ a row group |
//! | an Arrow message | 1 GiB, compressed or not; 2²⁸ values a column |
//! | a chat template | 1 MiB; 5 million steps, 256 MiB made and 16 MiB rendered each time |

mod batches;
mod bucket;
mod byte_level;
mod check;
mod continuations;
mod cursor;
mod describe;
mod edits;
mod encode;
mod error;
mod form;
mod inspect;
mod jinja;
mod judged;
mod mismatch;
mod mixture;
mod moment;
mod numbers;
mod order;
mod packing;
mod part;
mod pass;
mod place;
mod raw_rows;
mod read;
mod records;
mod report;
mod row;
mod row_template;
mod rows;
mod safety_world;
mod sequence;
mod shape;
mod source;
mod split;
mod stats;
mod stratify;
mod stream;
mod teacher;
mod template;
mod tokens;
mod truncate;
mod workers;
mod write;

pub use batches::{BatchOptions, Batches, LastStep, split as split_step};
pub use cursor::Cursor;
pub use encode::{
    Boundary, CompletionTruncation, EncodeOptions, Encoder, EndOfSequence, PromptTruncation, ScoredTokens, Truncation,
};
pub use error::{Error, Reason, Rejection};
pub use form::{ColumnPath, Form, Ties};
pub use inspect::{Span, SpanKind, SpanPart, SpanText, spans};
pub use jinja::Fail as TemplateError;
pub use mismatch::fill as fill_mismatched;
pub use mixture::{MixtureEnd, Shard};
pub use moment::Moment;
pub use numbers::NumberColumn;
pub use order::{Order, SplitMix};
pub use packing::{pack as pack_step, tokens as example_tokens};
pub use pass::{PartState, PassState};
pub use place::Place;
pub use raw_rows::RawRows;
pub use read::{MAX_LINE_BYTES, Position};
pub use records::Records;
pub use report::{Counts, LISTED_REJECTIONS, PartCounts, Report};
pub use row::{
    Annotation, Batch, Completion, Context, Example, Message, Origin, Record, Row, TeacherToken, Text, Unit,
};
pub use row_template::RowTemplate;
pub use rows::RowRange;
pub use safety_world::{SafetyAnswer, SafetyPrompt, SafetyRow, SafetyWorld};
pub use shape::{
    Aspect, Balance, Contradiction, Control, Deduplicate, DesiredScores, LabelCounts, LeftOut, Level, PairBy, PairUp,
    Pairing, PromptRange, RankedPairs, SafetyCounts, SafetyOrder, ScoreMeter, ScoreScale, Selection, SelectionOptions,
    Selector, Threshold, ask_for_scores, label_weights, order_by_safety, pair_up, prompt_hash, prompt_place,
    ranked_pairs, score_columns, score_words, scores_in_context, unpair, unpair_ranked,
};
pub use source::{Source, SourceOptions};
pub use stats::{
    Duplicates, LabelBalance, LengthBias, LengthBin, LengthSummary, LengthUnit, NumberSummary, RowCounts, RowKind,
    RowPart, SafetySummary, SharedPrompts, SourceSummary, Stats, Summary, TieShare, TokenSummary, VoteSummary,
};
pub use stratify::LOOK_AHEAD;
pub use stream::Stream;
pub use teacher::TeacherColumn;
pub use template::{Ending, RenderOptions};
pub use tokens::TokenizerFiles;
pub use write::{Existing, Layout, Writer};
