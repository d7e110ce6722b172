//! The published formulas' values and gradients, for the tests beside each loss.
//!
//! The numbers stand in `tests/golden/formula-vectors.json`, whose first key says what made them.

use std::path::Path;

use candle_core::{Device, Tensor, Var};
use candlewick_testkit::{FormulaVectors, error, worst};

use crate::{
    Context, Groups, MismatchedScores, Normaliser, Objective, Phase, RankedRows, Scores, Solo, StepScores,
    TeacherScores, TokenScores, Totals,
};

pub(crate) const TOLERANCE: f64 = 1e-9;

pub(crate) fn vectors() -> FormulaVectors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formula-vectors.json");
    FormulaVectors::load(&path).unwrap()
}

/// The loss on the four recorded pairs: value, value of every pair, and gradient.
pub(crate) fn check_pairs(name: &str, loss: impl Objective) {
    check_pairs_with(name, loss, &[]);
}

/// As [`check_pairs`], with numbers of the pairs.
pub(crate) fn check_pairs_with(name: &str, loss: impl Objective, numbers: &[(&str, Vec<f64>)]) {
    let (log_probs, mut scores) = pairs();
    scores.groups.numbers = numbers.iter().map(|(name, values)| ((*name).to_owned(), values.clone())).collect();
    check(name, loss, scores, &log_probs, &["grad_w", "grad_l"]);
}

/// The loss on the eight recorded completions, the first four of them desirable; its gradient is `grad`.
pub(crate) fn check_labelled(name: &str, loss: impl Objective) {
    check_labelled_with(name, loss, &[]);
}

/// As [`check_labelled`], with numbers of the completions.
pub(crate) fn check_labelled_with(name: &str, loss: impl Objective, numbers: &[(&str, Vec<f64>)]) {
    let (log_probs, mut scores) = labelled();
    scores.groups.numbers = numbers.iter().map(|(name, values)| ((*name).to_owned(), values.clone())).collect();
    check(name, loss, scores, &log_probs, &["grad"]);
}

/// The recorded pairs: their log-probabilities and the scores made of them.
pub(crate) fn pairs() -> (Var, Scores) {
    let (log_probs, policy) = rows("policy");
    let (_, reference) = rows("ref");
    (log_probs, Scores::of_pairs(policy, Some(reference)))
}

/// The same rows as single completions, with their mismatched ones.
pub(crate) fn labelled() -> (Var, Scores) {
    let (log_probs, scores) = pairs();
    let groups = Groups::of_labelled(&[true, true, true, true, false, false, false, false]);
    let mismatched = MismatchedScores { policy: sums("kl_policy"), reference: sums("kl_ref") };
    (log_probs, Scores { groups, mismatched: Some(mismatched), ..scores })
}

/// Value, value of every item where it is recorded, and gradient of a loss on one micro-batch that is the whole step.
pub(crate) fn check(name: &str, mut loss: impl Objective, scores: Scores, log_probs: &Var, gradients: &[&str]) {
    loss.validate().unwrap();
    let micro = [scores];
    let context = loss.prepare(&StepScores { micro: &micro, collective: &Solo }, Phase::Train).unwrap();
    check_in(name, &loss, &micro[0], &context.micro(0), log_probs, gradients);
}

/// As [`check`], in a context that is given.
pub(crate) fn check_in(
    name: &str,
    loss: &dyn Objective,
    scores: &Scores,
    context: &Context,
    log_probs: &Var,
    gradients: &[&str],
) {
    check_in_places(name, loss, scores, context, log_probs, gradients, &(0..scores.groups.items()).collect::<Vec<_>>());
}

/// As [`check_in`], where the recorded values of single items are in another order: `places[k]` is the item of value `k`.
fn check_in_places(
    name: &str,
    loss: &dyn Objective,
    scores: &Scores,
    context: &Context,
    log_probs: &Var,
    gradients: &[&str],
    places: &[usize],
) {
    let vectors = vectors();
    let terms = loss.evaluate(scores, context).unwrap();
    if let Some(expected) = vectors.list(name, "per_example").filter(|values| values.len() == scores.groups.items()) {
        let mut per_item = vec![0.0; expected.len()];
        for term in &terms.terms {
            assert_eq!(term.normaliser, Normaliser::Items, "{name}");
            let values = term.numerator.to_vec1::<f64>().unwrap();
            per_item.iter_mut().zip(values).for_each(|(sum, value)| *sum += term.weight * value);
        }
        let per_item: Vec<f64> = places.iter().map(|&item| per_item[item]).collect();
        assert!(worst(&per_item, &expected) < TOLERANCE, "{name}: {per_item:?} {expected:?}");
    }
    let value = terms.loss(&scores.totals()).unwrap();
    let (got, expected) = (value.to_scalar::<f64>().unwrap(), vectors.number(name, "loss").unwrap());
    assert!(error(got, expected) < TOLERANCE, "{name}: {got} {expected}");
    // The recorded gradient is that of a row's sum: every scored token of the row has it.
    let expected: Vec<f64> = gradients.iter().flat_map(|key| vectors.list(name, key).unwrap()).collect();
    let got = value.backward().unwrap().get(log_probs).unwrap().to_vec2::<f64>().unwrap();
    assert_eq!(got.len(), expected.len());
    for (row, (got, expected)) in got.iter().zip(expected).enumerate() {
        for (slot, &got) in got.iter().enumerate() {
            let expected = if slot < scores.policy.lengths()[row] { expected } else { 0.0 };
            assert!(error(got, expected) < TOLERANCE, "{name}, row {row}, slot {slot}: {got} {expected}");
        }
    }
}

