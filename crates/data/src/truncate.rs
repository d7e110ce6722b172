//! Sequences cut to the limit, by a named policy.

use crate::encode::{EncodeOptions, ScoredTokens, Truncation};
use crate::error::{Fault, Reason};
use crate::row::{Completion, Context};

/// Cuts a context to the limit; returns how many of its sequences lost tokens.
pub(crate) fn apply(context: &mut Context, options: &EncodeOptions, bos: Option<u32>) -> Result<u64, Fault> {
    let Some(limit) = options.max_length else {
        return Ok(0);
    };
    let prompt = context.prompt.len();
    let longest = context.completions.iter().map(|completion| completion.ids.len()).max().unwrap_or(0);
    if prompt + longest <= limit {
        return Ok(0);
    }
    match options.truncation {
        Truncation::KeepStart => keep_start(context, limit, options.scored),
        Truncation::KeepEndOfPrompt => keep_end_of_prompt(context, longest, limit, bos),
        Truncation::Reject => Err(Fault::new(
            Reason::TooLong,
            format!("{prompt} tokens of prompt and {longest} of completion, at most {limit} together"),
        )),
    }
}

/// Cuts completions on the right to what the prompt leaves of the limit; returns how many lost tokens.
pub(crate) fn cut_completions(context: &mut Context, limit: usize) -> u64 {
    let room = limit.saturating_sub(context.prompt.len());
    let mut cut = 0;
    for completion in context.completions.iter_mut().filter(|completion| completion.ids.len() > room) {
        cut_completion(completion, room);
        cut += 1;
    }
    cut
}

/// Cuts a completion on the right, and what a teacher says of the tokens cut.
pub(crate) fn cut_completion(completion: &mut Completion, length: usize) {
    completion.ids.truncate(length);
    completion.scored.truncate(length);
    completion.teacher.truncate(completion.scored_tokens());
}

fn keep_start(context: &mut Context, limit: usize, scored: ScoredTokens) -> Result<u64, Fault> {
    let prompt = context.prompt.len();
    let cut = cut_completions(context, limit);
    if context.completions.iter().any(|completion| completion.scored_tokens() == 0) {
        if scored == ScoredTokens::Edits && prompt < limit {
            return Err(Fault::new(
                Reason::NoEdit,
                format!("all edited tokens of a completion lie beyond the limit of {limit} tokens; raise max_length"),
            ));
        }
        return Err(Fault::new(
            Reason::PromptTooLong,
            format!(
                "{prompt} tokens, and {limit} are the limit of prompt and completion together; raise max_length or choose another truncation"
            ),
        ));
    }
    Ok(cut)
}

fn keep_end_of_prompt(context: &mut Context, longest: usize, limit: usize, bos: Option<u32>) -> Result<u64, Fault> {
    let keep = limit.saturating_sub(longest);
    if keep == 0 {
        return Err(Fault::new(
            Reason::CompletionTooLong,
            format!("{longest} tokens, and {limit} are the limit of prompt and completion together"),
        ));
    }
    let begins_with_bos = bos.is_some() && context.prompt.first() == bos.as_ref();
    let kept_start = usize::from(begins_with_bos);
    let dropped = context.prompt.len() - keep;
    context.prompt.drain(kept_start..kept_start + dropped);
    context.prompt_scored.drain(kept_start..kept_start + dropped);
    Ok(context.completions.len() as u64)
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

    fn cut(max_length: usize, truncation: Truncation) -> Result<(Context, u64), Reason> {
        let mut context = context();
        let options = EncodeOptions { max_length: Some(max_length), truncation, ..EncodeOptions::default() };
        apply(&mut context, &options, Some(BOS)).map(|cut| (context, cut)).map_err(|fault| fault.reason)
    }

    #[test]
    fn what_fits_is_left_alone() {
        for policy in [Truncation::KeepStart, Truncation::KeepEndOfPrompt, Truncation::Reject] {
            assert_eq!(cut(7, policy).unwrap(), (context(), 0));
        }
    }

    #[test]
    fn keeping_the_start_cuts_the_longer_completion_first() {
        let (cut_to_six, cut_sequences) = cut(6, Truncation::KeepStart).unwrap();
        assert_eq!(cut_sequences, 1);
        assert_eq!(cut_to_six.completions[0].ids, [20, 21]);
        assert_eq!(cut_to_six.completions[1].ids, [30, 31]);
        assert_eq!(cut(5, Truncation::KeepStart).unwrap().1, 2);
        assert_eq!(cut(4, Truncation::KeepStart).unwrap_err(), Reason::PromptTooLong);
        assert_eq!(cut(3, Truncation::KeepStart).unwrap_err(), Reason::PromptTooLong);
    }

    #[test]
    fn keeping_the_end_of_the_prompt_keeps_its_first_token() {
        let (shorter, cut_sequences) = cut(5, Truncation::KeepEndOfPrompt).unwrap();
        assert_eq!((shorter.prompt, cut_sequences), (vec![BOS, 12], 2));
        assert_eq!(shorter.completions, context().completions);
        assert_eq!(cut(4, Truncation::KeepEndOfPrompt).unwrap().0.prompt, [BOS]);
        assert_eq!(cut(3, Truncation::KeepEndOfPrompt).unwrap_err(), Reason::CompletionTooLong);
    }

    #[test]
    fn rejecting_cuts_nothing() {
        assert_eq!(cut(6, Truncation::Reject).unwrap_err(), Reason::TooLong);
    }
}
