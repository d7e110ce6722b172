//! What the trainer asks of a model, and the models that answer.
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use candlewick_kernels::{self as kernels, Float, Workspace};
use candlewick_losses::{Outputs, TokenScores};
use candlewick_model::{
    Adapter, AdapterWeights, CausalLm, Gradients, HeadCotangents, HeadScores, Packed, Parameters, Recompute, Saved,
    Sketch, Sketches, Statistics, Target, Trained,
};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::tensor_file::Element;

/// Scores the completions of a batch.
pub trait Policy: std::fmt::Debug {
    /// Log-probabilities `[N,T]` of the scored tokens, with the wanted statistics, without keeping anything.
    ///
    /// Row n is completion n of `batch`, column t its slot t; mask 1 exactly at [`Packed::targets`]. Where
    /// [`Outputs::given`] is wanted, those of the tokens of [`Packed::given`] too, `[N,T,K]`.
    ///
    /// # Errors
    /// Ids the model does not know; tokens wanted that the batch does not name.
    fn score(&mut self, batch: &Packed, want: Outputs) -> Result<TokenScores>;

    /// As [`score`](Self::score), for somebody who has other work before he reads the scores: on a device nothing is waited for until then.
    /// What is scored are the weights of now, whatever becomes of them before the scores are read.
    /// A model that only scores works in the scratch memory that is lent, where that is of its device, so that it needs none of its own.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    fn queue<'a>(&mut self, batch: &'a Packed, want: Outputs, lent: Option<&mut Workspace>) -> Result<Queued<'a>> {
        let _ = lent;
        Ok(Queued::ready(self.score(batch, want)?))
    }
}

/// Scores that were asked for, and on a device perhaps are not there yet.
pub struct Queued<'a>(Box<dyn FnOnce() -> Result<TokenScores> + 'a>);

impl<'a> Queued<'a> {
    /// What `read` gives, which waits for what was queued already and computes nothing more of the weights.
    pub fn new(read: impl FnOnce() -> Result<TokenScores> + 'a) -> Self {
        Self(Box::new(read))
    }

    /// Scores that are there.
    pub fn ready(scores: TokenScores) -> Self {
        Self::new(|| Ok(scores))
    }

    /// The scores. A device is waited for until it has done all that was queued.
    ///
    /// # Errors
    /// A device reports an error, of anything that was queued.
    pub fn read(self) -> Result<TokenScores> {
        self.0()
    }
}

impl std::fmt::Debug for Queued<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queued").finish_non_exhaustive()
    }
}

/// A policy whose parameters can be changed.
pub trait Trainable: Policy {
    /// The numbers it computes in.
    type Element: Element;
    /// What its forward pass keeps for the backward.
    type Saved;

    /// As [`score`](Policy::score), keeping what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// As [`score`](Policy::score).
    fn forward(&mut self, batch: &Packed, want: Outputs) -> Result<(TokenScores, Self::Saved)>;

    /// Adds the gradients of the trainable parameters to those held, given d(loss)/d(scores).
    ///
    /// # Errors
    /// Cotangents of another shape than the batch.
    fn backward(&mut self, batch: &Packed, saved: Self::Saved, cotangents: &Cotangents) -> Result<()>;

