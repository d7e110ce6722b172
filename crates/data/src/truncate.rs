//! Sequences cut to the limits, by named policies: first the prompt, then each completion, then both together.
//!
//! Under `max_prompt_length = 3` the prompt `<s> a b c d` becomes `<s> c d`; under `max_completion_length = 2` the completion
//! `x y z </s>` becomes `x y`.

use crate::encode::{CompletionTruncation, EncodeOptions, Encoder, PromptTruncation, ScoredTokens, Truncation};
use crate::error::{Error, Fault, Reason};
use crate::row::{Completion, Context, Message, Text};
use crate::sequence;
use crate::template::RenderOptions;

/// What cutting did to one context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Sequences, each the prompt with one completion, that lost tokens.
    pub(crate) sequences: u64,
    /// Prompts that lost their start: none or one.
    pub(crate) prompts: u64,
    /// Completions that lost their end.
    pub(crate) completions: u64,
}

/// What has to be known to cut a context.
#[derive(Debug)]
pub(crate) struct Rules {
    options: EncodeOptions,
    bos: Option<u32>,
    /// Tokens that end the prompt and stay there: what a chat template puts between the last message and the answer.
    header: usize,
    /// For each completion, how many tokens at its start are the prompt's.
    heads: Vec<usize>,
}

impl Rules {
    /// For a context of which every token of the completions is still scored.
    pub(crate) fn new(encoder: &Encoder, prompt: &Text, context: &Context) -> Self {
        let header = match prompt {
            Text::Plain(_) => 0,
            Text::Chat(_) => *encoder.header.get_or_init(|| header_tokens(encoder)),
        };
        Self { options: encoder.options, bos: encoder.bos, header, heads: heads(context) }
    }

    /// Cuts a context to the limits.
    pub(crate) fn apply(&self, context: &mut Context) -> Result<Cut, Fault> {
        let before = lengths(context);
        self.limit_prompt(context)?;
        self.limit_completions(context)?;
        self.limit_all(context)?;
        let after = lengths(context);
        let prompts = u64::from(after.0 < before.0);
        let completions = after.1.iter().zip(&before.1).filter(|(after, before)| after < before).count() as u64;
        let sequences = if prompts > 0 { context.completions.len() as u64 } else { completions };
        Ok(Cut { sequences, prompts, completions })
    }

    fn limit_prompt(&self, context: &mut Context) -> Result<(), Fault> {
        let Some(limit) = self.options.max_prompt_length else {
            return Ok(());
        };
        let length = context.prompt.len() + self.heads.iter().max().unwrap_or(&0);
        if length <= limit {
            return Ok(());
        }
        match self.options.prompt_truncation {
            PromptTruncation::KeepEnd => self.drop_start(context, length - limit).map_err(|needed| {
                Fault::new(
                    Reason::PromptTooLong,
                    format!(
                        "of {length} tokens {limit} may stay, and {needed} cannot be cut: the beginning-of-sequence token and \
                         what stands right before the answer; raise max_prompt_length"
                    ),
                )
            }),
            PromptTruncation::Reject => {
                Err(Fault::new(Reason::PromptTooLong, format!("{length} tokens of prompt, at most {limit}")))
            }
            PromptTruncation::Error => Err(over("max_prompt_length", "prompt_truncation", length, limit, "of prompt")),
        }
    }

    fn limit_completions(&self, context: &mut Context) -> Result<(), Fault> {
        let Some(limit) = self.options.max_completion_length else {
            return Ok(());
        };
        let mut cut = false;
        for (completion, head) in context.completions.iter_mut().zip(&self.heads) {
            let length = completion.ids.len() - head;
            if length <= limit {
                continue;
            }
            match self.options.completion_truncation {
                CompletionTruncation::KeepStart => cut_completion(completion, head + limit),
                CompletionTruncation::Reject => {
                    let detail = format!("{length} tokens of completion, at most {limit}");
                    return Err(Fault::new(Reason::CompletionTooLong, detail));
                }
                CompletionTruncation::Error => {
                    let option = "max_completion_length";
                    return Err(over(option, "completion_truncation", length, limit, "of completion"));
                }
            }
            cut = true;
        }
        if cut && self.options.scored == ScoredTokens::Edits && nothing_scored(context) {
            return Err(no_edit(limit, "max_completion_length"));
        }
        Ok(())
    }

