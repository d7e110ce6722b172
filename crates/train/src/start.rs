//! The first step of a policy that should be its own reference: whether it is, and if not, why.
use candle_core::{DType, Tensor};
use candlewick_kernels::Float;
use candlewick_losses::{Outputs, Scores, TokenScores};
use candlewick_model::Parameters;

use crate::error::{Error, Result};
use crate::pack::{Micro, PackedRows};
use crate::policy::Trainable;
use crate::reference::Reference;
use crate::tensor_file::Element;

/// How far policy and reference are apart, token by token.
#[derive(Debug, Default)]
pub(crate) struct Start {
    tokens: u64,
    /// Tokens at which they are apart.
    tokens_off: u64,
    rows: u64,
    /// Completions with such a token.
    rows_off: u64,
    widest: Option<Gap>,
}

#[derive(Debug)]
struct Gap {
    micro: usize,
    place: String,
    /// Which scored token of its completion, counted from one.
    token: usize,
    id: u32,
    policy: f64,
    reference: f64,
}

impl Gap {
    fn size(&self) -> f64 {
        (self.policy - self.reference).abs()
    }
}

/// |log π − log π_ref| of a token at which a policy and its copy agree, at most: other packing rounds otherwise.
fn bound(scores: &TokenScores) -> f64 {
    if scores.log_probs().dtype() == DType::F64 { 1e-9 } else { 1e-4 }
}

impl Start {
    /// Compares the scores of micro-batch number `number`.
    pub(crate) fn add(&mut self, number: usize, micro: &Micro, scores: &Scores) -> Result<()> {
        let Some(reference) = &scores.reference else { return Ok(()) };
        let bound = bound(&scores.policy);
        let (policy, reference) = (values(&scores.policy)?, values(reference)?);
        let mut row_is_off = vec![false; micro.rows.places.len()];
        let mut met = vec![0; row_is_off.len()];
        for target in micro.rows.packed.targets() {
            let (row, slot) = (target.completion as usize, target.slot as usize);
            met[row] += 1;
            self.tokens += 1;
            let (policy, reference) = (policy[row][slot], reference[row][slot]);
            // Not below the bound: what is no number is apart too.
            if (policy - reference).abs() < bound {
                continue;
            }
            self.tokens_off += 1;
            row_is_off[row] = true;
            let place = micro.rows.places[row].clone();
            let gap = Gap { micro: number, place, token: met[row], id: target.id, policy, reference };
            if self.widest.as_ref().is_none_or(|widest| gap.size() > widest.size()) {
                self.widest = Some(gap);
            }
        }
        self.rows += row_is_off.len() as u64;
        self.rows_off += row_is_off.iter().filter(|off| **off).count() as u64;
        Ok(())
    }

    /// Whether they are apart anywhere.
    pub(crate) fn is_off(&self) -> bool {
        self.widest.is_some()
    }

    /// The error that says where they are furthest apart, and what the likeliest cause is.
    pub(crate) fn error<P: Trainable>(
        &self,
        policy: &mut P,
        reference: &mut Reference<P::Element>,
        micros: &[Micro],
    ) -> Result<Error> {
        let Some(gap) = &self.widest else {
            return Ok(Error::Mismatch(
                "step 1: on rows of another rank policy and reference differ; that rank says more".into(),
            ));
        };
        let cause = self.cause(gap, policy, reference, &micros[gap.micro].rows)?;
        let Gap { place, token, id, policy, reference, .. } = gap;
        let (place, policy, reference) = (place.clone(), *policy, *reference);
        Ok(Error::OtherReference { place, token: *token, id: *id, policy, reference, cause })
    }