    /// As [`queue`](Policy::queue), by the model without its adapter.
    ///
    /// # Errors
    /// There is no adapter.
    fn queue_without_adapter<'a>(&mut self, batch: &'a Packed, want: Outputs) -> Result<Queued<'a>>;

    /// As [`queue`](Policy::queue), with other values of what is trained, in the same layout: they change places for the while.
    ///
    /// # Errors
    /// As [`score`](Policy::score).
    fn queue_with<'a>(
        &mut self,
        parameters: &mut Parameters<Self::Element>,
        batch: &'a Packed,
        want: Outputs,
    ) -> Result<Queued<'a>> {
        std::mem::swap(self.tuning().parameters, parameters);
        let scores = self.queue(batch, want, None);
        std::mem::swap(self.tuning().parameters, parameters);
        scores
    }

    /// What is trained.
    fn parameters(&self) -> &Parameters<Self::Element>;

    /// What is trained, its gradients, and the scratch memory to work on them.
    fn tuning(&mut self) -> Tuning<'_, Self::Element>;

    /// The scratch memory alone.
    fn workspace(&mut self) -> &mut Workspace {
        self.tuning().workspace
    }

    /// Whether each of these parameters legitimately has a gradient of zero now, such as LoRA's A while B is zero.
    ///
    /// # Errors
    /// The weights cannot be read from the device they are on.
    fn gradients_may_be_zero(&self, of: &[usize]) -> Result<Vec<bool>>;

    /// How many preferences it is told, by a Panacea adapter; 0 without one.
    fn preferences(&self) -> usize {
        0
    }

    /// Lets all passes from now on be those of a preference vector.
    ///
    /// # Errors
    /// There is no Panacea adapter, or the vector is none of its preferences.
    fn set_preference(&mut self, preference: &[f64]) -> Result<()> {
        Err(without_preferences(preference.len()))
    }

    /// Adds the gradient of a penalty on the parameters themselves to those held; the penalty before its weight, where there is one.
    fn add_penalty(&mut self) -> Option<f64> {
        None
    }

    /// A digest of every weight, trained or not.
    ///
    /// # Errors
    /// The weights cannot be read from the device they are on.
    fn digest(&self) -> Result<String>;

    /// Writes what is trained into an existing directory.
    ///
    /// # Errors
    /// The files cannot be written.
    fn save(&self, directory: &Path) -> Result<()>;

    /// A copy of what [`save`](Self::save) writes, which may be written while the policy changes.
    ///
    /// # Errors
    /// The weights cannot be read from the device they are on.
    fn copied(&self) -> Result<Box<dyn Copied>>;

    /// Reads what [`save`](Self::save) wrote, leaving everything else as it is.
    ///
    /// # Errors
    /// The files are not those of this policy.
    fn restore(&mut self, directory: &Path) -> Result<()>;
}

/// What of a policy is saved, apart from it.
pub trait Copied: std::fmt::Debug + Send {
    /// Writes what [`Trainable::save`] would have written when the copy was made.
    ///
    /// # Errors
    /// The files cannot be written.
    fn save(&self, directory: &Path) -> Result<()>;
}

impl<T: Element> Copied for Trained<T> {
    fn save(&self, directory: &Path) -> Result<()> {
        Self::save(self, directory).map_err(|e| not_written(directory, e))
    }
}

/// An objective that tells the policy its preference, and a policy that cannot hear it.
fn without_preferences(count: usize) -> Error {
    Error::Mismatch(format!(
        "the objective has {count} preferences, and the policy no Panacea adapter to be told them; give model.lora.preferences = {count} \
         (LoraConfig::preferences), or an adapter that was made so"
    ))
}

/// A reference that is the policy without its adapter, and a policy that has none.
pub(crate) fn no_adapter() -> Error {
    Error::Mismatch("the reference is the policy without its adapter, and the policy has none".into())
}

/// Where an adapter of a directory has another scale than the policy's, both by module path.
pub(crate) fn other_scale(theirs: &BTreeMap<String, f64>, ours: &BTreeMap<String, f64>) -> Option<String> {
    let (module, scale) = ours.iter().find(|(module, scale)| theirs.get(*module) != Some(*scale))?;
    let theirs = theirs.get(module).copied().unwrap_or_default();
    Some(format!("its scale (lora_alpha / r) of {module} is {theirs}, the policy's {scale}"))
}

/// The numbers of an adapter of a directory, for a policy on a device, which keeps the scales that it has.
pub(crate) fn of_same_scales<T: Element>(
    stored: AdapterWeights<T>,
    ours: &BTreeMap<String, f64>,
    directory: &Path,
) -> Result<Parameters<T>> {
    match other_scale(&stored.scales, ours) {
        None => Ok(stored.parameters),
        Some(difference) => Err(Error::Mismatch(format!(
            "the adapter in {}: {difference}; give model.lora.alpha, rank and rank_stabilised as they were when it was written",
            directory.display()
        ))),
    }
}

