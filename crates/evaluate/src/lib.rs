//! What training did, measured: comparisons of objectives, agreement with held-out preferences, drift, and the uncertainty of
//! each number.
//!
//! | to | see |
//! |---|---|
//! | compare objectives, settings and seeds | [`compare`] |
//! | measure how well any score of completions agrees with held-out preferences | [`HeldOut`] |
//! | measure how far a policy has moved from its reference | [`Drift`] |
//! | ask a model questions from a task file: choices, scales, written answers | [`tasks`] |
//! | put an interval around a number, or test a difference | [`stats`] |
//!
//! Nothing here prints, starts a thread or reads a clock.

pub mod compare;
mod drift;
mod error;
mod held_out;
pub mod stats;
pub mod tasks;

pub use drift::{Drift, DriftOptions};
pub use error::{Error, Result};
pub use held_out::{Half, HeldOut, Item};
