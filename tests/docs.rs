//! What the pages under docs/ promise, tried out.
use std::path::Path;

use candlewick::data::Form;
use candlewick::losses::Objective;
use candlewick::train::Words;

#[test]
fn configurations_in_the_docs_are_configurations() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let blocks: Vec<&str> = page.split("```toml").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 8);
    for block in blocks {
        let words = Words::parse(block, "docs/configuration.md").expect("it is TOML");
        words.config().unwrap_or_else(|e| panic!("{e}\n{block}"));
    }
}

#[test]
fn configurations_of_score_models_in_the_docs_are_configurations() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/score-models.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let blocks: Vec<&str> = page.split("```toml").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let config = Words::parse(block, "docs/score-models.md").and_then(|words| words.config());
        let config = config.unwrap_or_else(|e| panic!("{e}\n{block}"));
        assert!(config.model.heads.is_some() && config.objective.needs().outputs.values, "{block}");
        config.objective.validate().expect("it trains");
    }
}

#[test]
fn the_configuration_of_one_adapter_for_all_trade_offs_is_one() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/panacea.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let blocks: Vec<&str> = page.split("```toml").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 1);
    let config = Words::parse(blocks[0], "docs/panacea.md").and_then(|words| words.config()).expect("a configuration");
    let plan = candlewick::train::Plan::resolve(config).expect("it can be planned");
    assert_eq!(plan.objective.needs().preferences, 2);
}

#[test]
fn the_defaults_in_the_docs_are_the_defaults() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let block = page.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    let written =
        Words::parse(block, "docs/configuration.md").and_then(|words| words.config()).expect("a configuration");
    let default = Words::parse("", "nothing").and_then(|words| words.config()).expect("a configuration");
    assert_eq!(written.data.rows, default.data.rows);
    assert_eq!(written.data.max_length, default.data.max_length);
    assert_eq!(written.data.truncation, default.data.truncation);
    assert_eq!(written.data.boundary, default.data.boundary);
    assert_eq!(written.data.end_of_sequence, default.data.end_of_sequence);
    assert_eq!(written.data.ties, default.data.ties);
    assert_eq!(written.data.numbers, default.data.numbers);
    assert_eq!(written.data.prompt_truncation, default.data.prompt_truncation);
    assert_eq!(written.data.completion_truncation, default.data.completion_truncation);
    assert_eq!((written.data.unpair, written.data.strict), (default.data.unpair, default.data.strict));
    assert_eq!(written.data.max_prompt_length, default.data.max_prompt_length);
    assert_eq!(written.data.max_completion_length, default.data.max_completion_length);
    assert_eq!(written.data.workers, default.data.workers);
    assert_eq!(written.train.tokens, default.train.tokens);
    let optimizer = |config: &candlewick::train::Config| {
        let words = &config.optimizer;
        (words.options().expect("in range"), words.max_grad_norm, words.lora_plus_ratio)
    };
    assert_eq!(optimizer(&written), optimizer(&default));
    let schedule = |config: &candlewick::train::Config| config.schedule.schedule(1e-6).expect("in range");
    assert_eq!(schedule(&written), schedule(&default));
    assert_eq!(written.objective, default.objective);
    assert_eq!(written.watch, default.watch);
    let output = |config: &candlewick::train::Config| {
        let mut output = serde_json::to_value(&config.output).expect("JSON");
        output["dir"] = serde_json::Value::Null;
        output
    };
    assert_eq!(output(&written), output(&default));
    assert_eq!(written.model.lora, Some(candlewick::model::LoraConfig::default()));
    let train = |config: &candlewick::train::Config| {
        let train = &config.train;
        (train.batch_size, train.micro_batches, train.seed, train.shuffle_buffer, train.threads)
    };
    assert_eq!(train(&written), train(&default));
    assert_eq!((written.data.stratified, &written.udm), (None, &None));
    assert_eq!(written.reference.shared, default.reference.shared);
    // Every key of rows that is written with its value has its default.
    let values = |config: &candlewick::train::Config| {
        let mut data = serde_json::to_value(&config.data).expect("JSON");
        data["path"] = serde_json::Value::Null;
        data
    };
    assert_eq!(values(&written), values(&default));
    assert_eq!((written.train.tokens, written.train.bucket), (default.train.tokens, default.train.bucket));
    let keys = values(&default);
    let watch = serde_json::to_value(&default.watch).expect("JSON");
    let output = output(&default);
    let keys = [&keys, &watch, &output].into_iter().flat_map(|section| section.as_object().expect("a table").keys());
    for key in keys {
        assert!(block.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} ="))), "{key}");
    }
}

