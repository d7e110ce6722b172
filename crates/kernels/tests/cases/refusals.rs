//! What is refused before any kernel runs.
use candlewick_kernels::{Error, View, Workspace, adamw, rms_norm};

use crate::harness::devices;

#[test]
fn devices_are_not_mixed_and_missing_kernels_are_named() {
    let Some([cuda, other]) = devices() else { return };
    let mut ws = Workspace::new(1);
    let x = cuda.upload(&[1.0f32, 2.0]).unwrap();
    let mut on_device = cuda.upload(&[0.0f32; 2]).unwrap();
    let (w, mut y, mut rstd) = (vec![1.0f32; 2], vec![0.0; 2], vec![0.0; 1]);
    let shape = rms_norm::Shape { rows: 1, hidden: 2 };
    let mixed = rms_norm::forward(x.view(), (&w).into(), (&mut y).into(), (&mut rstd).into(), shape, 0.0, &mut ws);
    assert_eq!(mixed, Err(Error::MixedDevices { op: "rms_norm::forward" }));

    let hyper = adamw::Hyper { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 0.0, weight_decay: 0.0 };
    let mut v = vec![0.0f32; 2];
    let (m, v) = ((&mut y).into(), (&mut v).into());
    let none = adamw::step(on_device.view_mut(), x.view(), m, v, 1, 1.0, hyper, &mut ws).unwrap_err();
    assert_eq!(none, Error::NoKernel { op: "adamw::step", device: "cuda" });
    let narrow = vec![half::bf16::ONE; 2];
    let ones: View<'_, half::bf16> = (&narrow).into();
    let refused = rms_norm::forward(ones, ones, (&mut narrow.clone()).into(), (&mut rstd).into(), shape, 0.0, &mut ws);
    assert_eq!(refused, Err(Error::Narrow { op: "rms_norm::forward" }));

    let empty = cuda.upload::<f32>(&[]).unwrap();
    assert!(empty.download().unwrap().is_empty());
    let mut of_other = other.upload(&[5.0f32; 3]).unwrap();
    assert!(matches!(of_other.copy_from(&on_device), Err(Error::Length { got: 2, expected: 3, .. })));
    of_other.copy_from(&other.upload(&[1.0, 2.0, 3.0]).unwrap()).unwrap();
    assert_eq!(of_other.download().unwrap(), [1.0, 2.0, 3.0]);
}
