//! Training on a device: on a GPU where there is one, else with its kernels emulated.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod memory;
mod runs;
#[path = "../support/mod.rs"]
mod support;
mod trainer;
