//! What must hold for any table of scores.

use candlewick_losses::Error;
use candlewick_losses::dual::{CostMeasure, PromptScores, ScoreTable, Solution};

use crate::world::{World, assert_near, normal};

/// Prompts of 80 completions with normal rewards and costs, which hang together a little.
fn random(constraints: usize, seed: u64) -> ScoreTable {
    let mut normal = normal(seed);
    let prompts = (0..5).map(|_| {
        let rewards: Vec<f64> = (0..80).map(|_| normal()).collect();
        let mut cost = || rewards.iter().map(|reward| 0.4 * reward + normal() - 0.1).collect();
        let costs = (0..constraints).map(|_| cost()).collect();
        PromptScores { rewards: rewards.clone(), costs, log_weights: None }
    });
    ScoreTable::of_samples(prompts.collect()).unwrap()
}

#[test]
fn the_mean_cost_falls_as_the_multiplier_rises() {
    for seed in 0..20 {
        let table = random(1, seed);
        let at = |multiplier: f64| table.moments(0.5, &[multiplier]).unwrap();
        let grid: Vec<f64> = (0..60).map(|step| f64::from(step) * 0.1).collect();
        for two in grid.windows(2) {
            assert!(at(two[1]).costs[0] <= at(two[0]).costs[0], "{seed}: {two:?}");
        }
        // The slope of the dual function is d − E[c], its curvature Var(c)/β: central differences.
        let dual = |multiplier: f64| table.dual(0.5, &[multiplier], &[-0.3]).unwrap();
        let (here, step) = (0.8, 1e-4);
        let slope = (dual(here + step) - dual(here - step)) / (2.0 * step);
        assert_near(slope, -0.3 - at(here).costs[0], 1e-7, "slope");
        let curvature = (dual(here + step) - 2.0 * dual(here) + dual(here - step)) / (step * step);
        assert_near(curvature, at(here).covariance[0][0] / 0.5, 1e-5, "curvature");
    }
}

#[test]
fn multiplier_times_slack_is_nothing_and_the_gap_closes() {
    for seed in 0..20 {
        for limit in [-1.5, -0.7, 0.0, 0.4, 3.0] {
            let table = random(1, seed);
            let (optimum, binds) = match table.solve(0.3, &[limit]).unwrap() {
                Solution::Active(optimum) => (optimum, true),
                Solution::Slack(optimum) => (optimum, false),
                Solution::Infeasible(found) => panic!("{seed} {limit}: {found:?}"),
            };
            assert_eq!(optimum.multipliers[0] > 0.0, binds);
            assert!(optimum.multipliers[0] * (optimum.costs[0] - limit).abs() < 1e-10, "{optimum:?}");
            assert!(optimum.costs[0] <= limit + 1e-10);
            assert!(!binds || optimum.gap.abs() < 1e-9, "{optimum:?}");
        }
    }
}

/// The minimum of a convex function over [0, 40], by golden sections.
fn golden(of: &dyn Fn(f64) -> f64) -> f64 {
    let share = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (0.0, 40.0);
    for _ in 0..80 {
        let (left, right) = (high - share * (high - low), low + share * (high - low));
        if of(left) < of(right) {
            high = right;
        } else {
            low = left;
        }
    }
    0.5 * (low + high)
}

#[test]
fn two_constraints_agree_with_a_search_of_the_plane() {
    let beta = 0.5;
    for (seed, limits) in [(1, [-0.5, -0.3]), (2, [-0.8, 2.0]), (3, [0.1, -0.9]), (4, [0.0, 0.0])] {
        let table = random(2, seed);
        let height = |first: f64, second: f64| table.dual(beta, &[first, second], &limits).unwrap();
        let best_second = |first: f64| golden(&|second| height(first, second));
        let first = golden(&|first| height(first, best_second(first)));
        let second = best_second(first);
        let Solution::Active(optimum) = table.solve(beta, &limits).unwrap() else { panic!("one of them binds") };
        assert_near(optimum.multipliers[0], first, 1e-5, &format!("{seed}: first"));
        assert_near(optimum.multipliers[1], second, 1e-5, &format!("{seed}: second"));
        assert!(optimum.dual <= height(first, second) + 1e-13);
        for (k, limit) in limits.into_iter().enumerate() {
            assert!(optimum.costs[k] <= limit + 1e-9, "{optimum:?}");
            assert!(optimum.multipliers[k] * (optimum.costs[k] - limit).abs() < 1e-9, "{optimum:?}");
        }
    }
}

