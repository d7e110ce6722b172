//! What the tests of candlewick share: finite differences, an error measure, and
//! loaders for golden vectors and recorded training runs, the CUDA kernels on the host.
//!
//! It depends on no crate of the workspace, so that the crate under test is compiled once.

mod difference;
mod emulation;
mod golden;
mod load;
mod parity;

pub use difference::{central_difference, error, worst};
pub use emulation::{emulated_kernels, needs_gpu};
pub use golden::{
    BcoGolden, BcoStep, BcoUdmGolden, CpoGolden, DpoCase, DpoConfig, DpoGolden, FormulaVectors, Golden, KtoCase,
    KtoConfig, KtoGolden, Matrix, OrpoGolden, TrlTokens, TrlValues, shifted,
};
pub use load::{LoadError, shared, workspace};
pub use parity::{Batch, Fixture, Optimizer};
