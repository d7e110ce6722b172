//! On a device too a packed batch, which shares prompts and has no padding, scores and trains like one in which nothing is shared and
//! every row is padded on the right.
use candle_core::WithDType;
use candlewick_kernels::{Cuda, Element, Workspace};
use candlewick_model::{Adapter, CausalLm, Config, LoraConfig, Recompute};
use half::bf16;

use super::support::Texts;
use super::{BRAIN, EVERYTHING, EXACT, SINGLE, device, distance, step, widened};

const VOCABULARY: u32 = 61;
/// Tokens of a prompt and of its completions: some longer than a tile of attention, which begins elsewhere in a batch of its own.
const LENGTHS: [[usize; 3]; 2] = [[41, 9, 22], [3, 66, 1]];
/// Tokens of a padded row: more than the longest text has, and no multiple of a tile.
const LENGTH: usize = 73;

/// Keys and values for two query heads each, and sizes that no block of a kernel divides.
fn model(with_adapter: bool) -> CausalLm<f64> {
    let mut config = Config::llama(VOCABULARY as usize, 24, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (6, 3, 8);
    (config.intermediate_size, config.initializer_range) = (52, 0.2);
    let mut model = CausalLm::random(config, 3).unwrap();
    if with_adapter {
        model.add_lora(&LoraConfig { rank: 4, alpha: 6.0, ..LoraConfig::default() }, 1).unwrap();
        // B starts at zero, where A has no gradient.
        model.trainable_mut().data_mut().iter_mut().enumerate().for_each(|(i, x)| *x += 0.1 * (i as f64).sin());
    }
    model
}

fn compare<T: Element>(with_adapter: bool, recompute: Recompute, tolerance: f64)
where
    T::Wide: WithDType,
{
    let Some(device) = device() else { return };
    let mut workspace = Workspace::new(1).on(&device);
    let host = model(with_adapter);
    let model = host.convert::<T::Wide>().unwrap().to_device::<T>(&device, &mut workspace).unwrap();
    let texts = Texts::new(&LENGTHS, VOCABULARY);
    let (shared, padded) = (texts.shared(), texts.padded(LENGTH));
    assert_eq!(shared.targets().len(), padded.targets().len());
    assert_eq!(padded.tokens(), 2 * LENGTHS.len() * LENGTH);
    assert!(shared.tokens() < padded.tokens() / 2);
    let (scores, gradients) = step(&model, &shared, EVERYTHING, recompute, &mut workspace);
    let (expected, slopes) = step(&model, &padded, EVERYTHING, recompute, &mut workspace);
    for (statistic, (found, expected)) in scores.iter().zip(&expected).enumerate() {
        let far = distance(found, expected);
        assert!(far < tolerance, "statistic {statistic} differs by {far:e}");
    }
    let trained = host.trainable();
    for i in 0..trained.len() {
        let (range, name) = (trained.range(i), trained.name(i));
        assert!(slopes[range.clone()].iter().any(|x| *x != 0.0), "{name} has no gradient to compare");
        let far = distance(&gradients[range.clone()], &slopes[range]);
        assert!(far < tolerance, "the gradient of {name} differs by {far:e}");
    }
}

#[test]
fn a_packed_batch_is_a_padded_one_in_double_precision() {
    compare::<f64>(false, Recompute::Nothing, EXACT);
    compare::<f64>(true, Recompute::Layers, EXACT);
}

#[test]
fn a_packed_batch_is_a_padded_one_in_single_precision() {
    compare::<f32>(true, Recompute::Nothing, SINGLE);
}

#[test]
fn a_packed_batch_is_a_padded_one_in_bf16() {
    compare::<bf16>(false, Recompute::Nothing, BRAIN);
}

/// Where prompts are not shared either. Products of the kernels here are cut alike for any number of rows while a row is as short as
/// these are; a library may multiply more rows another way.
#[test]
fn padding_changes_no_bit_of_a_score() {
    fn check<T: Element>(device: &Cuda)
    where
        T::Wide: WithDType,
    {
        let mut workspace = Workspace::new(1).on(device);
        let model = model(false).convert::<T::Wide>().unwrap().to_device::<T>(device, &mut workspace).unwrap();
        let texts = Texts::new(&LENGTHS, VOCABULARY);
        let mut score = |packed| widened(model.score(packed, EVERYTHING, Adapter::On, &mut workspace).unwrap());
        assert!(score(&texts.apart()) == score(&texts.padded(LENGTH)));
    }
    let Some(device) = device() else { return };
    let device = device.with_own_products();
    check::<f64>(&device);
    check::<f32>(&device);
    check::<bf16>(&device);
}
