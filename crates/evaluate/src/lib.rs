//! What training did, measured: comparisons of objectives, agreement with held-out preferences, drift, and the uncertainty of
//! each number.
//!
//! | to | see |
//! |---|---|
//! | compare objectives, settings and seeds | [`compare`] |
//! | train a sweep of settings, every one resumable | [`sweep`] |
//! | see which policies nothing beats in several objectives | [`pareto`] |
//! | measure how well any score of completions agrees with held-out preferences | [`Preferences`] |
//! | measure accuracy and calibration on them, by slice | [`PreferenceReport`] |
//! | score rows by a score model, and measure how well it agrees with them | [`RowScorer`](candlewick_train::RowScorer), [`ScoreTally`] |
//! | see what a run learned, in what order, and at what price | [`Diagnostics`] |
//! | name the training rows that moved a policy, and those that seem wrongly labelled | [`influence`] |
//! | measure how far a policy has moved from its reference | [`Drift`] |
//! | ask a model questions from a task file: choices, scales, written answers | [`tasks`] |
//! | put an interval around a number, or test a difference | [`stats`] |
//!
//! Nothing here prints, starts a thread or reads a clock.

mod again;
pub mod compare;
mod diagnostics;
mod drift;
mod error;
pub mod influence;
pub mod pareto;
mod preference_report;
mod preferences;
mod scoring;
pub mod stats;
pub mod sweep;
pub mod tasks;

pub use diagnostics::{Against, Change, Diagnostics, Extreme, Moment, SliceCourse, Trend, preferred_fall};
pub use drift::{Drift, DriftOptions};
pub use error::{Error, Result};
pub use preference_report::{PreferenceReport, SliceReport};
pub use preferences::{Half, Item, Preferences};
pub use scoring::{HeadFigures, HeadTally, ScoreTally, centre, with_values};
