use candle_core::backprop::GradStore;
use candle_nn::Optimizer;

use super::*;
use crate::testing::*;

const HYPER: Hyper = Hyper { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };

fn run<T: Float>(start: &[f64], grads: &[Vec<f64>], scale: f64, hyper: Hyper, threads: usize) -> Vec<T> {
    let mut ws = Workspace::new(threads);
    let mut p = cast::<T>(start);
    let (mut m, mut v) = (vec![T::ZERO; p.len()], vec![T::ZERO; p.len()]);
    for (i, g) in grads.iter().enumerate() {
        let g = cast::<T>(g);
        let (m, v) = ((&mut m).into(), (&mut v).into());
        step((&mut p).into(), (&g).into(), m, v, i as u64 + 1, scale, hyper, &mut ws).unwrap();
    }
    p
}

#[test]
fn the_first_step_by_hand() {
    // m̂ = g and v̂ = g², so that the first step is lr·sign(g) but for eps: 2·(1 − 0.001) − 0.01 and 1·(1 − 0.001) + 0.01.
    let p = run::<f64>(&[2.0, 1.0], &[vec![0.5, -3.0]], 1.0, HYPER, 1);
    assert_near(&p, &[1.998 - 0.01, 0.999 + 0.01], 1e-9, "p");
}

#[test]
fn several_steps_are_those_of_candle() {
    let start = numbers(1, 23);
    let grads: Vec<Vec<f64>> = (0..5).map(|i| numbers(10 + i, 23)).collect();
    let var = var(&start, &[23]);
    let params = candle_nn::ParamsAdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
    let mut oracle = candle_nn::AdamW::new(vec![var.clone()], params).unwrap();
    for g in &grads {
        let loss = (var.as_tensor() * tensor(g, &[23])).unwrap().sum_all().unwrap();
        let store: GradStore = loss.backward().unwrap();
        oracle.step(&store).unwrap();
    }
    let p = run::<f64>(&start, &grads, 1.0, HYPER, 1);
    assert_near(&p, &elements(&var), 1e-12, "p");
    let halves: Vec<Vec<f64>> = grads.iter().map(|g| g.iter().map(|g| 2.0 * g).collect()).collect();
    assert_near(&run::<f64>(&start, &halves, 0.5, HYPER, 1), &p, 1e-14, "scaled gradients");
    let exact = run::<f64>(&start, &grads, 1.0, Hyper { beta1: 0.3, ..HYPER }, 1);
    assert_near(
        &run::<f32>(&start, &grads, 1.0, Hyper { beta1: 0.3, ..HYPER }, 1),
        &exact,
        1e-6,
        "p in f32, low beta1",
    );
}

#[test]
fn threads_do_not_change_a_bit() {
    let start = numbers(1, 70_001);
    let grads = [numbers(2, 70_001), numbers(3, 70_001)];
    let one = run::<f32>(&start, &grads, 0.7, HYPER, 1);
    assert_near(&one, &run::<f64>(&start, &grads, 0.7, HYPER, 1), 1e-6, "p in f32");
    assert_eq!(one, run::<f32>(&start, &grads, 0.7, HYPER, 3));
    let grads = cast::<f32>(&grads[0]);
    let sum = |threads| sum_squares((&grads).into(), &mut Workspace::new(threads)).unwrap();
    let expected: f64 = grads.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
    assert!((sum(1) / expected - 1.0).abs() < 1e-13);
    assert_eq!(sum(1).to_bits(), sum(3).to_bits());
}

#[test]
fn squares_neither_overflow_nor_underflow() {
    let mut ws = Workspace::new(1);
    let sum = sum_squares((&[1e30f32, 1e-30][..]).into(), &mut ws).unwrap();
    assert!((sum / 1e60 - 1.0).abs() < 1e-6, "{sum}");
    let small = sum_squares((&[1e-30f32][..]).into(), &mut ws).unwrap();
    assert!((small / 1e-60 - 1.0).abs() < 1e-6, "{small}");
    let none = sum_squares::<f32>((&[][..]).into(), &mut ws).unwrap();
    assert_eq!(none.to_bits(), 0);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut ws = Workspace::new(1);
    let (mut p, mut m, mut v) = (vec![0.0f32; 3], vec![0.0f32; 3], vec![0.0f32; 3]);
    let mut run = |grads: &[f32], t, hyper| {
        step((&mut p).into(), grads.into(), (&mut m).into(), (&mut v).into(), t, 1.0, hyper, &mut ws)
    };
    assert_length(run(&[0.0; 2], 1, HYPER), "grads");
    assert!(run(&[0.0; 3], 0, HYPER).unwrap_err().to_string().contains("step is 0"));
    assert!(run(&[0.0; 3], 1, Hyper { beta2: 1.0, ..HYPER }).unwrap_err().to_string().contains("beta2 is 1"));
    run(&[0.0; 3], 1, HYPER).unwrap();
    assert!(sum_squares(View::<f32>::elsewhere(3), &mut ws).is_err());
}

