use super::*;
use crate::adamw;
use crate::testing::*;

const HYPER: Hyper = Hyper { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };

struct Run<T> {
    p: Vec<T>,
    mean: Vec<u8>,
    mean_square: Vec<u8>,
    mean_scales: Vec<T>,
    mean_square_scales: Vec<T>,
}

fn run<T: Float>(start: &[f64], grads: &[Vec<f64>], threads: usize) -> Run<T> {
    let mut ws = Workspace::new(threads);
    let [mean, mean_square] = zero().map(|code| vec![code; start.len()]);
    let scales = vec![T::ZERO; start.len().div_ceil(BLOCK)];
    let mut run =
        Run { p: cast::<T>(start), mean, mean_square, mean_scales: scales.clone(), mean_square_scales: scales };
    for (i, g) in grads.iter().enumerate() {
        let moments = Moments {
            mean: (&mut run.mean).into(),
            mean_square: (&mut run.mean_square).into(),
            mean_scales: (&mut run.mean_scales).into(),
            mean_square_scales: (&mut run.mean_square_scales).into(),
        };
        let g = cast::<T>(g);
        step((&mut run.p).into(), (&g).into(), moments, i as u64 + 1, 0.5, HYPER, &mut ws).unwrap();
    }
    run
}

#[test]
fn the_maps_are_those_of_the_paper() {
    for (map, least, smallest) in [(map::signed(), -0.992_968_75, 5.5e-7), (map::unsigned(), 0.0, 3.25e-7)] {
        assert!((map.values[0] - least).abs() < 1e-12);
        assert!((map.values[255] - 1.0).abs() < 1e-15);
        assert!(map.values.windows(2).all(|pair| pair[0] < pair[1]));
        let positive = map.values.iter().find(|value| **value > 0.0).unwrap();
        assert!((positive - smallest).abs() < 1e-18, "{positive}");
    }
}

#[test]
fn a_code_is_that_of_the_nearest_value() {
    let nearest = |map: &map::Map, x: f64| {
        let distance = |code: &u8| (map.values[usize::from(*code)] - x).abs();
        (0..=255).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap()
    };
    for (code, value) in map::signed().values.iter().enumerate() {
        assert_eq!(usize::from(map::signed().code(*value)), code);
    }
    let tiny = numbers(1, 4000).into_iter().map(|x| x.powi(9) * 1e-3);
    let wide = numbers(2, 4000).into_iter().map(|x| x / 1.5);
    for x in tiny.chain(wide).chain([0.0, 1.0, -1.0, 1e-30, -1e-30, 0.1, 1e-6, 0.5]) {
        let x = x.clamp(-1.0, 1.0);
        assert_eq!(map::signed().code(x), nearest(map::signed(), x), "{x}");
        assert_eq!(map::unsigned().code(x.abs()), nearest(map::unsigned(), x.abs()), "{x}");
    }
}

#[test]
fn the_first_step_is_that_of_adamw_and_later_ones_are_near_it() {
    let start = numbers(1, 1000);
    let grads: Vec<Vec<f64>> = (0..10).map(|i| numbers(10 + i, 1000)).collect();
    let exact = |steps: usize| {
        let mut ws = Workspace::new(1);
        let (mut p, mut m, mut v) = (start.clone(), vec![0.0; 1000], vec![0.0; 1000]);
        for (i, g) in grads[..steps].iter().enumerate() {
            let (m, v) = ((&mut m).into(), (&mut v).into());
            adamw::step((&mut p).into(), g.into(), m, v, i as u64 + 1, 0.5, HYPER, &mut ws).unwrap();
        }
        p
    };
    assert_near(&run::<f64>(&start, &grads[..1], 1).p, &exact(1), 1e-14, "one step");
    let moved = |p: &[f64]| p.iter().zip(&start).map(|(p, start)| p - start).collect::<Vec<_>>();
    assert_near(&moved(&run::<f64>(&start, &grads, 1).p), &moved(&exact(10)), 0.05, "the way of ten steps");
}

#[test]
fn threads_do_not_change_a_bit() {
    let start = numbers(1, 70_001);
    let grads = [numbers(2, 70_001), numbers(3, 70_001)];
    let (one, three) = (run::<f32>(&start, &grads, 1), run::<f32>(&start, &grads, 3));
    assert_eq!(one.p, three.p);
    assert_eq!((one.mean, one.mean_square), (three.mean, three.mean_square));
    assert_eq!((one.mean_scales, one.mean_square_scales), (three.mean_scales, three.mean_square_scales));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut ws = Workspace::new(1);
    let (mut p, g) = (vec![0.0f32; 300], vec![0.0f32; 300]);
    let (mut m, mut v, mut two, mut one) = (vec![0u8; 300], vec![0u8; 300], vec![0.0f32; 2], vec![0.0f32; 1]);
    let moments = Moments {
        mean: (&mut m).into(),
        mean_square: (&mut v).into(),
        mean_scales: (&mut two).into(),
        mean_square_scales: (&mut one).into(),
    };
    let refused = step((&mut p).into(), (&g).into(), moments, 1, 1.0, HYPER, &mut ws);
    assert_length(refused, "mean_square_scales");
}