#[test]
fn optimizers_and_schedules_have_the_defaults_of_their_tables() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let mut met = 0;
    for (title, section) in [("Optimizers", "optimizer"), ("Schedules", "schedule")] {
        let text = page.split(&format!("\n## {title}\n")).nth(1).and_then(|rest| rest.split("\n## ").next());
        let rows = text.expect("a section").lines().filter(|line| line.starts_with("| `"));
        for row in rows.filter(|row| !row.starts_with("| `kind` |")) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
            let keys = cells[if section == "optimizer" { 1 } else { 2 }];
            let assignments: Vec<&str> = keys.split('`').skip(1).step_by(2).filter(|key| key.contains(" = ")).collect();
            for kind in cells[0].split('`').skip(1).step_by(2) {
                let words = |assignments: &[&str]| {
                    let mut words = Words::default();
                    words.set(&format!("{section}.kind={kind}")).expect("a kind");
                    words.set("optimizer.learning_rate=1e-3").expect("a rate");
                    for required in match kind {
                        "cosine_with_min_lr" | "cosine_warmup_with_min_lr" => &["schedule.min_lr_rate=0.1"][..],
                        "warmup_stable_decay" => &["schedule.num_decay_steps=3"],
                        _ => &[],
                    } {
                        words.set(required).expect("a key");
                    }
                    for assignment in assignments {
                        words.set(&format!("{section}.{assignment}")).unwrap_or_else(|e| panic!("{kind}: {e}"));
                    }
                    let config = words.config().expect("a configuration");
                    let schedule = config.schedule.schedule(1e-3).unwrap_or_else(|e| panic!("{kind}: {e}"));
                    (config.optimizer.options().unwrap_or_else(|e| panic!("{kind}: {e}")), schedule)
                };
                assert_eq!(words(&assignments), words(&[]), "{kind}");
                met += 1;
            }
        }
    }
    assert_eq!(met, 7 + 12);
}

#[test]
fn the_comparison_in_the_docs_is_one() {
    use candlewick::evaluate::compare::{CompareWords, Matrix};
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/comparing.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let block = page.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    let words = Words::parse(block, "docs/comparing.md").expect("it is TOML");
    let written: CompareWords = words.clone().take("compare").expect("known keys").expect("the section");
    let default = CompareWords::default();
    let values = |words: &CompareWords| (words.drift_prompts, words.drift_tokens, words.keep_models);
    assert_eq!(values(&written), values(&default));
    let matrix = Matrix::resolve(words, Path::new("comparison")).unwrap_or_else(|error| panic!("{error}"));
    let variants: Vec<usize> = matrix.arms.iter().map(|arm| arm.variants.len()).collect();
    assert_eq!((variants, matrix.seeds.len()), (vec![4, 4, 4], 5));
    // Every key is there.
    let keys = serde_json::to_value(&default).expect("JSON");
    for key in keys.as_object().expect("a table").keys() {
        let is_named = |line: &str| line.contains(&format!("{key} =")) || line.contains(&format!("compare.{key}]"));
        assert!(block.lines().any(is_named), "{key}");
    }
}

