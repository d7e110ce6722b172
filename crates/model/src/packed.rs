//! Contexts and completions without padding, and the one place where log-probabilities are shifted by one token.
use std::ops::Range;

use candlewick_kernels::attention::Segment;

use crate::error::{Error, Result};

/// A prompt and the completions that follow it.
#[derive(Debug, Clone)]
pub struct ContextIds<'a> {
    /// Token ids `[P]`.
    pub prompt: &'a [u32],
    /// Which prompt tokens are scored, `[P]`; empty means none.
    pub prompt_scored: &'a [bool],
    /// Each continues the prompt on its own and sees nothing of the others.
    pub completions: Vec<CompletionIds<'a>>,
}

/// One continuation of a prompt.
#[derive(Debug, Clone)]
pub struct CompletionIds<'a> {
    /// Token ids `[n]`.
    pub ids: &'a [u32],
    /// Which of them are scored, `[n]`; empty means all.
    pub scored: &'a [bool],
}

impl<'a> CompletionIds<'a> {
    /// A completion of which every token is scored.
    pub fn all_scored(ids: &'a [u32]) -> Self {
        Self { ids, scored: &[] }
    }
}

/// One scored token: where the hidden state that predicts it lies and where its score goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Row of the hidden states, that of the token *before* the scored one.
    pub hidden_row: u32,
    /// The token that is scored.
    pub id: u32,
    /// Which completion it belongs to, counted over all contexts: the row of the score matrix.
    pub completion: u32,
    /// Its column in the score matrix.
    pub slot: u32,
}

/// Further tokens whose log-probabilities are wanted: equally many at every target.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    ids: Vec<u32>,
    each: usize,
}

/// A batch laid end to end: each prompt once, then its completions, no padding.
#[derive(Debug, Clone)]
pub struct Packed {
    ids: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<Segment>,
    targets: Vec<Target>,
    completions: usize,
    slots: usize,
    given: Option<Given>,
}

