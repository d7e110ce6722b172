//! What plans make of words, and what they refuse.
use super::*;
use crate::config::Words;

const MINIMAL: &str = "model.path = \"base\"\ndata.path = \"pairs.jsonl\"\noutput.dir = \"out\"\n";

fn plan(assignments: &[&str]) -> Result<Plan> {
    let mut words = Words::parse(MINIMAL, "test").unwrap();
    assignments.iter().try_for_each(|assignment| words.set(assignment))?;
    Plan::resolve(words.config()?)
}

fn refused(assignments: &[&str]) -> String {
    plan(assignments).unwrap_err().to_string()
}

#[test]
fn defaults_follow_from_the_objective_and_the_adapter() {
    assert_eq!(plan(&[]).unwrap().reference, ReferencePlan::Frozen);
    assert_eq!(plan(&["model.lora.rank=4"]).unwrap().reference, ReferencePlan::AdapterOff);
    assert_eq!(plan(&["model.adapter=a"]).unwrap().reference, ReferencePlan::Frozen);
    assert_eq!(plan(&["objective.type=sft"]).unwrap().reference, ReferencePlan::None);
    assert_eq!(plan(&["reference.path=other"]).unwrap().reference, ReferencePlan::Model("other".into()));
    let precomputed = plan(&["reference.kind=precomputed"]).unwrap().reference;
    assert_eq!(precomputed, ReferencePlan::Precomputed("out/reference-cache".into()));
    assert_eq!(plan(&[]).unwrap().train.length, Length::Epochs(1));
}

#[test]
fn a_budget_of_tokens_is_a_number_or_follows_from_a_device() {
    assert_eq!(plan(&["train.tokens=0"]).unwrap().train.tokens, None);
    assert_eq!(plan(&["train.tokens=512"]).unwrap().train.tokens, Some(TokenBudget::Tokens(512)));
    let auto = plan(&["train.tokens=auto", "train.device=cuda"]).unwrap();
    assert_eq!(auto.train.tokens, Some(TokenBudget::Auto));
    let text = refused(&["train.tokens=auto"]);
    assert!(text.starts_with("train.tokens: ") && text.contains("train.device"), "{text}");
    let text = refused(&["train.tokens=auto", "train.device=cuda", "objective.type=kto"]);
    assert!(text.starts_with("train.tokens: given"), "{text}");
    assert!(refused(&["train.tokens=most"]).contains("a number of tokens, or \"auto\""));
    // A run that goes on has the number that it began with.
    let began = plan(&["train.tokens=512", "train.device=cuda"]).unwrap();
    let resumed = auto.clone().with_tokens_of(&began.to_json());
    assert_eq!(resumed, began);
    let other = plan(&["train.tokens=7"]).unwrap().to_json();
    assert_eq!(began.with_tokens_of(&other).train.tokens, resumed.train.tokens);
    // Where it has none, that is still to be decided.
    let without = plan(&["train.device=cuda"]).unwrap().to_json();
    assert_eq!(auto.with_tokens_of(&without).train.tokens, Some(TokenBudget::Auto));
}

#[test]
fn stratified_steps_are_the_default_of_verdicts_in_shuffled_order() {
    for (assignments, stratified) in [
        (&["objective.type=kto"][..], true),
        (&["objective.type=bco"], true),
        (&["objective.type=kto", "data.stratified=false"], false),
        (&["objective.type=kto", "train.order=file"], false),
        (&["objective.type=kto", "train.order=file", "data.stratified=true"], true),
        (&["objective.type=bco", "train.batch_size=1"], false),
        (&["objective.type=sft"], false),
        (&["objective.type=sft", "data.stratified=true"], true),
        (&[], false),
    ] {
        assert_eq!(plan(assignments).unwrap().data.stratified, stratified, "{assignments:?}");
    }
    assert!(refused(&["data.stratified=true"]).starts_with("data.stratified: true, and the objective"));
}

