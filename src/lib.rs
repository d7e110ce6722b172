#![doc = include_str!("../README.md")]

pub use candlewick_data as data;
pub use candlewick_evaluate as evaluate;
#[cfg(feature = "hub")]
pub use candlewick_hub as hub;
pub use candlewick_kernels as kernels;
pub use candlewick_losses as losses;
pub use candlewick_model as model;
pub use candlewick_train as train;
