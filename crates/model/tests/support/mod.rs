//! Batches of one and the same texts: with prompts that completions share, with none shared, and padded.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use candlewick_model::{CompletionIds, ContextIds, Packed};

/// What stands behind the text of a padded row.
const PADDING: u32 = 0;

/// Tokens, and which of them are scored.
#[derive(Clone)]
struct Tokens {
    ids: Vec<u32>,
    scored: Vec<bool>,
}

/// Prompts with two completions each.
pub(crate) struct Texts {
    pairs: Vec<(Tokens, [Tokens; 2])>,
    vocabulary: u32,
}

impl Texts {
    /// Texts of so many tokens of the prompt, of the one and of the other completion, from a vocabulary of so many.
    ///
    /// Of every second prompt a token is scored; longer completions hold tokens that are not, the first or the last among them.
    pub(crate) fn new(lengths: &[[usize; 3]], vocabulary: u32) -> Self {
        let mut state = 7u64;
        let mut ids = |count: usize| -> Vec<u32> {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                1 + (state >> 33) as u32 % (vocabulary - 1)
            };
            (0..count).map(|_| next()).collect()
        };
        let mut tokens = |count: usize, scored: &dyn Fn(usize) -> bool| Tokens {
            ids: ids(count),
            scored: (0..count).map(scored).collect(),
        };
        let pair = |(i, &[prompt, one, other]): (usize, &[usize; 3])| {
            let prompt = tokens(prompt, &|place| i % 2 == 1 && place == prompt / 2);
            (prompt, [one, other].map(|count| tokens(count, &|place| count < 3 || (place + i) % 7 != 0)))
        };
        Self { pairs: lengths.iter().enumerate().map(pair).collect(), vocabulary }
    }

    /// Each prompt once, with both completions after it; two further tokens are asked for at every target.
    pub(crate) fn shared(&self) -> Packed {
        self.pack(self.pairs.iter().map(|(prompt, completions)| (prompt, &completions[..])))
    }

    /// Every completion after a prompt of its own.
    pub(crate) fn apart(&self) -> Packed {
        self.pack(self.pairs.iter().flat_map(|(prompt, completions)| {
            completions.iter().map(move |completion| (prompt, std::slice::from_ref(completion)))
        }))
    }

    /// As [`apart`](Self::apart), with tokens that are not scored behind every completion, up to rows of `length` tokens.
    pub(crate) fn padded(&self, length: usize) -> Packed {
        let mut longer = self.pairs.clone();
        for (prompt, completions) in &mut longer {
            for completion in completions {
                completion.ids.resize(length - prompt.ids.len(), PADDING);
                completion.scored.resize(length - prompt.ids.len(), false);
            }
        }
        Self { pairs: longer, vocabulary: self.vocabulary }.apart()
    }

    fn pack<'a>(&self, contexts: impl Iterator<Item = (&'a Tokens, &'a [Tokens])>) -> Packed {
        let context = |(prompt, completions): (&'a Tokens, &'a [Tokens])| ContextIds {
            prompt: &prompt.ids,
            prompt_scored: &prompt.scored,
            completions: completions.iter().map(|Tokens { ids, scored }| CompletionIds { ids, scored }).collect(),
        };
        let packed = Packed::new(&contexts.map(context).collect::<Vec<_>>()).unwrap();
        let further = |(i, id): (usize, u32)| [(i as u32 * 5 + 3) % self.vocabulary, id / 2];
        let further = packed.targets().iter().map(|target| target.id).enumerate().flat_map(further).collect();
        packed.with_given(further, 2).unwrap()
    }
}
