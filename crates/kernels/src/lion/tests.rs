use super::*;
use crate::testing::*;

const HYPER: Hyper = Hyper { lr: 1e-2, beta1: 0.9, beta2: 0.99, weight_decay: 0.1 };

fn run<T: Float>(start: &[f64], grads: &[Vec<f64>], scale: f64, threads: usize) -> (Vec<T>, Vec<T>) {
    let mut ws = Workspace::new(threads);
    let mut p = cast::<T>(start);
    let mut m = vec![T::ZERO; p.len()];
    for g in grads {
        step((&mut p).into(), (&cast::<T>(g)).into(), (&mut m).into(), scale, HYPER, None, &mut ws).unwrap();
    }
    (p, m)
}

#[test]
fn two_steps_by_hand() {
    // Directions: 0.1·(0.5, −3, 0), then 0.9·0.01·(0.5, −3, 0) + 0.1·(−0.01, 1, 0), where the second turns around.
    let (p, m) = run::<f64>(&[2.0, 1.0, 1.0], &[vec![1.0, -6.0, 0.0], vec![-0.02, 2.0, 0.0]], 0.5, 1);
    let keep = 0.999;
    let expected = [(2.0 * keep - 0.01) * keep - 0.01, (keep + 0.01) * keep - 0.01, keep * keep];
    assert_near(&p, &expected, 1e-15, "p");
    assert_near(&m, &[0.005 * 0.99 - 0.0001, -0.03 * 0.99 + 0.01, 0.0], 1e-14, "m");
}

#[test]
fn threads_do_not_change_a_bit() {
    let start = numbers(1, 70_001);
    let grads = [numbers(2, 70_001), numbers(3, 70_001)];
    let one = run::<f32>(&start, &grads, 0.7, 1);
    assert_near(&one.0, &run::<f64>(&start, &grads, 0.7, 1).0, 1e-4, "p in f32");
    assert_eq!(one, run::<f32>(&start, &grads, 0.7, 3));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut ws = Workspace::new(1);
    let (mut p, mut m) = (vec![0.0f32; 3], vec![0.0f32; 3]);
    let mut run =
        |grads: &[f32], hyper| step((&mut p).into(), grads.into(), (&mut m).into(), 1.0, hyper, None, &mut ws);
    assert_length(run(&[0.0; 2], HYPER), "grads");
    assert!(run(&[0.0; 3], Hyper { beta2: 1.0, ..HYPER }).unwrap_err().to_string().contains("beta2 is 1"));
    run(&[0.0; 3], HYPER).unwrap();
}

#[test]
fn a_group_has_its_own_rate_and_decay() {
    let (start, g, mut ws) = (numbers(1, 100), numbers(2, 100), Workspace::new(2));
    let (mut p, mut m) = (start.clone(), numbers(3, 100));
    let (mut apart, mut apart_m) = (p.clone(), m.clone());
    let (ends, lr, weight_decay) = (vec![30, 100], vec![1.0, 4.0], vec![0.0, 0.5]);
    let groups = |ends| Groups { ends, lr: (&lr).into(), weight_decay: (&weight_decay).into() };
    step((&mut p).into(), (&g).into(), (&mut m).into(), 0.5, HYPER, Some(groups((&ends).into())), &mut ws).unwrap();
    for (part, lr, weight_decay) in [(0..30, 1e-2, 0.0), (30..100, 4e-2, 0.05)] {
        let (p, m) = ((&mut apart[part.clone()]).into(), (&mut apart_m[part.clone()]).into());
        step(p, (&g[part]).into(), m, 0.5, Hyper { lr, weight_decay, ..HYPER }, None, &mut ws).unwrap();
    }
    assert_eq!((p, m), (apart, apart_m));
    let (mut p, mut m, short) = (start, numbers(3, 100), vec![30, 99]);
    let refused =
        step((&mut p).into(), (&g).into(), (&mut m).into(), 0.5, HYPER, Some(groups((&short).into())), &mut ws);
    assert!(refused.unwrap_err().to_string().contains("up to the 100 parameters"));
}