/// The loss on the four recorded pairs, whose values are recorded in the order of something sorted.
pub(crate) fn check_in_order(name: &str, mut loss: impl Objective, order: &[usize]) {
    let (log_probs, scores) = pairs();
    loss.validate().unwrap();
    let micro = [scores];
    let context = loss.prepare(&StepScores { micro: &micro, collective: &Solo }, Phase::Train).unwrap();
    check_in_places(name, &loss, &micro[0], &context.micro(0), &log_probs, &["grad_w", "grad_l"], order);
}

/// Places of values from the smallest to the largest; equals stay in order.
pub(crate) fn order_of(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order
}

/// Loss and gradient of a step that is made of some of the recorded pairs, one list a micro-batch.
pub(crate) fn step_gradient(loss: &mut impl Objective, micro: &[&[usize]]) -> (f64, Vec<f64>) {
    let (log_probs, all) = pairs();
    let part = |pairs: &&[usize]| {
        let pairs = pairs.iter().map(|&pair| all.groups.pairs[pair]).collect();
        Scores { groups: Groups { pairs, ..Groups::default() }, ..all.clone() }
    };
    let micro: Vec<Scores> = micro.iter().map(part).collect();
    let context = loss.prepare(&StepScores { micro: &micro, collective: &Solo }, Phase::Train).unwrap();
    let mut totals = Totals::default();
    micro.iter().for_each(|scores| totals += scores.totals());
    let losses = micro.iter().enumerate().map(|(index, scores)| {
        let terms = loss.evaluate(scores, &context.micro(index)).unwrap();
        terms.loss(&totals).unwrap()
    });
    let sum = losses.reduce(|sum, value| (sum + value).unwrap()).unwrap();
    let gradient = sum.backward().unwrap().get(&log_probs).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    (sum.to_scalar().unwrap(), gradient)
}

/// The rows of one policy, chosen ones first, padded with NaN.
fn rows(policy: &str) -> (Var, TokenScores) {
    let vectors = vectors();
    let mut rows = vectors.rows(&format!("{policy}_chosen_tokens")).unwrap();
    rows.extend(vectors.rows(&format!("{policy}_rejected_tokens")).unwrap());
    let slots = rows.iter().map(Vec::len).max().unwrap();
    let padded = |fill: f64, of: fn(f64) -> f64| {
        let rows =
            rows.iter().map(|row| (0..slots).map(|slot| row.get(slot).map_or(fill, |&value| of(value))).collect());
        Tensor::new(rows.collect::<Vec<Vec<f64>>>(), &Device::Cpu).unwrap()
    };
    let log_probs = Var::from_tensor(&padded(f64::NAN, |value| value)).unwrap();
    let scores = TokenScores::new(log_probs.as_tensor().clone(), padded(0.0, |_| 1.0)).unwrap();
    (log_probs, scores)
}

