//! Steps of examples of like length.
//!
//! The examples of several steps are sorted by length, cut into steps, and the steps given out in random order: little is
//! lost to padding inside a step, and short and long steps alternate.

use std::collections::VecDeque;

use crate::order::SplitMix;
use crate::packing::tokens;
use crate::row::Example;

/// The steps of a window that are still to be given out.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    steps: VecDeque<Vec<Example>>,
    /// Rows drawn before the window, and how many of its steps are given out.
    began: u64,
    given: u64,
}

impl Bucket {
    /// Cuts the examples of a window into steps of `full`. Those that fill none, at the end of an epoch, are the last step;
    /// they may be of any length.
    pub(crate) fn fill(&mut self, mut examples: Vec<Example>, full: usize, began: u64, mut random: SplitMix) {
        // Stable: rows of one length keep their order.
        examples.sort_by_key(tokens);
        let over = examples.len() % full;
        let last: Vec<Example> = if over == 0 {
            Vec::new()
        } else {
            let start = random.below(examples.len() / full + 1) * full;
            examples.drain(start..start + over).collect()
        };
        let mut steps: Vec<Vec<Example>> = Vec::new();
        let mut rest = examples.into_iter().peekable();
        while rest.peek().is_some() {
            steps.push(rest.by_ref().take(full).collect());
        }
        for end in (1..steps.len()).rev() {
            steps.swap(end, random.below(end + 1));
        }
        steps.extend((!last.is_empty()).then_some(last));
        *self = Self { steps: steps.into(), began, given: 0 };
    }

    pub(crate) fn next_step(&mut self) -> Option<Vec<Example>> {
        let step = self.steps.pop_front();
        self.given += u64::from(step.is_some());
        step
    }

    /// Leaves out the steps that were given before.
    pub(crate) fn skip(&mut self, steps: u64) {
        while self.given < steps && self.next_step().is_some() {}
    }

    /// Where the window began and how many of its steps are given out, as long as it has more of them.
    pub(crate) fn place(&self) -> Option<(u64, u64)> {
        (!self.steps.is_empty()).then_some((self.began, self.given))
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Annotation, Context, Origin};

    fn examples(count: u64) -> Vec<Example> {
        (0..count)
            .map(|line| {
                let length = (line as usize * 7) % 23 + 1;
                let context =
                    Context { prompt: vec![0; length], prompt_scored: vec![false; length], completions: Vec::new() };
                Example::new(Origin::memory(line), vec![context], Annotation::Demonstration)
            })
            .collect()
    }

    #[test]
    fn a_window_is_cut_into_steps_of_like_length() {
        for count in 0..50u64 {
            for full in 1..8usize {
                let mut bucket = Bucket::default();
                bucket.fill(examples(count), full, 0, SplitMix::new(5, count));
                let steps: Vec<Vec<Example>> = std::iter::from_fn(|| bucket.next_step()).collect();
                let mut lines: Vec<u64> = steps.iter().flatten().map(|example| example.origin.line).collect();
                lines.sort_unstable();
                assert_eq!(lines, (0..count).collect::<Vec<_>>());
                let whole = count as usize / full;
                assert!(steps.iter().take(whole).all(|step| step.len() == full));
                assert_eq!(steps.len(), (count as usize).div_ceil(full));
                // No example of one full step lies between two of another.
                let span = |step: &Vec<Example>| (tokens(&step[0]), tokens(&step[step.len() - 1]));
                let mut spans: Vec<_> = steps.iter().map(span).collect();
                spans.sort_unstable();
                assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{spans:?}");
            }
        }
    }

    #[test]
    fn steps_given_before_are_left_out() {
        let of = |skipped| {
            let mut bucket = Bucket::default();
            bucket.fill(examples(40), 4, 17, SplitMix::new(1, 0));
            bucket.skip(skipped);
            assert_eq!(bucket.place(), (skipped < 10).then_some((17, skipped)));
            std::iter::from_fn(move || bucket.next_step()).collect::<Vec<_>>()
        };
        for skipped in 0..=10 {
            assert_eq!(of(skipped), of(0)[skipped as usize..]);
        }
    }
}
