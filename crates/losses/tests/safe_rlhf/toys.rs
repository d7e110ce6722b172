//! Closed forms and recorded optima: the solver and runs with exact gradients must land on them.

use candle_core::{Device, Tensor};
use candlewick_losses::dual::{
    Ascent, DualSettings, DualVariable, Optimum, Order, PromptScores, ScoreTable, Solution, Window,
};
use candlewick_losses::policy_gradient::{Advantages, KlPlacement};

use crate::world::{World, assert_near, dot, logit, normal, softmax, uniform};

fn active(solution: Solution) -> Optimum {
    match solution {
        Solution::Active(optimum) => optimum,
        other => panic!("a limit binds: {other:?}"),
    }
}

fn dual(limit: f64, ascent: Ascent, initial: f64) -> DualVariable {
    DualVariable::new(DualSettings { limit, ascent, ..DualSettings::default() }, initial).unwrap()
}

#[test]
fn two_arms_have_a_closed_form() {
    let (world, beta) = (World::two_arms(), 0.5);
    for limit in [-0.99, -0.5, 0.0, 0.5, 0.9] {
        let optimum = active(world.table().solve(beta, &[limit]).unwrap());
        let most = (limit + 1.0) / 2.0;
        let expected = (2.0 - beta * (logit(most) - logit(0.5))) / 2.0;
        assert_near(optimum.multipliers[0], expected, 1e-11, "λ*");
        assert_near(optimum.unsafe_share[0], most, 1e-12, "P(unsafe)");
        assert_near(optimum.reward, 2.0 * most, 1e-12, "E[r]");
        assert_near(optimum.gap, 0.0, 1e-12, "gap");
    }
    let optimum = active(world.table().solve(beta, &[-0.5]).unwrap());
    assert_near(optimum.multipliers[0], 1.274_653_072_167_027_5, 1e-12, "λ* at −½");
    assert_near(optimum.variances[0], 0.75, 1e-12, "Var(c)");
    let strict = active(world.table().solve(beta, &[-0.99]).unwrap());
    assert_near(strict.multipliers[0], 2.323_326_206_181_1, 1e-11, "λ* at −0.99");
}

#[test]
fn slack_and_impossible_limits_are_told_apart() {
    let table = World::two_arms().table();
    let Solution::Slack(free) = table.solve(0.5, &[0.99]).unwrap() else { panic!("nothing binds") };
    assert_eq!(free.multipliers, [0.0]);
    assert_near(free.unsafe_share[0], 0.982_013_790_037_9, 1e-12, "P(unsafe)");
    for (limit, excess) in [(-1.0, 0.0), (-1.25, 0.25)] {
        let Solution::Infeasible(found) = table.solve(0.5, &[limit]).unwrap() else { panic!("none can") };
        assert_eq!((found.least_costs, found.weights, found.excess), (vec![-1.0], vec![1.0], excess));
    }
    // On the verge, from above.
    let verge = active(table.solve(0.5, &[-1.0 + 1e-9]).unwrap());
    assert_near(verge.costs[0], -1.0 + 1e-9, 1e-15, "E[c]");
}

#[test]
fn the_released_mixture_has_another_multiplier() {
    let world = World::two_arms();
    // λ† = (Δr − κL)/(Δc + κL) with L = logit ¼ − logit ½.
    for (weight, expected) in [(0.5, 1.757_301_262_687_012), (0.1, 1.116_246_733_355_9)] {
        let shift = weight * (logit(0.25) - logit(0.5));
        assert_near((2.0 - shift) / (2.0 + shift), expected, 1e-12, "closed form");
        let mut beaver = dual(-0.5, Ascent::beaver(), 1.0);
        let policy = world.train(&mut beaver, KlPlacement::Both, weight, 4.0, 6000);
        assert_near(beaver.multiplier(), expected, 1e-6, "λ†");
        assert_near(policy[0][1], 0.25, 1e-6, "P(unsafe)");
        // With the penalty in the stream of rewards alone the same rule finds the Lagrangian's.
        let mut plain = dual(-0.5, Ascent::beaver(), 1.0);
        world.train(&mut plain, KlPlacement::Rewards, weight, 4.0, 12_000);
        let optimum = active(world.table().solve(weight, &[-0.5]).unwrap());
        assert_near(plain.multiplier(), optimum.multipliers[0], 1e-6, "λ*");
    }
}