#[test]
fn a_constraint_twice_shares_its_multiplier() {
    let world = World::two_prompts();
    let prompts = (0..2).map(|x| PromptScores {
        rewards: world.rewards[x].clone(),
        costs: vec![world.costs[x].clone(); 2],
        log_weights: Some(world.reference[x].iter().map(|p| p.ln()).collect()),
    });
    let table = ScoreTable::of_all(prompts.collect()).unwrap();
    let Solution::Active(optimum) = table.solve(0.4, &[-0.25, -0.25]).unwrap() else { panic!("it binds") };
    assert_near(optimum.multipliers.iter().sum(), 1.185_853_180_202_354_2, 1e-7, "Σλ");
}

#[test]
fn limits_that_exclude_each_other_come_with_a_proof() {
    let opposed = PromptScores {
        rewards: vec![0.0, 1.0, 0.3],
        costs: vec![vec![1.0, -1.0, 0.2], vec![-1.0, 1.0, 0.1]],
        log_weights: None,
    };
    let table = ScoreTable::of_all(vec![opposed]).unwrap();
    let Solution::Infeasible(found) = table.solve(0.5, &[-0.5, -0.4]).unwrap() else { panic!("none can keep both") };
    assert_eq!(found.least_costs, [-1.0, -1.0]);
    assert_near(found.weights.iter().sum(), 1.0, 1e-12, "weights");
    // In their mixture no completion is as cheap as the limits.
    let least = [(1.0, -1.0), (-1.0, 1.0), (0.2, 0.1)]
        .map(|(first, second)| found.weights[0] * first + found.weights[1] * second)
        .into_iter()
        .fold(f64::INFINITY, f64::min);
    let bound = -0.5 * found.weights[0] - 0.4 * found.weights[1];
    assert!(least >= bound && (least - bound - found.excess).abs() < 1e-12, "{found:?}");
    // Either alone can be kept, and both with room.
    assert!(matches!(table.solve(0.5, &[-0.8, 2.0]).unwrap(), Solution::Active(_)));
    assert!(matches!(table.solve(0.5, &[0.25, 0.25]).unwrap(), Solution::Active(_)));
}

#[test]
fn measures_change_what_is_held() {
    let table = random(1, 9);
    let Solution::Active(rate) = table.clone().measured(&[CostMeasure::Rate]).unwrap().solve(0.5, &[0.1]).unwrap()
    else {
        panic!("a tenth is fewer than there are")
    };
    assert_near(rate.unsafe_share[0], 0.1, 1e-12, "P(c > 0)");
    assert_near(rate.costs[0], 0.1, 1e-12, "measured");
    assert!(rate.variances[0] <= 0.25);
    let rectified = table.clone().measured(&[CostMeasure::Rectified]).unwrap();
    let Solution::Active(rectified) = rectified.solve(0.5, &[0.05]).unwrap() else { panic!("it binds") };
    // The same bound on the mean lets safe completions pay for unsafe ones.
    let Solution::Active(mean) = table.solve(0.5, &[0.05]).unwrap() else { panic!("it binds") };
    assert!(rectified.unsafe_share[0] < mean.unsafe_share[0], "{rectified:?} {mean:?}");
    let never = table.measured(&[CostMeasure::Rate]).unwrap();
    assert!(matches!(never.solve(0.5, &[0.0]).unwrap(), Solution::Infeasible(_)));
}

