//! Settings of TRL's `DPOTrainer` and `KTOTrainer`, as objectives of this library.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::builtin::Builtin;
use crate::divergence::Divergence;
use crate::error::{Error, Result};
use crate::mix::{Mix, Part};
use crate::recipe::Recipe;
use crate::reduction::Reduction;
use crate::reference_update::ReferenceUpdate;
use crate::wpo::Wpo;

/// The options of TRL's trainers that decide the loss, under TRL's names and with
/// TRL's defaults.
///
/// TRL drops in silence an option that a loss does not use, and so does this: for
/// example `label_smoothing` with `loss_type = "sigmoid"`. Ask for [`Cdpo`](crate::Cdpo)
/// to have it act. What TRL refuses is refused here.
///
/// | option | becomes |
/// |---|---|
/// | `loss_type`, `loss_weights` | the loss of that name or alias; of several, a [`Mix`] |
/// | `beta`, `label_smoothing`, `desirable_weight`, `undesirable_weight` | the fields of that name |
/// | `f_divergence_type`, `f_alpha_divergence_coef` | `divergence` |
/// | `ld_alpha` | `reduction`: [`Reduction::LengthDesensitized`], or its mean where the loss divides by the length |
/// | `discopop_tau` | `tau` of [`Discopop`](crate::Discopop) |
/// | `sync_ref_model`, `ref_model_mixup_alpha`, `ref_model_sync_steps` | the loss called `tr_` and its name, and `update` |
/// | `use_weighting` | the weights of WPO around the loss |
///
/// | `cpo_alpha`, `simpo_gamma`, `alpha` | `nll_weight`, `gamma`, `alpha` of the losses of `CPOTrainer` |
///
/// One option is not TRL's: [`trainer`](Self::trainer) tells `sigmoid` of `DPOTrainer` from `sigmoid` of `CPOTrainer`.
///
/// ```
/// use candlewick_losses::{Builtin, Recipe, RobustDpo, trl::Options};
/// let options: Options = serde_json::from_str(r#"{ "loss_type": "robust", "label_smoothing": 0.2 }"#)?;
/// let expected = RobustDpo { label_smoothing: 0.2, ..RobustDpo::default() };
/// assert_eq!(options.recipe()?, Recipe::Builtin(Builtin::RobustDpo(expected)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Whose options they are.
    pub trainer: Trainer,
    /// One name or several, whose losses are added.
    #[serde(alias = "loss_types", deserialize_with = "one_or_many")]
    pub loss_type: Vec<String>,
    /// One factor a loss; 1 each if not given.
    pub loss_weights: Option<Vec<f64>>,
    /// `beta` of every loss that has one.
    pub beta: f64,
    /// `label_smoothing` of every loss that has one.
    pub label_smoothing: f64,
    /// The divergence of f-DPO: `reverse_kl`, `forward_kl`, `js_divergence` or `alpha_divergence`.
    pub f_divergence_type: String,
    /// `α` of the alpha divergence.
    pub f_alpha_divergence_coef: f64,
    /// `α` of LD-DPO: how often tokens beyond the length of the shorter completion count.
    pub ld_alpha: Option<f64>,
    /// Whether pairs are weighted as in WPO.
    pub use_weighting: bool,
    /// `τ` of DiscoPOP.
    pub discopop_tau: f64,
    /// `λ_D` of KTO.
    pub desirable_weight: f64,
    /// `λ_U` of KTO.
    pub undesirable_weight: f64,
    /// Whether the reference follows the policy.
    pub sync_ref_model: bool,
    /// The weight of the policy in an update of the reference.
    pub ref_model_mixup_alpha: f64,
    /// The optimizer steps between two updates of the reference.
    pub ref_model_sync_steps: u64,
    /// Weight of the negative log-likelihood of the chosen completions in `CPOTrainer`.
    pub cpo_alpha: f64,
    /// `γ` of SimPO in `CPOTrainer`.
    pub simpo_gamma: f64,
    /// `α` of AlphaPO in `CPOTrainer`; 0 is off.
    pub alpha: f64,
}

