//! What holds for the whole family of objectives.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod divergences;
mod identities;
mod objectives;
mod properties;
mod sample;