#[test]
fn preferences_are_those_of_objective_and_adapter() {
    let panacea = [
        "objective.type=panacea",
        "objective.mix={ parts = [ { loss = { type = \"dpo\" } }, { loss = { type = \"ipo\" } } ] }",
    ];
    let with = |more: &[&'static str]| [&panacea[..], more].concat();
    let resolved = plan(&with(&["model.lora={ rank = 2, preferences = 2 }"])).unwrap();
    assert_eq!(resolved.reference, ReferencePlan::AdapterOff);
    assert!(resolved.to_string().contains("model.tuning.lora.preferences = 2\n"));
    // The base says the same at every preference.
    plan(&with(&["model.lora={ rank = 2, preferences = 2 }", "reference.kind=precomputed"])).unwrap();
    for (assignments, words) in [
        (
            with(&["model.lora.rank=2"]),
            "model.lora.preferences: no Panacea adapter, and the objective panacea has 2 parts",
        ),
        (with(&[]), "no Panacea adapter"),
        (
            with(&["model.lora={ rank = 2, preferences = 3 }"]),
            "model.lora.preferences: 3, and the objective panacea has 2 parts",
        ),
        (
            vec!["model.lora={ rank = 2, preferences = 2 }"],
            "a Panacea adapter of 2 preferences, and the objective dpo weighs none",
        ),
        (
            with(&["model.lora={ rank = 2, preferences = 2 }", "reference.kind=adapter", "reference.path=x"]),
            "whose place no other adapter takes",
        ),
    ] {
        let text = refused(&assignments);
        assert!(text.contains(words), "{text}");
    }
    let inner = "objective.loss={ type = \"panacea\", mix = { parts = [ { loss = { type = \"dpo\" } }, { loss = { type = \"ipo\" } } ] } }";
    let text = refused(&["objective.type=wpo", inner, "model.lora={ rank = 2, preferences = 2 }"]);
    assert!(text.contains("which must be the outermost"), "{text}");
    // Plans of before say the same as ever.
    let plain = plan(&["model.lora.rank=2"]).unwrap().to_string();
    assert!(!plain.contains("preferences") && !plain.contains("orthogonality"), "{plain}");
}

#[test]
fn multipliers_that_nothing_could_move_are_refused() {
    let fixed = ["objective.type=safe_rlhf_lagrangian", "objective.lambda=[1.5]"];
    plan(&fixed).unwrap();
    let moving = refused(&[fixed[0], "objective.dual=[{ limit = 0.5 }]"]);
    assert!(moving.starts_with("objective.dual: given, and nobody says what answers"), "{moving}");
    assert!(moving.contains("[safety] with prompts and costs"), "{moving}");
    let section = ["safety.prompts=asked.jsonl", "safety.costs=[\"cost\"]"];
    let dual = [fixed[0], "objective.dual=[{ limit = 0.5 }]", section[0], section[1]];
    let plan_of_it = plan(&dual).unwrap();
    let safety = plan_of_it.safety.clone().unwrap();
    assert_eq!((safety.costs[0].models.len(), &safety.costs[0].head, safety.every), (1, &None, 8));
    let text = serde_json::to_string(&plan_of_it).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan_of_it);
    let nobody = refused(&[&fixed[..], &section].concat());
    assert!(nobody.starts_with("safety: the objective of [objective] has no multipliers"), "{nobody}");
    for (assignment, text) in [
        ("safety.costs=[]", "safety.costs: it has 0 entries, and objective.dual has 1; give"),
        ("safety.costs=[\"a\", \"b\"]", "safety.costs: it has 2 entries"),
        ("safety.costs=[[]]", "safety.costs[0]: it names no model"),
        ("safety.prompts=\"\"", "safety.prompts: missing; name a file of prompts"),
        ("safety.every=0", "safety.every: 0; expected at least 1"),
        ("safety.completions=0", "safety.completions: 0; expected at least 1"),
        ("safety.temperature=0", "safety.temperature: 0, and every one of the 4 answers"),
        ("safety.temperature=-1.0", "safety.temperature: -1; expected 0 or a positive number"),
        ("safety.top_p=1.5", "safety.top_p: 1.5; expected a number above 0 and at most 1"),
        ("safety.top_k=0", "safety.top_k: 0; expected at least 1"),
    ] {
        let found = refused(&[&dual[..], &[assignment]].concat());
        assert!(found.starts_with(text), "{found}");
    }
    for (costs, head) in [("[[\"a\", \"b\"]]", None), ("[{ model = [\"a\", \"b\"], head = \"cost\" }]", Some("cost"))] {
        let safety = plan(&[&dual[..], &[&format!("safety.costs={costs}")]].concat()).unwrap().safety.unwrap();
        assert_eq!((safety.costs[0].models.len(), safety.costs[0].head.as_deref()), (2, head));
    }
    let odd = Words::parse(MINIMAL, "test").unwrap().set("safety.costs=[{ model = \"a\", haed = \"cost\" }]");
    let odd = odd.unwrap_err().to_string();
    assert!(odd.starts_with("safety.costs[0]: ") && odd.contains("a directory of a score model, a list"), "{odd}");
    // Another round is another run.
    let text = plan(&[&dual[..], &["safety.every=3"]].concat()).unwrap();
    let text = text.check_resumes(&plan_of_it.to_json(), 4).unwrap_err().to_string();
    assert!(text.contains("safety.every is 3, was 8"), "{text}");
}