impl Packed {
    /// Lays the contexts out.
    ///
    /// The first token of a completion is predicted by the last token of its prompt, which all completions share. A
    /// scored token that nothing precedes is an error, since no model assigns it a probability.
    ///
    /// # Errors
    /// A mask of another length than its ids, or a scored first token without a prompt.
    pub fn new(contexts: &[ContextIds<'_>]) -> Result<Self> {
        let mut packed = Self {
            ids: Vec::new(),
            positions: Vec::new(),
            segments: Vec::with_capacity(contexts.len()),
            targets: Vec::new(),
            completions: 0,
            slots: 0,
            given: None,
        };
        for (c, context) in contexts.iter().enumerate() {
            packed.push(context).map_err(|reason| Error::Input(format!("context {c} of the batch: {reason}")))?;
        }
        Ok(packed)
    }

    /// Asks for the log-probabilities of `each` further tokens at every target: `ids` `[targets, each]`, in the order of
    /// [`targets`](Self::targets). A target that wants fewer repeats any id of the vocabulary. They are computed where
    /// [`Statistics::given_log_probs`](crate::Statistics::given_log_probs) is wanted.
    ///
    /// # Errors
    /// Another number of ids than `each` for every target, or none.
    pub fn with_given(mut self, ids: Vec<u32>, each: usize) -> Result<Self> {
        if each == 0 || ids.len() != each * self.targets.len() {
            return Err(Error::Input(format!(
                "{} ids are given for {} targets; expected {each} for each, and at least one",
                ids.len(),
                self.targets.len()
            )));
        }
        self.given = Some(Given { ids, each });
        Ok(self)
    }

    /// The same rows so many positions further on, behind others that a cache holds.
    pub(crate) fn moved_on(mut self, by: usize) -> Self {
        self.positions.iter_mut().for_each(|position| *position += by as u32);
        self
    }

    fn push(&mut self, context: &ContextIds<'_>) -> std::result::Result<(), String> {
        check_mask("prompt", context.prompt, context.prompt_scored)?;
        if context.completions.is_empty() && context.prompt_scored.contains(&true) {
            return Err("a scored prompt needs a completion: its scores stand in the completion's row".into());
        }
        let prompt = self.lay(context.prompt, 0);
        let mut completions = Vec::with_capacity(context.completions.len());
        for completion in &context.completions {
            check_mask("completion", completion.ids, completion.scored)?;
            let rows = self.lay(completion.ids, context.prompt.len());
            self.score(context, completion, &prompt, &rows)?;
            completions.push(rows);
        }
        self.segments.push(Segment { prompt, completions });
        Ok(())
    }

    /// Appends the ids at consecutive positions and tells their rows.
    fn lay(&mut self, ids: &[u32], first_position: usize) -> Range<usize> {
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        self.positions.extend((first_position..first_position + ids.len()).map(|position| position as u32));
        start..self.ids.len()
    }

    /// The shift by one: token j is predicted at the row of the token before it.
    fn score(
        &mut self,
        context: &ContextIds<'_>,
        completion: &CompletionIds<'_>,
        prompt: &Range<usize>,
        rows: &Range<usize>,
    ) -> std::result::Result<(), String> {
        let row = self.completions as u32;
        let mut slot = 0;
        for (i, _) in context.prompt_scored.iter().enumerate().filter(|(_, scored)| **scored) {
            if i == 0 {
                return Err("the first token of a prompt cannot be scored: nothing precedes it".into());
            }
            let hidden_row = (prompt.start + i - 1) as u32;
            self.targets.push(Target { hidden_row, id: context.prompt[i], completion: row, slot });
            slot += 1;
        }
        for (j, &id) in completion.ids.iter().enumerate() {
            if completion.scored.get(j).copied().unwrap_or(true) {
                let before = if j > 0 { Some(rows.start + j - 1) } else { prompt.clone().last() };
                let hidden_row = before.ok_or(
                    "the first token of a completion cannot be scored after an empty prompt; begin the prompt with a BOS token",
                )? as u32;
                self.targets.push(Target { hidden_row, id, completion: row, slot });
            }
            slot += 1;
        }
        self.slots = self.slots.max(slot as usize);
        self.completions += 1;
        Ok(())
    }

    /// Rows that the model computes: every prompt once and every completion.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Completions, `[N]`, in the order of contexts and, within one, of its completions.
    pub fn completions(&self) -> usize {
        self.completions
    }

    /// Columns of the score matrix, `[T]`: the longest completion with the scored tokens of its prompt.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The scored tokens, grouped by completion, in order.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The further tokens asked for, `[targets, K]`; empty where there are none.
    pub fn given(&self) -> &[u32] {
        self.given.as_ref().map_or(&[], |given| &given.ids)
    }

    /// How many further tokens are asked for at every target, `K`; 0 where there are none.
    pub fn given_each(&self) -> usize {
        self.given.as_ref().map_or(0, |given| given.each)
    }

    /// Token ids of the computed rows.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Position of each computed row within prompt and completion.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Who attends to whom.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

fn check_mask(what: &str, ids: &[u32], scored: &[bool]) -> std::result::Result<(), String> {
    if scored.is_empty() || scored.len() == ids.len() {
        return Ok(());
    }
    Err(format!("the {what} has {} tokens and a mask of {}; expected equal lengths", ids.len(), scored.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_share_the_last_prompt_row() {
        let packed = Packed::new(&[
            ContextIds {
                prompt: &[1, 10, 11],
                prompt_scored: &[],
                completions: vec![
                    CompletionIds::all_scored(&[20, 2]),
                    CompletionIds { ids: &[30, 31, 2], scored: &[true, false, true] },
                ],
            },
            ContextIds { prompt: &[1], prompt_scored: &[], completions: vec![CompletionIds::all_scored(&[40])] },
        ])
        .unwrap();
        assert_eq!(packed.ids(), [1, 10, 11, 20, 2, 30, 31, 2, 1, 40]);
        assert_eq!(packed.positions(), [0, 1, 2, 3, 4, 3, 4, 5, 0, 1]);
        assert_eq!((packed.tokens(), packed.completions(), packed.slots()), (10, 3, 3));
        let rows: Vec<_> = packed.targets().iter().map(|t| (t.hidden_row, t.id, t.completion, t.slot)).collect();
        assert_eq!(rows, [(2, 20, 0, 0), (3, 2, 0, 1), (2, 30, 1, 0), (6, 2, 1, 2), (8, 40, 2, 0)]);
    }

    #[test]
    fn a_scored_prompt_precedes_its_completion() {
        let packed = Packed::new(&[ContextIds {
            prompt: &[1, 10, 11],
            prompt_scored: &[false, false, true],
            completions: vec![CompletionIds::all_scored(&[20]), CompletionIds::all_scored(&[21])],
        }])
        .unwrap();
        let rows: Vec<_> = packed.targets().iter().map(|t| (t.hidden_row, t.id, t.completion, t.slot)).collect();
        assert_eq!(rows, [(1, 11, 0, 0), (2, 20, 0, 1), (1, 11, 1, 0), (2, 21, 1, 1)]);
    }

    #[test]
    fn further_tokens_are_equally_many_at_every_target() {
        let packed = || {
            let completions = vec![CompletionIds::all_scored(&[20, 2])];
            Packed::new(&[ContextIds { prompt: &[1], prompt_scored: &[], completions }]).unwrap()
        };
        assert_eq!((packed().given(), packed().given_each()), (&[][..], 0));
        let given = packed().with_given(vec![3, 4, 5, 6], 2).unwrap();
        assert_eq!((given.given(), given.given_each()), (&[3, 4, 5, 6][..], 2));
        assert!(
            packed().with_given(vec![3, 4, 5], 2).unwrap_err().to_string().contains("3 ids are given for 2 targets")
        );
        assert!(packed().with_given(vec![], 0).is_err());
    }

    #[test]
    fn what_nothing_precedes_is_refused() {
        let no_prompt = Packed::new(&[ContextIds {
            prompt: &[],
            prompt_scored: &[],
            completions: vec![CompletionIds::all_scored(&[3])],
        }]);
        assert!(no_prompt.unwrap_err().to_string().contains("empty prompt"));
        let alone = Packed::new(&[ContextIds { prompt: &[1, 2], prompt_scored: &[false, true], completions: vec![] }]);
        assert!(alone.unwrap_err().to_string().contains("needs a completion"));
        let short_mask = Packed::new(&[ContextIds { prompt: &[1, 2], prompt_scored: &[true], completions: vec![] }]);
        assert!(short_mask.unwrap_err().to_string().contains("mask of 1"));
    }
}
