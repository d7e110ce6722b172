//! Operands of more than 2³² elements, which the emulation cannot hold.
use candlewick_kernels::gated::{self, Activation};
use candlewick_kernels::{Cuda, CudaBuffer, Error, Result, Workspace, embedding, rms_norm};
use half::bf16;

use crate::harness::device;

const HIDDEN: usize = 4096;
const ROWS: usize = (1 << 20) + 3;

/// Rows of `x` `[N, H]` by number.
fn rows(cuda: &Cuda, x: &CudaBuffer<bf16>, numbers: &[u32]) -> Result<CudaBuffer<bf16>> {
    let mut found = cuda.unwritten(numbers.len() * HIDDEN)?;
    let numbers = cuda.upload(numbers)?;
    embedding::gather(numbers.view(), x.view(), found.view_mut(), HIDDEN, &mut Workspace::new(1))?;
    Ok(found)
}

/// rms_norm(x), then x·silu(x) of that.
fn computed(cuda: &Cuda, x: &CudaBuffer<bf16>) -> Result<CudaBuffer<bf16>> {
    let shape = rms_norm::Shape { rows: x.len() / HIDDEN, hidden: HIDDEN };
    let mut ws = Workspace::new(1);
    let weight = cuda.upload(&vec![bf16::from_f32(1.5); HIDDEN])?;
    let (mut y, mut rstd) = (cuda.unwritten::<bf16>(x.len())?, cuda.unwritten::<f32>(shape.rows)?);
    rms_norm::forward(x.view(), weight.view(), y.view_mut(), rstd.view_mut(), shape, 1e-5, &mut ws)?;
    let mut gated = cuda.unwritten::<bf16>(x.len())?;
    gated::forward(Activation::Silu, y.view(), y.view(), gated.view_mut(), &mut ws)?;
    Ok(gated)
}

/// Rows that repeat come to what they come to alone, wherever they are. The three buffers are of 8.6 GB each.
#[test]
fn rows_beyond_32_bits_are_like_those_before() {
    let Some(cuda) = device() else { return };
    let memory = cuda.properties().unwrap().memory_bytes;
    if memory < 32 << 30 {
        return println!("left out: the device has {memory} bytes of memory, these buffers need 32 GiB");
    }
    let few: Vec<_> = (0..3 * HIDDEN).map(|i| bf16::from_f32((i * 37 % 101) as f32 / 50.0 - 1.0)).collect();
    let few = cuda.upload(&few).unwrap();
    let many: Vec<u32> = (0..ROWS as u32).map(|row| row % 3).collect();
    let expected = computed(&cuda, &few).unwrap().download().unwrap();
    let all = computed(&cuda, &rows(&cuda, &few, &many).unwrap()).unwrap();
    let last = ROWS as u32 - 3;
    for first in [0, 1 << 19, last] {
        let first = first / 3 * 3;
        let found = rows(&cuda, &all, &[first, first + 1, first + 2]).unwrap().download().unwrap();
        assert_eq!(found, expected, "rows from {first}");
    }
}

/// The driver's own refusal, without a limit.
#[test]
fn more_than_all_memory_is_refused() {
    let Some(cuda) = device() else { return };
    let wanted = cuda.memory().unwrap().total + 1;
    let none = cuda.unwritten::<u8>(wanted).unwrap_err();
    assert!(matches!(none, Error::OutOfMemory { wanted: told, .. } if told == wanted), "{none}");
    assert_eq!(cuda.upload(&[3u8]).unwrap().download().unwrap(), [3]);
}