/// What is held in memory is sound; only the writing of it can fail.
pub(crate) fn not_written(directory: &Path, error: candlewick_model::Error) -> Error {
    Error::io("writing the weights into", directory)(std::io::Error::other(error))
}

/// What an optimizer works on.
#[derive(Debug)]
pub struct Tuning<'a, T> {
    /// What is trained.
    pub parameters: &'a mut Parameters<T>,
    /// Its gradients.
    pub gradients: &'a mut Gradients<T>,
    /// Scratch memory.
    pub workspace: &'a mut Workspace,
}

/// d(loss)/d(scores), `[N,T]` each unless it says otherwise, in the dtype of the scores. Absent means zero.
#[derive(Debug, Clone)]
pub struct Cotangents {
    /// With respect to the log-probabilities.
    pub log_probs: Tensor,
    /// With respect to the mean log-probability over the vocabulary.
    pub mean_log_probs: Option<Tensor>,
    /// With respect to `log Σ p²`.
    pub log_sum_sq_probs: Option<Tensor>,
    /// With respect to the entropy.
    pub entropy: Option<Tensor>,
    /// With respect to the log-probabilities of the tokens that a teacher named, `[N,T,K]`.
    pub given: Option<Tensor>,
    /// With respect to the numbers of the rows, `[N,K]`, of a score model.
    pub values: Option<Tensor>,
}

/// A [`CausalLm`] in training: its adapter if it has one, else all its weights.
#[derive(Debug)]
pub struct CausalPolicy<T: Element = f32> {
    model: CausalLm<T>,
    gradients: Gradients<T>,
    recompute: Recompute,
    workspace: Workspace,
    base_name: String,
}

impl<T: Element> CausalPolicy<T> {
    /// Trains what [`CausalLm::trainable`] says, on `threads` threads.
    pub fn new(model: CausalLm<T>, recompute: Recompute, threads: usize) -> Self {
        let gradients = Gradients::zeros(model.trainable());
        Self { model, gradients, recompute, workspace: Workspace::new(threads), base_name: String::new() }
    }

    /// Names the base model in the adapters that are saved.
    #[must_use]
    pub fn with_base_name(mut self, name: impl Into<String>) -> Self {
        self.base_name = name.into();
        self
    }

    pub(crate) fn base_name(&self) -> &str {
        &self.base_name
    }

    /// The model.
    pub fn model(&self) -> &CausalLm<T> {
        &self.model
    }

    /// The model and scratch memory, as for generation between steps.
    pub fn model_and_workspace(&mut self) -> (&CausalLm<T>, &mut Workspace) {
        (&self.model, &mut self.workspace)
    }

    /// The model, giving up the gradients.
    pub fn into_model(self) -> CausalLm<T> {
        self.model
    }

    /// The gradients of the last step, before clipping.
    pub fn gradients(&self) -> &Gradients<T> {
        &self.gradients
    }

