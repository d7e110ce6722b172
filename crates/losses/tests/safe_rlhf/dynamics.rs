//! When a multiplier and a policy that move together settle: closed-form bounds, held from both sides.

use candlewick_losses::dual::{Ascent, DualSettings, DualVariable, Order, Window};

use crate::world::{World, assert_near, logit};

const BETA: f64 = 0.5;
const LIMIT: f64 = -0.5;
/// The optimum of two arms with rewards 0 and 2 and costs −1 and 1.
const P: f64 = 0.25;
const COST_GAP: f64 = 2.0;
/// `p(1 − p)`.
const SPREAD: f64 = P * (1.0 - P);
/// `Var(c)`.
const VARIANCE: f64 = SPREAD * COST_GAP * COST_GAP;

/// Runs two arms and gives how far from its optimum the multiplier is at most, in the first and in the last tenth.
fn run(settings: DualSettings, rate: f64, steps: usize) -> (f64, f64) {
    run_with(BETA, settings, rate, steps, 1)
}

/// The same with another weight of the KL, and costs every so many steps.
fn run_with(beta: f64, settings: DualSettings, rate: f64, steps: usize, every: usize) -> (f64, f64) {
    let best = (2.0 - beta * logit(P)) / COST_GAP;
    if beta == BETA {
        assert_near(best, 1.274_653_072_167_027_5, 1e-14, "λ*");
    }
    let mut dual = DualVariable::new(settings, best).unwrap();
    // Off the optimum by a little, so that the bounds of small deviations hold.
    let mut odds = logit(P) + 1e-4;
    let (mut first, mut last) = (0.0f64, 0.0f64);
    for step in 0..steps {
        let unsafe_share = 1.0 / (1.0 + (-odds).exp());
        if step % every == 0 {
            dual.observe(&[-1.0 + COST_GAP * unsafe_share]).unwrap();
        }
        let multiplier = dual.step().multiplier;
        let slope = 2.0 - multiplier * COST_GAP - beta * odds;
        odds += rate * unsafe_share * (1.0 - unsafe_share) * slope;
        let off = (multiplier - best).abs();
        first = if step < steps / 10 { first.max(off) } else { first };
        last = if step >= steps - steps / 10 { last.max(off) } else { last };
    }
    (first, last)
}

fn linear(rate: f64, order: Order, window: Window) -> DualSettings {
    DualSettings { limit: LIMIT, ascent: Ascent::Linear { rate, cap: None }, order, window, ..DualSettings::default() }
}

/// Below a bound deviations shrink, above it they grow.
fn assert_bound(settings: impl Fn(f64) -> DualSettings, bound: f64, slack: f64, rate: f64, steps: usize, what: &str) {
    let (first, last) = run(settings((1.0 - slack) * bound), rate, steps);
    assert!(last < 0.5 * first, "{what}: {first:e} to {last:e} below the bound of {bound}");
    let (first, last) = run(settings((1.0 + slack) * bound), rate, steps);
    // From 1e-4 they grow until the curvature of the world holds them, which may be soon.
    assert!(last > 2.0 * first || last > 0.1, "{what}: {first:e} to {last:e} above the bound of {bound}");
}

#[test]
fn at_once_the_bound_is_beta_over_the_variance() {
    let settings = |rate| linear(rate, Order::After, Window::Latest);
    let bound = settings(1.0).largest_rate(BETA, VARIANCE, 1.0, 1);
    assert_near(bound, 2.0 / 3.0, 1e-15, "β/Var(c)");
    // Whatever the learning rate of the policy.
    for rate in [0.1, 0.5] {
        assert_bound(settings, bound, 0.05, rate, 30_000, "at once");
    }
    // Well below, it converges.
    assert!(run(settings(0.5 * bound), 0.5, 30_000).1 < 1e-12);
}

#[test]
fn the_multiplier_first_admits_a_far_larger_rate() {
    for (rate, expected) in [(0.5, 55.56), (0.1, 283.1)] {
        let bound = (4.0 - 2.0 * rate * SPREAD * BETA) / (rate * SPREAD * SPREAD * COST_GAP * COST_GAP);
        assert_near(bound, expected, 0.05, "closed form");
        assert_bound(|rate| linear(rate, Order::Before, Window::Latest), bound, 0.02, rate, 2000, "before");
    }
    let settings = linear(1.0, Order::Before, Window::Latest);
    assert!(settings.largest_rate(BETA, VARIANCE, 1.0, 1).is_infinite());
}

#[test]
fn a_window_takes_that_away() {
    // Exact bounds at a rate of ½, beside those of the first order.
    for (window, exact) in [(2, 1.33), (4, 0.454), (8, 0.201), (16, 0.099), (32, 0.0525)] {
        let settings = |rate| linear(rate, Order::Before, Window::Last { costs: window });
        assert_bound(settings, exact, 0.05, 0.5, 120_000, &format!("window of {window}"));
        let advised = settings(1.0).largest_rate(BETA, VARIANCE, 1.0, 1);
        assert_near(advised, 2.0 * BETA / ((window as f64 - 1.0) * VARIANCE), 1e-12, "first order");
        assert!((0.7..1.4).contains(&(advised / exact)), "{window}: {advised} {exact}");
    }
    // At once and with a window the delays add up.
    let both = |rate| linear(rate, Order::After, Window::Last { costs: 4 });
    assert_bound(both, both(1.0).largest_rate(BETA, VARIANCE, 1.0, 1), 0.1, 0.1, 120_000, "both");
}

