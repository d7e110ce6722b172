//! A completion under its prompt, and under its prompt with a judgment of the completion.
//!
//! Prompt `"Q: 2 + 2?"` and judgment `"It is wrong."` make the second prompt
//! `"Judgment of the answer to the request below: It is wrong.\n\nQ: 2 + 2?"`.

use crate::encode::Encoder;
use crate::error::{Fault, Reason};
use crate::report::Counts;
use crate::row::{Context, Text};
use crate::template::RenderOptions;
use crate::truncate::{self, Cut, Rules};

/// The contexts of a judged row: prompt alone, prompt with judgment. Both score the same tokens.
pub(crate) fn contexts(
    encoder: &Encoder,
    prompt: &Text,
    completion: &Text,
    judgment: &str,
    told: RenderOptions<'_>,
    counts: &mut Counts,
) -> Result<Vec<Context>, Fault> {
    if judgment.trim().is_empty() {
        return Err(Fault::new(Reason::EmptyJudgment, format!("the judgment is {judgment:?}")));
    }
    let mut plain = encoder.untruncated(prompt, &[completion], told, counts)?;
    let mut judged = encoder.untruncated(&with_judgment(prompt, judgment)?, &[completion], told, counts)?;
    check_same(&plain, &judged)?;
    for cut in truncate_alike(encoder, prompt, &mut plain, &mut judged)? {
        counts.add_cut(cut);
    }
    counts.add_context(&plain);
    counts.add_context(&judged);
    Ok(vec![plain, judged])
}

/// The prompt with a judgment of the answer to it.
fn with_judgment(prompt: &Text, judgment: &str) -> Result<Text, Fault> {
    let before = |text: &str| format!("Judgment of the answer to the request below: {judgment}\n\n{text}");
    match prompt {
        Text::Plain(prompt) => Ok(Text::Plain(before(prompt))),
        Text::Chat(messages) => {
            let mut messages = messages.clone();
            let last = messages.iter_mut().rfind(|message| message.role == "user").ok_or_else(|| {
                Fault::new(Reason::WrongType, "the prompt has no message of role \"user\" to put the judgment before")
            })?;
            last.content = before(&last.content);
            Ok(Text::Chat(messages))
        }
    }
}

fn check_same(plain: &Context, judged: &Context) -> Result<(), Fault> {
    if plain.completions == judged.completions {
        return Ok(());
    }
    let [alone, with] =
        [plain, judged].map(|context| context.completions.iter().flat_map(|completion| &completion.ids));
    let place = alone.clone().zip(with.clone()).take_while(|(left, right)| left == right).count();
    Err(Fault::new(
        Reason::JudgmentChangesTokens,
        format!(
            "{} tokens under the prompt alone and {} under prompt and judgment, which part at token {}; end the prompt with \
             text that the tokenizer does not merge with the completion",
            alone.count(),
            with.count(),
            place + 1
        ),
    ))
}

/// Cuts both to the limits, and the completions to the same length.
fn truncate_alike(
    encoder: &Encoder,
    prompt: &Text,
    plain: &mut Context,
    judged: &mut Context,
) -> Result<[Cut; 2], Fault> {
    let tokens = judged.prompt.len();
    let with = Rules::new(encoder, prompt, judged).apply(judged)?;
    if with.prompts > 0 {
        let options = encoder.options();
        let (what, limit, option) = match (options.max_prompt_length, options.max_length) {
            (Some(limit), _) if tokens > limit => ("prompt and judgment", limit, "max_prompt_length"),
            (_, limit) => ("prompt, judgment and completion", limit.unwrap_or(usize::MAX), "max_length"),
        };
        return Err(Fault::new(
            Reason::TooLong,
            format!("{what} have more than {limit} tokens, and the judgment would be cut; raise {option}"),
        ));
    }
    let mut alone = Rules::new(encoder, prompt, plain).apply(plain)?;
    for (own, other) in plain.completions.iter_mut().zip(&judged.completions) {
        if own.ids.len() > other.ids.len() {
            truncate::cut_completion(own, other.ids.len());
            alone.sequences = 1;
            alone.completions = 1;
        }
    }
    Ok([alone, with])
}