    /// As [`backward`](Trainable::backward), and returns a sketch of the gradient of each context of `batch`: of a pair of
    /// a loss of pairs, of a row where each row is a context.
    ///
    /// The sketch is of what the item adds to the batch's gradient: where the cotangents are those of a mean over the
    /// batch, of its share of the mean.
    ///
    /// ```
    /// # use candle_core::{Device, Tensor};
    /// # use candlewick_losses::Outputs;
    /// # use candlewick_model::{CausalLm, CompletionIds, Config, ContextIds, LoraConfig, Packed, Recompute, Sketch};
    /// # use candlewick_train::{CausalPolicy, Cotangents, Trainable};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut model = CausalLm::<f32>::random(Config::llama(32, 16, 2), 7)?;
    /// model.add_lora(&LoraConfig::default(), 1)?;
    /// let mut policy = CausalPolicy::new(model, Recompute::Nothing, 1);
    /// let pair = |prompt| ContextIds {
    ///     prompt,
    ///     prompt_scored: &[],
    ///     completions: vec![CompletionIds::all_scored(&[4, 2]), CompletionIds::all_scored(&[8, 2])],
    /// };
    /// let batch = Packed::new(&[pair(&[1, 5]), pair(&[1, 9, 6])])?;
    /// let (scores, saved) = policy.forward(&batch, Outputs::default())?;
    /// // The first completion of each pair up, the second down.
    /// let log_probs = Tensor::new(&[[-0.5f32, -0.5], [0.5, 0.5], [-0.5, -0.5], [0.5, 0.5]], &Device::Cpu)?;
    /// assert_eq!(log_probs.dims(), scores.log_probs().dims());
    /// let d = Cotangents {
    ///     log_probs,
    ///     mean_log_probs: None,
    ///     log_sum_sq_probs: None,
    ///     entropy: None,
    ///     given: None,
    ///     values: None,
    /// };
    /// let sketches = policy.backward_with_sketches(&batch, saved, &d, Sketch { dimensions: 1024, seed: 0 })?;
    /// assert_eq!(sketches.len(), 2);
    /// // They add up to the sketch of the batch's gradient.
    /// let whole = sketches.sketch().of(policy.parameters(), policy.gradients())?;
    /// for (i, whole) in whole.item(0).iter().enumerate() {
    ///     assert!((sketches.item(0)[i] + sketches.item(1)[i] - whole).abs() < 1e-6);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`backward`](Trainable::backward); a policy without an adapter, or with one of the head; dimensions out of
    /// bounds.
    pub fn backward_with_sketches(
        &mut self,
        batch: &Packed,
        saved: Saved<T>,
        cotangents: &Cotangents,
        sketch: Sketch,
    ) -> Result<Sketches> {
        let cotangents = head_cotangents(batch, cotangents)?;
        let (gradients, workspace) = (&mut self.gradients, &mut self.workspace);
        Ok(self.model.backward_with_sketches(batch, saved, &cotangents, gradients, sketch, workspace)?)
    }
}

impl<T: Element> Policy for CausalPolicy<T> {
    fn score(&mut self, batch: &Packed, want: Outputs) -> Result<TokenScores> {
        let scores = self.model.score(batch, token_statistics(want)?, Adapter::On, &mut self.workspace)?;
        scatter(batch, scores)
    }
}

impl<T: Element> Trainable for CausalPolicy<T> {
    type Element = T;
    type Saved = Saved<T>;

    fn forward(&mut self, batch: &Packed, want: Outputs) -> Result<(TokenScores, Saved<T>)> {
        let (scores, saved) =
            self.model.forward(batch, token_statistics(want)?, self.recompute, &mut self.workspace)?;
        Ok((scatter(batch, scores)?, saved))
    }

    fn backward(&mut self, batch: &Packed, saved: Saved<T>, cotangents: &Cotangents) -> Result<()> {
        let cotangents = head_cotangents(batch, cotangents)?;
        Ok(self.model.backward(batch, saved, &cotangents, &mut self.gradients, &mut self.workspace)?)
    }

