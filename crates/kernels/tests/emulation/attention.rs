//! `flash.cu`: what its tiles cost.
use candlewick_kernels::Workspace;
use candlewick_kernels::attention::{self, Layout, Segment, Shape, Tiles};
use half::bf16;

use crate::direct::direct;
use crate::harness::device;

#[test]
fn rows_of_tiles_meet_in_no_bank() {
    let (Some(direct), Some(cuda)) = (direct(), device()) else { return };
    let segments = [Segment { prompt: 0..7, completions: vec![7..12, 12..40] }];
    for head_dim in [64, 96, 128, 256] {
        let shape = Shape { rows: 40, heads: 1, kv_heads: 1, head_dim, soft_cap: None, window: None };
        let tiles = Tiles::of(&segments, shape.rows).unwrap();
        let [queries, keys, ranges] =
            [&tiles.queries, &tiles.keys, &tiles.ranges].map(|numbers| cuda.upload(numbers).unwrap());
        let tiles = tiles.views_of(queries.view(), keys.view(), ranges.view());
        let layout = Layout { segments: &segments, tiles: Some(tiles) };
        let x = cuda.upload(&vec![bf16::ONE; shape.rows * head_dim]).unwrap();
        let [mut out, mut dq, mut dk, mut dv] = [(); 4].map(|()| cuda.unwritten::<bf16>(x.len()).unwrap());
        let (mut lse, ws) = (cuda.unwritten::<f32>(shape.rows).unwrap(), &mut Workspace::new(1));
        let x = x.view();
        attention::forward(x, x, x, out.view_mut(), lse.view_mut(), layout, shape, ws).unwrap();
        assert_eq!(direct.conflicts(), 0, "forward, {head_dim}");
        let (into_q, into_k, into_v) = (dq.view_mut(), dk.view_mut(), dv.view_mut());
        attention::backward(x, x, x, out.view(), lse.view(), x, into_q, into_k, into_v, layout, shape, ws).unwrap();
        assert_eq!(direct.conflicts(), 0, "backward, {head_dim}");
    }
}
