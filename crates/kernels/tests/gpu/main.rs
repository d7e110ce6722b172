//! Runs every CUDA kernel on a device and compares it with the CPU's op in `f64`, twice for the same bits: the cases of the emulation,
//! and larger ones.
//!
//! Without the feature `cuda`, or without a device, the tests say so and pass; with `CANDLEWICK_NEEDS_GPU` in the environment they fail.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

#[path = "../cases/mod.rs"]
mod cases;
mod harness;
mod large;