    fn queue_without_adapter<'a>(&mut self, batch: &'a Packed, want: Outputs) -> Result<Queued<'a>> {
        if !self.model.has_adapter() {
            return Err(no_adapter());
        }
        queue(&self.model, batch, want, Adapter::Off, &mut self.workspace)
    }

    fn parameters(&self) -> &Parameters<T> {
        self.model.trainable()
    }

    fn tuning(&mut self) -> Tuning<'_, T> {
        Tuning {
            parameters: self.model.trainable_mut(),
            gradients: &mut self.gradients,
            workspace: &mut self.workspace,
        }
    }

    fn gradients_may_be_zero(&self, of: &[usize]) -> Result<Vec<bool>> {
        let trained = self.model.trainable();
        Ok(of.iter().map(|&i| may_be_zero_in_lora(trained, i) || may_be_zero_in_panacea(trained, i)).collect())
    }

    fn preferences(&self) -> usize {
        self.model.preference().len()
    }

    fn set_preference(&mut self, preference: &[f64]) -> Result<()> {
        if self.preferences() == 0 {
            return Err(without_preferences(preference.len()));
        }
        Ok(self.model.set_preference(preference)?)
    }

    fn add_penalty(&mut self) -> Option<f64> {
        self.model.add_orthogonality(&mut self.gradients)
    }

    fn digest(&self) -> Result<String> {
        if self.model.parameters().device().is_some() {
            return Err(Error::Mismatch("the model is on a device; train it as a DevicePolicy".into()));
        }
        digest_of([Some(self.model.parameters()), self.model.adapter()])
    }

    fn save(&self, directory: &Path) -> Result<()> {
        let saved = match self.model.has_adapter() {
            true => self.model.save_adapter(directory, &self.base_name),
            false => self.model.save(directory),
        };
        saved.map_err(|e| not_written(directory, e))
    }

    fn copied(&self) -> Result<Box<dyn Copied>> {
        Ok(Box::new(self.model.trained(&self.base_name)))
    }

    fn restore(&mut self, directory: &Path) -> Result<()> {
        if self.model.has_adapter() {
            self.model.remove_adapter();
            return Ok(self.model.load_adapter(directory)?);
        }
        self.model = CausalLm::load(directory)?;
        Ok(())
    }
}

/// A [`CausalLm`] that only scores, such as a reference or a teacher.
#[derive(Debug)]
pub struct FrozenPolicy<T: kernels::Element = f32> {
    model: CausalLm<T>,
    threads: usize,
    /// Made where none is lent.
    workspace: Option<Workspace>,
}

impl<T: kernels::Element> FrozenPolicy<T> {
    /// Scores with the model as it is, its adapter included, on `threads` threads or on the device that it is on. As the reference of a
    /// trainer it works in the scratch memory of the policy: on its threads, or by its handle of the device, with that one's products and counts.
    pub fn new(model: CausalLm<T>, threads: usize) -> Self {
        Self { model, threads, workspace: None }
    }
}

impl<T: kernels::Element> Policy for FrozenPolicy<T>
where
    T::Wide: Element,
{
    fn score(&mut self, batch: &Packed, want: Outputs) -> Result<TokenScores> {
        self.queue(batch, want, None)?.read()
    }

    fn queue<'a>(&mut self, batch: &'a Packed, want: Outputs, lent: Option<&mut Workspace>) -> Result<Queued<'a>> {
        let device = self.model.parameters().device();
        let is_here = |workspace: &&mut Workspace| match (workspace.device(), device) {
            (Some(theirs), Some(ours)) => theirs.is(ours),
            (theirs, ours) => theirs.is_none() && ours.is_none(),
        };
        let workspace = lent.filter(is_here).unwrap_or_else(|| {
            self.workspace.get_or_insert_with(|| match device {
                Some(device) => Workspace::new(1).on(device),
                None => Workspace::new(self.threads),
            })
        });
        queue(&self.model, batch, want, Adapter::On, workspace)
    }
}

/// Queues the scores of a model.
pub(crate) fn queue<'a, T: kernels::Element>(
    model: &CausalLm<T>,
    batch: &'a Packed,
    want: Outputs,
    adapter: Adapter,
    workspace: &mut Workspace,
) -> Result<Queued<'a>>
where
    T::Wide: Element,
{
    let scores = model.queue_scores(batch, token_statistics(want)?, adapter, workspace)?;
    Ok(Queued::new(move || scatter(batch, scores.read()?)))
}

/// A digest of names, shapes and values of all weights; the same for f32 weights held as f64.
///
/// # Panics
/// For a model on a device; [`Trainable::digest`] is for those.
pub fn weights_digest<T: Element>(model: &CausalLm<T>) -> String {
    digest_of([Some(model.parameters()), model.adapter()]).expect("the weights are on the host")
}

/// A digest of names, shapes and values of base weights and adapter, on the host.
pub(crate) fn digest_of<T: Element>(parts: [Option<&Parameters<T>>; 2]) -> Result<String> {
    let mut digest = Digest::default();
    parts.into_iter().flatten().try_for_each(|parameters| digest.add(parameters))?;
    Ok(digest.finish())
}