#[test]
fn log_ratios_and_margins_are_scores_in_other_words() {
    // s_r = r/β and s_s = −c/β, of two policies that are the optima of r and of −c alone, up to constants.
    let (world, beta) = (World::two_prompts(), 0.4);
    let scaled = |rows: &Vec<f64>, factor: f64| rows.iter().map(|value| value * factor + 0.7).collect::<Vec<f64>>();
    let prompts = (0..2).map(|x| PromptScores {
        rewards: scaled(&world.rewards[x], 1.0 / beta),
        costs: vec![scaled(&world.costs[x], -1.0 / beta)],
        log_weights: Some(world.reference[x].iter().map(|p| p.ln()).collect()),
    });
    let table = ScoreTable::of_log_ratios(prompts.collect(), beta).unwrap();
    // A limit of −0.25 is 0.325 below the reference's mean of 0.075.
    let limits = table.limit_for_margin(&[0.325]).unwrap();
    let Solution::Active(optimum) = table.solve(beta, &limits).unwrap() else { panic!("it binds") };
    assert_near(optimum.multipliers[0], 1.185_853_180_202_354_2, 1e-10, "λ*");
}

#[test]
fn weights_make_samples_of_another_policy_those_of_the_reference() {
    // The same world, its completions drawn equally often: the weights say how likely the reference writes them.
    let world = World::two_prompts();
    let uneven = world.table().solve(0.4, &[0.0]).unwrap();
    let shifted = (0..2).map(|x| PromptScores {
        rewards: world.rewards[x].clone(),
        costs: vec![world.costs[x].clone()],
        log_weights: Some(world.reference[x].iter().map(|p| (p * 3.0).ln() + 5.0).collect()),
    });
    let shifted = ScoreTable::of_all(shifted.collect()).unwrap().solve(0.4, &[0.0]).unwrap();
    let (Solution::Active(uneven), Solution::Active(shifted)) = (uneven, shifted) else { panic!("both bind") };
    assert_near(uneven.multipliers[0], shifted.multipliers[0], 1e-12, "λ*");
}

#[test]
fn tables_that_are_none_are_refused() {
    let prompt = |rewards: &[f64], costs: &[&[f64]]| PromptScores {
        rewards: rewards.to_vec(),
        costs: costs.iter().map(|costs| costs.to_vec()).collect(),
        log_weights: None,
    };
    let refused = |prompts| ScoreTable::of_samples(prompts).unwrap_err().to_string();
    assert!(refused(vec![]).contains("got no prompts"));
    assert!(refused(vec![prompt(&[1.0], &[])]).contains("got no costs"));
    assert!(refused(vec![prompt(&[], &[&[]])]).contains("prompt 0: it has no completions"));
    let whole = || prompt(&[1.0, 2.0], &[&[0.0, 1.0]]);
    assert!(refused(vec![whole(), prompt(&[1.0], &[&[0.0, 1.0]])]).contains("prompt 1: got 2 costs for 1 rewards"));
    assert!(
        refused(vec![whole(), prompt(&[1.0], &[&[0.0], &[0.0]])]).contains("got costs of 2 constraints, expected 1")
    );
    let nan = refused(vec![prompt(&[1.0, f64::NAN], &[&[0.0, 1.0]])]);
    assert!(nan.contains("rewards, completion 1: got NaN"), "{nan}");
    let table = ScoreTable::of_samples(vec![whole()]).unwrap();
    assert!(matches!(table.solve(0.0, &[0.0]), Err(Error::Parameter { parameter: "beta", .. })));
    assert!(table.solve(1.0, &[]).unwrap_err().to_string().contains("got 0 limits for 1 constraints"));
    let vast = ScoreTable::of_samples(vec![prompt(&[1e300, -1e300], &[&[1e300, -1e300]])]).unwrap();
    assert!(vast.solve(1e-10, &[0.0]).unwrap_err().to_string().contains("beyond double precision"));
    assert!(table.solve(1.0, &[f64::NAN]).unwrap_err().to_string().contains("limit 0: got NaN"));
}
