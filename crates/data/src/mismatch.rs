//! Mismatched completions: every prompt with the completion of another, for the KL estimate of KTO.

use crate::error::Error;
use crate::row::{Annotation, Batch, Completion, Context, Example};
use crate::truncate;

/// Fills [`Batch::mismatched`] over all batches of a step.
///
/// Example `i` is given the completions of the example before it (the first those of the last), as TRL does; where prompts repeat,
/// of the nearest one so many places earlier that each completion is still used once, if that can be; never of its own
/// prompt. Sequences longer than `max_length` are cut on the right. Examples are labelled rows and pairs; others have no
/// mismatched context and lend no completion.
///
/// # Errors
/// [`Error::OnePrompt`] when all examples have the same prompt.
pub fn fill(step: &mut [Batch], max_length: Option<usize>) -> Result<(), Error> {
    let examples: Vec<&Example> =
        step.iter().flat_map(|batch| &batch.examples).filter(|example| takes_part(example)).collect();
    let prompts: Vec<&[u32]> = examples.iter().map(|example| example.contexts[0].prompt.as_slice()).collect();
    let Some(partners) = partners(&prompts) else {
        return Err(Error::OnePrompt { origin: examples[0].origin.clone(), examples: examples.len() });
    };
    let mut contexts = partners.into_iter().enumerate().map(|(own, other)| {
        let mut context = join(&examples[own].contexts[0], &examples[other].contexts[0]);
        if let Some(limit) = max_length {
            truncate::cut_completions(&mut context, limit);
        }
        context
    });
    let filled: Vec<Vec<Context>> = step
        .iter()
        .map(|batch| {
            let count = batch.examples.iter().filter(|example| takes_part(example)).count();
            contexts.by_ref().take(count).collect()
        })
        .collect();
    for (batch, mismatched) in step.iter_mut().zip(filled) {
        batch.mismatched = mismatched;
    }
    Ok(())
}

fn takes_part(example: &Example) -> bool {
    matches!(example.annotation, Annotation::Pair | Annotation::Labelled { .. })
}

/// For each prompt the index of one that differs; None when there is one prompt only (and there are any).
fn partners(prompts: &[&[u32]]) -> Option<Vec<usize>> {
    // Equal prompts side by side, each group where its first member stands; a rotation by the largest group then meets no
    // prompt of its own, unless that group is the larger half.
    let mut first_of = std::collections::HashMap::new();
    for (index, prompt) in prompts.iter().enumerate() {
        first_of.entry(*prompt).or_insert(index);
    }
    if first_of.len() == 1 {
        return None;
    }
    let mut grouped: Vec<usize> = (0..prompts.len()).collect();
    grouped.sort_by_key(|index| (first_of[prompts[*index]], *index));
    let largest =
        grouped.chunk_by(|left, right| prompts[*left] == prompts[*right]).map(<[usize]>::len).max().unwrap_or(0);
    let mut partners = vec![0; prompts.len()];
    let count = grouped.len();
    for (place, &own) in grouped.iter().enumerate() {
        let other = (largest..largest + count)
            .map(|back| grouped[(place + 2 * count - back) % count])
            .find(|other| prompts[*other] != prompts[own])?;
        partners[own] = other;
    }
    Some(partners)
}

/// The prompt of one context with the scored ends of another's completions.
fn join(own: &Context, other: &Context) -> Context {
    let completions = own
        .completions
        .iter()
        .enumerate()
        .map(|(index, mine)| {
            // A labelled row may borrow from a pair and the other way round.
            let theirs = &other.completions[index.min(other.completions.len() - 1)];
            let head = start(mine);
            let tail = start(theirs);
            Completion {
                ids: mine.ids[..head].iter().chain(&theirs.ids[tail..]).copied().collect(),
                scored: mine.scored[..head].iter().chain(&theirs.scored[tail..]).copied().collect(),
                teacher: Vec::new(),
            }
        })
        .collect();
    Context { prompt: own.prompt.clone(), prompt_scored: own.prompt_scored.clone(), completions }
}

/// Tokens of the prompt that stand in the completion.
fn start(completion: &Completion) -> usize {
    completion.scored.iter().position(|scored| *scored).unwrap_or(completion.ids.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partners_of(prompts: &[u32]) -> Option<Vec<usize>> {
        let owned: Vec<[u32; 1]> = prompts.iter().map(|prompt| [*prompt]).collect();
        partners(&owned.iter().map(<[u32; 1]>::as_slice).collect::<Vec<_>>())
    }

    #[test]
    fn different_prompts_rotate_by_one() {
        assert_eq!(partners_of(&[7, 8, 9, 6]).unwrap(), [3, 0, 1, 2]);
        assert_eq!(partners_of(&[7, 8]).unwrap(), [1, 0]);
        assert_eq!(partners_of(&[]).unwrap(), [0usize; 0]);
    }

    #[test]
    fn no_prompt_meets_itself_and_completions_are_used_once_where_they_can_be() {
        // Every assignment of three prompts to up to six rows.
        for count in 1..=6u32 {
            for code in 0..3u32.pow(count) {
                let prompts: Vec<u32> = (0..count).map(|place| code / 3u32.pow(place) % 3).collect();
                let of = |prompt| prompts.iter().filter(|other| **other == prompt).count();
                let largest = (0..3).map(of).max().unwrap();
                let Some(partners) = partners_of(&prompts) else {
                    assert_eq!(largest, prompts.len());
                    continue;
                };
                for (own, other) in partners.iter().enumerate() {
                    assert_ne!(prompts[own], prompts[*other], "{prompts:?} {partners:?}");
                }
                let mut used = partners.clone();
                used.sort_unstable();
                used.dedup();
                assert!(largest * 2 > prompts.len() || used.len() == prompts.len(), "{prompts:?} {partners:?}");
            }
        }
    }
}
