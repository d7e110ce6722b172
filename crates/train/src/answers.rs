//! What a model answers to prompts, several times each.
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candlewick_data::{Encoder, Message, Record, Row, Text};
use candlewick_kernels::{Element, Workspace};
use candlewick_model::{CausalLm, Sampling};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// How often an empty answer is drawn anew.
const DRAWS: u64 = 8;

/// Draws answers of a model to prompts. Every answer has a seed of its own, made of that of the sampling, the place of its
/// prompt and its number, so that threads and the other prompts change no answer.
#[derive(Debug)]
pub struct Answers<'a, T: Element = f32> {
    model: &'a CausalLm<T>,
    encoder: &'a Encoder,
    /// To each prompt.
    count: usize,
    sampling: Sampling,
}

/// A prompt, and what its row tells the chat template.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// A text, or messages.
    pub text: Text,
    /// Tools that the model is told of.
    pub tools: Vec<Value>,
    /// Further variables of the template.
    pub template_arguments: Map<String, Value>,
}

impl Prompt {
    /// The prompt of a row.
    pub fn of(record: Record) -> Self {
        let Record { row, tools, template_arguments, .. } = record;
        Self { text: row.prompt().clone(), tools, template_arguments }
    }

    /// Its tokens, up to where the answer begins.
    ///
    /// # Errors
    /// A prompt that cannot be encoded.
    pub fn ids(&self, encoder: &Encoder) -> Result<Vec<u32>> {
        Ok(encoder.encode_prompt_told(&self.text, &self.tools, &self.template_arguments)?)
    }
}

impl From<Text> for Prompt {
    fn from(text: Text) -> Self {
        Self { text, tools: Vec::new(), template_arguments: Map::new() }
    }
}

/// An answer to a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Prompt and answer, a demonstration, with the label [`Answer::FINISH_REASON`].
    pub record: Record,
    /// Whether it was cut at the most tokens that were allowed.
    pub is_cut: bool,
    /// The tokens of the answer, with the one that ended it, if one did.
    pub ids: Vec<u32>,
}

impl Answer {
    /// The label that says why an answer ends, in the words of OpenAI's and vLLM's interfaces: `stop` where the model ended it, `length`
    /// where it was cut.
    pub const FINISH_REASON: &'static str = "finish_reason";
}

impl<'a, T: Element<Wide = f32>> Answers<'a, T> {
    /// How often an answer is drawn anew that is empty.
    pub const DRAWS: u64 = DRAWS;

    /// `count` answers to each prompt, which end where `sampling` or the [`stops`] of model and tokenizer say.
    pub fn new(model: &'a CausalLm<T>, encoder: &'a Encoder, count: usize, mut sampling: Sampling) -> Self {
        sampling.stop.extend(stops(model, encoder));
        Self { model, encoder, count, sampling }
    }

    /// The answers to prompts, each with its place, `[prompts][count]`; nothing in the place of an answer
    /// that was empty in [`DRAWS`](Self::DRAWS) draws. On `threads` threads, each with prompts of its own.
    ///
    /// # Errors
    /// A prompt without a token, or one that cannot be encoded; settings of the sampling out of range;
    /// [`Error::Interrupted`] once `interrupt` is set.
    pub fn of_all(
        &self,
        prompts: &[(u64, &Prompt)],
        threads: usize,
        interrupt: &AtomicBool,
    ) -> Result<Vec<Vec<Option<Answer>>>> {
        let device = self.model.parameters().device();
        let threads = if device.is_some() { 1 } else { threads };
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            let mut workspace = match device {
                Some(device) => Workspace::new(1).on(device),
                None => Workspace::new(1),
            };
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some((place, prompt)) = prompts.get(index).filter(|_| !failed.load(Ordering::Relaxed)) else {
                    return done;
                };
                let rows = match interrupt.load(Ordering::Relaxed) {
                    true => Err(Error::Interrupted),
                    false => self.of(*place, prompt, interrupt, &mut workspace),
                };
                failed.fetch_or(rows.is_err(), Ordering::Relaxed);
                done.push((index, rows));
            }
        };
        let threads = threads.clamp(1, prompts.len().max(1));
        let mut all: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let joined = workers.into_iter().map(|worker| worker.join());
            joined.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, rows)| rows).collect()
    }

    fn of(
        &self,
        place: u64,
        prompt: &Prompt,
        interrupt: &AtomicBool,
        workspace: &mut Workspace,
    ) -> Result<Vec<Option<Answer>>> {
        let ids = prompt.ids(self.encoder)?;
        if ids.is_empty() {
            let reason = "no token to go on from; leave it out".to_owned();
            return Err(Error::Rows { place: format!("prompt {place}, counted from 0"), reason });
        }
        let before = self.encoder.decode_text(&ids);
        // An answer that is empty is drawn anew, with a seed that no other answer has.
        let draws = |answer: u64| (0..DRAWS).map(move |draw| answer + draw * self.count as u64);
        let answer = |answer: u64| {
            if interrupt.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let mut drawn = draws(answer).map(|draw| {
                let seed = mixed(self.sampling.seed, place, draw);
                self.one(prompt, &ids, &before, seed, workspace)
            });
            drawn.find_map(Result::transpose).transpose()
        };
        (0..self.count as u64).map(answer).collect()
    }

    /// One answer; nothing in the place of an empty one.
    fn one(
        &self,
        prompt: &Prompt,
        ids: &[u32],
        before: &str,
        seed: u64,
        workspace: &mut Workspace,
    ) -> Result<Option<Answer>> {
        let sampling = Sampling { seed, ..self.sampling.clone() };
        let drawn = self.model.generate(ids, &sampling, workspace)?;
        let is_cut = drawn.last().is_none_or(|id| !sampling.stop.contains(id));
        let answer: Vec<u32> = drawn.iter().copied().filter(|id| !sampling.stop.contains(id)).collect();
        // What the answer adds to the prompt: alone, some tokenizers take away the space it begins with.
        let whole = self.encoder.decode_text(&[ids, &answer].concat());
        let text = whole.strip_prefix(before).map_or_else(|| self.encoder.decode_text(&answer), str::to_owned);
        if text.trim().is_empty() {
            return Ok(None);
        }
        let completion = match prompt.text {
            Text::Plain(_) => Text::Plain(text),
            Text::Chat(_) => Text::Chat(vec![Message::new("assistant", text.trim())]),
        };
        let Prompt { text: prompt, tools, template_arguments } = prompt.clone();
        let labels = [(Answer::FINISH_REASON.to_owned(), if is_cut { "length" } else { "stop" }.to_owned())].into();
        let row = Row::Demonstration { prompt, completion };
        let record = Record { labels, tools, template_arguments, ..row.into() };
        Ok(Some(Answer { record, is_cut, ids: drawn }))
    }
}

/// Tokens that end an answer, by the model's configuration and the tokenizer's.
pub fn stops<T: Element>(model: &CausalLm<T>, encoder: &Encoder) -> Vec<u32> {
    let mut stops = model.config().eos_token_ids.clone();
    stops.extend(encoder.eos_id().filter(|id| !stops.contains(id)));
    stops
}

/// One seed of three numbers, by the steps of splitmix64.
pub(crate) fn mixed(seed: u64, place: u64, draw: u64) -> u64 {
    [place, draw].into_iter().fold(seed, |state, number| {
        let mut z = state.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}
