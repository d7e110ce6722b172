//! What a device cannot do is an error that says what to do, and memory that is not there is one too.
use candlewick_kernels::Workspace;
use candlewick_model::{Gradients, LoraConfig, Recompute};
use half::bf16;

use super::{LOG_PROBS, batch, cotangents, device, model};

#[test]
fn adapters_that_no_device_has() {
    let Some(device) = device() else { return };
    let mut workspace = Workspace::new(1).on(&device);
    for (lora, word) in [
        (LoraConfig { targets: vec!["lm_head".into()], ..LoraConfig::default() }, "lm_head"),
        (LoraConfig { rank: 4, preferences: 2, ..LoraConfig::default() }, "Panacea"),
    ] {
        let mut host = model(false);
        host.add_lora(&lora, 1).unwrap();
        let error = host.to_device::<f64>(&device, &mut workspace).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("cpu"), "{error}");
    }
}

#[test]
fn memory_that_is_not_there() {
    let Some(device) = device() else { return };
    let mut workspace = Workspace::new(1).on(&device);
    let model = model(false).convert::<f32>().unwrap().to_device::<bf16>(&device, &mut workspace).unwrap();
    let (_, saved) = model.forward(&batch(), LOG_PROBS, Recompute::Nothing, &mut workspace).unwrap();
    device.limit_memory(1 << 12);
    let mut gradients = Gradients::beside(model.trainable());
    assert!(gradients.is_err());
    device.limit_memory(1 << 30);
    gradients = Gradients::beside(model.trainable());
    let mut gradients = gradients.unwrap();
    model.backward(&batch(), saved, &cotangents(&batch(), LOG_PROBS), &mut gradients, &mut workspace).unwrap();
    assert!(gradients.to_host().unwrap().iter().any(|x| *x != 0.0));
}
