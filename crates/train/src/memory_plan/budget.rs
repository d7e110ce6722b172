//! `train.tokens = "auto"`: the largest micro-batch that a device has memory for.
use std::fmt;

use serde::Serialize;

use super::walk::Seen;
use super::{DeviceMemory, Models, advice, readable};
use crate::budget::TokenBudget;
use crate::device::{DeviceKind, Hardware};
use crate::error::{Error, Result};
use crate::plan::Plan;

/// One part in so many of the memory that is free is kept back: for what lies idle between buffers, and for what the driver and
/// libraries take for themselves.
const RESERVE: u64 = 16;
/// Budgets are multiples of this, but for that of a whole step.
const GRAIN: usize = 16;

/// What a budget of tokens was chosen by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TokenChoice {
    /// The device.
    pub device: DeviceKind,
    /// The budget.
    pub tokens: usize,
    /// Bytes of the device that the run is planned to take with it at its peak.
    pub planned: u64,
    /// Bytes that were free.
    pub free: u64,
    /// Bytes of these that are kept back.
    pub reserve: u64,
    /// Whether a whole step fits into one micro-batch.
    pub whole_step: bool,
    /// The first so many steps, where later rows were neither looked at nor have a limit, so that they may be longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_steps: Option<u64>,
}

impl fmt::Display for TokenChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, tokens, planned, free, reserve, whole_step, first_steps } = self;
        let why = if *whole_step { "a whole step" } else { "the largest micro-batches that fit" };
        let (planned, free, reserve) = (readable(*planned), readable(*free), readable(*reserve));
        write!(f, "train.tokens = {tokens}: {why} on {device}, {planned} planned of {free} free, {reserve} kept back")?;
        let Some(steps) = first_steps else { return Ok(()) };
        write!(
            f,
            ", by the rows of the first {steps} steps: data.max_length = 0 says nothing of longer ones, for which memory may be short"
        )
    }
}

/// What of so many bytes a run may plan with.
pub(super) fn room(bytes: u64) -> u64 {
    bytes - bytes / RESERVE
}

impl Plan {
    /// The same with a number in the place of `train.tokens = "auto"`, and what it was chosen by; None where a number stands there.
    ///
    /// The number is the largest that the memory of the device that is free now allows, by the plan of the run's memory, with one part
    /// in sixteen kept back. It is chosen by the longest rows, and does not depend on their order.
    ///
    /// # Errors
    /// Not even single rows fit: the plan of the memory then, and the smallest change that fits.
    pub fn with_token_budget(mut self, hardware: &Hardware) -> Result<(Self, Option<TokenChoice>)> {
        let (Some(TokenBudget::Auto), Some(device)) = (self.train.tokens, hardware.device()) else {
            return Ok((self, None));
        };
        // What was freed is free once all work is done.
        device.synchronize()?;
        let chosen = choose(&self, device.memory()?.free as u64)?;
        self.train.tokens = Some(TokenBudget::Tokens(chosen.tokens));
        Ok((self, Some(chosen)))
    }
}

fn choose(plan: &Plan, free: u64) -> Result<TokenChoice> {
    let (seen, basis) = Seen::in_rows(plan)?;
    let (seen, first_steps) = seen.or_limits(plan, &basis);
    let models = Models::of(plan)?;
    let most = room(free);
    let need = |tokens| needed(plan, &models, &seen, tokens);
    let Some(tokens) = largest(&seen, most, need)? else {
        let (plan, least) = (with_budget(plan, seen.one.tokens), seen.with_budget(seen.one.tokens));
        let memory = DeviceMemory::of(&plan, &models, &least)?;
        let (advice, _) = advice::of(&plan, &least, memory.total(), most, false)?;
        let reason = format!(
            "\"auto\", and with micro-batches of single rows, the longest of {} tokens, the run would take {} of {}, which has {} free, and {} \
             of these are kept back; {advice}",
            seen.one.tokens,
            memory.in_a_line(),
            plan.train.device,
            readable(free),
            readable(free - most),
        );
        return Err(Error::config("train.tokens", reason));
    };
    Ok(TokenChoice {
        device: plan.train.device,
        tokens,
        planned: need(tokens)?,
        free,
        reserve: free - most,
        whole_step: tokens >= seen.step.tokens,
        first_steps,
    })
}

/// The largest budget that needs at most so many bytes; None where the longest row needs more.
pub(super) fn largest(seen: &Seen, most: u64, need: impl Fn(usize) -> Result<u64>) -> Result<Option<usize>> {
    let (least, all) = (seen.one.tokens.max(1), seen.step.tokens.max(seen.one.tokens).max(1));
    if need(all)? <= most {
        return Ok(Some(all));
    }
    if need(least)? > most {
        return Ok(None);
    }
    // It fits with `fits` grains, if any, and does not with `beyond`.
    let (mut fits, mut beyond) = (least / GRAIN, all.div_ceil(GRAIN));
    while beyond - fits > 1 {
        let middle = fits.midpoint(beyond);
        match need(middle * GRAIN)? <= most {
            true => fits = middle,
            false => beyond = middle,
        }
    }
    Ok(Some((fits * GRAIN).max(least)))
}

/// The bytes that a run takes with a budget at its peak, with what micro-batches of other sizes may leave behind: no more than an eighth
/// of what is lent at most ([`Shelf`](candlewick_kernels::Shelf)).
pub(super) fn needed(plan: &Plan, models: &Models, seen: &Seen, tokens: usize) -> Result<u64> {
    let memory = DeviceMemory::of(&with_budget(plan, tokens), models, &seen.with_budget(tokens))?;
    Ok(memory.total() + memory.passes() / 8)
}

fn with_budget(plan: &Plan, tokens: usize) -> Plan {
    let mut plan = plan.clone();
    plan.train.tokens = Some(TokenBudget::Tokens(tokens));
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Words;
    use crate::memory_plan::Basis;

    #[test]
    fn what_nothing_limits_is_said() {
        let minimal = "model.path = \"base\"\ndata.path = \"pairs.jsonl\"\noutput.dir = \"out\"\n";
        let plan = |limit: &str| {
            let mut words = Words::parse(minimal, "test").unwrap();
            words.set(limit).unwrap();
            Plan::resolve(words.config().unwrap()).unwrap()
        };
        let seen = |limit: &str, all| Seen::default().or_limits(&plan(limit), &Basis::Rows { steps: 7, all });
        let longest = |(seen, steps): (Seen, Option<u64>)| (seen.one.longest, steps);
        assert_eq!(longest(seen("data.max_length=90", false)), (90, None));
        assert_eq!(longest(seen("data.max_length=0", false)), (0, Some(7)));
        assert_eq!(longest(seen("data.max_length=0", true)), (0, None));
        let (planned, device) = (1 << 20, DeviceKind::Cuda(0));
        let choice = |first_steps| TokenChoice {
            device,
            tokens: 64,
            planned,
            free: 2 * planned,
            reserve: planned,
            whole_step: false,
            first_steps,
        };
        let said = choice(Some(7)).to_string();
        let before = choice(None).to_string();
        assert!(said.starts_with(&before) && said.contains("the first 7 steps: data.max_length = 0"), "{said}");
    }
}
