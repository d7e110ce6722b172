//! Settings of TRL's `DPOTrainer` and `KTOTrainer`, and of its experimental `CPOTrainer`, `ORPOTrainer` and
//! `BCOTrainer`, as objectives of this library.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::builtin::Builtin;
use crate::divergence::Divergence;
use crate::error::{Error, Result};
use crate::loss::Objective;
use crate::mix::{Mix, Part};
use crate::recipe::Recipe;
use crate::reduction::Reduction;
use crate::reference_update::ReferenceUpdate;
use crate::trust_region::TrustRegion;
use crate::wpo::Wpo;

/// The options of TRL's trainers that decide the loss, under TRL's names and with
/// TRL's defaults.
///
/// TRL drops in silence an option that a loss does not use, and so does this: for
/// example `label_smoothing` with `loss_type = "sigmoid"`. Ask for [`Cdpo`](crate::Cdpo)
/// to have it act. What TRL refuses is refused here: a name of a loss or an option that the
/// trainer does not have (an option at its default is as good as none), and combinations.
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
/// | `cpo_alpha`, `simpo_gamma`, `alpha` | `nll_weight`, `gamma`, `alpha` of the losses of `CPOTrainer` |
///
/// One option is not TRL's: [`trainer`](Self::trainer) tells `sigmoid` of `DPOTrainer` from `sigmoid` of `CPOTrainer`.
/// Only `DPOTrainer` adds several losses up.
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
    /// One name or several, whose losses are added. Empty, as by default, it is the trainer's own default: `sigmoid`,
    /// and `kto`, `orpo` and `bco` of the trainers of these names.
    #[serde(alias = "loss_types", deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
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
    /// `DPOTrainer`. The losses of `KTOTrainer`, which have other names, are taken too, as of options that do not say
    /// whose they are.
    #[default]
    Dpo,
    /// `KTOTrainer`.
    Kto,
    /// The experimental `CPOTrainer`: CPO, SimPO and AlphaPO.
    Cpo,
    /// The experimental `ORPOTrainer`.
    Orpo,
    /// The experimental `BCOTrainer` without weights of prompts.
    Bco,
}

impl Trainer {
    const ALL: [Self; 5] = [Self::Dpo, Self::Kto, Self::Cpo, Self::Orpo, Self::Bco];

