//! Merging of model and adapter directories.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candlewick_kernels::Workspace;
use candlewick_model::merge::{Merge, MergeReport, Method, Stored, Vector};
use candlewick_model::{CausalLm, Config, LoraConfig, Parameters, Result};

const SEVEN: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn config() -> Config {
    let mut config = Config::llama(29, 16, 2);
    config.initializer_range = 0.2;
    config
}

/// A directory with models and adapters by name.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn model(&self, name: &str, seed: u64) -> CausalLm<f64> {
        let model = CausalLm::random(config(), seed).unwrap();
        model.save(&self.at(name)).unwrap();
        model
    }

    /// A base `base` and models `a`, `b` near it.
    fn family(&self) -> [CausalLm<f64>; 3] {
        let base = self.model("base", 1);
        let near = |name: &str, seed: u64| {
            let mut model = base.clone();
            let other = CausalLm::<f64>::random(config(), seed).unwrap();
            let moved = model.trainable_mut().data_mut().iter_mut().zip(other.parameters().data());
            moved.for_each(|(x, y)| *x += 0.1 * (y - *x));
            model.save(&self.at(name)).unwrap();
            model
        };
        let (a, b) = (near("a", 2), near("b", 3));
        [base, a, b]
    }

    /// A trained adapter of the model `base`: every number drawn.
    fn adapter(&self, name: &str, seed: u64, rank: usize, targets: &[&str]) {
        let mut model = CausalLm::<f64>::load(&self.at("base")).unwrap();
        let targets = targets.iter().map(|&target| target.to_owned()).collect();
        model
            .add_lora(
                &LoraConfig {
                    rank,
                    alpha: 3.0,
                    targets,
                    rank_stabilised: seed.is_multiple_of(2),
                    ..LoraConfig::default()
                },
                seed,
            )
            .unwrap();
        let mut state = seed;
        for x in model.trainable_mut().data_mut() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *x = (state >> 33) as f64 / 2f64.powi(31) - 0.5;
        }
        model.save_adapter(&self.at(name), "base").unwrap();
    }

    fn models(&self, names: &[&str], base: Option<&str>) -> Merge {
        Merge::Models { models: names.iter().map(|name| self.at(name)).collect(), base: base.map(|name| self.at(name)) }
    }

    fn merged(&self, merge: &Merge, method: &Method) -> CausalLm<f64> {
        write(merge, method, None, &self.at("out")).unwrap();
        CausalLm::load(&self.at("out")).unwrap()
    }

    /// The weights of the base with the adapter in them.
    fn applied(&self, adapter: &Path) -> Vec<f64> {
        let mut model = CausalLm::<f64>::load(&self.at("base")).unwrap();
        model.load_adapter(adapter).unwrap();
        model.merge_adapter(&mut Workspace::new(1)).unwrap();
        model.parameters().data().to_vec()
    }
}

fn write(merge: &Merge, method: &Method, stored: Option<Stored>, output: &Path) -> Result<MergeReport> {
    let _ = std::fs::remove_dir_all(output);
    std::fs::create_dir_all(output).unwrap();
    merge.write(method, stored, output, &mut |_, _| {})
}

fn linear(weights: &[f64]) -> Method {
    Method::Linear { weights: weights.to_vec(), normalize: true }
}

fn arithmetic(weights: &[f64], lambda: f64) -> Method {
    Method::TaskArithmetic { weights: weights.to_vec(), normalize: false, lambda }
}

fn slerp(vector: Vector, lambda: f64) -> Method {
    Method::Slerp { t: 0.5, vector, lambda }
}

fn ties(count: usize, density: f64) -> Method {
    Method::Ties { weights: vec![1.0; count], densities: vec![density; count], normalize: true, lambda: 1.0 }
}

fn dare(elect: bool, density: f64, seed: u64) -> Method {
    let (weights, densities) = (vec![1.0; 2], vec![density; 2]);
    Method::Dare { weights, densities, elect, normalize: elect, rescale: true, seed, lambda: 1.0 }
}