#[test]
fn the_defaults_of_prompts_told_apart_are_those_in_the_docs() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let blocks = page.split("```toml").skip(1).filter_map(|rest| rest.split("```").next());
    let block = blocks.into_iter().find(|block| block.contains("[udm]")).expect("a block");
    let written =
        Words::parse(block, "docs/configuration.md").and_then(|words| words.config()).expect("a configuration");
    assert_eq!(written.udm, Some(candlewick::train::UdmWords::default()));
    let mut words = Words::default();
    words.set("objective.type=bco_udm").expect("a preset");
    assert_eq!(written.objective, words.config().expect("a configuration").objective);
}

#[test]
fn the_defaults_of_rounds_of_answers_are_those_in_the_docs() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let blocks = page.split("```toml").skip(1).filter_map(|rest| rest.split("```").next());
    let block = blocks.into_iter().find(|block| block.contains("[safety]")).expect("a block");
    let config =
        Words::parse(block, "docs/configuration.md").and_then(|words| words.config()).expect("a configuration");
    config.objective.validate().expect("it trains");
    let values = |words: &candlewick::train::SafetyWords| {
        let mut words = serde_json::to_value(words).expect("JSON");
        ["prompts", "costs"].into_iter().for_each(|key| words[key] = serde_json::Value::Null);
        words
    };
    let written = config.safety.expect("the section");
    assert!(written.prompts.is_some() && written.costs.len() == config.objective.constraints().len());
    let default = values(&candlewick::train::SafetyWords::default());
    assert_eq!(values(&written), default);
    for key in default.as_object().expect("a table").keys() {
        let is_named = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} ="));
        assert!(block.lines().any(is_named), "{key}");
    }
}

#[test]
fn every_form_has_its_row_in_the_docs() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/data.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let section = page.split("\n## Forms\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let forms = Form::ALL.iter().map(|(_, name, _)| *name);
    assert_eq!(rows.collect::<Vec<_>>(), forms.collect::<Vec<_>>());
}

#[test]
fn configurations_of_data_in_the_docs_are_configurations() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/data.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let blocks: Vec<&str> = page.split("```toml").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        let words = Words::parse(block, "docs/data.md").expect("it is TOML");
        words.config().unwrap_or_else(|e| panic!("{e}\n{block}"));
    }
}

#[test]
fn configurations_of_limits_in_the_docs_are_configurations() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/safe-rlhf.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let blocks: Vec<&str> = page.split("```toml").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let words = Words::parse(block, "docs/safe-rlhf.md").expect("it is TOML");
        let config = words.config().unwrap_or_else(|e| panic!("{e}\n{block}"));
        config.objective.validate().expect("an objective");
    }
}

/// The guide to losses claims nothing that no row of the benchmark and no paper stands behind.
#[test]
fn every_claim_about_losses_is_linked() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).expect("the page is there");
    let (guide, results) = (read("docs/choosing-a-loss.md"), read("benches/losses/results/README.md"));
    let mut claims: Vec<String> = Vec::new();
    let lines: Vec<&str> = guide.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let is_head = line.starts_with("|---") || lines.get(number + 1).is_some_and(|next| next.starts_with("|---"));
        match line.as_bytes().first() {
            Some(b'-' | b'|') if !is_head => claims.push((*line).to_owned()),
            Some(b' ') => claims.iter_mut().last().expect("an item goes on").push_str(line),
            _ => {}
        }
    }
    assert!(claims.len() > 20, "{claims:?}");
    for claim in &claims {
        assert!(claim.contains("]("), "no row and no paper: {claim}");
    }
    let rows = guide.split("results/README.md#").skip(1).filter_map(|rest| rest.split(')').next());
    let rows: Vec<&str> = rows.collect();
    assert!(rows.len() > 20, "{rows:?}");
    for row in rows {
        assert!(results.contains(&format!("<a id=\"{row}\"></a>")), "no such row: {row}");
    }
}
