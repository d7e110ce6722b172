//! A little world whose sentences, and preferences between them, a small model can learn: what the quickstart and the benchmark
//! of losses are made of.

pub(crate) mod grammar;
pub(crate) mod lexicon;
pub(crate) mod random;