/// A trainer of TRL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trainer {
    /// `DPOTrainer`, and `KTOTrainer`, whose losses have other names.
    #[default]
    #[serde(alias = "kto")]
    Dpo,
    /// The experimental `CPOTrainer`: CPO, SimPO and AlphaPO.
    Cpo,
    /// The experimental `ORPOTrainer`, whatever `loss_type` is.
    Orpo,
    /// The experimental `BCOTrainer` without weights of prompts, whatever `loss_type` is.
    Bco,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            trainer: Trainer::Dpo,
            loss_type: vec!["sigmoid".to_owned()],
            loss_weights: None,
            beta: 0.1,
            label_smoothing: 0.0,
            f_divergence_type: "reverse_kl".to_owned(),
            f_alpha_divergence_coef: 0.5,
            ld_alpha: None,
            use_weighting: false,
            discopop_tau: 0.05,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            sync_ref_model: false,
            ref_model_mixup_alpha: 0.6,
            ref_model_sync_steps: 512,
            cpo_alpha: 1.0,
            simpo_gamma: 0.5,
            alpha: 0.0,
        }
    }
}

impl Options {
    /// The objective that these options describe.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] names the first option or loss that nothing here computes; [`Error::Config`] tells of
    /// options that exclude each other, [`Error::Mix`] of weights that do not match the losses.
    pub fn recipe(&self) -> Result<Recipe> {
        let parts = self.loss_type.iter().map(|name| self.loss(name)).collect::<Result<Vec<_>>>()?;
        let weights = self.loss_weights.clone().unwrap_or_else(|| vec![1.0; parts.len()]);
        if weights.len() != parts.len() {
            let (weights, losses) = (weights.len(), parts.len());
            return Err(Error::Mix(format!("loss_weights: got {weights}, expected one for each of {losses} losses")));
        }
        let mut parts: Vec<Part> = parts.into_iter().zip(weights).map(|(loss, weight)| Part { weight, loss }).collect();
        let single = parts.len() == 1 && (parts[0].weight - 1.0).abs() <= 0.0;
        match parts.pop() {
            Some(part) if single => Ok(part.loss),
            Some(part) => {
                parts.push(part);
                Ok(Mix { parts }.into())
            }
            None => Err(Error::Mix("loss_type: got no loss, expected at least one".to_owned())),
        }
    }

    /// The loss of that name. It has the fields that it uses: those are set, and no other option reaches it.
    fn loss(&self, name: &str) -> Result<Recipe> {
        let (name, settings) = match self.trainer {
            Trainer::Dpo => (name, Map::new()),
            Trainer::Cpo => self.contrastive(name)?,
            Trainer::Orpo => ("orpo", Map::new()),
            Trainer::Bco => ("bco", Map::new()),
        };
        let loss = Builtin::from_name(name).ok_or_else(|| Error::NotBuilt(name.to_owned()))?;
        let loss = self.with_reference_update(loss)?;
        let mut fields = to_fields(&loss)?;
        self.set_shared(&mut fields);
        self.set_divergence(name, &mut fields)?;
        self.set_length_desensitization(name, &mut fields)?;
        if let Builtin::Discopop(_) = loss {
            fields.insert("tau".to_owned(), self.discopop_tau.into());
        }
        fields.extend(settings);
        let loss = from_value(Value::Object(fields))?;
        if self.use_weighting { weighted(loss) } else { Ok(Recipe::Builtin(loss)) }
    }