/// Parameters, moments and their bf16 copy, after or before a step.
#[derive(Debug, Clone, PartialEq)]
struct State<T> {
    params: Vec<T>,
    m: Vec<T>,
    v: Vec<T>,
    copy: Vec<bf16>,
}

impl<T: Float> State<T> {
    fn new(n: usize) -> Self {
        let square = |x: &f64| x * x;
        let v: Vec<f64> = numbers(3, n).iter().map(square).collect();
        Self { params: cast(&numbers(1, n)), m: cast(&numbers(2, n)), v: cast(&v), copy: vec![bf16::NAN; n] }
    }

    fn step(&mut self, grads: &[T], clip: [f64; 3], groups: Option<Groups<'_>>, threads: usize) -> Result<()> {
        let Self { params, m, v, copy } = self;
        let ws = &mut Workspace::new(threads);
        let (copy, clip) = (Some(copy.into()), (&clip[..]).into());
        step_clipped(params.into(), grads.into(), m.into(), v.into(), copy, clip, 7, HYPER, groups, ws)
    }
}

fn bits<T: Float>(numbers: &[T]) -> Vec<u64> {
    numbers.iter().map(|x| x.to_f64().to_bits()).collect()
}

#[test]
fn a_clipped_step_is_a_scaled_one() {
    let grads = cast::<f32>(&numbers(4, 40_003));
    let (mut clipped, mut scaled) = (State::<f32>::new(40_003), State::<f32>::new(40_003));
    clipped.step(&grads, [2.0, 0.3, 1.0], None, 3).unwrap();
    let State { params, m, v, .. } = &mut scaled;
    step(params.into(), (&grads).into(), m.into(), v.into(), 7, 0.3, HYPER, &mut Workspace::new(1)).unwrap();
    let State { params, m, v, copy } = clipped;
    assert_eq!((bits(&params), bits(&m), bits(&v)), (bits(&scaled.params), bits(&scaled.m), bits(&scaled.v)));
    assert!(copy.iter().zip(&params).all(|(copy, &p)| copy.to_bits() == bf16::from_f32(p).to_bits()));
}

#[test]
fn a_step_without_a_finite_norm_leaves_every_bit() {
    let mut state = State::<f64>::new(9);
    state.copy = vec![bf16::ONE; 9];
    let before = state.clone();
    state.step(&[f64::NAN; 9], [f64::NAN, 0.0, 0.0], None, 1).unwrap();
    assert_eq!(state, before);
    let mut params = vec![bf16::ONE; 9];
    let (mut m, mut v) = (vec![0.5f32; 9], vec![0.5f32; 9]);
    let clip = [f64::INFINITY, 0.0, 0.0];
    let (grads, clip) = ((&[f32::INFINITY; 9][..]).into(), (&clip[..]).into());
    let ws = &mut Workspace::new(1);
    step_bf16(
        (&mut params).into(),
        grads,
        (&mut m).into(),
        (&mut v).into(),
        clip,
        Draws { seed: 1, step: 1 },
        HYPER,
        None,
        ws,
    )
    .unwrap();
    assert_eq!((params, m, v), (vec![bf16::ONE; 9], vec![0.5; 9], vec![0.5; 9]));
}

#[test]
fn groups_in_one_pass_are_steps_apart() {
    let ends = [3u64, 3, 20_000, 40_003];
    let (lr, weight_decay) = ([1.0, 5.0, 16.0, 0.5], [0.0, 1.0, 1.0, 0.25]);
    let groups = Groups { ends: (&ends[..]).into(), lr: (&lr[..]).into(), weight_decay: (&weight_decay[..]).into() };
    let grads = cast::<f64>(&numbers(4, 40_003));
    let (mut together, mut apart) = (State::<f64>::new(40_003), State::<f64>::new(40_003));
    together.step(&grads, [1.0; 3], Some(groups), 2).unwrap();
    let mut start = 0;
    for group in 0..4 {
        let range = start..ends[group] as usize;
        let part = |all: &mut [f64]| cast::<f64>(&all[range.clone()]);
        let [mut p, mut m, mut v] = [&mut apart.params, &mut apart.m, &mut apart.v].map(|all| part(all));
        let hyper = Hyper { lr: HYPER.lr * lr[group], weight_decay: HYPER.weight_decay * weight_decay[group], ..HYPER };
        let g = (&grads[range.clone()]).into();
        step((&mut p).into(), g, (&mut m).into(), (&mut v).into(), 7, 1.0, hyper, &mut Workspace::new(1)).unwrap();
        apart.params[range.clone()].copy_from_slice(&p);
        start = range.end;
    }
    assert_near(&together.params, &apart.params, 1e-15, "params");
}

