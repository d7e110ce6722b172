//! An example as a reader sees it: what is given, and what is scored.

use std::fmt::Write;

use crate::encode::Encoder;
use crate::inspect::completion_name;
use crate::row::{Annotation, Completion, Example};

impl Encoder {
    /// The decoded example with its mask: `⟦…⟧` is scored, everything else is not. Shown at the start of a run, so that a wrong
    /// template or boundary is seen and not trained on.
    ///
    /// ```text
    /// pairs.jsonl:1 (pair)
    ///   prompt, 4 tokens: "<s>The sky is"
    ///   chosen, 3 tokens, 3 scored: ⟦" blue.</s>"⟧
    ///   rejected, 3 tokens, 3 scored: ⟦" black.</s>"⟧
    /// ```
    ///
    /// Numbers, ratings, the prompt with a judgment, and how many tokens a teacher speaks of are shown where there are any.
    #[must_use]
    pub fn describe(&self, example: &Example) -> String {
        let kind = match &example.annotation {
            Annotation::Pair => "pair",
            Annotation::Labelled { desirable: true } => "labelled desirable",
            Annotation::Labelled { desirable: false } => "labelled undesirable",
            Annotation::Demonstration => "demonstration",
            Annotation::Ranked { .. } => "ranked",
            Annotation::Judged { positive: true } => "judged well",
            Annotation::Judged { positive: false } => "judged badly",
        };
        let numbers: String = example.numbers.iter().map(|(name, value)| format!(", {name} {value}")).collect();
        let mut out = format!("{} ({kind}{numbers})", example.origin);
        for (place, context) in example.contexts.iter().enumerate() {
            let prompt =
                Completion { ids: context.prompt.clone(), scored: context.prompt_scored.clone(), teacher: Vec::new() };
            let judged = place > 0 && matches!(example.annotation, Annotation::Judged { .. });
            push_line(&mut out, if judged { "prompt with judgment" } else { "prompt" }, &prompt, &[], self);
            for (index, completion) in context.completions.iter().enumerate() {
                push_line(&mut out, &completion_name(&example.annotation, index), completion, &context.prompt, self);
            }
        }
        out
    }
}

/// One line of a description. `before` gives the decoder its place: many drop the space a text begins with.
fn push_line(out: &mut String, name: &str, tokens: &Completion, before: &[u32], encoder: &Encoder) {
    let scored = tokens.scored_tokens();
    let _ = write!(out, "\n  {name}, {} tokens", tokens.ids.len());
    if scored > 0 {
        let _ = write!(out, ", {scored} scored");
    }
    if !tokens.teacher.is_empty() {
        let _ = write!(out, ", {} taught", tokens.teacher.len());
    }
    out.push_str(": ");
    let mut place = 0;
    for run in tokens.scored.chunk_by(|left, right| left == right) {
        let so_far = [before, &tokens.ids[..place]].concat();
        let with = [before, &tokens.ids[..place + run.len()]].concat();
        let (so_far, with) = (encoder.decode(&so_far), encoder.decode(&with));
        // A character can be split between runs; then the run is decoded alone.
        let text = match with.strip_prefix(&so_far) {
            Some(text) => text.to_owned(),
            None => encoder.decode(&tokens.ids[place..place + run.len()]),
        };
        let _ = if run[0] { write!(out, "⟦{text:?}⟧") } else { write!(out, "{text:?}") };
        place += run.len();
    }
}
