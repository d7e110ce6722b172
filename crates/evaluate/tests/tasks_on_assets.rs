//! The built-in tasks on the files that they are for: every row of each is asked for. Where the files are not there the tests say
//! so and pass.
#![expect(clippy::print_stderr, reason = "a test says that it is skipped")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use candlewick_evaluate::tasks::{Preview, Task, TaskRows};

fn file(name: &str) -> Option<PathBuf> {
    let path =
        candlewick_testkit::shared().map(|shared| shared.join("assets/eval").join(name)).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("skipped: assets/eval/{name} is not there; CANDLEWICK_SHARED names the folder of fixtures");
    }
    path
}

/// What is asked of every row; none where the file is not there.
fn asked(task: &str, name: &str) -> Option<Vec<Vec<Preview>>> {
    let path = file(name)?;
    let task = Task::open(task).expect("a built-in task");
    let rows = TaskRows::read(&task, Some(&path), None).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(rows.left_out, 0, "{name}: {:?}", rows.reasons);
    Some(rows.rows.iter().map(|row| task.preview(row).unwrap_or_else(|error| panic!("{error}"))).collect())
}

/// How often each right answer comes up.
fn rights(rows: &[Vec<Preview>]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row[0].right.clone().unwrap_or_default()).or_default() += 1;
    }
    counts
}

fn count(counts: &BTreeMap<String, usize>, key: &str) -> usize {
    counts.get(key).copied().unwrap_or_default()
}

#[test]
fn ethics() {
    let Some(rows) = asked("ethics_cm", "ethics/cm_test.csv.gz") else { return };
    let counts = rights(&rows);
    assert_eq!((rows.len(), count(&counts, "yes") + count(&counts, "no")), (3885, 3885));
    assert_eq!(rows[0][0].continuations, [" yes", " Yes", " no", " No"]);
    for (task, name, all) in [
        ("ethics_deontology", "ethics/deontology_test.csv.gz", 3596),
        ("ethics_justice", "ethics/justice_test.csv.gz", 2704),
        ("ethics_virtue", "ethics/virtue_test.csv.gz", 4975),
    ] {
        let Some(rows) = asked(task, name) else { return };
        let counts = rights(&rows);
        assert_eq!((rows.len(), counts.len()), (all, 2), "{name}");
        assert!(rows.iter().all(|row| !row[0].prompt.contains("[SEP]")));
    }
    // No header: no row is lost to it.
    for (name, all) in [("ethics/util_test.csv.gz", 4808), ("ethics/util_train.csv.gz", 13738)] {
        let Some(rows) = asked("ethics_utilitarianism", name) else { return };
        assert_eq!(rows.len(), all, "{name}");
        assert!(rows.iter().all(|row| row[0].continuations.len() == 2));
    }
}

#[test]
fn moralchoice_is_asked_in_three_forms_and_both_orders() {
    for (name, all, right) in
        [("moralchoice_low_ambiguity.csv.gz", 687, true), ("moralchoice_high_ambiguity.csv.gz", 680, false)]
    {
        let Some(rows) = asked("moralchoice", name) else { return };
        assert_eq!(rows.len(), all);
        assert!(rows.iter().all(|row| row.len() == 6 && row.iter().all(|asked| asked.right.is_some() == right)));
        // The same choice under both orders: its letter changes place with it.
        let letters: Vec<&[String]> = rows[0].iter().take(2).map(|asked| asked.continuations.as_slice()).collect();
        assert_eq!(letters, [[" A", " B"], [" B", " A"]]);
    }
}

#[test]
fn truthfulqa_lists_are_taken_apart() {
    let Some(rows) = asked("truthfulqa_mc1", "TruthfulQA.csv.gz") else { return };
    assert_eq!(rows.len(), 817);
    assert!(rows.iter().all(|row| row[0].continuations.len() >= 2));
    assert!(rows.iter().all(
        |row| row[0].right.as_deref().map(|right| format!(" {right}")).as_deref() == Some(&row[0].continuations[0])
    ));
    let Some(rows) = asked("truthfulqa_mc2", "TruthfulQA.csv.gz") else { return };
    assert_eq!(rows.len(), 817);
    for row in &rows {
        let right = row[0].right.as_deref().map_or(0, |right| right.split(" | ").count());
        assert!(right >= 1 && right < row[0].continuations.len(), "{row:?}");
        assert!(row[0].continuations.iter().all(|text| !text.trim().is_empty() && !text.contains(';')));
    }
}

#[test]
fn refusals_mathematics_and_questions_in_other_languages() {
    if let Some(rows) = asked("xstest", "xstest_prompts.csv") {
        let counts = rights(&rows);
        assert_eq!((rows.len(), count(&counts, "refuses"), count(&counts, "answers")), (450, 200, 250));
    }
    if let Some(rows) = asked("gsm8k", "gsm8k_test.jsonl.gz") {
        assert_eq!(rows.len(), 1319);
        assert!(rows.iter().all(|row| row[0].right.as_deref().is_some_and(|right| right.contains("#### "))));
    }
    for (name, all) in [("test", 3992), ("val", 1996), ("train", 13975)] {
        if let Some(rows) = asked("jcommonsensemorality", &format!("jcommonsensemorality_{name}.csv.gz")) {
            assert_eq!((rows.len(), rights(&rows).len()), (all, 2));
            assert_eq!(rows[0][0].continuations, ["はい", "いいえ"]);
        }
    }
    for task in ["cvalues", "cvalues_refusal"] {
        if let Some(rows) = asked(task, "cvalues_responsibility_prompts.jsonl.gz") {
            assert_eq!(rows.len(), 664);
        }
    }
}

#[test]
fn bbq_has_one_answer_for_each_part() {
    for (name, all) in [("bbq_Religion.jsonl.gz", 1200), ("bbq_Sexual_orientation.jsonl.gz", 864)] {
        let Some(rows) = asked("bbq", name) else { return };
        assert_eq!(rows.len(), all);
        assert!(rows.iter().all(|row| row[0].continuations.len() == 3 && row[0].right.is_some()));
    }
}

#[test]
fn valuebench_items_are_keyed_both_ways() {
    let Some(rows) = asked("valuebench", "valuebench_value_orientation.csv.gz") else { return };
    let counts = rights(&rows);
    assert_eq!(
        (rows.len(), count(&counts, "agreement counts"), count(&counts, "disagreement counts")),
        (1988, 1358, 630)
    );
    assert!(rows.iter().all(|row| row.len() == 4));
    let asked = &rows[0][1];
    assert!(
        asked.prompt.contains("A. strongly agree\n") && asked.prompt.contains("E. strongly disagree\n"),
        "{}",
        asked.prompt
    );
    assert_eq!(asked.continuations, [" E", " D", " C", " B", " A"]);
}
