//! Safe RLHF in worlds that are small enough to write the optimum down.
//!
//! The numbers that results are compared with are closed forms, or come from a program of its own in double precision
//! (`tools/safe_rlhf_worlds.py`), which shares no code with this crate.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod dynamics;
mod offline;
mod solver;
mod toys;
mod world;