#[track_caller]
fn close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance, "off by {worst}");
}

/// `Σ cᵢ·xᵢ`, written out.
fn sum(parts: &[(f64, &[f64])]) -> Vec<f64> {
    (0..parts[0].1.len()).map(|i| parts.iter().map(|(factor, x)| factor * x[i]).sum()).collect()
}

#[test]
fn means_and_task_vectors_of_whole_models() {
    let place = Place::new();
    let family = place.family();
    let [base, a, b] = family.each_ref().map(|model| model.parameters().data());
    let mean = place.merged(&place.models(&["a", "b"], None), &linear(&[3.0, 1.0]));
    close(mean.parameters().data(), &sum(&[(0.75, a), (0.25, b)]), 1e-15);
    let together = place.merged(&place.models(&["a", "b"], Some("base")), &arithmetic(&[0.5, 2.0], 0.3));
    close(together.parameters().data(), &sum(&[(1.0 - 0.75, base), (0.15, a), (0.6, b)]), 1e-15);
    // One model and a factor: the way back to the base.
    let back = place.merged(&place.models(&["a"], Some("base")), &arithmetic(&[1.0], 0.25));
    close(back.parameters().data(), &sum(&[(0.75, base), (0.25, a)]), 1e-15);
    // Configuration and logits are those of a model that was merged in memory.
    assert_eq!(back.config().num_hidden_layers, 2);
    let mut by_hand = family[0].clone();
    by_hand.trainable_mut().data_mut().copy_from_slice(&sum(&[(0.75, base), (0.25, a)]));
    let logits = |model: &CausalLm<f64>| {
        let logits = model.logits(&[1, 5, 28], &mut Workspace::new(1)).unwrap();
        logits.flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    close(&logits(&back), &logits(&by_hand), 1e-13);
}

#[test]
fn slerp_takes_a_tensor_or_a_layer_for_one_vector() {
    let place = Place::new();
    let [base, a, b] = place.family();
    for (vector, vectors) in [(Vector::Tensor, 1 + 2 * 9 + 1), (Vector::Layer, 1 + 2 + 1)] {
        let merge = place.models(&["a", "b"], Some("base"));
        let report = write(&merge, &slerp(vector, 0.3), None, &place.at("out")).unwrap();
        let merged = CausalLm::<f64>::load(&place.at("out")).unwrap();
        assert_eq!(report.vectors, vectors);
        // Norms are ones in all models: their task vectors are zero.
        let zero: Vec<&str> = report.straight.iter().map(String::as_str).collect();
        match vector {
            Vector::Tensor => assert_eq!(zero.len(), 5, "{zero:?}"),
            Vector::Layer => assert_eq!(zero, ["model.norm.weight"]),
        }
        // The same by tensors gathered into vectors, and half the angle's formula: (a+b) / (2·cos(Ω/2)).
        let of = |name: &str| match name.split('.').collect::<Vec<_>>()[..] {
            ["model", "layers", layer, ..] if vector == Vector::Layer => format!("layer {layer}"),
            _ => name.to_owned(),
        };
        let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for i in 0..base.parameters().len() {
            groups.entry(of(base.parameters().name(i))).or_default().push(i);
        }
        assert_eq!(groups.len(), vectors);
        for members in groups.values() {
            let gather =
                |model: &Parameters<f64>| members.iter().flat_map(|&i| model.tensor(i).to_vec()).collect::<Vec<f64>>();
            let (x, got) = (gather(base.parameters()), gather(merged.parameters()));
            let da = sum(&[(1.0, &gather(a.parameters())), (-1.0, &x)]);
            let db = sum(&[(1.0, &gather(b.parameters())), (-1.0, &x)]);
            let dot = |u: &[f64], v: &[f64]| u.iter().zip(v).map(|(u, v)| u * v).sum::<f64>();
            let cosine = dot(&da, &db) / (dot(&da, &da) * dot(&db, &db)).sqrt();
            let factor = if cosine.is_nan() { 0.0 } else { 0.3 / (2.0 * ((1.0 + cosine) / 2.0).sqrt()) };
            close(&got, &sum(&[(1.0, &x), (factor, &da), (factor, &db)]), 1e-13);
        }
    }
    // Without a base the arc is between the weights.
    let report = write(&place.models(&["a", "a"], None), &slerp(Vector::Tensor, 1.0), None, &place.at("out")).unwrap();
    assert_eq!(report.straight.len(), report.vectors);
    assert_eq!(CausalLm::<f64>::load(&place.at("out")).unwrap().parameters().data(), a.parameters().data());
}

#[test]
fn ties_dare_and_iso_of_one_model_give_it_back() {
    let place = Place::new();
    let [base, a, _] = place.family();
    let one = place.models(&["a"], Some("base"));
    close(place.merged(&one, &ties(1, 1.0)).parameters().data(), a.parameters().data(), 1e-15);
    let dare = Method::Dare {
        weights: vec![1.0],
        densities: vec![1.0],
        elect: false,
        normalize: false,
        rescale: true,
        seed: 0,
        lambda: 1.0,
    };
    close(place.merged(&one, &dare).parameters().data(), a.parameters().data(), 1e-15);
    // λ = 0 is the base; a model merged with itself has the same spectrum, scaled.
    let nothing = place.merged(&one, &Method::IsoC { lambda: 0.0 });
    assert_eq!(nothing.parameters().data(), base.parameters().data());
    let twice = place.merged(&place.models(&["a", "a"], Some("base")), &Method::IsoC { lambda: 0.5 });
    let once = place.merged(&one, &Method::IsoC { lambda: 1.0 });
    // Norms and other vectors are averaged, not added up: in this family they do not move.
    close(twice.parameters().data(), once.parameters().data(), 1e-13);
    let cts = place.merged(&one, &Method::IsoCts { common: 0.8, lambda: 1.0 });
    close(cts.parameters().data(), once.parameters().data(), 1e-12);
}

#[test]
fn a_merge_is_the_same_to_the_bit_each_time_and_the_seed_decides() {
    let place = Place::new();
    place.family();
    let merge = place.models(&["a", "b"], Some("base"));
    let bytes = |method: &Method, name: &str| {
        write(&merge, method, None, &place.at(name)).unwrap();
        std::fs::read(place.at(name).join("model.safetensors")).unwrap()
    };
    for method in [dare(true, 0.3, 5), dare(false, 0.3, 5), ties(2, 0.2), Method::IsoCts { common: 0.8, lambda: 1.0 }] {
        assert!(bytes(&method, "first") == bytes(&method, "second"), "{}", method.name());
    }
    assert!(bytes(&dare(false, 0.3, 5), "first") != bytes(&dare(false, 0.3, 6), "second"));
    // Two models that are one lose different elements.
    let twins = place.models(&["a", "a"], Some("base"));
    let model = place.merged(&twins, &dare(false, 0.5, 0));
    let base = CausalLm::<f64>::load(&place.at("base")).unwrap();
    let a = CausalLm::<f64>::load(&place.at("a")).unwrap();
    let (name, both) = ("model.layers.0.mlp.up_proj.weight", [0.0, 2.0, 4.0]);
    let mut counts = [0usize; 3];
    for ((x, base), a) in model
        .parameters()
        .get(name)
        .unwrap()
        .iter()
        .zip(base.parameters().get(name).unwrap())
        .zip(a.parameters().get(name).unwrap())
    {
        let times = (x - base) / (a - base);
        let found = both.iter().position(|want| (times - want).abs() < 1e-6);
        counts[found.unwrap_or_else(|| panic!("{times} times the delta"))] += 1;
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[test]
fn files_of_every_precision_and_sharded_ones() {
    let place = Place::new();
    let [_, a, _] = place.family();
    a.save_sharded(&place.at("sharded"), 4000).unwrap();
    let same = place.merged(&place.models(&["sharded"], None), &linear(&[1.0]));
    assert_eq!(same.parameters().data(), a.parameters().data());

    let recast = |dtype: DType, name: &str| {
        let tensors = candle_core::safetensors::load(place.at("a").join("model.safetensors"), &Device::Cpu).unwrap();
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap()));
        std::fs::create_dir_all(place.at(name)).unwrap();
        let tensors: std::collections::HashMap<String, Tensor> = tensors.collect();
        candle_core::safetensors::save(&tensors, place.at(name).join("model.safetensors")).unwrap();
        std::fs::copy(place.at("a").join("config.json"), place.at(name).join("config.json")).unwrap();
    };
    for (dtype, stored, name, torch) in [
        (DType::F64, Stored::F64, "f64", "float64"),
        (DType::F32, Stored::F32, "f32", "float32"),
        (DType::F16, Stored::F16, "f16", "float16"),
        (DType::BF16, Stored::Bf16, "bf16", "bfloat16"),
    ] {
        recast(dtype, name);
        let file = |output: &str| {
            candle_core::safetensors::load(place.at(output).join("model.safetensors"), &Device::Cpu).unwrap()
        };
        // As the first model has it, and as it is asked for.
        write(&place.models(&[name], None), &linear(&[1.0]), None, &place.at("kept")).unwrap();
        write(&place.models(&["a"], None), &linear(&[1.0]), Some(stored), &place.at("made")).unwrap();
        for (tensor, want) in file(name) {
            for output in ["kept", "made"] {
                let got = &file(output)[&tensor];
                assert_eq!(got.dtype(), dtype);
                let numbers =
                    |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
                assert_eq!(numbers(got), numbers(&want), "{tensor} as {torch}");
            }
        }
        let config = std::fs::read_to_string(place.at("kept").join("config.json")).unwrap();
        assert!(config.contains(&format!("\"torch_dtype\": \"{torch}\"")), "{config}");
        CausalLm::<f32>::load(&place.at("kept")).unwrap();
    }
}

#[test]
fn adapters_are_added_up_without_loss() {
    let place = Place::new();
    place.model("base", 1);
    place.adapter("x", 3, 2, &SEVEN);
    place.adapter("y", 4, 3, &["q_proj", "down_proj"]);
    let base = CausalLm::<f64>::load(&place.at("base")).unwrap().parameters().data().to_vec();
    let (x, y) = (place.applied(&place.at("x")), place.applied(&place.at("y")));
    let adapters = vec![place.at("x"), place.at("y")];
    let both = Merge::Adapters { adapters: adapters.clone(), rank: None, preference: None };
    let into = Merge::IntoBase { adapters, base: place.at("base"), preference: None };
    for (method, want) in [
        (arithmetic(&[0.75, -1.5], 2.0), sum(&[(1.0 - 1.5 + 3.0, &base), (1.5, &x), (-3.0, &y)])),
        (linear(&[3.0, 1.0]), sum(&[(0.75, &x), (0.25, &y)])),
    ] {
        let report = write(&both, &method, None, &place.at("adapter")).unwrap();
        assert_eq!((report.rank, report.tensors), (Some(5), 14));
        close(&place.applied(&place.at("adapter")), &want, 1e-13);
        close(place.merged(&into, &method).parameters().data(), &want, 1e-13);
    }
    // The same as merging the models that the adapters make of their base, for every method.
    for (name, weights) in [("full x", &x), ("full y", &y)] {
        let mut model = CausalLm::<f64>::load(&place.at("base")).unwrap();
        model.trainable_mut().data_mut().copy_from_slice(weights);
        model.save(&place.at(name)).unwrap();
    }
    let models = place.models(&["full x", "full y"], Some("base"));
    // Iso sees differences of weights that rounding has made of full rank, so the two differ there.
    for method in
        [arithmetic(&[1.0, 0.5], 1.0), slerp(Vector::Layer, 0.3), slerp(Vector::Tensor, 1.0), dare(true, 0.5, 3)]
    {
        let direct = place.merged(&into, &method).parameters().data().to_vec();
        close(&direct, place.merged(&models, &method).parameters().data(), 1e-12);
        if let Method::Slerp { .. } = method {
            write(&both, &method, None, &place.at("adapter")).unwrap();
            close(&place.applied(&place.at("adapter")), &direct, 1e-13);
        }
    }
    // Iso stays within the span of the products: nothing is lost at the sum of the ranks.
    for method in [Method::IsoC { lambda: 0.7 }, Method::IsoCts { common: 0.5, lambda: 0.7 }] {
        let report = write(&both, &method, None, &place.at("adapter")).unwrap();
        assert!(report.least.unwrap().1 > 1.0 - 1e-12);
        close(&place.applied(&place.at("adapter")), place.merged(&into, &method).parameters().data(), 1e-12);
    }
    // One adapter, written into its base.
    let one = Merge::IntoBase { adapters: vec![place.at("x")], base: place.at("base"), preference: None };
    close(place.merged(&one, &linear(&[1.0])).parameters().data(), &x, 1e-14);
}

/// Logits of the base with an adapter, at a preference where one is given.
fn logits(place: &Place, adapter: &str, preference: Option<&[f64]>) -> Vec<f64> {
    let mut model = CausalLm::<f64>::load(&place.at("base")).unwrap();
    model.load_adapter(&place.at(adapter)).unwrap();
    if let Some(preference) = preference {
        model.set_preference(preference).unwrap();
    }
    let logits = model.logits(&[1, 5, 9, 2], &mut Workspace::new(1)).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_panacea_adapter_becomes_a_lora_adapter_at_each_preference() {
    let place = Place::new();
    let mut model = place.model("base", 1);
    model.add_lora(&LoraConfig { rank: 3, alpha: 5.0, preferences: 2, ..LoraConfig::default() }, 1).unwrap();
    for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
        *x += 0.2 * (i as f64).sin();
    }
    model.save_adapter(&place.at("panacea"), "base").unwrap();
    let adapters = vec![place.at("panacea")];
    let mut seen: Vec<Vec<f64>> = Vec::new();
    for preference in [[1.0, 0.0], [0.3, 0.7]] {
        let expected = logits(&place, "panacea", Some(&preference));
        assert!(!seen.contains(&expected), "the preference acts");
        let given = Some(preference.to_vec());
        let merge = Merge::Adapters { adapters: adapters.clone(), rank: None, preference: given.clone() };
        let report = write(&merge, &linear(&[1.0]), None, &place.at("lora")).unwrap();
        assert_eq!(report.rank, Some(5));
        close(&logits(&place, "lora", None), &expected, 1e-12);
        let config = std::fs::read_to_string(place.at("lora").join("adapter_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!((&config["peft_type"], &config["r"], &config["lora_alpha"]), (&"LORA".into(), &5.into(), &5.into()));
        assert!(config.get("preferences").is_none() && config.get("orthogonality").is_none(), "{config}");
        let into = Merge::IntoBase { adapters: adapters.clone(), base: place.at("base"), preference: given };
        let whole = place.merged(&into, &linear(&[1.0]));
        let whole = whole.logits(&[1, 5, 9, 2], &mut Workspace::new(1)).unwrap();
        close(&whole.flatten_all().unwrap().to_vec1().unwrap(), &expected, 1e-12);
        seen.push(expected);
    }
    // Without being asked for any, a model stands at equal preferences.
    assert_eq!(logits(&place, "panacea", None), logits(&place, "panacea", Some(&[0.5, 0.5])));

    let refused = |adapter: &str, preference: Option<Vec<f64>>, words: &str| {
        let merge = Merge::Adapters { adapters: vec![place.at(adapter)], rank: None, preference };
        let error = write(&merge, &linear(&[1.0]), None, &place.at("out")).unwrap_err().to_string();
        assert!(error.contains(words), "{words:?} is missing in: {error}");
    };
    refused("panacea", None, "is a Panacea adapter; say at which preference it is to be taken, 2 numbers");
    refused("panacea", Some(vec![1.0]), "1 numbers and the adapter 2 preferences");
    refused("panacea", Some(vec![0.5, 0.6]), "expected 1");
    refused("lora", Some(vec![0.5, 0.5]), "there is no Panacea adapter");
    // Settings that do not fit the tensors.
    let path = place.at("panacea").join("adapter_config.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    for (settings, count, words) in [
        (r#""preferences":1"#, 1, "expected 2 to 64"),
        (r#""preferences":5"#, 5, "expected more than the 5"),
        (r#""preferences":3"#, 3, "lora_sigma"),
        (r#""preferences":"two""#, 2, "is missing or no count"),
    ] {
        let compact: serde_json::Value = serde_json::from_str(&whole).unwrap();
        std::fs::write(&path, compact.to_string().replace(r#""preferences":2"#, settings)).unwrap();
        refused("panacea", Some(vec![1.0 / f64::from(count); count as usize]), words);
        let error = CausalLm::<f64>::load(&place.at("base")).unwrap().load_adapter(&place.at("panacea")).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_smaller_rank_is_the_nearest_and_says_what_it_holds() {
    let place = Place::new();
    place.model("base", 1);
    place.adapter("x", 3, 4, &SEVEN);
    place.adapter("y", 5, 4, &SEVEN);
    let merge = |rank| Merge::Adapters { adapters: vec![place.at("x"), place.at("y")], rank, preference: None };
    let base = CausalLm::<f64>::load(&place.at("base")).unwrap().parameters().data().to_vec();
    let squares = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
    let method = arithmetic(&[1.0, 1.0], 1.0);
    write(&merge(None), &method, None, &place.at("whole")).unwrap();
    let whole = sum(&[(1.0, &place.applied(&place.at("whole"))), (-1.0, &base)]);
    let mut before = f64::INFINITY;
    for rank in [1, 3, 6, 8, 11] {
        let report = write(&merge(Some(rank)), &method, None, &place.at("cut")).unwrap();
        assert_eq!(report.rank, Some(rank));
        let cut = sum(&[(1.0, &place.applied(&place.at("cut"))), (-1.0, &base)]);
        let lost = squares(&sum(&[(1.0, &whole), (-1.0, &cut)]));
        // A projection: what is lost is at a right angle to what is kept.
        assert!((squares(&cut) + lost - squares(&whole)).abs() < 1e-9 * squares(&whole));
        assert!(lost < before || rank > 8, "{lost} at rank {rank}");
        let held = report.least.unwrap().1;
        assert!((rank < 8) == (held < 1.0 - 1e-9), "{held} at rank {rank}");
        before = lost;
    }
    assert!(before < 1e-20);
    // Elementwise methods make products of full rank.
    let error = write(&merge(None), &ties(2, 0.5), None, &place.at("cut")).unwrap_err().to_string();
    assert!(error.contains("give a rank") && error.contains("base"), "{error}");
    let full = write(&merge(Some(16)), &ties(2, 0.5), None, &place.at("cut")).unwrap();
    assert!(full.least.unwrap().1 > 1.0 - 1e-12);
    let into =
        Merge::IntoBase { adapters: vec![place.at("x"), place.at("y")], base: place.at("base"), preference: None };
    close(&place.applied(&place.at("cut")), place.merged(&into, &ties(2, 0.5)).parameters().data(), 1e-12);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let place = Place::new();
    place.family();
    let error = |merge: &Merge, method: &Method| write(merge, method, None, &place.at("out")).unwrap_err().to_string();
    let refused = |merge: &Merge, method: &Method, words: &[&str]| {
        let error = error(merge, method);
        words.iter().for_each(|word| assert!(error.contains(word), "{word:?} is missing in: {error}"));
    };
    let other = |name: &str, config: Config| CausalLm::<f64>::random(config, 1).unwrap().save(&place.at(name)).unwrap();
    other("wide", Config::llama(29, 24, 2));
    other("deep", Config::llama(29, 16, 3));
    other("wordy", Config::llama(31, 16, 2));
    let (mut untied, mut turning) = (config(), config());
    untied.tie_word_embeddings = false;
    turning.rope_theta = 5.0;
    other("untied", untied);
    other("turning", turning);
    let two = |name: &str| place.models(&["a", name], None);
    let mean = linear(&[1.0, 1.0]);
    refused(&two("wide"), &mean, &["wide", "model.embed_tokens.weight", "[29, 24]", "[29, 16]"]);
    refused(&two("wordy"), &mean, &["wordy", "model.embed_tokens.weight", "[31, 16]"]);
    refused(&two("deep"), &mean, &["deep", "model.layers.2", "is not in"]);
    refused(&place.models(&["deep", "a"], None), &mean, &["model.layers.2", "is not there"]);
    refused(&two("untied"), &mean, &["untied", "lm_head.weight"]);
    refused(&two("turning"), &mean, &["turning", "config.json", "rope_theta"]);
    refused(&two("absent"), &mean, &["absent"]);
    refused(&two("a"), &ties(2, 0.5), &["ties", "base"]);
    refused(&place.models(&["a", "b"], Some("base")), &mean, &["linear", "base"]);
    refused(&two("b"), &slerp(Vector::Tensor, 0.5), &["slerp", "lambda", "base"]);
    refused(&place.models(&["a"], None), &slerp(Vector::Tensor, 1.0), &["between two models", "1 are named"]);

    // Damaged files.
    let file = place.at("b").join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    for cut in [0, 4, 100, whole.len() - 1] {
        std::fs::write(&file, &whole[..cut]).unwrap();
        assert!(error(&two("b"), &mean).contains("model.safetensors"), "cut at {cut}");
    }
    let mut poisoned = whole.clone();
    let end = poisoned.len();
    poisoned[end - 8..].copy_from_slice(&f64::NAN.to_le_bytes());
    std::fs::write(&file, poisoned).unwrap();
    refused(&two("b"), &mean, &["/b", "NaN", "weight"]);
    let mut whole_numbers = whole.clone();
    let at = whole.windows(5).position(|bytes| bytes == b"\"F64\"").unwrap();
    whole_numbers[at + 1] = b'I';
    std::fs::write(&file, whole_numbers).unwrap();
    refused(&two("b"), &mean, &["I64", "BF16"]);
    // What F16 cannot hold.
    std::fs::write(&file, whole).unwrap();
    let huge = arithmetic(&[1e9], 1.0);
    let said = write(&place.models(&["a"], Some("base")), &huge, Some(Stored::F16), &place.at("out")).unwrap_err();
    assert!(said.to_string().contains("F16 cannot hold"), "{said}");
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name() {
    let place = Place::new();
    place.model("base", 1);
    place.adapter("x", 3, 2, &SEVEN);
    let refused = |merge: &Merge, method: &Method, words: &[&str]| {
        let error = write(merge, method, None, &place.at("out")).unwrap_err().to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "{word:?} is missing in: {error}"));
    };
    let adapters = |names: &[&str]| names.iter().map(|name| place.at(name)).collect::<Vec<_>>();
    let among = |names: &[&str]| Merge::Adapters { adapters: adapters(names), rank: None, preference: None };
    let wide = CausalLm::<f64>::random(Config::llama(29, 24, 2), 1).unwrap();
    wide.save(&place.at("wide")).unwrap();
    let mut other = wide.clone();
    other.add_lora(&LoraConfig { rank: 2, ..LoraConfig::default() }, 1).unwrap();
    other.save_adapter(&place.at("of wide"), "wide").unwrap();
    let one = linear(&[1.0]);
    let into = |adapter: &str, base: &str| Merge::IntoBase {
        adapters: adapters(&[adapter]),
        base: place.at(base),
        preference: None,
    };
    refused(&among(&["x", "of wide"]), &linear(&[1.0, 1.0]), &["of wide", "one base"]);
    refused(&into("of wide", "base"), &one, &["of wide", "down_proj", "[24, 64]", "[16, 48]"]);
    refused(&into("x", "x"), &one, &["config.json"]);
    refused(&among(&["base"]), &one, &["adapter_config.json", "PEFT"]);
    refused(&among(&["x"]), &Method::Linear { weights: vec![1.0], normalize: false }, &["task_arithmetic"]);
    let ranked = |rank| Merge::Adapters { adapters: adapters(&["x"]), rank: Some(rank), preference: None };
    refused(&ranked(0), &one, &["rank is 0"]);
    refused(&ranked(1 << 20), &one, &["rank is 1048576"]);

    // An adapter of the head, where the head is the embedding.
    place.adapter("head", 3, 2, &["lm_head"]);
    refused(&into("head", "base"), &one, &["also the embedding"]);
    // A pair that lost one side, and a NaN.
    let file = place.at("x").join("adapter_model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let named = String::from_utf8_lossy(&whole).into_owned();
    let at = named.find("lora_A").unwrap();
    let mut renamed = whole.clone();
    renamed[at..at + 6].copy_from_slice(b"lora_C");
    std::fs::write(&file, renamed).unwrap();
    refused(&among(&["x"]), &one, &["no part of a pair"]);
    let mut poisoned = whole.clone();
    let end = poisoned.len();
    poisoned[end - 8..].copy_from_slice(&f64::INFINITY.to_le_bytes());
    std::fs::write(&file, poisoned).unwrap();
    refused(&among(&["x"]), &one, &["inf", "lora_"]);
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    refused(&among(&["x"]), &one, &["adapter_model.safetensors"]);
}

#[test]
fn pairs_recorded_by_torch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expected/merging.json");
    let recorded: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let entry = &recorded["adapters"];
    let vector = |value: &serde_json::Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let place = Place::new();
    let module = "base_model.model.model.layers.0.self_attn.q_proj";
    for (i, (rank, alpha)) in [(2usize, 4.0), (3, 1.5)].into_iter().enumerate() {
        let directory = place.at(&i.to_string());
        std::fs::create_dir_all(&directory).unwrap();
        let tensor = |numbers: &serde_json::Value, shape: (usize, usize)| {
            Tensor::from_vec(vector(numbers), shape, &Device::Cpu).unwrap()
        };
        let tensors = std::collections::HashMap::from([
            (format!("{module}.lora_A.weight"), tensor(&entry["a"][i], (rank, 10))),
            (format!("{module}.lora_B.weight"), tensor(&entry["b"][i], (8, rank))),
        ]);
        candle_core::safetensors::save(&tensors, directory.join("adapter_model.safetensors")).unwrap();
        let config =
            serde_json::json!({ "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"] });
        std::fs::write(directory.join("adapter_config.json"), config.to_string()).unwrap();
    }
    for (rank, want, share) in [(None, "sum", 1.0), (Some(3), "nearest", entry["share"].as_f64().unwrap())] {
        let merge = Merge::Adapters { adapters: vec![place.at("0"), place.at("1")], rank, preference: None };
        let report = write(&merge, &arithmetic(&[0.75, 1.5], 1.0), None, &place.at("out")).unwrap();
        let tensors =
            candle_core::safetensors::load(place.at("out").join("adapter_model.safetensors"), &Device::Cpu).unwrap();
        let side = |side: char| &tensors[&format!("{module}.lora_{side}.weight")];
        let product = side('B').matmul(side('A')).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        close(&product, &vector(&entry[want]), 1e-13);
        assert!((report.least.unwrap().1 - share).abs() < 1e-13);
        let config = std::fs::read_to_string(place.at("out").join("adapter_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["r"], config["lora_alpha"], "the scale is 1");
        assert_eq!(config["r"], rank.unwrap_or(5));
    }
}
