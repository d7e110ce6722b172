//! Runs every CUDA kernel on the host, through `src/cuda/emulation.h`, and compares it with the CPU's op in `f64`.
//!
//! The tests need a C++ compiler (`c++` or `g++`) and no GPU; without a compiler they say so and pass.
#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::print_stdout, unsafe_code, reason = "helpers of tests, which load a library")]

mod attention;
#[path = "../cases/mod.rs"]
mod cases;
mod direct;
mod harness;
mod measured;
mod tensor_cores;
mod tiles;
mod turns;
