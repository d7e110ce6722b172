//! A prompt and texts that may follow it, as ids: what a model is asked for the probability of.

use crate::encode::{Encoder, share_prompt};
use crate::error::{Fault, Reason, Rejection};
use crate::jinja::is_space;
use crate::report::Counts;
use crate::row::{Context, Origin, Text};
use crate::sequence::{self, Bos, Sequence};
use crate::template::{Ending, RenderOptions};

impl Encoder {
    /// Tokens of a prompt and of several texts that may follow it, of which the prompt's are shared.
    ///
    /// Prompt and continuation are tokenized together, as they stand when a model answers, and a token belongs to the
    /// continuation when any of its characters does. White space at the end of a plain prompt counts to the continuation, since
    /// most tokenizers put it into the first token of a word. Special tokens go before the prompt as in training; nothing is
    /// appended, and no length is cut. An empty prompt is the beginning-of-sequence token, or the end-of-sequence token
    /// where there is no other. A conversation is rendered up to where the assistant's answer begins.
    ///
    /// [`lm-evaluation-harness`](https://github.com/EleutherAI/lm-evaluation-harness) moves the white space likewise, and counts
    /// the tokens of the prompt alone: the continuation is what comes after so many tokens of both. The two rules agree where
    /// the tokens of the prompt alone begin those of both.
    ///
    /// # Errors
    /// A continuation without a token of its own, a conversation without a chat template, a failure of template or tokenizer.
    pub fn encode_continuations(
        &self,
        prompt: &Text,
        continuations: &[String],
        origin: &Origin,
    ) -> Result<Context, Rejection> {
        self.continued(prompt, continuations).map_err(|fault| fault.at(origin))
    }

    fn continued(&self, prompt: &Text, continuations: &[String]) -> Result<Context, Fault> {
        if continuations.is_empty() {
            return Err(Fault::new(Reason::TooFewCompletions, "no text to follow the prompt, expected at least one"));
        }
        let (text, own, special) = match prompt {
            Text::Plain(text) => (text.clone(), text.trim_end_matches(is_space).len(), true),
            Text::Chat(messages) => {
                let messages: Vec<_> = messages.iter().collect();
                let options = RenderOptions { ending: Ending::Generation, ..RenderOptions::default() };
                let text = sequence::render(self, &messages, options)?;
                let own = text.len();
                (text, own, false)
            }
        };
        let sequences = continuations
            .iter()
            .map(|continuation| self.sequence_of(&text, own, continuation, special))
            .collect::<Result<Vec<_>, _>>()?;
        let mut context = share_prompt(&sequences);
        if context.prompt.is_empty() {
            let first = self.bos.or(self.eos).ok_or_else(|| {
                Fault::new(
                    Reason::NoPromptToken,
                    "the prompt is empty and the tokenizer has no beginning-of-sequence token to stand in; give the prompt a text",
                )
            })?;
            context.prompt = vec![first];
            context.prompt_scored = vec![false];
        }
        Ok(context)
    }

    fn sequence_of(&self, prompt: &str, own: usize, continuation: &str, special: bool) -> Result<Sequence, Fault> {
        let tokens = sequence::run(self, &format!("{prompt}{continuation}"), special)?;
        let mut ids = tokens.get_ids().to_vec();
        let mut cut = sequence::cut_by_offsets(&tokens, own, &mut Counts::default());
        if special
            && ids.len() > 1
            && self.eos.is_some()
            && ids.last() == self.eos.as_ref()
            && sequence::ends_in_special(&tokens)
        {
            ids.pop();
        }
        if special {
            match sequence::one_bos(self, &mut ids) {
                Bos::AsItWas => {}
                Bos::Added => cut += 1,
                Bos::Removed => cut = cut.saturating_sub(1),
            }
        }
        if cut >= ids.len() {
            let detail =
                format!("the text {} after the prompt gives no token of its own", crate::error::excerpt(continuation));
            return Err(Fault::new(Reason::EmptyCompletion, detail));
        }
        let scored = (0..ids.len()).map(|index| index >= cut).collect();
        Ok(Sequence { ids, scored })
    }
}
