//! The losses of this library: one file each, and one list.
//!
//! A new loss is a new file here and one line, `file::Type`, in the list below. Its configuration
//! name, aliases and summary stand in its own file; dispatch, configuration, listings and the
//! property tests follow from the list.

use candle_core::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::divergence::Divergence;
use crate::error::{Error, Result};
use crate::loss::{Objective, forward_objective};
use crate::math::log_sigmoid;
use crate::recipe::COMPOSITES;
use crate::reduction::Reduction;
use crate::reference_update::ReferenceUpdate;
use crate::scores::{TokenScores, per_token};
use crate::terms::LossTerms;

builtin! {
    sft::Sft,
    dpo::Dpo,
    cdpo::Cdpo,
    robust_dpo::RobustDpo,
    soft_dpo::SoftDpo,
    offset_dpo::OffsetDpo,
    dpop::Dpop,
    cal_dpo::CalDpo,
    mm_rlhf::MmRlhf,
    modpo::Modpo,
    safe_rlhf_lagrangian::SafeRlhfLagrangian,
    sacpo::Sacpo,
    safe_dpo::SafeDpo,
    bfpo::Bfpo,
    exo::Exo,
    discopop::Discopop,
    nca::Nca,
    bco_pair::BcoPair,
    apo_zero::ApoZero,
    apo_down::ApoDown,
    sppo_hard::SppoHard,
    ipo::Ipo,
    onpo::Onpo,
    irepo::Irepo,
    bonbon::Bonbon,
    hinge::Hinge,
    aot::Aot,
    aot_unpaired::AotUnpaired,
    tr_dpo::TrDpo,
    tr_ipo::TrIpo,
    tr_kto::TrKto,
    tr_bco::TrBco,
    cpo::Cpo,
    simpo::Simpo,
    alpha_po::AlphaPo,
    orpo::Orpo,
    slic::Slic,
    kto::Kto,
    kto_s::KtoS,
    apo_zero_unpaired::ApoZeroUnpaired,
    bco::Bco,
    ulma::Ulma,
    pointwise_dpo::PointwiseDpo,
    pointwise_regression::PointwiseRegression,
    plackett_luce::PlackettLuce,
    rrhf::Rrhf,
    stable_alignment::StableAlignment,
    ual::Ual,
    cut::Cut,
    figa::Figa,
    dckd::Dckd,
    adpa::Adpa,
}

mod reference_free;

#[cfg(test)]
pub(crate) mod vectors;

/// How a loss of the list is named and described.
pub trait Named: Objective + Default + Serialize + DeserializeOwned {
    /// Its configuration name: the type's name in snake case.
    const NAME: &'static str;
    /// Other names for it, among them that of TRL's `loss_type`.
    const ALIASES: &'static [&'static str];
    /// One line about it.
    const SUMMARY: &'static str;
    /// Names of their own for some of its settings, under which they are known.
    const PRESETS: &'static [Preset] = &[];
}

/// A name for a loss with certain settings: hyperparameters that are not given have these values instead of the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// The name.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// One line about it.
    pub summary: &'static str,
    /// The settings, as a JSON object.
    pub settings: &'static str,
}

impl Builtin {
    /// A loss by name or alias with its default hyperparameters, in lower case
    /// with `_` or `-`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::from_fields(name, Value::Object(serde_json::Map::new()))?.ok()
    }

    /// As [`from_name`](Self::from_name), with an error that names the nearest name and lists all.
    ///
    /// # Errors
    /// If no loss has that name.
    pub fn parse(name: &str) -> Result<Self> {
        Self::from_name(name).ok_or_else(|| Self::unknown(name))
    }

    /// The presets of all losses, each with the name of its loss.
    pub fn presets() -> impl Iterator<Item = (&'static str, &'static Preset)> {
        Self::NAMES
            .iter()
            .zip(Self::PRESETS)
            .flat_map(|(name, presets)| presets.iter().map(move |preset| (*name, preset)))
    }

    pub(crate) fn unknown(name: &str) -> Error {
        let aliases = Self::ALIASES.iter().flat_map(|aliases| aliases.iter());
        let presets = Self::presets().flat_map(|(_, preset)| std::iter::once(&preset.name).chain(preset.aliases));
        let known = Self::NAMES.iter().chain(COMPOSITES).chain(aliases).chain(presets);
        let nearest = known
            .map(|known| (distance(name, known), *known))
            .min()
            .filter(|&(distance, known)| distance <= 1 + known.len() / 4)
            .map(|(_, known)| known.to_owned());
        let presets: Vec<&str> = Self::presets().map(|(_, preset)| preset.name).collect();
        let names = [Self::NAMES, &presets, COMPOSITES].concat().join(", ");
        Error::UnknownLoss { name: name.to_owned(), nearest, names }
    }
}