/// A digest of names, shapes and values of weights, wherever they are.
#[derive(Default)]
pub(crate) struct Digest {
    hasher: Xxh3,
    bytes: Vec<u8>,
}

impl Digest {
    /// Numbers that are read of a device at once.
    const PIECE: usize = 1 << 22;

    /// Adds tensors: those of a device in pieces, so that the host never holds them all.
    pub(crate) fn add<T: kernels::Element>(&mut self, parameters: &Parameters<T>) -> Result<()> {
        for i in 0..parameters.len() {
            self.hasher.update(format!("{} {:?}\n", parameters.name(i), parameters.shape(i)).as_bytes());
            let tensor = parameters.view(i);
            if parameters.device().is_none() {
                self.add_numbers(tensor.cpu("a digest")?);
                continue;
            }
            for start in (0..tensor.len()).step_by(Self::PIECE) {
                let piece = tensor.part(start..tensor.len().min(start + Self::PIECE))?;
                self.add_numbers(&T::widened(piece.download()?));
            }
        }
        Ok(())
    }

    /// The digest of all that was added.
    pub(crate) fn finish(self) -> String {
        format!("xxh3-128:{:032x}", self.hasher.digest128())
    }

    fn add_numbers<W: Float>(&mut self, numbers: &[W]) {
        for chunk in numbers.chunks(1 << 16) {
            self.bytes.clear();
            chunk.iter().for_each(|x| self.bytes.extend_from_slice(&x.to_f64().to_le_bytes()));
            self.hasher.update(&self.bytes);
        }
    }
}

/// Whether parameter `i` is a LoRA's A whose B is zero.
pub(crate) fn may_be_zero_in_lora<T: Element>(parameters: &Parameters<T>, i: usize) -> bool {
    b_of(parameters, i).is_some_and(|b| parameters.tensor(b).iter().all(|x| *x == T::ZERO))
}

/// The place of the LoRA's B whose A is parameter `i`.
pub(crate) fn b_of<T>(parameters: &Parameters<T>, i: usize) -> Option<usize> {
    let b = parameters.name(i).replace(".lora_A.", ".lora_B.");
    if b == parameters.name(i) { None } else { parameters.position(&b) }
}

/// Whether parameter `i` is a side of a Panacea pair whose singular values are all zero.
fn may_be_zero_in_panacea<T: Element>(parameters: &Parameters<T>, i: usize) -> bool {
    let name = parameters.name(i);
    let Some(module) = ["lora_A.weight", "lora_B.weight"].iter().find_map(|side| name.strip_suffix(side)) else {
        return false;
    };
    let is_zero =
        |value: &str| parameters.get(&format!("{module}{value}")).is_some_and(|x| x.iter().all(|x| *x == T::ZERO));
    is_zero("lora_sigma") && is_zero("lora_s")
}

/// What the head computes of the tokens; values of rows are no business of it.
pub(crate) fn token_statistics(want: Outputs) -> Result<Statistics> {
    if want.values || want.pooled {
        return Err(Error::Mismatch(
            "values of completions are wanted of a causal language model, which has no score heads; give a score model \
             (ScoreModel::from_causal makes one of it)"
                .into(),
        ));
    }
    Ok(statistics(want))
}

pub(crate) fn statistics(want: Outputs) -> Statistics {
    Statistics {
        mean_log_probs: want.mean_log_probs,
        log_sum_sq_probs: want.log_sum_sq_probs,
        entropy: want.entropy,
        is_top1: want.is_top1,
        given_log_probs: want.given,
    }
}

pub(crate) fn head_cotangents<T: Element>(batch: &Packed, d: &Cotangents) -> Result<HeadCotangents<T>> {
    Ok(HeadCotangents {
        log_probs: Some(gather(batch, &d.log_probs)?),
        mean_log_probs: d.mean_log_probs.as_ref().map(|d| gather(batch, d)).transpose()?,
        log_sum_sq_probs: d.log_sum_sq_probs.as_ref().map(|d| gather(batch, d)).transpose()?,
        entropy: d.entropy.as_ref().map(|d| gather(batch, d)).transpose()?,
        given_log_probs: d.given.as_ref().map(|d| gather_given(batch, d)).transpose()?,
    })
}

