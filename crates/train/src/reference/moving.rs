//! A reference that follows the policy.
use std::path::Path;

use candlewick_kernels::running_mean::Correction;
use candlewick_kernels::{Buffer, Cuda, View, ViewMut, Workspace, elementwise, running_mean};
use candlewick_losses::{Bema, ReferenceUpdate};
use candlewick_model::Parameters;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::policy::{Trainable, Tuning};
use crate::tensor_file::{Column, Columns, Element, TensorFile};

/// A reference that follows the policy: a second copy of what is trained, all weights or an adapter, never of weights that stand still.
///
/// What it becomes at a step the objective's [`ReferenceUpdate`] says, number by number. Of an adapter `A` and `B` are mixed each by
/// itself, so that `BA` is not the mixture of the two products, but after a copy. A trainer adds what the update keeps beside the
/// values: the running mean of `Ema` and `Bema`, in f64, so that small addends are not lost, and the start of `Bema`.
///
/// All of it lies where what is trained does, on a device too, and has there the bits that the host would give it. Nothing of a step asks for
/// memory.
///
/// # File format, version 2
/// `moving_reference.safetensors` in a checkpoint. Its metadata MUST hold `format` = `candlewick-moving-reference`, `version` = `2` and
/// `layout`, a digest of the names and shapes of what is trained; a reader MUST refuse another layout and a version that is neither 2
/// nor 1. Tensors, each all tensors one after another in the order of the policy: `values` F32 or F64; where the update keeps a running
/// mean, `mean` F64; where it is `Bema`, `start` in the type of `values`. Version 1 had `values` alone, and a reader MUST take it for an
/// update that keeps nothing else.
#[derive(Debug)]
pub struct MovingReference<T: Element = f32> {
    parameters: Parameters<T>,
    /// The running mean, if the update keeps one.
    mean: Buffer<f64>,
    /// The policy from which a correction counts, if the update makes one.
    start: Buffer<T>,
}

impl<T: Element> MovingReference<T> {
    /// Starts as the policy is.
    ///
    /// # Errors
    /// The device of the policy has no memory left.
    pub fn of<P: Trainable<Element = T>>(policy: &P) -> Result<Self> {
        Ok(Self::new(policy.parameters().try_copied()?))
    }

    /// Starts as the policy would be without its adapter: `lora_B` of each pair is zero.
    ///
    /// # Errors
    /// There is no adapter; the device of the policy has no memory left.
    pub fn of_base<P: Trainable<Element = T>>(policy: &P) -> Result<Self> {
        let mut parameters = policy.parameters().try_copied()?;
        let pairs: Vec<usize> = (0..parameters.len()).filter(|i| parameters.name(*i).contains(".lora_B.")).collect();
        if pairs.is_empty() {
            return Err(Error::Mismatch(
                "the reference is to start as the policy without its adapter, and the policy has none".into(),
            ));
        }
        for i in pairs {
            let range = parameters.range(i);
            let zeros = vec![T::ZERO; range.len()];
            parameters.all_mut().part(range)?.write(&zeros)?;
        }
        Ok(Self::new(parameters))
    }

    /// Starts from these values.
    ///
    /// # Errors
    /// Other names or shapes than those of what the policy trains.
    pub fn from_parameters<P: Trainable<Element = T>>(policy: &P, parameters: Parameters<T>) -> Result<Self> {
        if layout(policy.parameters()) != layout(&parameters) {
            return Err(Error::Mismatch(
                "the reference that is to move has other tensors than the policy; give a model of the same shape"
                    .into(),
            ));
        }
        Ok(Self::new(parameters))
    }

    fn new(parameters: Parameters<T>) -> Self {
        Self { parameters, mean: Buffer::default(), start: Buffer::default() }
    }

