//! Offline objectives: which policy their losses have as minimum, and which of them are one.

use candle_core::{Device, Tensor, Var};
use candlewick_losses::{
    Builtin, Context, Dpo, Modpo, Objective, Sacpo, SafeRlhfLagrangian, Scores, SoftDpo, TokenScores,
};

use crate::world::{World, assert_near, dot, logit, softmax, uniform};

const BETA: f64 = 0.3;
const LAMBDA: f64 = 0.7;

/// A loss over pairs of completions of one prompt, each with a weight.
struct Part {
    loss: Builtin,
    share: f64,
    pairs: Vec<(usize, usize)>,
    weights: Vec<f64>,
    numbers: Vec<(&'static str, Vec<f64>)>,
}

/// Every pair of completions once, with its gaps.
fn scored(world: &World, loss: impl Into<Builtin>, names: [&'static str; 2], unit: f64) -> Part {
    let pairs: Vec<(usize, usize)> = (0..world.rewards[0].len()).flat_map(|i| (0..i).map(move |j| (i, j))).collect();
    let gaps = |values: &[f64]| pairs.iter().map(|&(i, j)| unit * (values[i] - values[j])).collect();
    let numbers = vec![(names[0], gaps(&world.rewards[0])), (names[1], gaps(&world.costs[0]))];
    let weights = vec![1.0 / pairs.len() as f64; pairs.len()];
    Part { loss: loss.into(), share: 1.0, pairs, weights, numbers }
}

/// Every pair of completions in both orders, as often as people who go by `utility` would have them.
fn ordered(world: &World, loss: impl Into<Builtin>, utility: &[f64]) -> Part {
    let count = utility.len();
    let pairs: Vec<(usize, usize)> =
        (0..count).flat_map(|i| (0..count).filter(move |&j| j != i).map(move |j| (i, j))).collect();
    let all = (pairs.len() / 2) as f64;
    let weights = pairs.iter().map(|&(i, j)| 1.0 / (1.0 + (utility[j] - utility[i]).exp()) / all).collect();
    let margins = pairs.iter().map(|&(i, j)| (world.rewards[0][i] - world.rewards[0][j]) / (1.0 + LAMBDA)).collect();
    Part { loss: loss.into(), share: 1.0, pairs, weights, numbers: vec![("margin", margins)] }
}

/// The policy at which losses have their minimum, by gradient descent from the reference.
fn fit(reference: &[f64], parts: &[Part], rate: f64) -> Vec<f64> {
    let logits = Var::new(reference, &Device::Cpu).unwrap();
    let reference = Tensor::new(reference, &Device::Cpu).unwrap();
    for _ in 0..400 {
        let total = logits.exp().unwrap().sum_all().unwrap().log().unwrap();
        let log_probs = logits.broadcast_sub(&total).unwrap();
        let mut sum = Tensor::new(0.0f64, &Device::Cpu).unwrap();
        for part in parts {
            let sides: Vec<u32> = part
                .pairs
                .iter()
                .map(|pair| pair.0)
                .chain(part.pairs.iter().map(|pair| pair.1))
                .map(|i| i as u32)
                .collect();
            let sides = Tensor::new(sides, &Device::Cpu).unwrap();
            let rows = |values: &Tensor| {
                TokenScores::unmasked(values.index_select(&sides, 0).unwrap().unsqueeze(1).unwrap()).unwrap()
            };
            let mut scores = Scores::of_pairs(rows(&log_probs), Some(rows(&reference)));
            scores.groups.numbers =
                part.numbers.iter().map(|(name, values)| ((*name).to_owned(), values.clone())).collect();
            let terms = part.loss.evaluate(&scores, &Context::default()).unwrap();
            let weights = Tensor::new(part.weights.as_slice(), &Device::Cpu).unwrap();
            let losses = (&terms.terms[0].numerator * weights).unwrap().sum_all().unwrap();
            sum = (sum + (losses * part.share).unwrap()).unwrap();
        }
        let slopes = sum.backward().unwrap();
        logits.set(&(logits.as_tensor() - (slopes.get(&logits).unwrap() * rate).unwrap()).unwrap()).unwrap();
    }
    softmax(&logits.to_vec1::<f64>().unwrap())
}

fn logs(probabilities: &[f64]) -> Vec<f64> {
    probabilities.iter().map(|p| p.ln()).collect()
}

fn assert_policy(got: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    for (got, expected) in got.iter().zip(expected) {
        assert_near(*got, *expected, tolerance, what);
    }
}

fn lagrangian() -> SafeRlhfLagrangian {
    SafeRlhfLagrangian { beta: BETA, lambda: vec![LAMBDA], ..SafeRlhfLagrangian::default() }
}

fn preset(json: &str) -> Builtin {
    serde_json::from_str(json).unwrap()
}

/// A rate below the inverse of the curvature of a logistic loss on a scale, over all pairs of four.
fn rate(scale: f64) -> f64 {
    5.0 / (scale * scale)
}

#[test]
fn the_optimum_of_every_offline_form_is_the_lagrangians() {
    let world = World::four_arms();
    let reference = logs(&world.reference[0]);
    let expected = world.table().policy(BETA, &[LAMBDA]).unwrap().remove(0);
    assert_policy(&expected, &[0.201_267, 0.347_333, 0.114_987, 0.336_413], 1e-6, "recorded");
    assert_near(dot(&expected, &world.costs[0]), 0.055_974_883, 1e-9, "E[c]");
    let safety: Vec<f64> = world.costs[0].iter().map(|cost| -cost).collect();
    let names = ["reward_gap", "cost_gap"];

    let soft = fit(&reference, &[scored(&world, lagrangian(), names, 1.0)], rate(BETA));
    assert_policy(&soft, &expected, 1e-8, "soft labels");
    let regress = preset(r#"{ "type": "mocan", "beta": 0.3, "lambda": [0.7], "target": "regress" }"#);
    let regress = fit(&reference, &[scored(&world, regress, names, 1.0)], rate(BETA) / 10.0);
    assert_policy(&regress, &expected, 1e-8, "regression");

    let dpo = Dpo { beta: BETA, ..Dpo::default() };
    let helpful = fit(&reference, &[ordered(&world, dpo, &world.rewards[0])], rate(BETA));
    let second = Sacpo { beta: BETA, lambda: LAMBDA, ..Sacpo::default() };
    let sacpo = fit(&logs(&helpful), &[ordered(&world, second, &safety)], rate(BETA / LAMBDA));
    assert_policy(&sacpo, &expected, 1e-7, "SACPO");
    let safe_first = fit(&reference, &[ordered(&world, second, &safety)], rate(BETA / LAMBDA));
    let swapped = fit(&logs(&safe_first), &[ordered(&world, dpo, &world.rewards[0])], rate(BETA));
    assert_policy(&swapped, &sacpo, 1e-7, "the other order");

    let share = LAMBDA / (1.0 + LAMBDA);
    let modpo = Modpo { beta: BETA / (1.0 + LAMBDA), weight: share, ..Modpo::default() };
    let modpo = fit(&reference, &[ordered(&world, modpo, &safety)], rate(BETA / LAMBDA));
    assert_policy(&modpo, &expected, 1e-7, "MODPO");

    let soft_dpo = SoftDpo { beta: BETA, ..SoftDpo::default() };
    let mut labelled = scored(&world, soft_dpo, names, 1.0);
    let (rewards, costs) = (&labelled.numbers[0].1, &labelled.numbers[1].1);
    let labels = rewards.iter().zip(costs).map(|(r, c)| 1.0 / (1.0 + (LAMBDA * c - r).exp())).collect();
    labelled.numbers = vec![("preference", labels)];
    assert_policy(&fit(&reference, &[labelled], rate(BETA)), &expected, 1e-8, "labels as a column");
}

#[test]
fn the_sum_of_two_losses_is_another_policy() {
    let world = World::four_arms();
    let reference = logs(&world.reference[0]);
    let dpo = || Dpo { beta: BETA, ..Dpo::default() };
    let safety: Vec<f64> = world.costs[0].iter().map(|cost| -cost).collect();
    let share = LAMBDA / (1.0 + LAMBDA);
    let parts = [
        Part { share: 1.0 - share, ..ordered(&world, dpo(), &world.rewards[0]) },
        Part { share, ..ordered(&world, dpo(), &safety) },
    ];
    let mixed = fit(&reference, &parts, rate(BETA));
    assert_policy(&mixed, &[0.335_863, 0.323_095, 0.143_927, 0.197_115], 1e-6, "recorded");
    assert_near(dot(&mixed, &world.costs[0]), 0.182, 5e-4, "E[c]");

    // Two arms at their λ*, under which a quarter should be unsafe.
    let world = World::two_arms();
    let (beta, lambda) = (0.5, 1.274_653_072_167_027_5);
    let dpo = || Dpo { beta, ..Dpo::default() };
    let share = lambda / (1.0 + lambda);
    let parts = [
        Part { share: 1.0 - share, ..ordered(&world, dpo(), &[0.0, 2.0]) },
        Part { share, ..ordered(&world, dpo(), &[1.0, -1.0]) },
    ];
    let mixed = fit(&logs(&world.reference[0]), &parts, 5.0);
    assert_near(mixed[1], 0.409, 5e-4, "P(unsafe)");
    let label = (1.0 / (1.0 + (-2f64).exp()) + lambda / (1.0 + 2f64.exp())) / (1.0 + lambda);
    assert_near(logit(mixed[1]), logit(label) / beta, 1e-8, "it averages probabilities");
}

#[test]
fn log_ratios_count_beta_each() {
    // Log-ratios of the optima of r and of −c alone.
    let world = World::four_arms();
    let reference = logs(&world.reference[0]);
    let expected = world.table().policy(BETA, &[LAMBDA]).unwrap().remove(0);
    let part = |json: &str| scored(&world, preset(json), ["reward_gap", "cost_gap"], 1.0 / BETA);
    let pecan = fit(&reference, &[part(r#"{ "type": "pecan", "beta": 0.3, "lambda": [0.7] }"#)], rate(BETA));
    assert_policy(&pecan, &expected, 1e-8, "with β");
    let released = fit(&reference, &[part(r#"{ "type": "mocan", "beta": 0.3, "lambda": [0.7] }"#)], 2.0 * rate(BETA));
    let off = released.iter().zip(&expected).map(|(got, expected)| (got - expected).abs()).fold(0.0, f64::max);
    assert_near(off, 0.57, 0.01, "without β");
}

/// Values, one a pair, of a loss on log-probabilities of four pairs.
fn values(loss: &dyn Objective, policy: &[f64], reference: &[f64], margins: &[f64]) -> Vec<f64> {
    let rows = |values: &[f64]| {
        TokenScores::unmasked(Tensor::new(values, &Device::Cpu).unwrap().unsqueeze(1).unwrap()).unwrap()
    };
    let mut scores = Scores::of_pairs(rows(policy), Some(rows(reference)));
    scores.groups.numbers.insert("margin".to_owned(), margins.to_vec());
    loss.evaluate(&scores, &Context::default()).unwrap().terms[0].numerator.to_vec1().unwrap()
}

#[test]
fn sacpo_primal_dual_dpo_and_modpo_are_one_loss() {
    let mut uniform = uniform(3);
    for (beta, lambda) in [(0.1, 0.3), (0.1, 4.0), (0.5, 1.0), (1.0, 10.0)] {
        let mut draw = |count: usize| -> Vec<f64> { (0..count).map(|_| -40.0 * uniform()).collect() };
        let (policy, base, rewards) = (draw(8), draw(8), draw(8));
        // The helpful model is the optimum of the reward, up to a constant of the prompt, which cancels.
        let helpful: Vec<f64> = base.iter().zip(&rewards).map(|(log, reward)| log + reward / beta).collect();
        let sacpo = values(&Sacpo { beta, lambda, ..Sacpo::default() }, &policy, &helpful, &[0.0; 4]);
        // Primal-dual DPO writes the cost as (β/λ)·log π_r/π, and the safer side as the one of the lower cost.
        let cost = |row: usize| beta / lambda * (helpful[row] - policy[row]);
        let primal_dual: Vec<f64> = (0..4)
            .map(|pair| {
                let gap = cost(pair + 4) - cost(pair);
                // −log σ(gap), without overflow.
                (-gap.abs()).exp().ln_1p() + (-gap).max(0.0)
            })
            .collect();
        let share = lambda / (1.0 + lambda);
        let margins: Vec<f64> = (0..4).map(|pair| (rewards[pair] - rewards[pair + 4]) / (1.0 + lambda)).collect();
        let modpo = Modpo { beta: beta / (1.0 + lambda), weight: share, ..Modpo::default() };
        let modpo = values(&modpo, &policy, &base, &margins);
        for pair in 0..4 {
            let size = 1.0 + sacpo[pair].abs();
            assert_near(primal_dual[pair], sacpo[pair], 1e-12 * size, "primal-dual DPO");
            assert_near(modpo[pair], sacpo[pair], 1e-12 * size, "MODPO");
        }
    }
}

#[test]
fn the_soft_logistic_loss_is_right_at_ten_thousand() {
    let margins: [f64; 10] = [0.0, 1e-9, 3.0, -3.0, 40.0, -40.0, 745.0, -745.0, 1e4, -1e4];
    for label in [0.0, 0.3, 0.5, 1.0] {
        let x = Var::new(&margins, &Device::Cpu).unwrap();
        let labels = Tensor::new(&[label; 10], &Device::Cpu).unwrap();
        let losses = candlewick_losses::math::soft_logistic(x.as_tensor(), &labels).unwrap();
        let slopes = losses.sum_all().unwrap().backward().unwrap().get(&x).unwrap().to_vec1::<f64>().unwrap();
        for ((x, loss), slope) in margins.into_iter().zip(losses.to_vec1::<f64>().unwrap()).zip(slopes) {
            // log(1 + e^x) − t·x, written so that it does not overflow.
            let expected = x.max(0.0) - label * x + (-x.abs()).exp().ln_1p();
            assert_near(loss, expected, 1e-12 * (1.0 + expected.abs()), "loss");
            let sigmoid = if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) };
            assert_near(slope, sigmoid - label, 1e-12, "slope");
        }
        let single = Tensor::new(margins.map(|x| x as f32).as_slice(), &Device::Cpu).unwrap();
        let labels = Tensor::new(&[label as f32; 10], &Device::Cpu).unwrap();
        let losses = candlewick_losses::math::soft_logistic(&single, &labels).unwrap();
        assert!(losses.to_vec1::<f32>().unwrap().into_iter().all(f32::is_finite));
    }
}
