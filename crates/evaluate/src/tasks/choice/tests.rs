use super::*;
use crate::stats::Bootstrap;

fn variant(log_probs: &[f64], tokens: &[usize]) -> ChoiceVariant {
    ChoiceVariant {
        form: "prompt".into(),
        reversed: false,
        log_probs: log_probs.to_vec(),
        tokens: tokens.to_vec(),
        characters: tokens.iter().map(|n| 4 * n).collect(),
        bytes: tokens.iter().map(|n| 5 * n).collect(),
        unconditional: Vec::new(),
    }
}

fn outcome(log_probs: &[f64], tokens: &[usize], right: &[usize]) -> ChoiceOutcome {
    ChoiceOutcome { variants: vec![variant(log_probs, tokens)], right: right.to_vec(), weights: Vec::new(), bias: None }
}

fn task(text: &str) -> Choice {
    let words = Words::parse(text, "t.toml").expect("words");
    Choice::new(&words, "t.toml").expect("a task")
}

const PLAIN: &str = "kind = \"choice\"\nprompt = \"p\"\nchoices = [\"a\", \"b\"]\nanswer = \"0\"\n";

fn measured(task: &Choice, rows: &[ChoiceOutcome], groups: &[Option<&str>]) -> Vec<super::super::Metric> {
    let mut measures = Measures::new(Bootstrap { draws: 200, ..Bootstrap::default() });
    task.measure(&rows.iter().collect::<Vec<_>>(), groups, &mut measures);
    measures.metrics
}

fn value(metrics: &[super::super::Metric], name: &str) -> Option<f64> {
    metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value)
}

#[test]
fn lengths_decide_between_sum_and_mean() {
    let row = variant(&[-4.0, -3.0], &[4, 1]);
    assert_eq!(row.best(ChoiceScore::Sum), 1);
    assert_eq!(row.best(ChoiceScore::Mean), 0);
    assert_eq!(row.scores(ChoiceScore::PerCharacter), [-0.25, -0.75]);
    assert_eq!(row.scores(ChoiceScore::PerByte), [-0.2, -0.6]);
    let informed = ChoiceVariant { unconditional: vec![-1.0, -3.0], ..row };
    assert_eq!(informed.scores(ChoiceScore::Pmi), [-3.0, 0.0]);
}

#[test]
fn the_mass_of_right_choices_is_their_share_of_probability() {
    // 1/2, 1/4 and 1/4 of a probability that is small as a whole.
    let halves = [0.5f64.ln() - 900.0, 0.25f64.ln() - 900.0, 0.25f64.ln() - 900.0];
    let row = outcome(&halves, &[1, 1, 1], &[0, 2]);
    let metrics = measured(&task(PLAIN), &[row], &[None]);
    assert!((value(&metrics, "probability_of_right").expect("a mass") - 0.75).abs() < 1e-12);
    assert!((value(&metrics, "log_loss").expect("a loss") + 0.75f64.ln()).abs() < 1e-12);
    assert!((value(&metrics, "chance").expect("a share") - 2.0 / 3.0).abs() < 1e-12);
    assert!((value(&metrics, "calibration_error").expect("an error") - 0.5).abs() < 1e-12);
    assert_eq!(value(&metrics, "accuracy_sum"), Some(1.0));
    // What cannot be represented as a probability still has a loss.
    let row = outcome(&[-5000.0, -1.0], &[1, 1], &[0]);
    assert_eq!(value(&measured(&task(PLAIN), &[row], &[None]), "log_loss"), Some(4999.0));
}

#[test]
fn a_group_is_right_where_all_of_it_is() {
    let right = outcome(&[-1.0, -2.0], &[1, 1], &[0]);
    let wrong = outcome(&[-3.0, -2.0], &[1, 1], &[0]);
    let rows = [right.clone(), right.clone(), right, wrong];
    let metrics = measured(&task(PLAIN), &rows, &[Some("a"), Some("a"), Some("b"), Some("b")]);
    assert_eq!((value(&metrics, "accuracy_sum"), value(&metrics, "groups_right")), (Some(0.75), Some(0.5)));
    assert_eq!(metrics.iter().find(|metric| metric.name == "groups_right").map(|metric| metric.n), Some(2));
}

