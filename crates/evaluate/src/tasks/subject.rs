//! The model that is asked.

use candlewick_data::{Context, Encoder, Message, Origin, Text};
use candlewick_kernels::{Element, Workspace};
use candlewick_model::{Adapter, CausalLm, CompletionIds, ContextIds, Generation, Packed, Statistics};
use candlewick_train::PlacedLm;

use crate::error::{Error, Result};

/// Tokens that are scored at once, at most, unless one row alone has more.
const TOKENS_AT_ONCE: usize = 4096;

/// A model with its tokenizer, ready to be asked.
#[derive(Debug)]
pub struct Subject {
    model: PlacedLm,
    encoder: Encoder,
    workspace: Workspace,
    chat: bool,
    adapter: Adapter,
}

/// A prompt and what may follow it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) origin: Origin,
    pub(super) prompt: String,
    /// What stands between prompt and continuation, left out in a conversation.
    pub(super) delimiter: String,
    pub(super) continuations: Vec<String>,
}

/// What the model says of a continuation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Score {
    /// Σ log p of its tokens, in nats.
    pub(super) log_prob: f64,
    /// How many it has.
    pub(super) tokens: usize,
}

/// Scores of the continuations of a request, or why it could not be asked.
pub(super) type Scored = std::result::Result<Vec<Score>, String>;

/// When an answer ends.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Limits {
    pub(super) max_new_tokens: usize,
    /// Texts before which it is cut.
    pub(super) stop: Vec<String>,
}

impl Subject {
    /// A model whose prompts are texts as they stand, on `threads` threads.
    pub fn new(model: CausalLm, encoder: Encoder, threads: usize) -> Self {
        Self::placed(PlacedLm::F32(model), Workspace::new(threads), encoder)
    }

    /// The same wherever the model lies; `workspace` is one there
    /// ([`Hardware::place`](candlewick_train::Hardware::place)).
    pub fn placed(model: PlacedLm, workspace: Workspace, encoder: Encoder) -> Self {
        Self { model, encoder, workspace, chat: false, adapter: Adapter::On }
    }

    /// The same, to which every prompt is a message of the user, in the tokenizer's chat template.
    ///
    /// # Errors
    /// A tokenizer without a chat template.
    pub fn in_chat(self) -> Result<Self> {
        if !self.encoder.has_chat_template() {
            return Err(Error::config("chat", "the tokenizer has no chat template; ask without one"));
        }
        Ok(Self { chat: true, ..self })
    }

    /// Whether the model has an adapter, whose base is then its reference.
    pub fn has_adapter(&self) -> bool {
        self.model.has_adapter()
    }

    /// Scores by the model without its adapter until [`with_adapter`](Self::with_adapter).
    pub(super) fn without_adapter(&mut self) {
        self.adapter = Adapter::Off;
    }

    pub(super) fn with_adapter(&mut self) {
        self.adapter = Adapter::On;
    }

    fn text(&self, prompt: &str) -> Text {
        match self.chat {
            true => Text::Chat(vec![Message::new("user", prompt)]),
            false => Text::Plain(prompt.to_owned()),
        }
    }

    /// Scores every continuation. The tokens of a prompt are computed once.
    pub(super) fn score(&mut self, requests: &[Request]) -> Result<Vec<Scored>> {
        let mut scored: Vec<Scored> = Vec::with_capacity(requests.len());
        let mut waiting: Vec<(usize, Context)> = Vec::new();
        let mut tokens = 0;
        for (number, request) in requests.iter().enumerate() {
            scored.push(Err(String::new()));
            let context = match self.encode(request) {
                Ok(context) => context,
                Err(reason) => {
                    scored[number] = Err(reason);
                    continue;
                }
            };
            let own = size(&context);
            if !waiting.is_empty() && tokens + own > TOKENS_AT_ONCE {
                self.run(&mut waiting, &mut scored)?;
                tokens = 0;
            }
            tokens += own;
            waiting.push((number, context));
        }
        self.run(&mut waiting, &mut scored)?;
        Ok(scored)
    }

