use super::*;
use crate::testing::*;

#[test]
fn adds_every_element_once() {
    let x: Vec<f64> = numbers(1, 50_001);
    for threads in [1, 2] {
        let mut y = numbers(2, 50_001);
        let expected: Vec<f64> = y.iter().zip(&x).map(|(a, b)| a + b).collect();
        add_assign((&mut y).into(), (&x).into(), &mut Workspace::new(threads)).unwrap();
        assert_eq!(y, expected);
    }
}

#[test]
fn operands_that_do_not_fit_are_refused_and_none_are_fine() {
    let mut ws = Workspace::new(1);
    let x = vec![0.0f32; 3];
    assert_length(add_assign((&mut vec![0.0f32; 4]).into(), (&x).into(), &mut ws), "x");
    assert_no_kernel(add_assign(ViewMut::elsewhere(3), (&x).into(), &mut ws));
    add_assign::<f32>((&mut vec![]).into(), (&vec![]).into(), &mut ws).unwrap();
}

#[test]
fn mixes_by_the_weight_and_copies_at_one() {
    let x: Vec<f64> = numbers(1, 50_001);
    for threads in [1, 2] {
        let mut y = numbers(2, 50_001);
        let expected: Vec<f64> = y.iter().zip(&x).map(|(y, x)| 0.25 * x + 0.75 * y).collect();
        mix((&mut y).into(), (&x).into(), 0.25, &mut Workspace::new(threads)).unwrap();
        assert_eq!(y, expected);
        y[7] = f64::NAN;
        mix((&mut y).into(), (&x).into(), 1.0, &mut Workspace::new(threads)).unwrap();
        assert_eq!(y, x);
    }
    let mut ws = Workspace::new(1);
    assert_length(mix((&mut vec![0.0f64; 4]).into(), (&x).into(), 0.5, &mut ws), "x");
    assert!(
        mix((&mut vec![0.0f64]).into(), (&vec![1.0]).into(), 1.5, &mut ws).unwrap_err().to_string().contains("1.5")
    );
}

#[test]
fn narrows_to_the_nearest_and_widens_to_the_same() {
    // 1 + 2⁻⁸ lies between 1 and 1 + 2⁻⁷: even is 1. 1 + 3·2⁻⁸ lies between 1 + 2⁻⁷ and 1 + 2⁻⁶: even is the latter.
    let x = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0 + 1.01 / 256.0, -0.0, f32::MAX, f32::NEG_INFINITY];
    let expected = [1.0, 1.0 + 1.0 / 64.0, 1.0 + 1.0 / 128.0, -0.0, f32::INFINITY, f32::NEG_INFINITY];
    let mut ws = Workspace::new(1);
    let (mut y, mut back) = (vec![half::bf16::ONE; 6], vec![0.0f32; 6]);
    narrow((&mut y).into(), (&x[..]).into(), &mut ws).unwrap();
    widen((&mut back).into(), (&y).into(), &mut ws).unwrap();
    assert_eq!(back.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), expected.map(f32::to_bits));
    narrow((&mut y[..1]).into(), (&[f32::NAN][..]).into(), &mut ws).unwrap();
    assert!(y[0].is_nan());
    assert_length(narrow((&mut y).into(), (&x[1..]).into(), &mut ws), "x");
    assert_length(widen((&mut back[1..]).into(), (&y).into(), &mut ws), "x");
    assert_no_kernel(narrow::<half::bf16>(ViewMut::elsewhere(6), (&x[..]).into(), &mut ws));
}

#[test]
fn every_thread_converts_its_part() {
    let x = cast::<f32>(&numbers(1, 50_001));
    let expected: Vec<_> = x.iter().map(|&x| half::bf16::from_f32(x)).collect();
    let (mut y, mut back, mut ws) = (vec![half::bf16::ZERO; x.len()], vec![0.0f32; x.len()], Workspace::new(2));
    narrow((&mut y).into(), (&x).into(), &mut ws).unwrap();
    assert_eq!(y, expected);
    widen((&mut back).into(), (&y).into(), &mut ws).unwrap();
    assert!(back.iter().zip(&expected).all(|(back, y)| back.to_bits() == y.to_f32().to_bits()));
}