    fn limit_all(&self, context: &mut Context) -> Result<(), Fault> {
        let Some(limit) = self.options.max_length else {
            return Ok(());
        };
        let prompt = context.prompt.len();
        let longest = context.completions.iter().map(|completion| completion.ids.len()).max().unwrap_or(0);
        if prompt + longest <= limit {
            return Ok(());
        }
        match self.options.truncation {
            Truncation::KeepStart => keep_start(context, limit, self.options.scored),
            Truncation::KeepEndOfPrompt => {
                self.drop_start(context, prompt + longest - limit).map_err(|_| self.no_room(prompt, longest, limit))
            }
            Truncation::Reject => Err(Fault::new(
                Reason::TooLong,
                format!("{prompt} tokens of prompt and {longest} of completion, at most {limit} together"),
            )),
            Truncation::Error => {
                Err(over("max_length", "truncation", prompt + longest, limit, "of prompt and completion"))
            }
        }
    }

    /// Cuts tokens off the start of the prompt, its beginning-of-sequence token kept; or how many there are that must stay.
    fn drop_start(&self, context: &mut Context, count: usize) -> Result<(), usize> {
        let kept_start = usize::from(self.bos.is_some() && context.prompt.first() == self.bos.as_ref());
        // Tokens of the prompt that already stand in every completion count as kept.
        let in_completions = self.heads.iter().min().unwrap_or(&0);
        let needed = (kept_start + self.header.max(1).saturating_sub(*in_completions)).max(1);
        if context.prompt.len() < count + needed {
            return Err(needed);
        }
        context.prompt.drain(kept_start..kept_start + count);
        context.prompt_scored.drain(kept_start..kept_start + count);
        Ok(())
    }

    fn no_room(&self, prompt: usize, longest: usize, limit: usize) -> Fault {
        Fault::new(
            Reason::CompletionTooLong,
            format!(
                "{longest} tokens after a prompt of {prompt}, and {limit} are the limit of prompt and completion together; \
                 raise max_length, or set max_completion_length"
            ),
        )
    }
}

/// That every limit leaves room for what it limits.
pub(crate) fn check(options: &EncodeOptions) -> Result<(), Error> {
    let at_least = |name, limit: Option<usize>, least, expected| match limit {
        Some(limit) if limit < least => Err(Error::Option { name, got: limit.to_string(), expected }),
        _ => Ok(()),
    };
    at_least("max_length", options.max_length, 2, "at least 2: a token of the prompt and one of the completion")?;
    let prompt = "at least 2: the beginning-of-sequence token and one of the prompt";
    at_least("max_prompt_length", options.max_prompt_length, 2, prompt)?;
    at_least("max_completion_length", options.max_completion_length, 1, "at least 1: a token of the completion")
}

/// The limits that cut completions, for messages: `1024 tokens`.
pub(crate) fn limits(options: &EncodeOptions) -> Option<String> {
    match (options.max_completion_length, options.max_length) {
        (None, None) => None,
        (None, Some(all)) => Some(format!("{all} tokens")),
        (Some(completion), None) => Some(format!("{completion} tokens of completion")),
        (Some(completion), Some(all)) => Some(format!("{completion} tokens of completion or {all} in all")),
    }
}

/// Cuts completions on the right to what the prompt leaves of the limit.
pub(crate) fn cut_completions(context: &mut Context, limit: usize) {
    let room = limit.saturating_sub(context.prompt.len());
    context.completions.iter_mut().for_each(|completion| cut_completion(completion, room));
}

/// Cuts a completion on the right, and what a teacher says of the tokens cut.
pub(crate) fn cut_completion(completion: &mut Completion, length: usize) {
    completion.ids.truncate(length);
    completion.scored.truncate(length);
    completion.teacher.truncate(completion.scored_tokens());
}

fn keep_start(context: &mut Context, limit: usize, scored: ScoredTokens) -> Result<(), Fault> {
    let prompt = context.prompt.len();
    cut_completions(context, limit);
    if !nothing_scored(context) {
        return Ok(());
    }
    if scored == ScoredTokens::Edits && prompt < limit {
        return Err(no_edit(limit, "max_length"));
    }
    Err(Fault::new(
        Reason::PromptTooLong,
        format!(
            "{prompt} tokens, and {limit} are the limit of prompt and completion together; raise max_length or choose another truncation"
        ),
    ))
}

/// Whether a completion is left without a scored token.
fn nothing_scored(context: &Context) -> bool {
    context.completions.iter().any(|completion| completion.scored_tokens() == 0)
}

fn no_edit(limit: usize, option: &str) -> Fault {
    let detail = format!("all edited tokens of a completion lie beyond the limit of {limit} tokens; raise {option}");
    Fault::new(Reason::NoEdit, detail)
}

