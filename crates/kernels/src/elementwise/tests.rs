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
