//! Score models on the device beside the host.
use candle_core::WithDType;
use candlewick_kernels::{Element, Float, Workspace};
use candlewick_model::{
    Adapter, CompletionIds, ContextIds, Gradients, LoraConfig, Packed, Recompute, ScoreModel, ScoredAt,
};
use half::bf16;

use super::{BRAIN, EXACT, SINGLE, config, device, distance};

fn model(heads: usize) -> ScoreModel<f64> {
    let names: Vec<String> = (0..heads).map(|head| format!("head {head}")).collect();
    ScoreModel::random(config(false), &names, 5).unwrap()
}

fn adapted() -> ScoreModel<f64> {
    let mut model = model(2);
    let targets = ["k_proj", "o_proj", "up_proj"].map(str::to_owned).to_vec();
    model.add_lora(&LoraConfig { rank: 8, targets, ..LoraConfig::default() }, 3).unwrap();
    model.trainable_mut().data_mut().iter_mut().enumerate().for_each(|(i, x)| *x += 0.05 * (i as f64).sin());
    model
}

/// Two contexts. Of the first one completion is empty, so that a score is read at the prompt's end, where two completions begin:
/// three targets name that state.
fn batch() -> Packed {
    let completion = |ids| CompletionIds::all_scored(ids);
    let completions = vec![
        completion(&[5, 6, 2][..]),
        completion(&[]),
        CompletionIds { ids: &[8, 8, 11, 2], scored: &[true, true, true, false] },
        completion(&[9]),
    ];
    Packed::new(&[
        ContextIds { prompt: &[1, 7, 9, 4], prompt_scored: &[], completions },
        ContextIds { prompt: &[1, 3], prompt_scored: &[], completions: vec![completion(&[22, 2])] },
    ])
    .unwrap()
}

/// Numbers, hidden states and gradients, in f64.
fn step<T: Element>(
    model: &ScoreModel<T>,
    at: ScoredAt,
    recompute: Recompute,
    workspace: &mut Workspace,
) -> [Vec<f64>; 3] {
    let packed = batch();
    let (values, saved) = model.forward(&packed, at, recompute, workspace).unwrap();
    let states = saved.states().unwrap();
    let mut gradients = Gradients::<T::Wide>::beside(model.trainable()).unwrap();
    let d: Vec<T::Wide> = (0..values.len()).map(|i| Float::from_f64((i as f64 + 0.3).sin())).collect();
    model.backward(&packed, saved, &d, &mut gradients, workspace).unwrap();
    [values, states, gradients.to_host().unwrap()].map(|numbers| numbers.into_iter().map(Float::to_f64).collect())
}

/// A step in `T` on the device beside one of the same weights in f64 on the host.
fn check<T: Element>(host: &ScoreModel<f64>, at: ScoredAt, recompute: Recompute, tolerance: f64)
where
    T::Wide: WithDType,
{
    let Some(device) = device() else { return };
    let (mut on_host, mut on_device) = (Workspace::new(1), Workspace::new(1).on(&device));
    let model = host.convert::<T::Wide>().unwrap().to_device::<T>(&device, &mut on_device).unwrap();
    // The weights as the device has rounded them.
    let host = model.to_host().unwrap().convert::<f64>().unwrap();
    assert_eq!(host.heads(), model.heads());
    let expected = step(&host, at, recompute, &mut on_host);
    let found = step(&model, at, recompute, &mut on_device);
    for (what, (found, expected)) in ["values", "states", "gradients"].iter().zip(found.iter().zip(&expected)) {
        assert!(expected.iter().any(|x| *x != 0.0));
        let far = distance(found, expected);
        assert!(far < tolerance, "{at:?}, {what}: {far:e}");
    }
    // Every tensor by itself: a small one hides behind large ones.
    let trained = host.trainable();
    for i in 0..trained.len() {
        let far = distance(&found[2][trained.range(i)], &expected[2][trained.range(i)]);
        assert!(far < 4.0 * tolerance, "{at:?}, {}: {far:e}", trained.name(i));
    }
    // The same bits again, and without keeping anything.
    assert!(step(&model, at, recompute, &mut on_device) == found, "another run has other bits");
    let (values, states) = model.score_with_states(&batch(), at, Adapter::On, &mut on_device).unwrap();
    let [values, states] = [values, states].map(|x| x.into_iter().map(Float::to_f64).collect::<Vec<_>>());
    assert!(values == found[0] && states == found[1], "what nothing is kept of has other bits");
    let values = model.score(&batch(), at, Adapter::Off, &mut on_device).unwrap();
    let off = host.score(&batch(), at, Adapter::Off, &mut on_host).unwrap();
    assert!(distance(&values.into_iter().map(Float::to_f64).collect::<Vec<_>>(), &off) < tolerance);
}