    /// What TRL calls it.
    fn class(self) -> &'static str {
        match self {
            Self::Dpo => "DPOTrainer",
            Self::Kto => "KTOTrainer",
            Self::Cpo => "CPOTrainer",
            Self::Orpo => "ORPOTrainer",
            Self::Bco => "BCOTrainer",
        }
    }

    /// The values of `loss_type`, the default first. TRL's last two have no such option; here it may name the loss.
    fn losses(self) -> &'static [&'static str] {
        match self {
            Self::Dpo => &PAIR_LOSSES,
            Self::Kto => &["kto", "apo_zero_unpaired"],
            Self::Cpo => &["sigmoid", "hinge", "ipo", "simpo", "alphapo"],
            Self::Orpo => &["orpo"],
            Self::Bco => &["bco"],
        }
    }

    fn has_loss(self, name: &str) -> bool {
        self.losses().contains(&name) || (self == Self::Dpo && Self::Kto.losses().contains(&name))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            trainer: Trainer::Dpo,
            loss_type: Vec::new(),
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
    /// [`Error::NotBuilt`] names the first option that nothing here computes; [`Error::Config`] tells of losses and
    /// options that the trainer does not have, and of options that exclude each other, [`Error::Mix`] of weights that
    /// do not match the losses.
    pub fn recipe(&self) -> Result<Recipe> {
        self.check_options()?;
        let parts = self.losses()?.into_iter().map(|name| self.loss(name)).collect::<Result<Vec<_>>>()?;
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

    /// Refuses options that the trainer does not have and that are not at their defaults.
    fn check_options(&self) -> Result<()> {
        use Trainer::{Cpo, Dpo, Kto};
        let defaults = Self::default();
        let differs = |own: f64, default: f64| own.total_cmp(&default).is_ne();
        let pairs: &[Trainer] = &[Dpo];
        // Those of rows with a verdict are taken with options that do not say whose they are.
        let verdicts: &[Trainer] = &[Kto, Dpo];
        let contrastive: &[Trainer] = &[Cpo];
        let options = [
            ("loss_weights", self.loss_weights.is_some(), pairs),
            ("label_smoothing", differs(self.label_smoothing, defaults.label_smoothing), &[Dpo, Cpo]),
            ("f_divergence_type", self.f_divergence_type != defaults.f_divergence_type, pairs),
            ("ld_alpha", self.ld_alpha.is_some(), pairs),
            ("use_weighting", self.use_weighting, pairs),
            ("discopop_tau", differs(self.discopop_tau, defaults.discopop_tau), pairs),
            ("desirable_weight", differs(self.desirable_weight, defaults.desirable_weight), verdicts),
            ("undesirable_weight", differs(self.undesirable_weight, defaults.undesirable_weight), verdicts),
            ("sync_ref_model", self.sync_ref_model, &[Dpo, Kto]),
            ("cpo_alpha", differs(self.cpo_alpha, defaults.cpo_alpha), contrastive),
            ("simpo_gamma", differs(self.simpo_gamma, defaults.simpo_gamma), contrastive),
            ("alpha", differs(self.alpha, defaults.alpha), contrastive),
        ];
        for (name, is_given, trainers) in options {
            if is_given && !trainers.contains(&self.trainer) {
                return Err(Error::Config(format!(
                    "{name}: {} of TRL has no such option, {} has: leave it out, or give the `trainer` it belongs to",
                    self.trainer.class(),
                    trainers[0].class()
                )));
            }
        }
        Ok(())
    }

    /// The names of the losses, all of which the trainer has.
    fn losses(&self) -> Result<Vec<&str>> {
        let (trainer, known) = (self.trainer, self.trainer.losses());
        if self.loss_type.len() > 1 && trainer != Trainer::Dpo {
            let got = self.loss_type.len();
            return Err(Error::Config(format!(
                "loss_type: got {got} losses, expected one: of TRL's trainers only DPOTrainer adds losses up, and {} has {}",
                trainer.class(),
                known.join(", ")
            )));
        }
        if let Some(unknown) = self.loss_type.iter().find(|name| !trainer.has_loss(name)) {
            let other = Trainer::ALL.into_iter().find(|other| other.has_loss(unknown));
            let hint = other.map_or_else(String::new, |other| format!("; it is a loss of {}", other.class()));
            return Err(Error::Config(format!(
                "loss_type = {unknown}: {} of TRL has {}{hint}",
                trainer.class(),
                known.join(", ")
            )));
        }
        let default = known.iter().take(usize::from(self.loss_type.is_empty())).copied();
        Ok(self.loss_type.iter().map(String::as_str).chain(default).collect())
    }

    /// The loss of that name. It has the fields that it uses: those are set, and no other option reaches it.
    fn loss(&self, name: &str) -> Result<Recipe> {
        let (name, settings) = match self.trainer {
            Trainer::Dpo | Trainer::Kto | Trainer::Orpo | Trainer::Bco => (name, Map::new()),
            Trainer::Cpo => self.contrastive(name)?,
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
        let recipe = if self.use_weighting { weighted(loss)? } else { Recipe::Builtin(loss) };
        // Where no name of its own says so.
        let follows = self.sync_ref_model && recipe.needs().reference;
        match follows && recipe.reference_update() == ReferenceUpdate::Frozen {
            true => Ok(TrustRegion { update: self.reference_update(), loss: Box::new(recipe) }.into()),
            false => Ok(recipe),
        }
    }

    /// The loss that `CPOTrainer` has under a name, and the settings by which it differs from its defaults.
    fn contrastive(&self, loss_type: &str) -> Result<(&'static str, Map<String, Value>)> {
        let mut settings = Map::new();
        let mut set = |name: &str, value: Value| settings.insert(name.to_owned(), value);
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
            "simpo" | "alphapo" => {
                set("gamma", self.simpo_gamma.into());
                set("nll_weight", if loss_type == "simpo" { self.cpo_alpha.into() } else { 0.0.into() });
                if self.alpha.abs() > 0.0 {
                    set("alpha", self.alpha.into());
                    "alpha_po"
                } else {
                    "simpo"
                }
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
            "alpha_divergence" => Divergence::Alpha(self.f_alpha_divergence_coef),
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

    /// `sync_ref_model` and what belongs to it, of a loss that has a name for it.
    fn with_reference_update(&self, loss: Builtin) -> Result<Builtin> {
        let named = Builtin::from_name(&format!("tr_{}", loss.name()));
        let Some(named) = named.filter(|_| self.sync_ref_model) else { return Ok(loss) };
        let mut fields = to_fields(&named)?;
        for (name, value) in to_fields(&loss)?.into_iter().filter(|(name, _)| name != TYPE) {
            fields.insert(name, value);
        }
        fields.insert("update".to_owned(), to_value(&self.reference_update())?);
        from_value(Value::Object(fields))
    }

    fn reference_update(&self) -> ReferenceUpdate {
        ReferenceUpdate::Soft { alpha: self.ref_model_mixup_alpha, every: self.ref_model_sync_steps }
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
    let names = match Value::deserialize(deserializer)? {
        Value::String(name) => vec![name],
        many => serde_json::from_value::<Vec<String>>(many)
            .map_err(|_| D::Error::custom("loss_type: expected the name of a loss or a list of names"))?,
    };
    if names.is_empty() { Err(D::Error::custom("loss_type: got no loss, expected at least one")) } else { Ok(names) }
}

/// The field that names the loss.
const TYPE: &str = "type";
/// The losses of `DPOTrainer`, the default first.
const PAIR_LOSSES: [&str; 15] = [
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
];
/// The losses that TRL lets a divergence change, by its names.
const DIVERGENT: &str = "sigmoid, sigmoid_norm, hinge, ipo, exo_pair, robust, discopop and sft";

#[cfg(test)]
mod tests;
