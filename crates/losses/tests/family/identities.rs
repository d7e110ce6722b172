//! Losses that agree where theory says they do.

use candle_core::DType;
use candlewick_losses::{
    Aot, AotUnpaired, ApoZero, ApoZeroUnpaired, BcoPair, Builtin, Cdpo, Context, Divergence, Dpo, Groups, Kto,
    Objective, PairRows, PlackettLuce, RankedRows, Recipe, RobustDpo, SoftDpo,
};
use candlewick_testkit::error;

use crate::sample::Sample;

fn recipe(json: &str) -> Recipe {
    serde_json::from_str(json).unwrap()
}

fn pairs() -> Sample {
    Sample::new(Groups::of_pairs(4))
}

/// Loss and gradient on a sample.
fn of(loss: impl Into<Builtin>, sample: &Sample) -> (f64, Vec<f64>) {
    of_recipe(&Recipe::from(loss.into()), sample)
}

fn of_recipe(loss: &Recipe, sample: &Sample) -> (f64, Vec<f64>) {
    sample.evaluate(loss, &sample.context(loss), DType::F64)
}

fn assert_same((a, da): (f64, Vec<f64>), (b, db): (f64, Vec<f64>)) {
    assert!(error(a, b) < 1e-12, "{a} {b}");
    assert!(candlewick_testkit::worst(&da, &db) < 1e-12);
}

#[test]
fn without_flipped_labels_smoothing_changes_nothing() {
    let plain = of(Dpo::default(), &pairs());
    assert_same(of(Cdpo { label_smoothing: 0.0, ..Cdpo::default() }, &pairs()), plain.clone());
    assert_same(of(RobustDpo { label_smoothing: 0.0, ..RobustDpo::default() }, &pairs()), plain);
}

#[test]
fn soft_labels_span_from_dpo_to_its_opposite() {
    let with = |preference: f64| {
        let mut sample = pairs();
        sample.groups.numbers.insert("preference".to_owned(), vec![preference; 4]);
        of(SoftDpo::default(), &sample)
    };
    assert_same(with(1.0), of(Dpo::default(), &pairs()));
    assert_same(with(0.8), of(Cdpo { label_smoothing: 0.2, ..Cdpo::default() }, &pairs()));
    let swapped = Groups { pairs: pairs().groups.pairs.iter().map(swap).collect(), ..pairs().groups };
    let mut opposite = pairs();
    opposite.groups = swapped;
    assert_same(with(0.0), of(Dpo::default(), &opposite));
}

fn swap(pair: &PairRows) -> PairRows {
    PairRows { chosen: pair.rejected, rejected: pair.chosen }
}

#[test]
fn kto_without_drift_is_apo_zero_on_both_sides() {
    let sample = Sample::new(Groups::of_labelled(&[true, true, true, true, false, false, false, false]));
    let kto = Recipe::from(Builtin::from(Kto::default()));
    let still = Context::default().with_scalar("kl", 0.0);
    let (loss, gradient) = sample.evaluate(&kto, &still, DType::F64);
    let (apo, apo_gradient) = of(ApoZero::default(), &pairs());
    // A mean over eight completions is half of one over four pairs of them.
    assert_same((2.0 * loss, gradient.iter().map(|slope| 2.0 * slope).collect()), (apo, apo_gradient));
    assert_same((loss, gradient), of(ApoZeroUnpaired::default(), &sample));
}

#[test]
fn bco_on_pairs_bounds_dpo_from_above() {
    let values = |loss: &dyn Objective| {
        let (_, scores) = pairs().scores(DType::F64);
        let terms = loss.evaluate(&scores, &Context::default()).unwrap();
        terms.terms[0].numerator.to_vec1::<f64>().unwrap()
    };
    let (bco, dpo) = (values(&BcoPair::default()), values(&Dpo::default()));
    assert!(bco.iter().zip(&dpo).all(|(bco, dpo)| bco >= dpo), "{bco:?} {dpo:?}");
}

#[test]
fn sorting_a_single_pair_is_dpo() {
    for part in pairs().split() {
        let dpo = of(Dpo { beta: 0.01, ..Dpo::default() }, &part);
        assert_same(of(Aot::default(), &part), dpo.clone());
        assert_same(of(AotUnpaired::default(), &part), dpo);
    }
}

#[test]
fn divergences_at_their_limits_are_the_reverse_kl() {
    let with = |divergence| of(Dpo { divergence, ..Dpo::default() }, &pairs());
    let reverse = with(Divergence::ReverseKl);
    assert_same(with(Divergence::Alpha(1.0)), reverse.clone());
    let near = with(Divergence::Alpha(1.0 - 2e-6));
    assert!(error(near.0, reverse.0) < 1e-5);
    // The forward KL is the alpha divergence of 0.
    assert_same(with(Divergence::ForwardKl), with(Divergence::Alpha(0.0)));
}

#[test]
fn a_ranking_of_two_is_a_pair() {
    let ranked = [(0, 4), (1, 5), (2, 6), (3, 7)]
        .map(|(best, worst)| RankedRows { rows: vec![worst, best], ratings: vec![1.0, 2.0] });
    let sample = Sample::new(Groups { ranked: ranked.to_vec(), ..Groups::default() });
    assert_same(of(PlackettLuce::default(), &sample), of(Dpo::default(), &pairs()));
}

#[test]
fn a_wide_humanline_clamps_nothing() {
    let wide = recipe(r#"{ "type": "humanline", "low": -100.0, "high": 100.0, "loss": { "type": "dpo" } }"#);
    assert_same(of_recipe(&wide, &pairs()), of(Dpo::default(), &pairs()));
}