/// Makes the list of losses: their modules, an enum over them, their names, and dispatch.
macro_rules! builtin {
    ($($file:ident::$loss:ident),+ $(,)?) => {
        $(
            mod $file;
            pub use $file::*;
        )+

        /// Any loss of the list, as configuration names it.
        ///
        /// ```
        /// use candlewick_losses::Builtin;
        /// assert_eq!(Builtin::from_name("sigmoid"), Builtin::from_name("dpo"));
        /// assert!(Builtin::NAMES.contains(&"kto"));
        /// ```
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Builtin {
            $(
                #[doc = concat!("[`", stringify!($loss), "`]")]
                $loss($loss),
            )+
        }

        impl Builtin {
            /// The names of all losses, in the order of the list.
            pub const NAMES: &'static [&'static str] = &[$(<$loss as Named>::NAME),+];
            /// Other names of every loss, in the order of [`NAMES`](Self::NAMES).
            pub const ALIASES: &'static [&'static [&'static str]] = &[$(<$loss as Named>::ALIASES),+];
            /// One line about every loss, in the order of [`NAMES`](Self::NAMES).
            pub const SUMMARIES: &'static [&'static str] = &[$(<$loss as Named>::SUMMARY),+];

            /// The presets of every loss, in the order of [`NAMES`](Self::NAMES).
            pub const PRESETS: &'static [&'static [Preset]] = &[$(<$loss as Named>::PRESETS),+];

            /// The configuration name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$loss(_) => <$loss as Named>::NAME,)+ }
            }

            /// One line about the loss.
            pub fn summary(&self) -> &'static str {
                match self { $(Self::$loss(_) => <$loss as Named>::SUMMARY,)+ }
            }

            /// A loss from its name and its hyperparameters; `None` if nothing has that name.
            pub(crate) fn from_fields(name: &str, fields: Value) -> Option<serde_json::Result<Self>> {
                $(
                    if is_named::<$loss>(name) {
                        return Some(serde_json::from_value(fields).map(Self::$loss));
                    }
                    if let Some(preset) = preset_named::<$loss>(name) {
                        return Some(with_settings(preset, fields).map(Self::$loss));
                    }
                )+
                None
            }

            fn objective(&self) -> &dyn Objective {
                match self { $(Self::$loss(loss) => loss,)+ }
            }

            fn objective_mut(&mut self) -> &mut dyn Objective {
                match self { $(Self::$loss(loss) => loss,)+ }
            }
        }

        $(
            impl From<$loss> for Builtin {
                fn from(loss: $loss) -> Self {
                    Self::$loss(loss)
                }
            }
        )+

        forward_objective!(Builtin);
    };
}
use builtin;

fn is_named<L: Named>(name: &str) -> bool {
    is_any(name, L::NAME, L::ALIASES)
}

fn preset_named<L: Named>(name: &str) -> Option<&'static Preset> {
    L::PRESETS.iter().find(|preset| is_any(name, preset.name, preset.aliases))
}

fn is_any(name: &str, known: &str, aliases: &[&str]) -> bool {
    let same = |known: &str| known.eq_ignore_ascii_case(&name.replace('-', "_"));
    same(known) || aliases.iter().any(|alias| same(alias))
}

/// The loss of the fields, and of the preset's settings where they have none.
fn with_settings<L: Named>(preset: &Preset, fields: Value) -> serde_json::Result<L> {
    // Both are right on their own, so that together only the same field under two names can be wrong.
    let mut loss: L = serde_json::from_value(fields.clone())?;
    let _: L = serde_json::from_str(preset.settings)?;
    let settings: serde_json::Map<String, Value> = serde_json::from_str(preset.settings)?;
    let mut fields: serde_json::Map<String, Value> = serde_json::from_value(fields)?;
    for (name, setting) in settings {
        let mut with = fields.clone();
        with.entry(name).or_insert(setting);
        if let Ok(read) = serde_json::from_value(Value::Object(with.clone())) {
            (loss, fields) = (read, with);
        }
    }
    Ok(loss)
}

/// The error of a hyperparameter unless it is in range.
fn in_range<L: Named>(parameter: &'static str, got: f64, is_in: bool, expected: &'static str) -> Result<()> {
    if is_in { Ok(()) } else { Err(Error::Parameter { loss: L::NAME.to_owned(), parameter, got, expected }) }
}

/// `beta` must be positive: it is the weight of the divergence from the reference.
fn check_beta<L: Named>(beta: f64) -> Result<()> {
    in_range::<L>("beta", beta, beta.is_finite() && beta > 0.0, "a positive number")
}

/// The parameter of a reduction must be in its range.
fn check_reduction<L: Named>(reduction: Reduction) -> Result<()> {
    let got = match reduction {
        Reduction::LengthDesensitized { alpha } | Reduction::LengthDesensitizedMean { alpha } => alpha,
        Reduction::Sum | Reduction::Mean => 0.0,
    };
    in_range::<L>("reduction.alpha", got, reduction.is_valid(), "a weight in [0, 1]")
}

/// The parameter of a divergence must be finite.
fn check_divergence<L: Named>(divergence: Divergence) -> Result<()> {
    let got = if let Divergence::Alpha(alpha) = divergence { alpha } else { 0.0 };
    in_range::<L>("divergence.alpha", got, divergence.is_valid(), "a finite number")
}

