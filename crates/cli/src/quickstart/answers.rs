//! What the model answers, and whether that is right.

use anyhow::Result;
use candlewick::data::{Encoder, Text};
use candlewick::kernels::Workspace;
use candlewick::model::{CausalLm, Sampling};
use candlewick::train::stops;

use super::baseline::Share;
use crate::world::grammar::{FAMILIES, Preference, Scene};

/// Asks a model the prompts of scenes.
#[derive(Debug)]
pub(crate) struct Examiner<'a> {
    encoder: &'a Encoder,
    /// The scenes it shows on the screen: the first of each of three families.
    shown: Vec<&'a Scene>,
    /// The scenes it marks.
    marked: Vec<&'a Scene>,
}

impl<'a> Examiner<'a> {
    /// An examiner of held-out scenes.
    pub(crate) fn new(encoder: &'a Encoder, held_out: &'a [Preference], marked: usize) -> Self {
        let scenes = || held_out.iter().map(|pair| &pair.scene);
        let shown =
            FAMILIES.iter().take(3).filter_map(|family| scenes().find(|scene| scene.family == *family)).collect();
        Self { encoder, shown, marked: scenes().take(marked).collect() }
    }

    /// The scenes shown.
    pub(crate) fn shown(&self) -> &[&'a Scene] {
        &self.shown
    }

    /// The model's likeliest answers to the shown prompts.
    pub(crate) fn show(&self, model: &CausalLm, workspace: &mut Workspace) -> Result<Vec<String>> {
        self.shown.iter().map(|scene| self.answer(scene, model, workspace)).collect()
    }

    /// How many of the marked prompts the model answers rightly.
    pub(crate) fn mark(&self, model: &CausalLm, workspace: &mut Workspace) -> Result<Share> {
        let mut hits = 0.0;
        for scene in &self.marked {
            hits += f64::from(u8::from(scene.is_answered_by(&self.answer(scene, model, workspace)?)));
        }
        Ok(Share { hits, trials: self.marked.len() })
    }

    fn answer(&self, scene: &Scene, model: &CausalLm, workspace: &mut Workspace) -> Result<String> {
        let prompt = self.encoder.encode_prompt(&Text::Plain(scene.prompt.clone()))?;
        let sampling = Sampling { max_new_tokens: 32, stop: stops(model, self.encoder), ..Sampling::default() };
        let ids = model.generate(&prompt, &sampling, workspace)?;
        Ok(self.encoder.decode_text(&ids).trim().to_owned())
    }
}