#[test]
fn the_released_mixture_cannot_keep_every_limit() {
    let world = World::two_arms();
    // At κ = 2 the best response to any multiplier has more than ¼ of the unsafe arm: σ(−Δc/κ) in the limit.
    let response = |multiplier: f64| 1.0 / (1.0 + (-(2.0 - multiplier * 2.0) / ((1.0 + multiplier) * 2.0)).exp());
    assert_near(response(1e9), 0.268_94, 1e-5, "limit");
    let mut beaver = dual(-0.5, Ascent::beaver(), 1.0);
    let policy = world.train(&mut beaver, KlPlacement::Both, 2.0, 2.0, 3000);
    assert_near(beaver.multiplier(), 5.0, 1e-12, "λ stays at the cap");
    assert!(policy[0][1] > 0.268_94, "{policy:?}");
    // The Lagrangian itself has an answer.
    assert_near(active(world.table().solve(2.0, &[-0.5]).unwrap()).unsafe_share[0], 0.25, 1e-12, "P(unsafe)");
}

#[test]
fn two_prompts_agree_with_recorded_optima() {
    let (table, recorded) = (World::two_prompts().table(), recorded());
    let beta = recorded["beta"].as_f64().unwrap();
    for case in recorded["reward_only"].as_array().unwrap() {
        let of = |key: &str| case[key].as_f64().unwrap();
        let limit = of("limit");
        let optimum = active(table.solve(beta, &[limit]).unwrap());
        let multiplier = of("multiplier");
        assert_near(optimum.multipliers[0], multiplier, 1e-10, "λ*");
        assert_near(optimum.reward, of("reward"), 1e-11, "E[r]");
        assert_near(optimum.kl, of("kl"), 1e-11, "KL");
        assert_near(optimum.primal, of("value"), 1e-11, "primal");
        assert_near(optimum.dual, of("value"), 1e-11, "dual");
        assert_near(optimum.variances[0], of("variance"), 1e-11, "Var(c)");
        assert_near(optimum.costs[0], limit, 1e-12, "E[c]");
        assert_eq!(optimum.small_sample, None);
        let policy = table.policy(beta, &optimum.multipliers).unwrap().concat();
        let expected = case["policy"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
        for (got, expected) in policy.into_iter().zip(expected) {
            assert_near(got, expected.as_f64().unwrap(), 1e-11, "π*");
        }
    }
    assert!(matches!(table.solve(beta, &[0.65]).unwrap(), Solution::Slack(_)));
    assert!(matches!(table.solve(beta, &[-0.75]).unwrap(), Solution::Infeasible(_)));
    assert_near(table.reference_costs()[0], 0.075, 1e-15, "E_ref[c]");
    let free = table.moments(beta, &[0.0]).unwrap().costs[0];
    assert_near(free, recorded["free_cost"].as_f64().unwrap(), 1e-12, "E[c] without a limit");
}

#[test]
fn the_released_mixture_reaches_less_and_not_everything() {
    let (table, recorded) = (World::two_prompts().table(), recorded());
    let beta = recorded["beta"].as_f64().unwrap();
    // Its best response is that of a β which grows with the multiplier.
    let response = |multiplier: f64| table.moments((1.0 + multiplier) * beta, &[multiplier]).unwrap();
    for case in recorded["split"].as_array().unwrap() {
        let (limit, multiplier) = (case["limit"].as_f64().unwrap(), case["multiplier"].as_f64().unwrap());
        assert_near(response(multiplier).costs[0], limit, 1e-11, "E[c] at λ†");
        assert_near(response(multiplier).reward, case["reward"].as_f64().unwrap(), 1e-11, "E[r] at λ†");
        assert!(response(multiplier).reward < active(table.solve(beta, &[limit]).unwrap()).reward);
    }
    let least = recorded["split_limit_of_cost"].as_f64().unwrap();
    assert_near(response(1e9).costs[0], least, 1e-8, "the lowest cost that any λ reaches");
    // A limit of −0.7 is below it, and has a λ* all the same.
    assert!(least > -0.7 && active(table.solve(beta, &[-0.7]).unwrap()).multipliers[0] < 3.02);
}

/// What `tools/safe_rlhf_worlds.py` made.
fn recorded() -> serde_json::Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/safe_rlhf_worlds.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn exact_runs_find_the_multiplier_of_their_placement() {
    let (world, beta, limit) = (World::two_prompts(), 0.4, -0.25);
    let linear = Ascent::Linear { rate: 0.1, cap: None };
    let exponentiated = Ascent::Exponentiated { rate: 0.1, cap: 100.0, floor: 0.01 };
    let pid = Ascent::Pid { proportional: 0.5, integral: 0.1, derivative: 0.1, smoothing: 0.5, cap: None };
    for ascent in [linear, Ascent::beaver(), exponentiated, pid] {
        for (placement, multiplier, reward) in [
            (KlPlacement::Rewards, 1.185_853_180_202_354_2, 0.760_135_765_6),
            (KlPlacement::Both, 1.657_306_050_3, 0.550_599),
        ] {
            let mut dual = dual(limit, ascent, 1.0);
            let policy = world.train(&mut dual, placement, beta, 2.0, 12_000);
            let what = format!("{ascent:?} {placement:?}");
            assert_near(dual.multiplier(), multiplier, 1e-6, &what);
            assert_near(World::mean(&policy, &world.rewards), reward, 1e-6, &what);
            assert_near(World::mean(&policy, &world.costs), limit, 1e-6, &what);
        }
    }
}

#[test]
fn projected_descent_with_the_step_of_the_theory_finds_it_too() {
    // The curvature of the dual function is at most E[range²/4]/β.
    let (world, beta, limit) = (World::two_prompts(), 0.4, -0.25);
    let table = world.table();
    let bound = (2.0f64.powi(2) / 4.0 + 1.0f64.powi(2) / 4.0) / 2.0;
    assert_near(beta / bound, 0.64, 1e-15, "step");
    let mut multiplier: f64 = 0.0;
    for _ in 0..200 {
        let cost = table.moments(beta, &[multiplier]).unwrap().costs[0];
        multiplier = (multiplier + beta / bound * (cost - limit)).max(0.0);
    }
    assert_near(multiplier, 1.185_853_180_202_354_2, 1e-13, "λ*");
}

#[test]
fn a_normal_policy_has_a_closed_form() {
    // π_ref = N(0, σ²), r = a·y, c = b·y, on a grid: λ* = a/b − dβ/(b²σ²).
    let (a, b, variance, beta, limit) = (1.0, 2.0, 1.5, 0.7, 0.3);
    let points: Vec<f64> = (-600..=600).map(|step| f64::from(step) * 0.02).collect();
    let prompt = PromptScores {
        rewards: points.iter().map(|y| a * y).collect(),
        costs: vec![points.iter().map(|y| b * y).collect()],
        log_weights: Some(points.iter().map(|y| -y * y / (2.0 * variance)).collect()),
    };
    let table = ScoreTable::of_all(vec![prompt]).unwrap();
    let optimum = active(table.solve(beta, &[limit]).unwrap());
    assert_near(optimum.multipliers[0], 0.465, 1e-10, "λ*");
    assert_near(optimum.multipliers[0], a / b - limit * beta / (b * b * variance), 1e-10, "λ*");
    assert_near(optimum.reward, 0.15, 1e-10, "mean");
    assert_near(optimum.variances[0], b * b * variance, 1e-8, "Var(c)");
    // The best response of the released mixture at λ†, with the same weight of the penalty.
    let shift = limit * beta / (b * variance);
    let mixed = (a - shift) / (b + shift);
    assert_near(mixed, 0.449_275_362, 1e-9, "λ†");
    let response = table.moments((1.0 + mixed) * beta, &[mixed]).unwrap();
    assert_near(response.costs[0], limit, 1e-10, "E[c] at λ†");
}

/// What a sampled run of two prompts had in its second half, on average.
#[derive(Debug, Default)]
struct Sampled {
    multiplier: f64,
    cost: f64,
    reward: f64,
    policy: Vec<f64>,
}

/// Policy gradients of samples, by advantages `[P, G]` made of rewards, costs, log-ratios and the multiplier.
fn sampled(limit: f64, advantages: impl Fn(&Tensor, &Tensor, &Tensor, f64) -> Tensor) -> Sampled {
    let world = World::two_prompts();
    let (prompts, samples, steps) = (16, 16, 2500);
    let (mut uniform, mut logits) = (uniform(11), world.reference.clone());
    logits.iter_mut().flatten().for_each(|p| *p = p.ln());
    let settings = DualSettings { limit, ascent: Ascent::Linear { rate: 0.05, cap: None }, ..DualSettings::default() };
    let mut dual = DualVariable::new(settings, 1.0).unwrap();
    let mut mean = Sampled { policy: vec![0.0; 6], ..Sampled::default() };
    for step in 0..steps {
        let policy: Vec<Vec<f64>> = logits.iter().map(|row| softmax(row)).collect();
        let mut draw = |x: usize| {
            let at = uniform();
            let below = [policy[x][0], policy[x][0] + policy[x][1]];
            below.iter().filter(|&&bound| at >= bound).count()
        };
        let drawn: Vec<Vec<usize>> = (0..prompts).map(|row| (0..samples).map(|_| draw(row % 2)).collect()).collect();
        let of = |values: &dyn Fn(usize, usize) -> f64| {
            let rows =
                drawn.iter().enumerate().map(|(row, arms)| arms.iter().map(|&arm| values(row % 2, arm)).collect());
            Tensor::new(rows.collect::<Vec<Vec<f64>>>(), &Device::Cpu).unwrap()
        };
        let costs = of(&|x, arm| world.costs[x][arm]);
        dual.observe(&costs.flatten_all().unwrap().to_vec1::<f64>().unwrap()).unwrap();
        let multiplier = dual.step().multiplier;
        let ratios = of(&|x, arm| (policy[x][arm] / world.reference[x][arm]).ln());
        let rewards = of(&|x, arm| world.rewards[x][arm]);
        let advantages = advantages(&rewards, &costs, &ratios, multiplier).to_vec2::<f64>().unwrap();
        for (row, (arms, advantages)) in drawn.iter().zip(advantages).enumerate() {
            for (&arm, advantage) in arms.iter().zip(advantages) {
                for (other, p) in policy[row % 2].iter().enumerate() {
                    let slope = f64::from(u8::from(other == arm)) - p;
                    logits[row % 2][other] += 0.3 * advantage * slope / (prompts / 2 * samples) as f64;
                }
            }
        }
        if step >= steps / 2 {
            let share = 2.0 / steps as f64;
            mean.multiplier += share * multiplier;
            mean.cost += share * World::mean(&policy, &world.costs);
            mean.reward += share * World::mean(&policy, &world.rewards);
            mean.policy.iter_mut().zip(policy.concat()).for_each(|(sum, p)| *sum += share * p);
        }
    }
    mean
}

const WEIGHT: f64 = 0.4;

#[test]
fn sampled_policy_gradients_end_near_the_optimum() {
    let optimum = World::two_prompts().table().policy(WEIGHT, &[1.185_853_180_202_354_2]).unwrap();
    let mean = sampled(-0.25, |rewards, costs, ratios, multiplier| {
        let mixed = KlPlacement::default().mixed_rewards(rewards, costs, ratios, WEIGHT, multiplier).unwrap();
        Advantages::CONSTRAINED.of(&mixed).unwrap()
    });
    assert_near(mean.multiplier, 1.185_853, 0.05, "mean λ");
    assert_near(mean.cost, -0.25, 0.01, "mean E[c]");
    assert_near(mean.reward, 0.760, 0.02, "mean E[r]");
    for (got, expected) in mean.policy.into_iter().zip(optimum.concat()) {
        assert_near(got, expected, 0.02, "mean π");
    }
}

#[test]
fn streams_divided_each_by_its_own_deviation_keep_the_limit_and_lose_the_reward() {
    // The penalty is only centred, with the weight of the reward.
    let mean = sampled(-0.25, |rewards, costs, ratios, multiplier| {
        let own = Advantages::SampleStd { epsilon: 1e-4 }.constrained(rewards, costs, multiplier).unwrap();
        let penalty = Advantages::CONSTRAINED.of(&(ratios * (WEIGHT / (1.0 + multiplier))).unwrap()).unwrap();
        (own - penalty).unwrap()
    });
    assert_near(mean.cost, -0.25, 0.01, "mean E[c]");
    assert_near(mean.reward, 0.354, 0.02, "mean E[r], of 0.760");
}

#[test]
fn few_completions_show_little_of_a_shift() {
    // Gaussian costs, tilted by one standard deviation: the mean of the cost is then 1.
    let mut normal = normal(5);
    for (completions, shown) in [(2, 0.36), (4, 0.61), (8, 0.77), (16, 0.87), (32, 0.93), (64, 0.96)] {
        let prompts = 400_000 / completions;
        let scores = (0..prompts).map(|_| {
            let costs: Vec<f64> = (0..completions).map(|_| normal()).collect();
            PromptScores { rewards: costs.clone(), costs: vec![costs], log_weights: None }
        });
        let table = ScoreTable::of_samples(scores.collect()).unwrap();
        assert_near(table.moments(1.0, &[0.0]).unwrap().costs[0], shown, 0.01, &format!("{completions}"));
        let said = table.small_sample();
        assert_eq!(said.map(|said| (said.completions, said.shown)), (completions < 64).then_some((completions, shown)));
    }
}

#[test]
fn a_window_delays_and_an_order_decides() {
    // Whatever the window and the order, a slow enough rule ends at the same place.
    let (world, beta) = (World::two_arms(), 0.5);
    for window in [Window::Last { costs: 8 }, Window::Average { decay: 0.8 }] {
        for order in [Order::Before, Order::After] {
            let ascent = Ascent::Linear { rate: 0.05, cap: None };
            let settings = DualSettings { limit: -0.5, ascent, window, order, ..DualSettings::default() };
            let mut dual = DualVariable::new(settings, 0.0).unwrap();
            let policy = world.train(&mut dual, KlPlacement::Rewards, beta, 4.0, 20_000);
            assert_near(dual.multiplier(), 1.274_653_072_167_027_5, 1e-6, &format!("{window:?} {order:?}"));
            assert_near(dot(&policy[0], &world.costs[0]), -0.5, 1e-6, "E[c]");
        }
    }
}
