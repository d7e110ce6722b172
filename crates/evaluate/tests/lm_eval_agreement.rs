//! Log-probabilities and accuracies beside those of EleutherAI's lm-evaluation-harness on the same rows, model and templates; its
//! numbers were made by `tools/lm_eval/make.py`. Where the fixtures are not there the test says so and passes.

use std::collections::BTreeMap;

use candlewick_data::{EncodeOptions, Encoder, EndOfSequence};
use candlewick_evaluate::stats::Bootstrap;
use candlewick_evaluate::tasks::{Outcome, Parties, Subject, Task, TaskRows, run_task};
use candlewick_model::CausalLm;
use serde::Deserialize;

#[derive(Deserialize)]
struct Harness {
    tasks: BTreeMap<String, Numbers>,
}

#[derive(Deserialize)]
struct Numbers {
    file: String,
    rows: Vec<u64>,
    log_likelihoods: Vec<Vec<f64>>,
    metrics: BTreeMap<String, f64>,
}

/// Their names and ours.
const METRICS: [(&str, &str); 4] = [
    ("acc", "accuracy_sum"),
    ("acc_norm", "accuracy_per_character"),
    ("acc_bytes", "accuracy_per_byte"),
    ("acc_mutual_info", "accuracy_pmi"),
];

#[test]
fn scores_are_those_of_the_harness() {
    let Some(shared) = candlewick_testkit::shared() else {
        eprintln!("skipped: no folder of fixtures; CANDLEWICK_SHARED names it");
        return;
    };
    let model = shared.join("assets/weights/tinystories-656k");
    let encoder =
        Encoder::from_dir(&model, EncodeOptions { end_of_sequence: EndOfSequence::Keep, ..EncodeOptions::default() })
            .expect("a tokenizer");
    let mut subject = Subject::new(CausalLm::load(&model).expect("a model"), encoder, 2);
    let harness: Harness = serde_json::from_str(include_str!("lm_eval.json")).expect("the harness's numbers");
    assert_eq!(harness.tasks.len(), 3);
    for (name, theirs) in &harness.tasks {
        let text =
            candlewick_evaluate::tasks::builtin_tasks().find(|(other, _)| other == name).expect("a built-in task").1;
        // As the harness was told: choices on a line of their own, and mutual information under no prompt.
        let more = match text.contains("unconditional") {
            true => "\ndelimiter = \"\\n\"\nkind",
            false => "\ndelimiter = \"\\n\"\nunconditional = \"\"\nkind",
        };
        let text = text.replacen("\nkind", more, 1);
        let task = Task::parse(&text, name).expect("a task");
        let mut rows = TaskRows::read(&task, Some(&shared.join(&theirs.file)), None).expect("rows");
        rows.rows.retain(|row| theirs.rows.contains(&row.number));
        assert_eq!(rows.rows.len(), theirs.rows.len());
        let mut parties = Parties::new(&mut subject);
        let bootstrap = Bootstrap { draws: 100, ..Bootstrap::default() };
        let run = run_task(&task, rows, &mut parties, bootstrap, &mut |_| {}).expect("a run");
        assert_eq!((run.report.left_out, run.items.len()), (0, theirs.rows.len()), "{name}");
        let mut widest = 0f64;
        for ((item, theirs), number) in run.items.iter().zip(&theirs.log_likelihoods).zip(&theirs.rows) {
            let Outcome::Choice(ours) = &item.outcome else { panic!("choices") };
            let ours = &ours.variants[0].log_probs;
            assert!(theirs.len() >= ours.len(), "{name}, row {number}");
            for (ours, theirs) in ours.iter().zip(theirs) {
                let gap = (ours - theirs).abs() / theirs.abs().max(1.0);
                assert!(gap < 1e-5, "{name}, row {number}: {ours} and {theirs}");
                widest = widest.max(gap);
            }
        }
        eprintln!("{name}: {} rows, the widest relative gap of a log-probability is {widest:.1e}", theirs.rows.len());
        for (their_name, our_name) in METRICS {
            let (ours, theirs) = (run.report.metric(our_name).expect(our_name).value, theirs.metrics[their_name]);
            assert!((ours - theirs).abs() < 1e-9, "{name}, {their_name}: {ours} and {theirs}");
        }
    }
}