    /// The loss that `CPOTrainer` has under a name, and the settings by which it differs from its defaults.
    fn contrastive(&self, loss_type: &str) -> Result<(&'static str, Map<String, Value>)> {
        let mut settings = Map::new();
        let mut set = |name: &str, value: Value| settings.insert(name.to_owned(), value);
        let shaped = self.alpha.abs() > 0.0;
        let name = match loss_type {
            "sigmoid" | "hinge" | "ipo" => {
                set("form", loss_type.into());
                set("nll_weight", self.cpo_alpha.into());
                set("alpha", self.alpha.into());
                if loss_type != "sigmoid" {
                    set("label_smoothing", 0.0.into());
                }
                if loss_type == "ipo" {
                    set("reduction", to_value(&Reduction::Mean)?);
                }
                "cpo"
            }
            "simpo" if shaped && self.cpo_alpha.abs() > 0.0 => {
                return Err(Error::Config(format!(
                    "alpha = {} with loss_type = simpo and cpo_alpha = {}: no single loss has all three; write a mix of \
                     alpha_po and sft",
                    self.alpha, self.cpo_alpha
                )));
            }
            "simpo" | "alphapo" => {
                set("gamma", self.simpo_gamma.into());
                if shaped {
                    set("alpha", self.alpha.into());
                } else {
                    set("nll_weight", if loss_type == "simpo" { self.cpo_alpha.into() } else { 0.0.into() });
                }
                if shaped { "alpha_po" } else { "simpo" }
            }
            other => return Err(Error::NotBuilt(format!("loss_type = {other} of CPOTrainer"))),
        };
        Ok((name, settings))
    }

    /// The options that have the same name in every loss.
    fn set_shared(&self, fields: &mut Map<String, Value>) {
        let shared = [
            ("beta", self.beta),
            ("label_smoothing", self.label_smoothing),
            ("desirable_weight", self.desirable_weight),
            ("undesirable_weight", self.undesirable_weight),
        ];
        for (name, option) in shared {
            if let Some(field) = fields.get_mut(name) {
                *field = option.into();
            }
        }
    }

    /// `f_divergence_type` and `f_alpha_divergence_coef`.
    fn set_divergence(&self, name: &str, fields: &mut Map<String, Value>) -> Result<()> {
        let divergence = match self.f_divergence_type.as_str() {
            "reverse_kl" => return Ok(()),
            "forward_kl" => Divergence::ForwardKl,
            "js_divergence" => Divergence::JensenShannon,
            "alpha_divergence" => Divergence::Alpha { alpha: self.f_alpha_divergence_coef },
            other => return Err(Error::NotBuilt(format!("f_divergence_type = {other}"))),
        };
        let is_sft = is(fields, "sft");
        match fields.get_mut("divergence") {
            Some(field) => *field = to_value(&divergence)?,
            None if is_sft => {}
            None => {
                return Err(Error::Config(format!(
                    "f_divergence_type = {} with {name}: under another divergence than reverse_kl, a constant of each \
                     prompt cancels in the difference of two scores only, so TRL allows it for {DIVERGENT} alone",
                    self.f_divergence_type
                )));
            }
        }
        Ok(())
    }

    /// `ld_alpha`.
    fn set_length_desensitization(&self, name: &str, fields: &mut Map<String, Value>) -> Result<()> {
        let Some(alpha) = self.ld_alpha else { return Ok(()) };
        let is_sft = is(fields, "sft");
        match fields.get_mut("reduction") {
            Some(field) => {
                let mean = from_value::<Reduction>(field.clone())?.is_mean();
                let reduction = if mean {
                    Reduction::LengthDesensitizedMean { alpha }
                } else {
                    Reduction::LengthDesensitized { alpha }
                };
                *field = to_value(&reduction)?;
            }
            // Its token mean has no lengths to compare: TRL leaves it as it is.
            None if is_sft => {}
            None => {
                return Err(Error::Config(format!(
                    "ld_alpha = {alpha} with {name}: only losses of the two sides of a pair have lengths to compare"
                )));
            }
        }
        Ok(())
    }

    /// `sync_ref_model` and what belongs to it.
    fn with_reference_update(&self, loss: Builtin) -> Result<Builtin> {
        if !self.sync_ref_model || matches!(loss, Builtin::Sft(_)) {
            return Ok(loss);
        }
        let missing = || Error::NotBuilt(format!("sync_ref_model with {}", loss.name()));
        let mut fields = to_fields(&Builtin::from_name(&format!("tr_{}", loss.name())).ok_or_else(missing)?)?;
        for (name, value) in to_fields(&loss)?.into_iter().filter(|(name, _)| name != TYPE) {
            fields.insert(name, value);
        }
        let (alpha, every) = (self.ref_model_mixup_alpha, self.ref_model_sync_steps);
        fields.insert("update".to_owned(), to_value(&ReferenceUpdate::Soft { alpha, every })?);
        from_value(Value::Object(fields))
    }
}

