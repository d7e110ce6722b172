use super::*;
use crate::testing::*;

fn outcome<T: Float>(grads: &[T], max_norm: f64, threads: usize) -> [f64; OUTCOME] {
    let mut outcome = [f64::NAN; OUTCOME];
    by_norm(grads.into(), max_norm, (&mut outcome[..]).into(), &mut Workspace::new(threads)).unwrap();
    outcome
}

#[test]
fn the_norm_and_its_factor_by_hand() {
    assert_near(&outcome(&[3.0f32, 0.0, -4.0], 2.5, 1), &[5.0, 0.5, 1.0], 1e-6, "above the limit");
    assert_near(&outcome(&[3.0f64, 0.0, -4.0], 6.0, 1), &[5.0, 1.0, 1.0], 1e-15, "below the limit");
    assert_near(&outcome(&[3.0f64, 0.0, -4.0], 0.0, 1), &[5.0, 1.0, 1.0], 1e-15, "no limit");
    assert_near(&outcome::<f32>(&[], 1.0, 1), &[0.0, 1.0, 1.0], 1e-15, "no gradient");
}

#[test]
fn the_factor_is_torchs() {
    assert!((factor(4.0, 1.0) - 1.0 / 4.000_001).abs() < 1e-15);
    assert!((factor(0.5, 1.0) - 1.0).abs() < f64::EPSILON);
    assert!((factor(1e9, 0.0) - 1.0).abs() < f64::EPSILON);
}

#[test]
fn large_gradients_have_a_norm_and_infinite_ones_have_none() {
    let large = outcome(&[f32::MAX; 3], 1.0, 1);
    assert!((large[0] / (f64::from(f32::MAX) * 3f64.sqrt()) - 1.0).abs() < 1e-12, "{large:?}");
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let [norm, factor, finite] = outcome(&[1.0, bad, 2.0], 1.0, 1);
        assert!(!norm.is_finite());
        assert_eq!([factor, finite].map(f64::to_bits), [0; 2]);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let grads = cast::<f32>(&numbers(1, 70_001));
    let bits = |threads| outcome(&grads, 0.5, threads).map(f64::to_bits);
    assert_eq!(bits(1), bits(3));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut ws = Workspace::new(1);
    let mut refused =
        |grads: View<'_, f32>, limit, mut outcome: Vec<f64>| by_norm(grads, limit, (&mut outcome).into(), &mut ws);
    assert_length(refused((&[1.0][..]).into(), 1.0, vec![0.0; 2]), "outcome");
    assert!(refused((&[1.0][..]).into(), -1.0, vec![0.0; 3]).unwrap_err().to_string().contains("max_norm is -1"));
    assert!(refused((&[1.0][..]).into(), f64::NAN, vec![0.0; 3]).is_err());
    assert_no_kernel(refused(View::elsewhere(2), 1.0, vec![0.0; 3]));
}