#[test]
fn costs_that_come_in_rounds_have_a_bound_of_their_own() {
    // A window of rounds, with a policy that is slow beside them; and policies that are done before the next round comes.
    let (window, latest) = (Window::Last { costs: 4 }, Window::Latest);
    for (every, order, window, rate, slack, of_beta) in [
        (8, Order::Before, window, 0.1, 0.1, 1.0 / 1.5),
        (16, Order::After, window, 0.02, 0.05, 1.0 / (1.5 + 1.0 / 16.0)),
        (64, Order::Before, latest, 2.0, 0.05, 2.0),
        (64, Order::After, latest, 2.0, 0.05, 2.0),
    ] {
        let settings = |rate| linear(rate, order, window);
        let bound = settings(1.0).largest_rate_of_rounds(BETA, VARIANCE, 1.0, 1, every as u64);
        assert_near(bound, of_beta * BETA / VARIANCE, 1e-12, "closed form");
        let at = |share: f64| run_with(BETA, settings(share * bound), rate, 400_000, every);
        let (first, last) = at(1.0 - slack);
        assert!(last < 0.5 * first, "{every} {order:?}: {first:e} to {last:e} below {bound}");
        let (first, last) = at(1.0 + slack);
        assert!(last > 2.0 * first || last > 0.1, "{every} {order:?}: {first:e} to {last:e} above {bound}");
    }
    // What it takes to be done is not asked: a slower policy settles there too.
    let settings = linear(1.9 * BETA / VARIANCE, Order::Before, latest);
    assert!(run_with(BETA, settings, 0.1, 120_000, 8).1 < 1e-9);
}

#[test]
fn on_the_logarithm_the_bound_is_that_of_the_slope() {
    let best = 1.274_653_072_167_027_5;
    let with = |ascent| DualSettings { limit: LIMIT, ascent, order: Order::After, ..DualSettings::default() };
    let log = |rate| with(Ascent::LogGradient { rate, cap: 50.0, floor: 0.01 });
    let exponentiated = |rate| with(Ascent::Exponentiated { rate, cap: 50.0, floor: 0.01 });
    let bound = BETA / VARIANCE;
    assert_near(log(1.0).largest_rate(BETA, VARIANCE, best, 1), bound / (best * best), 1e-12, "log");
    assert_bound(log, bound / (best * best), 0.05, 0.5, 30_000, "log");
    assert_bound(exponentiated, exponentiated(1.0).largest_rate(BETA, VARIANCE, best, 1), 0.05, 0.5, 30_000, "exp");
}

#[test]
fn the_proportional_term_damps_like_a_stronger_beta() {
    let pid = |proportional: f64| {
        move |integral: f64| DualSettings {
            limit: LIMIT,
            ascent: Ascent::Pid { proportional, integral, derivative: 0.0, smoothing: 0.0, cap: None },
            order: Order::After,
            ..DualSettings::default()
        }
    };
    for proportional in [0.0, 0.5, 2.0] {
        let bound = pid(proportional)(1.0).largest_rate(BETA, VARIANCE, 1.0, 1);
        assert_near(bound, (BETA + proportional * VARIANCE) / VARIANCE, 1e-12, "closed form");
        assert_bound(pid(proportional), bound, 0.1, 0.05, 120_000, &format!("proportional {proportional}"));
    }
}

#[test]
fn without_a_penalty_nothing_settles_and_it_is_said() {
    // Reward less multiplier times cost is bilinear in policy and multiplier: they go round each other.
    let step = 1e-3;
    for order in [Order::Before, Order::After] {
        let settings = linear(step, order, Window::Latest);
        assert_near(settings.largest_rate(0.0, VARIANCE, 1.0, 1), 0.0, 0.0, &format!("{order:?}"));
        let (first, last) = run_with(0.0, settings, 0.5, 200_000, 1);
        assert!(first > 1e-6 && last > 0.9 * first, "{order:?} goes on: {first:e} to {last:e}");
        // With the penalty, the same rate settles.
        assert!(run(settings, 0.5, 200_000).1 < 1e-12);
    }
    for ascent in [Ascent::beaver(), Ascent::Exponentiated { rate: step, cap: 50.0, floor: 0.01 }] {
        let settings = DualSettings { ascent, ..linear(step, Order::After, Window::Latest) };
        assert_near(settings.largest_rate(0.0, VARIANCE, 1.0, 1), 0.0, 0.0, &format!("{ascent:?}"));
    }
    // A proportional term damps in its place.
    let pid = Ascent::Pid { proportional: 0.5, integral: step, derivative: 0.0, smoothing: 0.0, cap: None };
    let settings = DualSettings { ascent: pid, ..linear(step, Order::After, Window::Latest) };
    assert_near(settings.largest_rate(0.0, VARIANCE, 1.0, 1), 0.5, 1e-15, "the proportional term alone");
    assert!(run_with(0.0, settings, 0.5, 200_000, 1).1 < 1e-9);
    // The solver has no answer without one either, and names what is missing.
    let error = World::two_arms().table().solve(0.0, &[LIMIT]).unwrap_err().to_string();
    assert_eq!(error, "score table.beta: got 0, expected a positive number");
}

#[test]
fn a_multiplier_that_starts_far_off_is_capped_and_comes_back() {
    // An impossible limit for a while: λ runs to the cap and no further; then the limit can be kept.
    let settings = DualSettings { limit: LIMIT, ascent: Ascent::beaver(), ..DualSettings::default() };
    let mut dual = DualVariable::new(settings, 1.0).unwrap();
    for _ in 0..200 {
        dual.observe(&[1.0]).unwrap();
        assert!(dual.step().multiplier <= 5.0);
    }
    assert_near(dual.multiplier(), 5.0, 1e-12, "cap");
    for _ in 0..2000 {
        dual.observe(&[-0.6]).unwrap();
        dual.step();
    }
    assert!(dual.multiplier() < 0.06, "{}", dual.multiplier());
}