/// The loss of one name with the weights of WPO on its pairs.
fn weighted(loss: Builtin) -> Result<Recipe> {
    if matches!(loss.name(), "aot" | "aot_unpaired") {
        return Err(Error::Config(format!(
            "use_weighting with {}: the loss sorts, and what it sorts no longer belongs to the pair that a weight is of; TRL \
             refuses it too",
            loss.name()
        )));
    }
    if matches!(loss, Builtin::Sft(_)) {
        return Err(Error::NotBuilt("use_weighting with sft, which is divided by tokens and not by pairs".to_owned()));
    }
    Ok(Wpo { loss: Box::new(loss.into()) }.into())
}

/// Whether the fields are those of the loss of that name.
fn is(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(TYPE).is_some_and(|found| found == name)
}

fn to_fields(value: &impl Serialize) -> Result<Map<String, Value>> {
    match to_value(value)? {
        Value::Object(fields) => Ok(fields),
        other => Err(Error::Config(format!("got {other}, expected a table"))),
    }
}

fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::Config(error.to_string()))
}

fn from_value<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| Error::Config(error.to_string()))
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    use serde::de::Error as _;
    match Value::deserialize(deserializer)? {
        Value::String(name) => Ok(vec![name]),
        many => serde_json::from_value(many)
            .map_err(|_| D::Error::custom("loss_type: expected the name of a loss or a list of names")),
    }
}

/// The field that names the loss.
const TYPE: &str = "type";
/// The losses that TRL lets a divergence change, by its names.
const DIVERGENT: &str = "sigmoid, sigmoid_norm, hinge, ipo, exo_pair, robust, discopop and sft";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Discopop, Dpo, Exo, Hinge, Ipo, Kto, Nca, Objective, RobustDpo, Sft};

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
            ("apo_zero", "apo_zero"),
            ("apo_down", "apo_down"),
            ("discopop", "discopop"),
            ("sft", "sft"),
            ("sigmoid_norm", "dpo"),
        ];
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
        becomes(
            r#"{ "loss_type": "exo_pair", "label_smoothing": 0.01 }"#,
            Exo { label_smoothing: 0.01, ..Exo::default() },
        );
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
        becomes(&options(r#""f_divergence_type": "alpha_divergence""#), with(Divergence::Alpha { alpha: 0.5 }));
        becomes(
            &options(r#""f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 2.0"#),
            with(Divergence::Alpha { alpha: 2.0 }),
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
        let options = r#"{ "loss_type": "nca_pair", "sync_ref_model": true }"#;
        assert_eq!(recipe(options).unwrap_err().to_string(), "sync_ref_model with nca not built");
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
        is_refused(r#"{ "trainer": "cpo", "loss_type": "simpo", "alpha": 0.2 }"#, "write a mix of alpha_po and sft");
        let other = recipe(r#"{ "trainer": "cpo", "loss_type": "kto_pair" }"#).unwrap_err().to_string();
        assert_eq!(other, "loss_type = kto_pair of CPOTrainer not built");
    }

    #[test]
    fn trainers_of_one_loss_need_no_name_of_it() {
        for name in ["orpo", "bco"] {
            assert_eq!(fields_of(name, &format!(r#"{{ "trainer": "{name}", "beta": 0.3 }}"#))["beta"], 0.3);
        }
        becomes(r#"{ "trainer": "kto", "loss_type": "kto" }"#, Kto::default());
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
        for (options, expected) in [
            (r#"{ "loss_type": "no_such_loss" }"#, "no_such_loss not built"),
            (r#"{ "f_divergence_type": "no_such_kl" }"#, "f_divergence_type = no_such_kl not built"),
        ] {
            assert_eq!(recipe(options).unwrap_err().to_string(), expected);
        }
        let weights = recipe(r#"{ "loss_weights": [1.0, 2.0] }"#).unwrap_err();
        assert!(weights.to_string().contains("got 2, expected one for each of 1 losses"));
    }
}