/// Lays the scores of the targets out as `[N,T]`, zero where nothing is scored.
pub(crate) fn scatter<T: Element>(batch: &Packed, scores: HeadScores<T>) -> Result<TokenScores> {
    let ones = vec![T::ONE; batch.targets().len()];
    let mut out = TokenScores::new(grid(batch, &scores.log_probs)?, grid(batch, &ones)?)?;
    if let Some(values) = scores.mean_log_probs {
        out = out.with_mean_log_probs(grid(batch, &values)?)?;
    }
    if let Some(values) = scores.log_sum_sq_probs {
        out = out.with_log_sum_sq_probs(grid(batch, &values)?)?;
    }
    if let Some(values) = scores.entropy {
        out = out.with_entropy(grid(batch, &values)?)?;
    }
    if let Some(values) = scores.is_top1 {
        out = out.with_is_top1(grid(batch, &values)?)?;
    }
    if let Some(values) = scores.given_log_probs {
        out = out.with_given(cube(batch, &values, batch.given_each(), T::ZERO)?)?;
    }
    Ok(out)
}

/// `[N,T]` with the values of the targets in their places and zero elsewhere.
pub(crate) fn grid<T: Element>(batch: &Packed, values: &[T]) -> Result<Tensor> {
    let (rows, slots) = (batch.completions(), batch.slots());
    let mut grid = vec![T::ZERO; rows * slots];
    for (target, value) in batch.targets().iter().zip(values) {
        grid[target.completion as usize * slots + target.slot as usize] = *value;
    }
    Ok(Tensor::from_vec(grid, (rows, slots), &Device::Cpu)?)
}

/// `[N,T,K]` with the `K` values of each target in its place, and `elsewhere` where nothing is scored.
pub(crate) fn cube<T: Element>(batch: &Packed, values: &[T], each: usize, elsewhere: T) -> Result<Tensor> {
    let (rows, slots) = (batch.completions(), batch.slots());
    let mut cube = vec![elsewhere; rows * slots * each];
    for (target, values) in batch.targets().iter().zip(values.chunks_exact(each.max(1))) {
        let at = (target.completion as usize * slots + target.slot as usize) * each;
        cube[at..at + each].copy_from_slice(values);
    }
    Ok(Tensor::from_vec(cube, (rows, slots, each), &Device::Cpu)?)
}

/// The values of an `[N,T,K]` tensor at the targets.
fn gather_given<T: Element>(batch: &Packed, cube: &Tensor) -> Result<Vec<T>> {
    let (got, each) = (cube.dims3()?, batch.given_each());
    let expected = (batch.completions(), batch.slots(), each);
    if got != expected {
        return Err(Error::Mismatch(format!("cotangents are {got:?}; the batch has scores of {expected:?}")));
    }
    let values = cube.flatten_all()?.to_vec1::<T>()?;
    let at = |target: &Target| (target.completion as usize * batch.slots() + target.slot as usize) * each;
    Ok(batch.targets().iter().flat_map(|target| &values[at(target)..][..each]).copied().collect())
}

/// The values of an `[N,T]` tensor at the targets.
fn gather<T: Element>(batch: &Packed, grid: &Tensor) -> Result<Vec<T>> {
    let (rows, slots) = grid.dims2()?;
    if (rows, slots) != (batch.completions(), batch.slots()) {
        let (n, t) = (batch.completions(), batch.slots());
        return Err(Error::Mismatch(format!("cotangents are [{rows},{slots}]; the batch has scores of [{n},{t}]")));
    }
    let values = grid.flatten_all()?.to_vec1::<T>()?;
    Ok(batch.targets().iter().map(|target| values[target.completion as usize * slots + target.slot as usize]).collect())
}
