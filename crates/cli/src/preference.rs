//! The preference at which a Panacea adapter is asked.

use std::path::Path;

use anyhow::{Result, bail};
use candlewick::model::CausalLm;

use crate::failure::Failure;
use crate::places::{self, Kind};

/// Puts an adapter over the model, where one is named.
pub(crate) fn load_adapter(model: &mut CausalLm, adapter: Option<&Path>, preference: &[f64]) -> Result<()> {
    if let Some(adapter) = adapter {
        model.load_adapter(&places::directory(adapter, Kind::Adapter)?)?;
    }
    set(model, preference)
}

/// Lets a model be at the preference of the command line. A Panacea adapter that is told none stands at equal numbers,
/// which is said.
pub(crate) fn set(model: &mut CausalLm, preference: &[f64]) -> Result<()> {
    match (model.preference(), preference) {
        ([], []) => Ok(()),
        ([], _) => bail!(Failure::Usage(
            "--preference: given, and the model has no Panacea adapter to be told it; leave it out, or name one with --adapter".into()
        )),
        (equal, []) => {
            let equal: Vec<String> = equal.iter().map(|weight| format!("{weight:.3}")).collect();
            eprintln!("a Panacea adapter, asked at equal preferences ({}); choose others by --preference", equal.join(", "));
            Ok(())
        }
        (_, preference) => {
            model.set_preference(preference).map_err(|error| Failure::Usage(format!("--preference: {error}")).into())
        }
    }
}
