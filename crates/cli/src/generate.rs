//! `wick generate`: a model goes on from a prompt.

use anyhow::{Result, bail};
use candlewick::data::{self, EncodeOptions, Encoder, EndOfSequence, Message, Text};
use candlewick::kernels::{Cuda, Element, Workspace, bf16};
use candlewick::model::{CausalLm, Sampling};
use candlewick::train::{Dtype, Hardware, stops};

use crate::arguments::Generate;
use crate::failure::Failure;
use crate::places::{self, Kind};
use crate::{preference, words};

/// Prints the continuation on standard output.
pub(crate) fn generate(arguments: &Generate) -> Result<()> {
    let dtype = Dtype::resolve(arguments.dtype, arguments.device).map_err(|_| {
        Failure::Usage("--dtype bf16: the cpu does not compute in it; add --device cuda, or leave it out".into())
    })?;
    let hardware = Hardware::open(arguments.device)?;
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
    let mut workspace = Workspace::new(words::threads(arguments.threads));
    let ids = match (hardware.device(), dtype) {
        (None, _) => model.generate(&prompt, &sampling, &mut workspace)?,
        (Some(device), Dtype::F32) => on::<f32>(device, &model, &prompt, &sampling)?,
        (Some(device), Dtype::Bf16) => on::<bf16>(device, &model, &prompt, &sampling)?,
    };
    println!("{}", encoder.decode_text(&ids).trim());
    Ok(())
}

/// The answer of a copy of the model on a device.
fn on<T: Element<Wide = f32>>(
    device: &Cuda,
    model: &CausalLm,
    prompt: &[u32],
    sampling: &Sampling,
) -> Result<Vec<u32>> {
    let mut workspace = Workspace::new(1).on(device);
    Ok(model.to_device::<T>(device, &mut workspace)?.generate(prompt, sampling, &mut workspace)?)
}
