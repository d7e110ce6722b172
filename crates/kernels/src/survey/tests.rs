use super::*;
use crate::testing::*;

fn found<T: Element>(x: &[T], ends: &[u64], threads: usize) -> Vec<u32> {
    let mut found = vec![u32::MAX; ends.len()];
    flags(x.into(), ends.into(), (&mut found).into(), &mut Workspace::new(threads)).unwrap();
    found
}

#[test]
fn every_tensor_has_its_flags() {
    let x = [0.0f32, -0.0, 0.0, 1e-45, f32::NAN, 0.0, f32::NEG_INFINITY, f32::MAX, 0.0];
    assert_eq!(found(&x, &[2, 2, 4, 6, 7, 8, 9], 1), [0, 0, 1, 3, 3, 1, 0]);
    assert_eq!(found(&x.map(f64::from), &[9], 1), [3]);
    assert_eq!(found(&x.map(half::bf16::from_f32), &[3, 4, 9], 1), [0, 0, 3], "1e-45 is none in bf16");
    assert_eq!(found::<f32>(&[], &[0, 0], 1), [0, 0]);
    assert_eq!(found::<f32>(&[], &[], 1), [0; 0]);
}

#[test]
fn one_element_among_many_is_seen_wherever_it_is() {
    // Ends inside, at and far beyond the pieces that threads take.
    let ends = [5, 16_384, 16_385, 70_000, 70_001u64];
    for threads in [1, 3] {
        for (at, tensor) in [(4, 0), (5, 1), (16_383, 1), (16_384, 2), (16_385, 3), (69_999, 3), (70_000, 4)] {
            let mut x = vec![0.0f64; 70_001];
            x[at] = f64::INFINITY;
            let mut expected = [0; 5];
            expected[tensor] = NOT_ZERO + NOT_FINITE;
            assert_eq!(found(&x, &ends, threads), expected, "element {at}, {threads} threads");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (x, mut ws) = ([0.0f32; 4], Workspace::new(1));
    let mut refused = |ends: &[u64], count| flags((&x[..]).into(), ends.into(), (&mut vec![0; count]).into(), &mut ws);
    assert_length(refused(&[4], 2), "flags");
    for ends in [&[2, 3][..], &[3, 2, 4], &[5], &[]] {
        let error = refused(ends, ends.len()).unwrap_err().to_string();
        assert!(error.contains("expected ascending ends up to the 4 elements"), "{error}");
    }
    assert_no_kernel(flags(View::<f32>::elsewhere(2), (&[2][..]).into(), (&mut vec![0]).into(), &mut ws));
}