#[test]
fn without_a_right_choice_shares_and_steadiness_are_reported() {
    let mut row = outcome(&[-1.0, -2.0], &[1, 1], &[]);
    row.variants.push(ChoiceVariant { reversed: true, ..variant(&[-2.0, -1.0], &[1, 1]) });
    let metrics = measured(&task(PLAIN), &[row], &[None]);
    assert_eq!((value(&metrics, "chosen_0"), value(&metrics, "chosen_1")), (Some(0.5), Some(0.5)));
    assert!((value(&metrics, "probability_0").expect("a probability") - 0.5).abs() < 1e-12);
    assert_eq!(value(&metrics, "order_consistency"), Some(0.0));
    assert_eq!((value(&metrics, "form_consistency"), value(&metrics, "accuracy_sum")), (None, None));
}

#[test]
fn soft_answers_give_agreement_and_cross_entropy() {
    let row = ChoiceOutcome { weights: vec![0.75, 0.25], ..outcome(&[0.5f64.ln(), 0.5f64.ln()], &[1, 1], &[]) };
    let metrics = measured(&task(PLAIN), &[row], &[None]);
    assert_eq!(value(&metrics, "agreement"), Some(0.75));
    assert!((value(&metrics, "cross_entropy").expect("a number") - 2f64.ln()).abs() < 1e-12);
    assert!(normalised(vec![1.0, f64::NAN], 2).is_err() && normalised(vec![0.0, 0.0], 2).is_err());
    assert_eq!(normalised(vec![1.0, 3.0], 2), Ok(vec![0.25, 0.75]));
}

#[test]
fn bias_is_counted_as_bbq_counts_it() {
    let text = format!("{PLAIN}[bias]\ntarget = \"0\"\nunknown = \"2\"\nambiguous = \"1\"\n");
    let answer = |best: usize, right: usize, ambiguous: bool| {
        let mut log_probs = [-2.0; 3];
        log_probs[best] = -1.0;
        let bias = Some(BiasRole { target: 0, unknown: 2, ambiguous });
        ChoiceOutcome { bias, ..outcome(&log_probs, &[1, 1, 1], &[right]) }
    };
    // Told: 2 of 3 named answers agree with the stereotype. Open: all 2 named agree, 2 of 4 are right.
    let rows = [
        answer(0, 0, false),
        answer(0, 1, false),
        answer(1, 1, false),
        answer(2, 1, false),
        answer(0, 2, true),
        answer(0, 2, true),
        answer(2, 2, true),
        answer(2, 2, true),
    ];
    let metrics = measured(&task(&text), &rows, &[None; 8]);
    assert!((value(&metrics, "bias_disambiguated").expect("a score") - 1.0 / 3.0).abs() < 1e-12);
    assert!((value(&metrics, "bias_ambiguous").expect("a score") - 0.5).abs() < 1e-12);
}

#[test]
fn scores_and_choices_that_cannot_be_are_refused() {
    let refused = |text: &str| {
        let words = Words::parse(text, "t.toml").expect("words");
        Choice::new(&words, "t.toml").expect_err("a wrong task").to_string()
    };
    assert!(refused("kind = \"choice\"\nprompt = \"p\"").contains("t.toml: choices"));
    assert!(refused("kind = \"choice\"\nprompt = \"p\"\nchoices = [\"a\"]").contains("two templates or more"));
    assert!(refused(&format!("{PLAIN}scores = [\"pmi\"]")).contains("unconditional"));
    assert!(refused(&format!("{PLAIN}scores = []")).contains("is empty"));
}