#[test]
fn prompts_are_told_apart_where_the_objective_reads_it() {
    let bco = ["objective.type=bco", "objective.density_ratio={}", "train.seed=5"];
    assert_eq!(plan(&bco).unwrap().udm, None);
    let with = |assignment| plan(&[&bco[..], &[assignment]].concat());
    let policy =
        |prompt_sample_size, seed| Some(UdmPlan { embeddings: EmbeddingPlan::Policy, prompt_sample_size, seed });
    assert_eq!(with("udm.prompt_sample_size=64").unwrap().udm, policy(64, 5));
    assert_eq!(with("udm.seed=9").unwrap().udm, policy(1024, 9));
    let udm = with("udm.embeddings=vectors.jsonl").unwrap().udm.unwrap();
    assert_eq!(udm.embeddings, EmbeddingPlan::File("vectors.jsonl".into()));
    // What is computed is not asked of the data.
    let names = |plan: Plan| plan.row_needs().numbers.iter().map(|number| number.name.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(plan(&bco).unwrap()), ["desirable_prompt"]);
    assert_eq!(names(with("udm.seed=9").unwrap()), [] as [&str; 0]);
    assert!(refused(&["udm.seed=1"]).starts_with("udm: the objective of [objective] reads no desirable_prompt"));
    assert!(refused(&["objective.type=bco", "udm.seed=1"]).contains("bco with density_ratio"));
    assert!(with("udm.prompt_sample_size=0").is_err());
}

#[test]
fn a_reference_that_moves_is_none_that_was_computed_before() {
    for name in ["tr_dpo", "tr_ipo", "tr_kto"] {
        let kind = format!("objective.type={name}");
        assert_eq!(plan(&[&kind]).unwrap().reference, ReferencePlan::Frozen);
        assert_eq!(plan(&[&kind, "model.lora.rank=2"]).unwrap().reference, ReferencePlan::AdapterOff);
        let computed = [kind.as_str(), "reference.kind=precomputed"];
        let text = refused(&computed);
        assert!(text.starts_with("reference.kind") && text.contains("void after the first update"), "{text}");
        plan(&[&computed[..], &["objective.update=frozen"]].concat()).unwrap();
        let text = refused(&[&kind, "reference.kind=frozen", "reference.path=other", "model.lora.rank=2"]);
        assert!(text.starts_with("reference.path") && text.contains("second adapter"), "{text}");
    }
}