    /// What is tried on the rows of the widest gap, the surest first, and then what the numbers look like.
    fn cause<P: Trainable>(
        &self,
        gap: &Gap,
        policy: &mut P,
        reference: &mut Reference<P::Element>,
        rows: &PackedRows,
    ) -> Result<String> {
        let Some(said) = reference.queue(policy, rows)? else { return Ok("there is no reference".into()) };
        let said = said.read()?;
        let says_so = |policy: &mut P, mut parameters: Parameters<P::Element>| -> Result<bool> {
            let scores = policy.queue_with(&mut parameters, &rows.packed, Outputs::default())?.read()?;
            Ok(widest(&scores, &said)? < bound(&said))
        };
        let is_on_host = policy.parameters().device().is_none();
        if is_on_host
            && let Some((name, without)) = without_adapter(policy.parameters())
            && says_so(policy, without)?
        {
            return Ok(format!(
                "without its adapter the policy says what the reference says: {name} is not zero at the start; compare with the policy as \
                 it starts (reference.kind = \"frozen\"), or start from a fresh adapter"
            ));
        }
        for (dtype, name) in [(DType::BF16, "bfloat16"), (DType::F16, "float16")].into_iter().filter(|_| is_on_host) {
            let rounded = rounded(policy.parameters(), dtype)?;
            if says_so(policy, rounded)? {
                return Ok(format!(
                    "with its weights rounded to {name} the policy says what the reference says: the reference comes from files of that \
                     type, and the policy does not; load both from the same files"
                ));
            }
        }
        let Self { tokens, tokens_off, rows, rows_off, .. } = self;
        if rows_off < rows {
            return Ok(format!(
                "{} of {rows} completions agree at every token, so the weights are the same: those that do not were tokenized, masked or \
                 put into a template in another way",
                rows - rows_off
            ));
        }
        let all = format!("every completion differs, {tokens_off} of {tokens} tokens");
        if gap.size() < SMALL {
            return Ok(format!(
                "{all}, by no more than {:.1e}: the reference holds almost the same weights, such as those of a file of a smaller type, or \
                 was computed by another program or version",
                gap.size()
            ));
        }
        Ok(format!("{all}: the reference has other weights, or another adapter, than the starting policy"))
    }
}

/// Gaps below this look like rounding.
const SMALL: f64 = 0.1;

/// The policy's parameters with each LoRA's B at zero, and the name of one that is not.
fn without_adapter<T: Element>(parameters: &Parameters<T>) -> Option<(String, Parameters<T>)> {
    let is_b = |i: &usize| parameters.name(*i).contains(".lora_B.");
    let some = (0..parameters.len()).filter(is_b).find(|i| parameters.tensor(*i).iter().any(|x| *x != T::ZERO))?;
    let mut without = parameters.copied();
    (0..parameters.len()).filter(is_b).for_each(|i| without.tensor_mut(i).fill(T::ZERO));
    Some((parameters.name(some).to_owned(), without))
}

/// The parameters as a file of another type would give them back.
fn rounded<T: Element>(parameters: &Parameters<T>, dtype: DType) -> Result<Parameters<T>> {
    let mut rounded = parameters.copied();
    for piece in rounded.data_mut().chunks_mut(1 << 20) {
        let values = Tensor::from_slice(piece, piece.len(), &candle_core::Device::Cpu)?;
        let values = values.to_dtype(DType::F32)?.to_dtype(dtype)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        piece.iter_mut().zip(values).for_each(|(x, value)| *x = Float::from_f64(value));
    }
    Ok(rounded)
}

fn values(scores: &TokenScores) -> Result<Vec<Vec<f64>>> {
    Ok(scores.log_probs().detach().to_dtype(DType::F64)?.to_vec2()?)
}

/// The widest gap of two scores of the same rows, whose values are 0 where nothing is scored.
fn widest(a: &TokenScores, b: &TokenScores) -> Result<f64> {
    let (a, b) = (values(a)?, values(b)?);
    let gaps = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs());
    Ok(gaps.fold(0.0, |widest: f64, gap| if gap > widest || gap.is_nan() { gap } else { widest }))
}
