//! Options of TRL's trainers beside the objectives that they become.

use super::*;
use crate::{Discopop, Dpo, Exo, Hinge, Ipo, Kto, Nca, RobustDpo, Sft};

fn recipe(options: &str) -> Result<Recipe> {
    serde_json::from_str::<Options>(options).unwrap().recipe()
}

fn is_refused(options: &str, because: &str) {
    let error = recipe(options).unwrap_err();
    assert!(matches!(error, Error::Config(_)) && error.to_string().contains(because), "{options}: {error}");
}

fn becomes(options: &str, expected: impl Into<Builtin>) {
    assert_eq!(recipe(options).unwrap(), Recipe::Builtin(expected.into()), "{options}");
}

#[test]
fn sigmoid_ignores_label_smoothing_as_trl_does() {
    becomes(r#"{ "beta": 0.3, "label_smoothing": 0.2 }"#, Dpo { beta: 0.3, ..Dpo::default() });
}

#[test]
fn every_name_of_the_pair_trainer_is_a_loss() {
    let names = [
        ("sigmoid", "dpo"),
        ("hinge", "hinge"),
        ("ipo", "ipo"),
        ("exo_pair", "exo"),
        ("nca_pair", "nca"),
        ("robust", "robust_dpo"),
        ("bco_pair", "bco_pair"),
        ("sppo_hard", "sppo_hard"),
        ("aot", "aot"),
        ("aot_unpaired", "aot_unpaired"),
        ("apo_zero", "apo_zero"),
        ("apo_down", "apo_down"),
        ("discopop", "discopop"),
        ("sft", "sft"),
        ("sigmoid_norm", "dpo"),
    ];
    assert_eq!(names.map(|(trl, _)| trl), PAIR_LOSSES);
    for (trl, expected) in names {
        let recipe = recipe(&format!(r#"{{ "loss_type": "{trl}", "label_smoothing": 0.01 }}"#)).unwrap();
        assert_eq!(recipe.name(), expected);
        recipe.validate().unwrap();
    }
}

#[test]
fn options_reach_the_fields_of_their_name() {
    becomes(
        r#"{ "loss_type": "robust", "beta": 0.2, "label_smoothing": 0.3 }"#,
        RobustDpo { beta: 0.2, label_smoothing: 0.3, ..RobustDpo::default() },
    );
    becomes(r#"{ "loss_type": "exo_pair", "label_smoothing": 0.01 }"#, Exo { label_smoothing: 0.01, ..Exo::default() });
    becomes(
        r#"{ "loss_type": "kto", "beta": 0.2, "desirable_weight": 1.5, "undesirable_weight": 0.7 }"#,
        Kto { beta: 0.2, desirable_weight: 1.5, undesirable_weight: 0.7 },
    );
    becomes(r#"{ "loss_type": "discopop", "discopop_tau": 0.2 }"#, Discopop { tau: 0.2, ..Discopop::default() });
    becomes(r#"{ "loss_type": "sppo_hard", "discopop_tau": 0.2 }"#, crate::SppoHard::default());
}

#[test]
fn exo_without_label_smoothing_is_refused_as_in_trl() {
    let error = recipe(r#"{ "loss_type": "exo_pair" }"#).unwrap().validate().unwrap_err().to_string();
    assert!(error.starts_with("exo.label_smoothing: got 0, expected a rate above 0"), "{error}");
}

#[test]
fn a_divergence_reaches_the_losses_of_score_differences() {
    let with = |divergence| Hinge { divergence, ..Hinge::default() };
    let options = |rest: &str| format!(r#"{{ "loss_type": "hinge", {rest} }}"#);
    becomes(&options(r#""f_divergence_type": "reverse_kl""#), Hinge::default());
    becomes(&options(r#""f_divergence_type": "forward_kl""#), with(Divergence::ForwardKl));
    becomes(&options(r#""f_divergence_type": "js_divergence""#), with(Divergence::JensenShannon));
    becomes(&options(r#""f_divergence_type": "alpha_divergence""#), with(Divergence::Alpha(0.5)));
    becomes(
        &options(r#""f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 2.0"#),
        with(Divergence::Alpha(2.0)),
    );
    for allowed in ["sigmoid", "sigmoid_norm", "ipo", "exo_pair", "robust", "discopop"] {
        let changed = recipe(&format!(r#"{{ "loss_type": "{allowed}", "f_divergence_type": "forward_kl" }}"#));
        let fields = to_fields(&changed.unwrap()).unwrap();
        assert_eq!(fields["divergence"], "forward_kl", "{allowed}");
    }
    becomes(r#"{ "loss_type": "sft", "f_divergence_type": "forward_kl" }"#, Sft {});
}

#[test]
fn a_divergence_is_refused_where_trl_refuses_it() {
    for refused in ["nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "kto"] {
        let options = format!(r#"{{ "loss_type": ["sigmoid", "{refused}"], "f_divergence_type": "forward_kl" }}"#);
        is_refused(&options, &format!("f_divergence_type = forward_kl with {refused}: under another divergence"));
    }
}

#[test]
fn length_desensitization_keeps_the_division_by_the_length() {
    let sums = Reduction::LengthDesensitized { alpha: 0.5 };
    let means = Reduction::LengthDesensitizedMean { alpha: 0.5 };
    becomes(r#"{ "ld_alpha": 0.5 }"#, Dpo { reduction: sums, ..Dpo::default() });
    becomes(r#"{ "loss_type": "sigmoid_norm", "ld_alpha": 0.5 }"#, Dpo { reduction: means, ..Dpo::default() });
    becomes(r#"{ "loss_type": "ipo", "ld_alpha": 0.5 }"#, Ipo { reduction: means, ..Ipo::default() });
    becomes(r#"{ "loss_type": "nca_pair", "ld_alpha": 0.5 }"#, Nca { reduction: sums, ..Nca::default() });
    becomes(r#"{ "loss_type": "sft", "ld_alpha": 0.5 }"#, Sft {});
    becomes(r#"{ "loss_type": "ipo", "ld_alpha": null }"#, Ipo::default());
    is_refused(r#"{ "loss_type": "kto", "ld_alpha": 0.5 }"#, "ld_alpha = 0.5 with kto: only losses of the two");
    assert!(recipe(r#"{ "ld_alpha": 1.5 }"#).unwrap().validate().is_err());
}

#[test]
fn a_moving_reference_is_asked_of_a_loss_that_has_one() {
    let nca = recipe(r#"{ "loss_type": "nca_pair", "sync_ref_model": true, "beta": 0.3 }"#).unwrap();
    let update = ReferenceUpdate::Soft { alpha: 0.6, every: 512 };
    let inner = Recipe::Builtin(Nca { beta: 0.3, ..Nca::default() }.into());
    assert_eq!(nca, TrustRegion { update, loss: Box::new(inner) }.into());
    nca.validate().unwrap();
    becomes(r#"{ "loss_type": "sft", "sync_ref_model": true }"#, Sft {});
    let options =
        r#"{ "beta": 0.2, "sync_ref_model": true, "ref_model_sync_steps": 8, "f_divergence_type": "forward_kl" }"#;
    let moving = recipe(options).unwrap();
    moving.validate().unwrap();
    assert_eq!(moving.reference_update(), ReferenceUpdate::Soft { alpha: 0.6, every: 8 });
    let fields = to_fields(&moving).unwrap();
    assert_eq!((&fields["type"], &fields["beta"]), (&"tr_dpo".into(), &0.2.into()));
    assert_eq!(fields["divergence"], "forward_kl");
}

#[test]
fn weights_of_pairs_are_refused_where_the_loss_sorts() {
    for name in ["aot", "aot_unpaired"] {
        let options = format!(r#"{{ "loss_type": "{name}", "use_weighting": true }}"#);
        is_refused(&options, &format!("use_weighting with {name}: the loss sorts"));
    }
}

/// The fields of the loss that these options of another trainer become.
fn fields_of(name: &str, options: &str) -> Map<String, Value> {
    let recipe = recipe(options).unwrap();
    recipe.validate().unwrap();
    assert_eq!(recipe.name(), name, "{options}");
    to_fields(&recipe).unwrap()
}

#[test]
fn options_of_the_contrastive_trainer_reach_its_losses() {
    let fields = fields_of("cpo", r#"{ "trainer": "cpo", "label_smoothing": 0.1, "cpo_alpha": 0.3 }"#);
    assert_eq!((&fields["form"], &fields["nll_weight"]), (&"sigmoid".into(), &0.3.into()));
    assert_eq!((&fields["label_smoothing"], &fields["reduction"]), (&0.1.into(), &"sum".into()));
    let fields = fields_of("cpo", r#"{ "trainer": "cpo", "loss_type": "ipo", "label_smoothing": 0.1 }"#);
    assert_eq!((&fields["form"], &fields["reduction"]), (&"ipo".into(), &"mean".into()));
    assert_eq!((&fields["label_smoothing"], &fields["nll_weight"]), (&0.0.into(), &1.0.into()));
    let fields = fields_of("simpo", r#"{ "trainer": "cpo", "loss_type": "simpo", "simpo_gamma": 0.7 }"#);
    assert_eq!((&fields["gamma"], &fields["nll_weight"]), (&0.7.into(), &1.0.into()));
    assert_eq!(fields["beta"], 0.1);
    let fields = fields_of("alpha_po", r#"{ "trainer": "cpo", "loss_type": "alphapo", "alpha": 0.2 }"#);
    assert_eq!((&fields["gamma"], &fields["alpha"]), (&0.5.into(), &0.2.into()));
    assert_eq!(fields["nll_weight"], 0.0);
    let both = r#"{ "trainer": "cpo", "loss_type": "simpo", "alpha": 0.2, "cpo_alpha": 0.3 }"#;
    let fields = fields_of("alpha_po", both);
    assert_eq!((&fields["alpha"], &fields["nll_weight"]), (&0.2.into(), &0.3.into()));
    let fields = fields_of("simpo", r#"{ "trainer": "cpo", "loss_type": "alphapo" }"#);
    assert_eq!((&fields["gamma"], &fields["nll_weight"]), (&0.5.into(), &0.0.into()));
}

#[test]
fn every_trainer_has_a_loss_of_its_own() {
    for name in ["orpo", "bco", "kto"] {
        for loss_type in [String::new(), format!(r#", "loss_type": "{name}""#)] {
            let options = format!(r#"{{ "trainer": "{name}", "beta": 0.3{loss_type} }}"#);
            assert_eq!(fields_of(name, &options)["beta"], 0.3);
        }
    }
    assert_eq!(fields_of("cpo", r#"{ "trainer": "cpo" }"#)["form"], "sigmoid");
    becomes("{}", Dpo::default());
    assert_eq!(recipe(r#"{ "trainer": "kto" }"#).unwrap(), recipe(r#"{ "loss_type": "kto" }"#).unwrap());
    let moving = recipe(r#"{ "trainer": "kto", "sync_ref_model": true }"#).unwrap();
    assert_eq!(moving.name(), "tr_kto");
}

#[test]
fn losses_of_another_trainer_are_refused_by_name() {
    let of_pairs = PAIR_LOSSES.join(", ");
    for (name, owner) in [("simpo", "; it is a loss of CPOTrainer"), ("kto_pair", ""), ("dpo", ""), ("cdpo", "")] {
        let expected = format!("loss_type = {name}: DPOTrainer of TRL has {of_pairs}{owner}");
        is_refused(&format!(r#"{{ "loss_type": "{name}" }}"#), &expected);
    }
    for (trainer, expected) in [
        ("kto", "KTOTrainer of TRL has kto, apo_zero_unpaired"),
        ("cpo", "CPOTrainer of TRL has sigmoid, hinge, ipo, simpo, alphapo"),
        ("orpo", "ORPOTrainer of TRL has orpo"),
        ("bco", "BCOTrainer of TRL has bco"),
    ] {
        is_refused(&format!(r#"{{ "trainer": "{trainer}", "loss_type": "robust" }}"#), expected);
        let several = format!(r#"{{ "trainer": "{trainer}", "loss_type": ["{trainer}", "sft"] }}"#);
        is_refused(&several, "got 2 losses, expected one");
    }
    becomes(r#"{ "loss_type": "apo_zero_unpaired" }"#, crate::ApoZeroUnpaired::default());
}

#[test]
fn options_of_another_trainer_are_refused_by_name() {
    let of_pairs = [
        (r#""ld_alpha": 0.5"#, "ld_alpha: "),
        (r#""use_weighting": true"#, "use_weighting: "),
        (r#""f_divergence_type": "forward_kl""#, "f_divergence_type: "),
        (r#""loss_weights": [0.5]"#, "loss_weights: "),
        (r#""discopop_tau": 0.1"#, "discopop_tau: "),
    ];
    for trainer in ["kto", "cpo", "orpo", "bco"] {
        for (option, expected) in of_pairs {
            is_refused(&format!(r#"{{ "trainer": "{trainer}", {option} }}"#), expected);
        }
    }
    for trainer in ["cpo", "orpo", "bco"] {
        let options = |option: &str| format!(r#"{{ "trainer": "{trainer}", {option} }}"#);
        is_refused(&options(r#""sync_ref_model": true"#), "sync_ref_model: ");
        is_refused(&options(r#""desirable_weight": 1.5"#), "desirable_weight: ");
    }
    for trainer in ["dpo", "kto", "orpo", "bco"] {
        let options = |option: &str| format!(r#"{{ "trainer": "{trainer}", {option} }}"#);
        is_refused(&options(r#""cpo_alpha": 0.5"#), "cpo_alpha: ");
        is_refused(&options(r#""simpo_gamma": 0.7"#), "simpo_gamma: ");
        is_refused(&options(r#""alpha": 0.2"#), "alpha: ");
        recipe(&options(r#""cpo_alpha": 1.0, "simpo_gamma": 0.5, "alpha": 0.0"#)).unwrap();
    }
    is_refused(r#"{ "trainer": "kto", "label_smoothing": 0.1 }"#, "KTOTrainer of TRL has no such option, DPOTrainer");
}

#[test]
fn an_empty_list_of_losses_is_no_default() {
    let error = serde_json::from_str::<Options>(r#"{ "loss_type": [] }"#).unwrap_err().to_string();
    assert!(error.contains("loss_type: got no loss, expected at least one"), "{error}");
    for options in [Options::default(), Options { loss_type: vec!["ipo".to_owned()], ..Options::default() }] {
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), options, "{text}");
    }
}

#[test]
fn several_losses_become_a_mix() {
    let mix = recipe(r#"{ "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5] }"#).unwrap();
    let parts = vec![
        Part { weight: 1.0, loss: Builtin::from(Dpo::default()).into() },
        Part { weight: 0.5, loss: Builtin::from(Sft {}).into() },
    ];
    assert_eq!(mix, Recipe::Mix(Mix { parts }));
    let unweighted = recipe(r#"{ "loss_types": ["sigmoid", "sft"] }"#).unwrap();
    let Recipe::Mix(Mix { parts }) = unweighted else { panic!("two losses are a mix: {unweighted:?}") };
    assert!(parts.iter().all(|part| (part.weight - 1.0).abs() <= 0.0));
}

#[test]
fn what_is_not_built_is_named() {
    let divergence = recipe(r#"{ "f_divergence_type": "no_such_kl" }"#).unwrap_err().to_string();
    assert_eq!(divergence, "f_divergence_type = no_such_kl not built");
    let weights = recipe(r#"{ "loss_weights": [1.0, 2.0] }"#).unwrap_err();
    assert!(weights.to_string().contains("got 2, expected one for each of 1 losses"));
}