#[test]
fn contradictions_name_both_keys() {
    for (assignments, words) in [
        (&["train.steps=1", "train.epochs=1"][..], ["train.steps", "train.epochs"]),
        (&["model.lora.rank=4", "model.adapter=a"], ["model.lora", "model.adapter"]),
        (&["reference.kind=adapter_off"], ["reference.kind", "model.lora"]),
        (&["reference.kind=frozen", "objective.type=sft"], ["reference", "objective"]),
        (&["evaluation.every=1"], ["evaluation.rows", "data.rows"]),
        (&["evaluation.rows=5..", "data.rows=..6"], ["evaluation.rows", "data.rows"]),
    ] {
        let text = refused(assignments);
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    plan(&["evaluation.rows=6..", "data.rows=..6"]).unwrap();
}

#[test]
fn values_out_of_range_name_key_and_range() {
    for (assignment, text) in [
        ("optimizer.learning_rate=0", "optimizer.learning_rate: 0; expected a positive number"),
        ("optimizer.beta2=1.0", "optimizer.beta2: 1; expected 0 <= beta2 < 1"),
        ("train.batch_size=0", "train.batch_size: 0; expected at least 1"),
        ("train.steps=0", "train.steps: 0; expected at least 1"),
        ("output.dir=\"\"", "output.dir: missing; name the directory for results"),
    ] {
        assert_eq!(refused(&[assignment]), text);
    }
    assert!(refused(&["objective.beta=-1.0"]).starts_with("objective: "));
}

#[test]
fn a_resumed_run_may_grow_move_and_change_its_threads() {
    let stored = plan(&["train.steps=10"]).unwrap().to_json();
    plan(&["train.steps=20", "output.dir=elsewhere", "output.keep=7", "train.threads=2"])
        .unwrap()
        .check_resumes(&stored, 10)
        .unwrap();
    let refused = |assignments: &[&str]| {
        let mut all = vec!["train.steps=10"];
        all.extend(assignments);
        plan(&all).unwrap().check_resumes(&stored, 10).unwrap_err().to_string()
    };
    assert!(refused(&["optimizer.learning_rate=0.5"]).contains("optimizer.learning_rate is 0.5, was 1e-6"));
    assert!(refused(&["objective.beta=0.5"]).contains("objective.beta is 0.5, was 0.1"));
    assert!(refused(&["train.seed=3"]).contains("train.seed is 3, was 0"));
    let text = refused(&["train.device=cuda"]);
    let words = ["train.device is \"cuda:0\", was \"cpu\"", "train.dtype is \"bf16\", was \"f32\""];
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    // Held-out rows are measured all together, however many are scored at once.
    let held_out = |rows: &str| plan(&["train.steps=10", "evaluation.path=held-out.jsonl", rows]).unwrap();
    let evaluated = held_out("evaluation.batch_size=8").to_json();
    held_out("evaluation.batch_size=2").check_resumes(&evaluated, 10).unwrap();
    let text = held_out("evaluation.every=3").check_resumes(&evaluated, 10).unwrap_err().to_string();
    assert!(text.contains("evaluation.every is 3, was 0") && !text.contains("batch_size"), "{text}");
    // An older plan lacks what has a default now; what is no plan is compared as it stands.
    let mut older = stored.clone();
    older["data"].as_object_mut().unwrap().remove("stratified").unwrap();
    for key in ["device", "dtype"] {
        older["train"].as_object_mut().unwrap().remove(key).unwrap();
    }
    older["objective"].as_object_mut().unwrap().remove("divergence").unwrap();
    plan(&["train.steps=10"]).unwrap().check_resumes(&older, 10).unwrap();
    let text = plan(&["train.steps=10", "objective.divergence=forward_kl"]).unwrap().check_resumes(&older, 10);
    assert!(text.unwrap_err().to_string().contains("objective.divergence is "));
    older["data"]["from_the_future"] = true.into();
    let text = plan(&["train.steps=10"]).unwrap().check_resumes(&older, 10).unwrap_err().to_string();
    assert!(text.contains("data.from_the_future is absent, was true"), "{text}");
    assert!(text.contains("data.stratified is false, was absent"), "{text}");
    let moving = |dir: &str, more: &str| plan(&["reference.kind=precomputed", "train.epochs=3", dir, more]).unwrap();
    let stored = moving("output.dir=out", "output.keep=2").to_json();
    moving("output.dir=elsewhere", "output.keep=2").check_resumes(&stored, 10).unwrap();
    moving("output.dir=out", "reference.shared=true").check_resumes(&stored, 10).unwrap();
    // What earlier versions had in its place.
    let mut older = stored.clone();
    older["reference"]["precomputed"] = "out/reference.safetensors".into();
    moving("output.dir=elsewhere", "output.keep=2").check_resumes(&older, 10).unwrap();
    let text = moving("output.dir=out", "reference.path=t").check_resumes(&stored, 10).unwrap_err().to_string();
    assert!(text.contains("reference.precomputed is \"t\", was \"out/reference-cache\""), "{text}");
    moving("output.dir=out", "train.epochs=4").check_resumes(&stored, 10).unwrap();
    let text = moving("output.dir=out", "train.epochs=2").check_resumes(&stored, 10).unwrap_err().to_string();
    assert!(text.contains("train.length.epochs is 2, was 3"), "{text}");
    assert!(refused(&["train.steps=5"]).contains("train.length.steps is 5, and 10 steps are done"));
    let text = refused(&["train.steps=20", "schedule.kind=cosine"]);
    assert!(text.contains("train.length.steps") && text.contains("schedule.kind"), "{text}");
}

#[test]
fn keys_of_another_kind_name_what_to_do() {
    for (assignments, text) in [
        (
            &["optimizer.momentum=0.9"][..],
            "optimizer.momentum: not a key of kind = \"adamw\", which has learning_rate, beta1, beta2, eps, weight_decay; \
             leave it out, or choose rmsprop, muon",
        ),
        (
            &["optimizer.kind=lion", "optimizer.eps=1e-8"],
            "optimizer.eps: not a key of kind = \"lion\", which has learning_rate, beta1, beta2, weight_decay; leave it \
             out, or choose adamw, rmsprop, adamw_8bit, schedule_free_adamw, muon",
        ),
        (
            &["schedule.kind=reduce_lr_on_plateau", "schedule.warmup_steps=5"],
            "schedule.warmup_steps: not a key of kind = \"reduce_lr_on_plateau\", which has factor, patience, threshold, \
             threshold_mode, cooldown, min_lr, eps; leave it out, or choose linear, cosine, cosine_with_restarts, \
             polynomial, constant, constant_with_warmup, inverse_sqrt, cosine_with_min_lr, cosine_warmup_with_min_lr, \
             warmup_stable_decay",
        ),
        (
            &["schedule.kind=warmup_stable_decay"],
            "schedule.num_decay_steps: missing; kind = \"warmup_stable_decay\" needs it",
        ),
    ] {
        assert_eq!(refused(assignments), text);
    }
    let unknown = refused(&["optimizer.kind=adam"]);
    assert!(unknown.starts_with("optimizer.kind: unknown word \"adam\"; did you mean \"adamw\"?"), "{unknown}");
    let infinite = refused(&["optimizer.kind=lion", "optimizer.learning_rate=inf"]);
    assert_eq!(infinite, "optimizer.learning_rate: inf; expected a positive number");
}

#[test]
fn every_kind_has_its_plan() {
    let kinds = ["adamw", "lion", "adafactor", "rmsprop", "adamw_8bit", "schedule_free_adamw", "muon"];
    for kind in kinds {
        let plan = plan(&[&format!("optimizer.kind={kind}"), "optimizer.learning_rate=0.5"]).unwrap();
        assert_eq!((plan.optimizer.kind(), plan.optimizer.learning_rate()), (kind, 0.5));
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}

#[test]
fn optimizers_and_schedules_that_do_not_suit_a_run_are_refused() {
    for (assignments, words) in [
        (&["optimizer.kind=schedule_free_adamw", "schedule.kind=cosine"][..], ["schedule.kind", "averages"]),
        (&["optimizer.kind=muon", "model.lora.rank=4"], ["optimizer.kind", "model.lora"]),
        (&["optimizer.lora_plus_ratio=16"], ["optimizer.lora_plus_ratio", "no adapter"]),
        (&["optimizer.lora_plus_ratio=0", "model.lora.rank=4"], ["optimizer.lora_plus_ratio", "positive"]),
        (&["schedule.kind=reduce_lr_on_plateau"], ["schedule.kind", "evaluation.every"]),
        (&["schedule.kind=polynomial", "optimizer.learning_rate=1e-8"], ["schedule.lr_end", "optimizer.learning_rate"]),
    ] {
        let text = refused(assignments);
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    plan(&["optimizer.lora_plus_ratio=16", "model.lora.rank=4", "schedule.kind=polynomial"]).unwrap();
    let followed = ["evaluation.path=held.jsonl", "evaluation.every=5", "schedule.kind=reduce_lr_on_plateau"];
    assert!(plan(&followed).unwrap().schedule.follows_evaluations());
}

#[test]
fn a_plan_from_before_there_was_a_choice_goes_on() {
    let mut stored = plan(&["train.steps=10", "schedule.kind=cosine"]).unwrap().to_json();
    stored["optimizer"].as_object_mut().unwrap().remove("kind").unwrap();
    stored["schedule"].as_object_mut().unwrap().remove("num_cycles").unwrap();
    plan(&["train.steps=10", "schedule.kind=cosine"]).unwrap().check_resumes(&stored, 5).unwrap();
    let other = plan(&["train.steps=10", "schedule.kind=cosine", "optimizer.kind=lion"]).unwrap();
    let text = other.check_resumes(&stored, 5).unwrap_err().to_string();
    assert!(text.contains("optimizer.kind is \"lion\", was \"adamw\""), "{text}");
}

#[test]
fn a_plan_survives_its_file() {
    let plan = plan(&["model.lora.rank=4", "evaluation.path=held.jsonl", "optimizer.learning_rate=0.3"]).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    assert!(plan.to_string().contains("model.tuning.lora.rank = 4\n"));
}
