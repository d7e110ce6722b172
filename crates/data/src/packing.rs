//! The examples of a step in micro-batches of a budget of tokens.

use crate::row::{Batch, Example};

/// Tokens that an example is computed over: each prompt once, and every completion.
#[must_use]
pub fn tokens(example: &Example) -> usize {
    let of_context = |context: &crate::row::Context| {
        context.prompt.len() + context.completions.iter().map(|completion| completion.ids.len()).sum::<usize>()
    };
    example.contexts.iter().map(of_context).sum()
}

/// Packs the examples of a step into micro-batches of at most `budget` [`tokens`] each; for applications that gather their own.
///
/// The longest example comes first into the first batch that has room for it (first fit decreasing: at most 11/9 of the fewest
/// batches there could be, and one more). Inside a batch, and from batch to batch by their first, examples stand in the
/// order of the step. One that is longer than the budget is a batch of its own.
///
/// ```
/// use candlewick_data::{Annotation, Context, Example, Origin, pack_step};
/// let example = |line, tokens| {
///     let context = Context { prompt: vec![0; tokens], prompt_scored: vec![false; tokens], completions: Vec::new() };
///     Example::new(Origin::memory(line), vec![context], Annotation::Demonstration)
/// };
/// let step = vec![example(1, 2), example(2, 5), example(3, 3), example(4, 9)];
/// let lines = |batch: &candlewick_data::Batch| batch.examples.iter().map(|e| e.origin.line).collect::<Vec<_>>();
/// assert_eq!(pack_step(step, 5).iter().map(lines).collect::<Vec<_>>(), [vec![1, 3], vec![2], vec![4]]);
/// ```
#[must_use]
pub fn pack(step: Vec<Example>, budget: usize) -> Vec<Batch> {
    let sizes: Vec<usize> = step.iter().map(tokens).collect();
    let mut longest_first: Vec<usize> = (0..sizes.len()).collect();
    longest_first.sort_by_key(|index| (std::cmp::Reverse(sizes[*index]), *index));
    let mut batch_of = vec![0; sizes.len()];
    let mut room: Vec<usize> = Vec::new();
    for index in longest_first {
        let fitting = room.iter().position(|room| sizes[index] <= *room);
        let batch = fitting.unwrap_or_else(|| {
            room.push(budget);
            room.len() - 1
        });
        room[batch] = room[batch].saturating_sub(sizes[index]);
        batch_of[index] = batch;
    }
    gather(step, &batch_of, room.len())
}

/// Batches in the order of their first examples.
fn gather(step: Vec<Example>, batch_of: &[usize], count: usize) -> Vec<Batch> {
    let mut place = vec![None; count];
    let mut batches: Vec<Batch> = Vec::with_capacity(count);
    for (example, batch) in step.into_iter().zip(batch_of) {
        let place = *place[*batch].get_or_insert_with(|| {
            batches.push(Batch::default());
            batches.len() - 1
        });
        batches[place].examples.push(example);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Annotation, Context, Origin};

    fn example(line: usize, tokens: usize) -> Example {
        let context = Context { prompt: vec![0; tokens], prompt_scored: vec![false; tokens], completions: Vec::new() };
        Example::new(Origin::memory(line as u64), vec![context], Annotation::Demonstration)
    }

    #[test]
    fn every_example_is_packed_once_and_no_batch_is_over_the_budget() {
        let mut state = 1u64;
        for count in 0..60 {
            let sizes: Vec<usize> = (0..count)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 33) as usize % 40
                })
                .collect();
            let step: Vec<Example> = sizes.iter().enumerate().map(|(line, size)| example(line, *size)).collect();
            let batches = pack(step, 30);
            let mut lines: Vec<u64> = Vec::new();
            for batch in &batches {
                let total: usize = batch.examples.iter().map(tokens).sum();
                assert!(total <= 30 || batch.examples.iter().filter(|one| tokens(one) > 0).count() == 1, "{total}");
                let own: Vec<u64> = batch.examples.iter().map(|example| example.origin.line).collect();
                assert!(own.is_sorted());
                lines.extend(own);
            }
            assert!(batches.is_sorted_by_key(|batch| batch.examples[0].origin.line));
            lines.sort_unstable();
            assert_eq!(lines, (0..count as u64).collect::<Vec<_>>());
            // First fit leaves no two batches that would fit into one.
            let mut totals: Vec<usize> = batches.iter().map(|batch| batch.examples.iter().map(tokens).sum()).collect();
            totals.sort_unstable();
            assert!(totals.len() < 2 || totals[0] + totals[1] > 30, "{totals:?}");
        }
    }
}