#[test]
fn groups_that_do_not_fit_are_refused() {
    let mut state = State::<f32>::new(4);
    let mut run = |ends: &[u64], factors: &[f64]| {
        let groups = Groups { ends: ends.into(), lr: factors.into(), weight_decay: (&[1.0; 2][..]).into() };
        state.step(&[0.0; 4], [1.0; 3], Some(groups), 1)
    };
    assert!(run(&[], &[]).unwrap_err().to_string().contains("there are no groups"));
    assert_length(run(&[1, 4], &[1.0]), "groups.lr");
    assert_length(run(&[1, 2, 4], &[1.0; 3]), "groups.weight_decay");
    for ends in [[1, 3], [1, 5], [5, 4]] {
        let refused = run(&ends, &[1.0; 2]).unwrap_err().to_string();
        assert!(refused.contains("up to the 4 parameters"), "{refused}");
    }
    run(&[1, 4], &[1.0; 2]).unwrap();
    let refused = State::<f32>::new(4).step(&[0.0; 3], [1.0; 3], None, 1);
    assert_length(refused, "grads");
}

/// The parameters in bf16 after a step from `from` with gradients of 1, and the learning rate.
fn rounded(from: &[bf16], lr: f64, seed: u64, threads: usize) -> Vec<bf16> {
    let n = from.len();
    let (mut params, mut m, mut v) = (from.to_vec(), vec![0.0f32; n], vec![0.0f32; n]);
    let (grads, clip) = (vec![1.0f32; n], [1.0; 3]);
    let hyper = Hyper { lr, weight_decay: 0.0, eps: 0.0, ..HYPER };
    let (ws, grads, clip) = (&mut Workspace::new(threads), (&grads).into(), (&clip[..]).into());
    step_bf16(
        (&mut params).into(),
        grads,
        (&mut m).into(),
        (&mut v).into(),
        clip,
        Draws { seed, step: 1 },
        hyper,
        None,
        ws,
    )
    .unwrap();
    params
}

#[test]
fn parameters_in_bf16_move_as_they_should_on_average() {
    // The first step is lr long: a sixth of the way from 1 to the next lower value of bf16, where rounding to nearest
    // would stay at 1.
    let (n, ulp) = (60_000, 2f64.powi(-8));
    let params = rounded(&vec![bf16::ONE; n], ulp / 6.0, 11, 1);
    let lower = bf16::from_f64(1.0 - ulp);
    assert!(params.iter().all(|&p| p == bf16::ONE || p == lower));
    let share = params.iter().filter(|&&p| p == lower).count() as f64 / n as f64;
    let deviation = (5.0 / 36.0 / n as f64).sqrt();
    assert!((share - 1.0 / 6.0).abs() < 4.0 * deviation, "{share}, expected 1/6 ± {deviation}");
    assert_ne!(rounded(&vec![bf16::ONE; n], ulp / 6.0, 12, 1), params, "another seed");
}

#[test]
fn rounding_depends_on_the_index_alone() {
    let from: Vec<bf16> = numbers(5, 70_001).into_iter().map(bf16::from_f64).collect();
    let all = rounded(&from, 1e-3, 3, 1);
    assert_eq!(rounded(&from, 1e-3, 3, 3), all);
    assert_eq!(rounded(&from[..10_003], 1e-3, 3, 1), all[..10_003]);
    // Cutting the parameters into groups changes nothing where all learn alike.
    let ends = [1u64, 1030, 70_001];
    let groups = Groups { ends: (&ends[..]).into(), lr: (&[1.0; 3][..]).into(), weight_decay: (&[1.0; 3][..]).into() };
    let (mut params, mut m, mut v) = (from.clone(), vec![0.0f32; 70_001], vec![0.0f32; 70_001]);
    let (grads, clip) = (vec![1.0f32; 70_001], [1.0; 3]);
    let hyper = Hyper { lr: 1e-3, weight_decay: 0.0, eps: 0.0, ..HYPER };
    let (grads, clip, ws) = ((&grads).into(), (&clip[..]).into(), &mut Workspace::new(1));
    let groups = Some(groups);
    step_bf16(
        (&mut params).into(),
        grads,
        (&mut m).into(),
        (&mut v).into(),
        clip,
        Draws { seed: 3, step: 1 },
        hyper,
        groups,
        ws,
    )
    .unwrap();
    assert_eq!(params, all);
}
