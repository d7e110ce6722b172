//! A disk that fills while a checkpoint is written.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
mod support;

use std::path::Path;
use std::process::Command;

use candlewick_losses::Sft;
use candlewick_train::{CausalPolicy, Checkpoint, Fault, Trainer};
use support::{batches, bits, model, options, pairs};

/// Names the directory that the child works in.
const CHILD: &str = "CANDLEWICK_TEST_DISK_FULL";

fn trainer() -> Trainer<CausalPolicy<f32>> {
    support::trainer(model(1), Sft {}, options(1e-2))
}

#[test]
fn the_checkpoint_before_stays_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint");
    let mut trainer = trainer();
    trainer.step(&batches(&pairs(4, 1), 2)).unwrap();
    trainer.save(&path, &serde_json::Value::Null, &[]).unwrap();
    let largest = std::fs::metadata(path.join("optimizer.safetensors")).unwrap().len();
    // In blocks of 512 bytes (of 1024 in some shells): nothing fits; some of the weights; the weights and not the optimizer.
    for blocks in [0, 3, largest / 1024 - 1] {
        // The limit holds for a whole process. Ignoring its signal makes it an error of `write`, as a full disk is.
        let child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f \"$1\"; exec \"$0\" --exact child --ignored"])
            .arg(std::env::current_exe().unwrap())
            .arg(blocks.to_string())
            .env(CHILD, directory.path())
            .output()
            .unwrap();
        assert!(child.status.success(), "{blocks}: {}", String::from_utf8_lossy(&child.stdout));
        assert_eq!(Checkpoint::open(&path).unwrap().state.step, 1);
        let left: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["checkpoint"], "nothing half-written remains");
    }
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn child() {
    #[expect(clippy::disallowed_methods, reason = "the parent names the directory in the environment")]
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let path = Path::new(&directory).join("checkpoint");
    let mut trainer = trainer();
    trainer.restore(&Checkpoint::open(&path).unwrap()).unwrap();
    let step = batches(&pairs(4, 2), 2);
    trainer.step(&step).unwrap();
    let error = trainer.save(&path, &serde_json::Value::Null, &[]).unwrap_err();
    assert_eq!(error.fault(), Fault::Files, "{error}");
    assert!(error.to_string().contains(".safetensors"), "{error}");
    // The run itself is unharmed.
    let before = bits(&trainer);
    trainer.step(&step).unwrap();
    assert_ne!(bits(&trainer), before);
}