#[test]
fn all_weights_and_heads() {
    check::<f64>(&model(3), ScoredAt::Completions, Recompute::Nothing, EXACT);
    check::<f64>(&model(1), ScoredAt::Targets, Recompute::Layers, EXACT);
    check::<f32>(&model(2), ScoredAt::Targets, Recompute::Nothing, SINGLE);
    check::<bf16>(&model(2), ScoredAt::Completions, Recompute::Nothing, BRAIN);
    check::<bf16>(&model(1), ScoredAt::Targets, Recompute::Nothing, BRAIN);
}

#[test]
fn an_adapter_with_its_heads() {
    check::<f64>(&adapted(), ScoredAt::Completions, Recompute::Layers, EXACT);
    check::<f64>(&adapted(), ScoredAt::Targets, Recompute::Nothing, EXACT);
    check::<bf16>(&adapted(), ScoredAt::Completions, Recompute::Nothing, BRAIN);
}

#[test]
fn numbers_of_another_layout_and_errors() {
    let Some(device) = device() else { return };
    let mut workspace = Workspace::new(1).on(&device);
    let host = model(2);
    let model = host.to_device::<f64>(&device, &mut workspace).unwrap();
    let wrong = model.score(&batch(), ScoredAt::Targets, Adapter::On, &mut Workspace::new(1)).unwrap_err().to_string();
    assert!(wrong.contains("Workspace::on"), "{wrong}");
    let (_, saved) = model.forward(&batch(), ScoredAt::Completions, Recompute::Nothing, &mut workspace).unwrap();
    let mut gradients = Gradients::beside(model.trainable()).unwrap();
    let wrong = model.backward(&batch(), saved, &[1.0; 3], &mut gradients, &mut workspace).unwrap_err().to_string();
    assert!(wrong.contains("hold 3 numbers; expected 10"), "{wrong}");
    let directory = tempfile::tempdir().unwrap();
    assert!(model.save(directory.path()).unwrap_err().to_string().contains("to_host"));
    assert!(model.trained_with(self::model(3).into_parameters(), "base").is_err());
    // What is trained goes to files by way of the host, heads and all.
    let numbers = model.trainable().to_host().unwrap();
    model.trained_with(numbers, "base").unwrap().save(directory.path()).unwrap();
    let back = ScoreModel::<f64>::load(directory.path()).unwrap();
    assert_eq!((back.heads(), back.parameters().data()), (host.heads(), host.parameters().data()));
}

#[test]
fn memory_that_is_not_there() {
    let Some(device) = device() else { return };
    let mut workspace = Workspace::new(1).on(&device);
    let model = model(2).convert::<f32>().unwrap().to_device::<bf16>(&device, &mut workspace).unwrap();
    device.limit_memory(1 << 8);
    assert!(model.forward(&batch(), ScoredAt::Completions, Recompute::Nothing, &mut workspace).is_err());
    device.limit_memory(1 << 30);
    assert!(model.forward(&batch(), ScoredAt::Completions, Recompute::Nothing, &mut workspace).is_ok());
}