fn sums(input: &str) -> TokenScores {
    let values = Tensor::new(vectors().input(input).unwrap(), &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    TokenScores::unmasked(values).unwrap()
}

/// One group of rated completions of one token each.
pub(crate) fn ranked(log_probs: &[f64], ratings: &[f64]) -> (Var, Scores) {
    let log_probs = Var::from_slice(log_probs, (log_probs.len(), 1), &Device::Cpu).unwrap();
    let policy = TokenScores::unmasked(log_probs.as_tensor().clone()).unwrap();
    let ranked = vec![RankedRows { rows: (0..ratings.len()).collect(), ratings: ratings.to_vec() }];
    (log_probs, Scores::new(policy, None, Groups { ranked, ..Groups::default() }))
}

/// The recorded student: its logits, `[T, V]`, and the scores made of them, one row with the statistics that losses
/// over the vocabulary read.
pub(crate) fn student() -> (Var, TokenScores) {
    let logits = Var::new(vectors().rows("student").unwrap(), &Device::Cpu).unwrap();
    let scores = over_the_vocabulary(logits.as_tensor());
    (logits, scores)
}

/// Log-probabilities `[T, V]` of recorded logits.
pub(crate) fn distribution(input: &str) -> Tensor {
    log_softmax(&Tensor::new(vectors().rows(input).unwrap(), &Device::Cpu).unwrap())
}

/// One pair of which one side has the scores of the recorded student and the other those of the recorded teacher's
/// reference; the teacher is the recorded one on both.
pub(crate) fn taught_pair(student_is_chosen: bool) -> (Var, Scores) {
    let (logits, student) = student();
    let other = over_the_vocabulary(&Tensor::new(vectors().rows("teacher_ref").unwrap(), &Device::Cpu).unwrap());
    let sides = if student_is_chosen { [&student, &other] } else { [&other, &student] };
    let stacked = |of: fn(&TokenScores) -> Tensor| Tensor::cat(&sides.map(of), 0).unwrap();
    let policy = TokenScores::unmasked(stacked(|side| side.log_probs().clone())).unwrap();
    let policy = policy.with_given(stacked(|side| side.given().unwrap().clone())).unwrap();
    let twice = |input| Tensor::stack(&[distribution(input), distribution(input)], 0).unwrap();
    let teacher = TeacherScores { log_probs: twice("teacher"), reference: Some(twice("teacher_ref")) };
    (logits, Scores { teacher: Some(teacher), ..Scores::of_pairs(policy, None) })
}

/// A value and its gradient with respect to the recorded student's logits.
pub(crate) fn check_logits(name: &str, value: &Tensor, logits: &Var) {
    let vectors = vectors();
    let (got, expected) = (value.to_scalar::<f64>().unwrap(), vectors.number(name, "loss").unwrap());
    assert!(error(got, expected) < TOLERANCE, "{name}: {got} {expected}");
    let got = value.backward().unwrap().get(logits).unwrap().to_vec2::<f64>().unwrap();
    let expected = vectors.matrix(name, "grad").unwrap();
    assert!(worst(&got.concat(), &expected.concat()) < TOLERANCE, "{name}: {got:?} {expected:?}");
}

fn over_the_vocabulary(logits: &Tensor) -> TokenScores {
    let log_probs = log_softmax(logits);
    let targets: Vec<u32> = vectors().input("targets").unwrap().into_iter().map(|target| target as u32).collect();
    let targets = Tensor::new(targets, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    let of_targets = log_probs.gather(&targets, 1).unwrap().t().unwrap().contiguous().unwrap();
    let means = log_probs.mean(1).unwrap().unsqueeze(0).unwrap();
    let scores = TokenScores::unmasked(of_targets).unwrap().with_mean_log_probs(means).unwrap();
    scores.with_given(log_probs.unsqueeze(0).unwrap()).unwrap()
}

fn log_softmax(logits: &Tensor) -> Tensor {
    let normaliser = logits.exp().unwrap().sum_keepdim(1).unwrap().log().unwrap();
    logits.broadcast_sub(&normaliser).unwrap()
}

/// What a score model with one head says of four pairs: a variable `[8, 1]`, first the chosen and then the rejected sides.
pub(crate) fn of_values(chosen: &[f64], rejected: &[f64]) -> (Var, Scores) {
    let values = Tensor::new([chosen, rejected].concat(), &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    let values = Var::from_tensor(&values).unwrap();
    let scores = TokenScores::of_values(values.as_tensor().clone()).unwrap();
    (values, Scores::of_pairs(scores, None))
}

/// The loss of a score model on the four recorded pairs: value and gradient, of which `gradients` names that of either side.
pub(crate) fn check_sides(
    name: &str,
    loss: impl Objective,
    chosen: &[f64],
    rejected: &[f64],
    numbers: &[(&str, Vec<f64>)],
    gradients: [&str; 2],
) {
    let (values, mut scores) = of_values(chosen, rejected);
    scores.groups.numbers = numbers.iter().map(|(name, values)| ((*name).to_owned(), values.clone())).collect();
    loss.validate().unwrap();
    let vectors = vectors();
    let value = loss.evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
    let (got, expected) = (value.to_scalar::<f64>().unwrap(), vectors.number(name, "loss").unwrap());
    assert!(error(got, expected) < TOLERANCE, "{name}: {got} {expected}");
    let expected: Vec<f64> = gradients.iter().flat_map(|key| vectors.list(name, key).unwrap()).collect();
    let got = value.backward().unwrap().get(&values).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert!(worst(&got, &expected) < TOLERANCE, "{name}: {got:?} {expected:?}");
}

/// As [`check_sides`], of rewards that were recorded as "high" and "low".
pub(crate) fn check_values(name: &str, loss: impl Objective, numbers: &[(&str, Vec<f64>)]) {
    let (high, low) = ([1.2, -0.3, 0.5, 2.0], [0.4, 0.1, -0.6, 1.5]);
    check_sides(name, loss, &high, &low, numbers, ["grad_high", "grad_low"]);
}