/// A weight of a term, a target or a margin must be finite and not negative.
fn check_not_negative<L: Named>(parameter: &'static str, got: f64) -> Result<()> {
    in_range::<L>(parameter, got, got.is_finite() && got >= 0.0, "a number of at least 0")
}

/// The update of a reference must be one that can be carried out.
fn check_update<L: Named>(update: ReferenceUpdate) -> Result<()> {
    match update.fault() {
        None => Ok(()),
        Some((parameter, got, expected)) => in_range::<L>(parameter, got, false, expected),
    }
}

/// The means of values `[B, T]` over the scored tokens of every row, `[B]`; 0 for an empty row.
fn token_means(values: &Tensor, scores: &TokenScores) -> Result<Tensor> {
    per_token(&(values * scores.mask())?.sum(1)?, scores.lengths().iter().copied())
}

/// What another loss returned that this one is made of: its errors shall name this one.
fn under_name<L: Named, T>(returned: Result<T>) -> Result<T> {
    returned.map_err(|error| match error {
        Error::Parameter { parameter, got, expected, .. } => {
            Error::Parameter { loss: L::NAME.to_owned(), parameter, got, expected }
        }
        Error::EmptyStep { what, scalar, .. } => Error::EmptyStep { loss: L::NAME.to_owned(), what, scalar },
        other => other,
    })
}

/// A rate of flipped labels: at one half the labels say nothing.
fn check_label_smoothing<L: Named>(rate: f64) -> Result<()> {
    in_range::<L>("label_smoothing", rate, (0.0..0.5).contains(&rate), "a rate in [0, 0.5)")
}

/// Reports the margins `β·(s(Δ_w) − s(Δ_l))` of a loss of pairs, `[B]`, unless they are the differences of its implicit
/// rewards.
fn with_margins(terms: LossTerms, margins: &Tensor, reduction: Reduction, divergence: Divergence) -> Result<LossTerms> {
    if reduction == Reduction::Sum && divergence == Divergence::ReverseKl {
        return Ok(terms);
    }
    terms.with_optimised_margins(margins)
}

/// `−(1 − ε)·log σ(x) − ε·log σ(−x)` of every margin, where `ε` is the rate of flipped labels.
fn smoothed_logistic(margins: &Tensor, rate: f64) -> Result<Tensor> {
    let kept = (log_sigmoid(margins)? * (rate - 1.0))?;
    if rate <= 0.0 { Ok(kept) } else { Ok((kept - (log_sigmoid(&margins.neg()?)? * rate)?)?) }
}

/// Edit distance: insertions, deletions and substitutions.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_edit_distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("dpo", "dpo"), 0);
    }

    #[test]
    fn names_of_trl_resolve() {
        for (alias, name) in
            [("sigmoid", "dpo"), ("robust", "robust_dpo"), ("ROBUST-DPO", "robust_dpo"), ("kto", "kto")]
        {
            assert_eq!(Builtin::parse(alias).unwrap().name(), name);
        }
    }

    fn read(json: &str) -> serde_json::Result<Builtin> {
        serde_json::from_str(json)
    }

    #[test]
    fn a_preset_gives_way_to_what_is_given_under_any_name() {
        let with = |nll_weight| Builtin::from(Simpo { nll_weight, ..Simpo::default() });
        assert_eq!(read(r#"{ "type": "cpo_simpo" }"#).unwrap(), with(1.0));
        for given in ["nll_weight", "cpo_alpha"] {
            for value in [0.5, 0.0] {
                let loss = read(&format!(r#"{{ "type": "cpo_simpo", "{given}": {value} }}"#)).unwrap();
                assert_eq!(loss, with(value), "{given}");
            }
        }
        let other = read(r#"{ "type": "cpo_simpo", "simpo_gamma": 0.9 }"#).unwrap();
        assert_eq!(other, Simpo { gamma: 0.9, nll_weight: 1.0, ..Simpo::default() }.into());
    }

    #[test]
    fn wrong_fields_of_a_preset_are_errors() {
        let twice = read(r#"{ "type": "cpo_simpo", "cpo_alpha": 0.5, "nll_weight": 0.5 }"#).unwrap_err().to_string();
        assert!(twice.contains("duplicate field `nll_weight`"), "{twice}");
        let typo = read(r#"{ "type": "cpo_simpo", "nll_wait": 0.5 }"#).unwrap_err().to_string();
        assert!(typo.contains("unknown field `nll_wait`"), "{typo}");
        let text = read(r#"{ "type": "cpo_simpo", "nll_weight": "much" }"#).unwrap_err().to_string();
        assert!(text.contains("expected f64"), "{text}");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest_and_all() {
        let error = Builtin::parse("hinges").unwrap_err().to_string();
        assert!(error.contains("did you mean `hinge`?") && error.contains("sft, dpo, cdpo"), "{error}");
        assert!(!Builtin::parse("zzzzzz").unwrap_err().to_string().contains("did you mean"));
    }
}
