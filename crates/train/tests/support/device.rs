//! Where the tests of devices compute.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candlewick_kernels::{Cuda, Order};
use candlewick_model::{CausalLm, Config, LoraConfig};
use candlewick_testkit::{emulated_kernels, needs_gpu};

use super::VOCABULARY;

/// A GPU where there is one, else the kernels emulated; nothing where they cannot be.
#[expect(unsafe_code, reason = "loads a library")]
pub fn device() -> Option<Cuda> {
    match Cuda::new(0) {
        Ok(device) => return Some(device),
        Err(error) if needs_gpu() => panic!("{error}"),
        Err(_) => {}
    }
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| emulated_kernels(Path::new(env!("CARGO_TARGET_TMPDIR")), &[]).unwrap());
    // SAFETY: made of the kernels' sources.
    library.as_ref().map(|library| unsafe { Cuda::emulated(library, Order::Ascending) }.unwrap())
}

/// Two layers with heads of 8 elements, weights far enough from zero that every gradient is.
pub fn model(with_adapter: bool) -> CausalLm<f64> {
    let mut config = Config::llama(VOCABULARY, 32, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (4, 2, 8);
    config.initializer_range = 0.2;
    let mut model = CausalLm::random(config, 1).unwrap();
    if with_adapter {
        model.add_lora(&LoraConfig { rank: 8, ..LoraConfig::default() }, 1).unwrap();
    }
    model
}