    fn encode(&self, request: &Request) -> std::result::Result<Context, String> {
        let delimiter = if self.chat { "" } else { request.delimiter.as_str() };
        let continuations: Vec<String> =
            request.continuations.iter().map(|text| format!("{delimiter}{text}")).collect();
        let context = self
            .encoder
            .encode_continuations(&self.text(&request.prompt), &continuations, &request.origin)
            .map_err(|rejection| rejection.to_string())?;
        let longest = context.completions.iter().map(|completion| completion.ids.len()).max().unwrap_or(0);
        self.check_length(&request.origin, context.prompt.len() + longest)?;
        Ok(context)
    }

    fn check_length(&self, origin: &Origin, tokens: usize) -> std::result::Result<(), String> {
        let most = self.model.config().max_position_embeddings;
        if tokens <= most {
            return Ok(());
        }
        Err(format!("{origin}: {tokens} tokens, and the model was made for {most}; shorten the row or its prompt"))
    }

    fn run(&mut self, waiting: &mut Vec<(usize, Context)>, scored: &mut [Scored]) -> Result<()> {
        if waiting.is_empty() {
            return Ok(());
        }
        let contexts: Vec<ContextIds<'_>> = waiting.iter().map(|(_, context)| borrow(context)).collect();
        let packed = Packed::new(&contexts)?;
        let found = self.model.score(&packed, Statistics::default(), self.adapter, &mut self.workspace)?;
        let mut sums = vec![Score { log_prob: 0.0, tokens: 0 }; packed.completions()];
        for (target, log_prob) in packed.targets().iter().zip(&found.log_probs) {
            let sum = &mut sums[target.completion as usize];
            sum.log_prob += f64::from(*log_prob);
            sum.tokens += 1;
        }
        let mut sums = sums.into_iter();
        for (number, context) in waiting.drain(..) {
            scored[number] = Ok(sums.by_ref().take(context.completions.len()).collect());
        }
        Ok(())
    }

    /// The likeliest answer, token by token; or why there is none.
    pub(super) fn answer(
        &mut self,
        origin: &Origin,
        prompt: &str,
        limits: &Limits,
    ) -> Result<std::result::Result<String, String>> {
        let ids = match self.encoder.encode_prompt(&self.text(prompt)) {
            Ok(ids) => ids,
            Err(candlewick_data::Error::Rejected(rejection)) => {
                return Ok(Err(format!("{origin}: {}: {}", rejection.reason, rejection.detail)));
            }
            Err(error) => return Err(error.into()),
        };
        let room = self.model.config().max_position_embeddings.saturating_sub(ids.len());
        if let Err(reason) = self.check_length(origin, ids.len() + 1) {
            return Ok(Err(reason));
        }
        let ends: Vec<u32> = self.model.config().eos_token_ids.iter().copied().chain(self.encoder.eos_id()).collect();
        let limits = Limits { max_new_tokens: limits.max_new_tokens.min(room), ..limits.clone() };
        let workspace = &mut self.workspace;
        Ok(Ok(match &self.model {
            PlacedLm::F32(model) => likeliest_text(model, &self.encoder, &ids, &ends, &limits, workspace)?,
            PlacedLm::Bf16(model) => likeliest_text(model, &self.encoder, &ids, &ends, &limits, workspace)?,
        }))
    }
}

/// The text that follows a prompt if the likeliest token is taken each time.
fn likeliest_text<T: Element<Wide = f32>>(
    model: &CausalLm<T>,
    encoder: &Encoder,
    prompt: &[u32],
    ends: &[u32],
    limits: &Limits,
    workspace: &mut Workspace,
) -> Result<String> {
    let mut generation = Generation::start(model, prompt, workspace)?;
    let mut answer: Vec<u32> = Vec::new();
    let mut text = String::new();
    while answer.len() < limits.max_new_tokens {
        let id = likeliest(generation.logits());
        if ends.contains(&id) {
            break;
        }
        answer.push(id);
        text = encoder.decode_text(&answer);
        if let Some(end) = limits.stop.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(end);
            break;
        }
        generation.push(id, workspace)?;
    }
    Ok(text)
}

/// The number of the largest, the first of several.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

fn size(context: &Context) -> usize {
    context.prompt.len() + context.completions.iter().map(|completion| completion.ids.len()).sum::<usize>()
}

fn borrow(context: &Context) -> ContextIds<'_> {
    ContextIds {
        prompt: &context.prompt,
        prompt_scored: &context.prompt_scored,
        completions: context.completions.iter().map(|c| CompletionIds { ids: &c.ids, scored: &c.scored }).collect(),
    }
}
