//! `wick generate`: a model goes on from a prompt.

use anyhow::{Result, bail};
use candlewick::data::{self, EncodeOptions, Encoder, EndOfSequence, Message, Text};
use candlewick::model::{CausalLm, Sampling};
use candlewick::train::stops;

use crate::arguments::Generate;
use crate::failure::Failure;
use crate::places::{self, Kind};
use crate::{preference, words};

/// Prints the continuation on standard output.
pub(crate) fn generate(arguments: &Generate) -> Result<()> {
    let (hardware, dtype) = arguments.place.open()?;
    let directory = places::directory(&arguments.model, Kind::Model)?;
    let mut model = CausalLm::<f32>::load(&directory)?;
    preference::load_adapter(&mut model, arguments.adapter.as_deref(), &arguments.preference)?;
    let options = EncodeOptions { end_of_sequence: EndOfSequence::Keep, ..EncodeOptions::default() };
    let encoder = Encoder::from_dir(&directory, options)?;
    encoder.check_vocabulary(model.config().vocab_size)?;
    if arguments.chat && !encoder.has_chat_template() {
        bail!(Failure::Usage(format!(
            "--chat: the tokenizer of {} has no chat template; leave --chat out",
            directory.display()
        )));
    }
    let prompt = match arguments.chat {
        true => Text::Chat(vec![Message::new("user", &arguments.prompt)]),
        false => Text::Plain(arguments.prompt.clone()),
    };
    let sampling = Sampling {
        max_new_tokens: arguments.max_new_tokens,
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        seed: arguments.seed,
        stop: stops(&model, &encoder),
    };
    let prompt = encoder.encode_prompt(&prompt).map_err(|error| match error {
        // The prompt has no file and line.
        data::Error::Rejected(rejection) => {
            Failure::Usage(format!("--prompt: {}: {}", rejection.reason, rejection.detail)).into()
        }
        other => anyhow::Error::new(other),
    })?;
    if prompt.is_empty() {
        bail!(Failure::Usage("--prompt: no token to go on from; give some text".into()));
    }
    let (model, mut workspace) = hardware.place(model, dtype, words::threads(arguments.threads))?;
    let ids = model.generate(&prompt, &sampling, &mut workspace)?;
    println!("{}", encoder.decode_text(&ids).trim());
    Ok(())
}