fn over(option: &str, policy: &str, length: usize, limit: usize, what: &str) -> Fault {
    let detail = format!(
        "{length} tokens {what}, and {option} is {limit}; raise {option}, or set {policy} to what else may become of such rows"
    );
    Fault::new(Reason::OverLimit, detail)
}

fn heads(context: &Context) -> Vec<usize> {
    let head = |completion: &Completion| completion.scored.iter().take_while(|scored| !**scored).count();
    context.completions.iter().map(head).collect()
}

fn lengths(context: &Context) -> (usize, Vec<usize>) {
    (context.prompt.len(), context.completions.iter().map(|completion| completion.ids.len()).collect())
}

/// How many tokens two prompts of different content end with alike: the end of a message and the head of the answer.
fn header_tokens(encoder: &Encoder) -> usize {
    let ids = |content| {
        sequence::prompt_alone(encoder, &Text::Chat(vec![Message::new("user", content)]), RenderOptions::default())
    };
    // A template that cannot render one message says so where a row is encoded.
    let (Ok(one), Ok(other)) = (ids("1"), ids("Z")) else {
        return 0;
    };
    one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOS: u32 = 1;

    fn context() -> Context {
        let completion = |ids: &[u32]| Completion::all_scored(ids.to_vec());
        Context {
            prompt: vec![BOS, 10, 11, 12],
            prompt_scored: vec![false; 4],
            completions: vec![completion(&[20, 21]), completion(&[30, 31, 32])],
        }
    }

    fn rules(options: EncodeOptions, context: &Context, header: usize) -> Rules {
        Rules { options, bos: Some(BOS), header, heads: heads(context) }
    }

    fn shortened(mut context: Context, options: EncodeOptions) -> Result<(Context, Cut), Reason> {
        let rules = rules(options, &context, 0);
        rules.apply(&mut context).map(|cut| (context, cut)).map_err(|fault| fault.reason)
    }

    fn cut(max_length: usize, truncation: Truncation) -> Result<(Context, Cut), Reason> {
        let options = EncodeOptions { max_length: Some(max_length), truncation, ..EncodeOptions::default() };
        shortened(context(), options)
    }

    fn free() -> EncodeOptions {
        EncodeOptions { max_length: None, ..EncodeOptions::default() }
    }

    fn counted(sequences: u64, prompts: u64, completions: u64) -> Cut {
        Cut { sequences, prompts, completions }
    }

    #[test]
    fn what_fits_is_left_alone() {
        for policy in [Truncation::KeepStart, Truncation::KeepEndOfPrompt, Truncation::Reject, Truncation::Error] {
            assert_eq!(cut(7, policy).unwrap(), (context(), Cut::default()));
        }
        let options = EncodeOptions { max_prompt_length: Some(4), max_completion_length: Some(3), ..free() };
        assert_eq!(shortened(context(), options).unwrap(), (context(), Cut::default()));
    }

    #[test]
    fn keeping_the_start_cuts_the_longer_completion_first() {
        let (cut_to_six, counts) = cut(6, Truncation::KeepStart).unwrap();
        assert_eq!(counts, counted(1, 0, 1));
        assert_eq!(cut_to_six.completions[0].ids, [20, 21]);
        assert_eq!(cut_to_six.completions[1].ids, [30, 31]);
        assert_eq!(cut(5, Truncation::KeepStart).unwrap().1, counted(2, 0, 2));
        assert_eq!(cut(4, Truncation::KeepStart).unwrap_err(), Reason::PromptTooLong);
        assert_eq!(cut(3, Truncation::KeepStart).unwrap_err(), Reason::PromptTooLong);
    }

    #[test]
    fn keeping_the_end_of_the_prompt_keeps_its_first_token_and_one_more() {
        let (shorter, counts) = cut(5, Truncation::KeepEndOfPrompt).unwrap();
        assert_eq!((shorter.prompt, counts), (vec![BOS, 12], counted(2, 1, 0)));
        assert_eq!(shorter.completions, context().completions);
        assert_eq!(cut(4, Truncation::KeepEndOfPrompt).unwrap_err(), Reason::CompletionTooLong);
        assert_eq!(cut(3, Truncation::KeepEndOfPrompt).unwrap_err(), Reason::CompletionTooLong);
    }

    #[test]
    fn rejecting_cuts_nothing() {
        assert_eq!(cut(6, Truncation::Reject).unwrap_err(), Reason::TooLong);
        assert_eq!(cut(6, Truncation::Error).unwrap_err(), Reason::OverLimit);
    }

    #[test]
    fn prompts_and_completions_have_limits_of_their_own() {
        let prompt = |limit| EncodeOptions { max_prompt_length: Some(limit), ..free() };
        let (shorter, counts) = shortened(context(), prompt(3)).unwrap();
        assert_eq!((shorter.prompt, counts), (vec![BOS, 11, 12], counted(2, 1, 0)));
        assert_eq!(shorter.completions, context().completions);
        assert_eq!(shortened(context(), prompt(2)).unwrap().0.prompt, [BOS, 12]);

        let completion = |limit| EncodeOptions { max_completion_length: Some(limit), ..free() };
        let (shorter, counts) = shortened(context(), completion(2)).unwrap();
        assert_eq!((shorter.completions[1].ids.as_slice(), counts), ([30, 31].as_slice(), counted(1, 0, 1)));
        assert_eq!(shortened(context(), completion(1)).unwrap().1, counted(2, 0, 2));

        // All three: 4 + 3 tokens become 3 + 2, then 3 + 1.
        let all = EncodeOptions { max_length: Some(4), max_completion_length: Some(2), ..prompt(3) };
        let (shorter, counts) = shortened(context(), all).unwrap();
        assert_eq!(shorter.completions[1].ids, [30]);
        assert_eq!((shorter.prompt.len(), counts), (3, counted(2, 1, 2)));
    }

    #[test]
    fn other_policies_set_the_row_aside_or_end_the_run() {
        let prompt = |policy| EncodeOptions { max_prompt_length: Some(3), prompt_truncation: policy, ..free() };
        assert_eq!(shortened(context(), prompt(PromptTruncation::Reject)).unwrap_err(), Reason::PromptTooLong);
        assert_eq!(shortened(context(), prompt(PromptTruncation::Error)).unwrap_err(), Reason::OverLimit);
        let completion =
            |policy| EncodeOptions { max_completion_length: Some(2), completion_truncation: policy, ..free() };
        let reject = completion(CompletionTruncation::Reject);
        assert_eq!(shortened(context(), reject).unwrap_err(), Reason::CompletionTooLong);
        assert_eq!(shortened(context(), completion(CompletionTruncation::Error)).unwrap_err(), Reason::OverLimit);
    }

    #[test]
    fn tokens_of_the_prompt_in_a_completion_count_as_prompt() {
        // The prompt has 5 tokens before the first completion and 6 before the second.
        let mut shared = context();
        shared.completions[0] = Completion { ids: vec![13, 20, 21], scored: vec![false, true, true], teacher: vec![] };
        shared.completions[1] =
            Completion { ids: vec![14, 15, 30, 31], scored: vec![false, false, true, true], teacher: vec![] };
        let limits = |prompt, completion| EncodeOptions {
            max_prompt_length: Some(prompt),
            max_completion_length: Some(completion),
            ..free()
        };
        let (shorter, counts) = shortened(shared.clone(), limits(5, 1)).unwrap();
        assert_eq!(shorter.prompt, [BOS, 11, 12]);
        assert_eq!(shorter.completions[0].ids, [13, 20]);
        assert_eq!(shorter.completions[1].ids, [14, 15, 30]);
        assert_eq!(counts, counted(2, 1, 2));
        assert_eq!(shortened(shared.clone(), limits(3, 9)).unwrap().0.prompt, [BOS]);
        assert_eq!(shortened(shared, limits(2, 9)).unwrap_err(), Reason::PromptTooLong);
    }

    #[test]
    fn the_head_of_the_answer_is_never_cut() {
        let options = |limit| EncodeOptions { max_prompt_length: Some(limit), ..free() };
        let mut shorter = context();
        rules(options(3), &shorter, 2).apply(&mut shorter).unwrap();
        assert_eq!(shorter.prompt, [BOS, 11, 12]);
        let mut same = context();
        let fault = rules(options(2), &same, 2).apply(&mut same).unwrap_err();
        assert_eq!(fault.reason, Reason::PromptTooLong);
        assert!(fault.detail.contains("of 4 tokens 2 may stay, and 3 cannot be cut"), "{}", fault.detail);
        assert_eq!(same, context());
    }

    #[test]
    fn limits_without_room_are_refused() {
        let refused = |options| check(&options).unwrap_err().to_string();
        assert!(refused(EncodeOptions { max_length: Some(1), ..free() }).contains("max_length: got 1"));
        assert!(refused(EncodeOptions { max_prompt_length: Some(1), ..free() }).contains("max_prompt_length: got 1"));
        let none = EncodeOptions { max_completion_length: Some(0), ..free() };
        assert!(refused(none).contains("max_completion_length: got 0"));
        check(&EncodeOptions { max_prompt_length: Some(2), max_completion_length: Some(1), ..free() }).unwrap();
    }
}