    /// The same on a device, for a policy there, before a trainer has it.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn to_device(&self, device: &Cuda) -> Result<Self> {
        let mut workspace = Workspace::new(1).on(device);
        Ok(Self::new(self.parameters.to_device(device, &mut workspace)?))
    }

    /// Its values.
    pub fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    pub(crate) fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    /// Makes what the update keeps beside the values, before the first step.
    pub(crate) fn prepare<P: Trainable<Element = T>>(&mut self, policy: &mut P, update: ReferenceUpdate) -> Result<()> {
        let Tuning { parameters: policy, workspace, .. } = policy.tuning();
        let (count, device) = (self.parameters.element_count(), self.parameters.device());
        match update {
            ReferenceUpdate::Ema { .. } => {
                self.mean = Buffer::zeros(count, device)?;
                running_mean::begin(self.mean.view_mut(), self.parameters.all(), workspace)?;
            }
            ReferenceUpdate::Bema(_) => {
                (self.mean, self.start) = (Buffer::zeros(count, device)?, Buffer::zeros(count, device)?);
                self.start_from(policy.all(), workspace)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn start_from(&mut self, policy: View<'_, T>, workspace: &mut Workspace) -> Result<()> {
        elementwise::copy(self.start.view_mut(), policy)?;
        Ok(running_mean::begin(self.mean.view_mut(), policy, workspace)?)
    }

    /// What is to happen before `step`, counted from 1, changes the policy.
    pub(crate) fn keep_back<P: Trainable<Element = T>>(
        &mut self,
        policy: &P,
        update: ReferenceUpdate,
        step: u64,
    ) -> Result<()> {
        if update.copies_before(step) {
            elementwise::copy(self.parameters.all_mut(), policy.parameters().all())?;
        }
        Ok(())
    }

    /// What is to happen after `step`, counted from 1.
    pub(crate) fn follow<P: Trainable<Element = T>>(
        &mut self,
        policy: &mut P,
        update: ReferenceUpdate,
        step: u64,
    ) -> Result<()> {
        let Tuning { parameters, workspace, .. } = policy.tuning();
        let policy = parameters.all();
        if matches!(update, ReferenceUpdate::Bema(Bema { update_after, .. }) if update_after == step) {
            self.start_from(policy, workspace)?;
        }
        let Some(weight) = update.weight_after(step) else { return Ok(()) };
        let reference = self.parameters.all_mut();
        let correction = match update {
            ReferenceUpdate::Ema { .. } => None,
            ReferenceUpdate::Bema(bema) => {
                Some(Correction { start: self.start.view(), weight: bema.bias_weight(step) })
            }
            _ => return Ok(elementwise::mix(reference, policy, weight, workspace)?),
        };
        Ok(running_mean::step(reference, self.mean.view_mut(), policy, weight, correction, workspace)?)
    }

    pub(crate) fn file(&self) -> Result<TensorFile<'_>> {
        let metadata = [("format", MOVING), ("version", "2"), ("layout", &layout(&self.parameters))];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let values = match self.parameters.device() {
            None => Column::new(self.parameters.data()),
            Some(_) => Column::owned(self.parameters.all().download()?),
        };
        let mut columns = vec![("values", values)];
        if !self.mean.is_empty() {
            columns.push(("mean", Column::of(&self.mean)?));
        }
        if !self.start.is_empty() {
            columns.push(("start", Column::of(&self.start)?));
        }
        Ok(TensorFile { metadata, columns })
    }

    /// Reads what [`file`](Self::file) holds, for the same layout and update.
    pub(crate) fn load(&mut self, path: &Path) -> Result<()> {
        let refuse = |reason: String| Error::checkpoint(path, reason);
        let file = Columns::read(path)?.map_err(refuse)?;
        if file.metadata("format") != Some(MOVING) || !matches!(file.metadata("version"), Some("1" | "2")) {
            return Err(refuse("not a moving reference in format version 1 or 2".into()));
        }
        if file.metadata("layout") != Some(&layout(&self.parameters)) {
            return Err(refuse("it belongs to other tensors than those that are trained".into()));
        }
        load_into(self.parameters.all_mut(), &file, "values").map_err(refuse)?;
        load_into(self.mean.view_mut(), &file, "mean").map_err(refuse)?;
        load_into(self.start.view_mut(), &file, "start").map_err(refuse)
    }
}

/// Fills `numbers` from the column of that name, which has as many; none are read where none are wanted.
fn load_into<T: Element>(numbers: ViewMut<'_, T>, file: &Columns, name: &str) -> Result<(), String> {
    if numbers.is_empty() {
        return Ok(());
    }
    let found = file.column::<T>(name)?;
    if found.len() != numbers.len() {
        return Err(format!("its {name} are {} numbers; what is trained has {}", found.len(), numbers.len()));
    }
    numbers.write(&found).map_err(|error| error.to_string())
}

/// A digest of names and shapes, in their order.
fn layout<T: Element>(parameters: &Parameters<T>) -> String {
    let mut hasher = Xxh3::new();
    for i in 0..parameters.len() {
        hasher.update(format!("{} {:?}\n", parameters.name(i), parameters.shape(i)).as_bytes());
    }
    format!("xxh3-128:{:032x}", hasher.digest128())
}

const MOVING: &str = "candlewick-moving-reference";

#[cfg(test)]
mod tests {
    use candlewick_model::{CausalLm, Config, Recompute};
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;
    use crate::policy::CausalPolicy;

    /// Numbers in [−0.5, 0.5), the same as `tools/references/make.py` makes.
    fn numbers(seed: u64, count: usize) -> Vec<f64> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 31) - 0.5
        };
        (0..count).map(next).collect()
    }

    /// Sets what is trained to these numbers over and over.
    fn set(policy: &mut CausalPolicy<f64>, numbers: &[f64]) {
        let data = policy.tuning().parameters.data_mut();
        data.iter_mut().enumerate().for_each(|(i, x)| *x = numbers[i % numbers.len()]);
    }

    fn policy() -> CausalPolicy<f64> {
        CausalPolicy::new(CausalLm::random(Config::llama(32, 16, 1), 1).unwrap(), Recompute::Nothing, 1)
    }

    #[test]
    fn the_bias_corrected_average_is_that_of_trl() {
        let file: Value = serde_json::from_str(include_str!("../../tests/expected/bema.json")).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 6);
        for case in cases {
            let update = ReferenceUpdate::Bema(Bema::deserialize(&case["bema"]).unwrap());
            let expected: Vec<Vec<f64>> = serde_json::from_value(case["references"].clone()).unwrap();
            let count = expected[0].len();
            let mut policy = policy();
            set(&mut policy, &numbers(1, count));
            let mut reference = MovingReference::of(&policy).unwrap();
            reference.prepare(&mut policy, update).unwrap();
            for (step, expected) in (1..).zip(&expected) {
                set(&mut policy, &numbers(1 + step, count));
                reference.follow(&mut policy, update, step).unwrap();
                let gap = |(i, x): (usize, &f64)| (x - expected[i % count]).abs();
                let worst = reference.parameters.data().iter().enumerate().map(gap).fold(0.0, f64::max);
                assert!(worst < 1e-14, "{update:?}, step {step}: {worst:e}");
            }
        }
    }

    #[test]
    fn a_file_of_version_1_is_taken_where_nothing_else_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("moving_reference.safetensors");
        let mut policy = policy();
        set(&mut policy, &[0.25, -0.5]);
        let written = MovingReference::of(&policy).unwrap();
        let older = [("format", MOVING), ("version", "1"), ("layout", &layout(&written.parameters))];
        let older = older.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let columns = vec![("values", Column::new(written.parameters.data()))];
        TensorFile { metadata: older, columns }.write(&path).unwrap();
        set(&mut policy, &[1.0]);
        let mut soft = MovingReference::of(&policy).unwrap();
        soft.prepare(&mut policy, ReferenceUpdate::soft()).unwrap();
        soft.load(&path).unwrap();
        assert_eq!(soft.parameters.data(), written.parameters.data());
        let mut ema = MovingReference::of(&policy).unwrap();
        ema.prepare(&mut policy, ReferenceUpdate::ema()).unwrap();
        let error = ema.load(&path).unwrap_err().to_string();
        assert!(error.contains("the tensor mean is missing"), "{error}");
    }
}
