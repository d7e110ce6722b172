//! What `benches/gpu` measures runs: each op at a size that is small and ragged.
#[path = "../../benches/gpu/ops.rs"]
mod ops;

use candlewick_kernels::Workspace;
use ops::{At, Model};

use crate::harness::devices;

#[test]
fn every_op_of_the_benchmark_runs() {
    let Some([cuda, _]) = devices() else { return };
    let model = Model { hidden: 24, intermediate: 40, q_heads: 3, k_heads: 1, head_dim: 8, vocab: 50 };
    let mut all = ops::of_model(At { rows: 13, model });
    all.extend([ops::copy(1000), ops::product(24)]);
    for op in all {
        let run = op.once(&cuda).and_then(|mut once| once(&mut Workspace::new(1)));
        assert_eq!(run, Ok(()), "{} of {}", op.work.name, op.work.size);
        let only_moves = ["copy", "embedding forward", "narrow"].contains(&op.work.name);
        assert_eq!(op.work.flops == 0, only_moves, "{:?}", op.work);
    }
}
