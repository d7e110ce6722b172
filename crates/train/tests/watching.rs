//! What a run is watched for: steps that are not finite, budgets, patience, the best checkpoint.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use candlewick_model::CausalLm;
use candlewick_train::{Error, Event, Run, Stop, Summary, checkpoints};
use serde_json::Value;
use support::folder::Folder;

/// Pairs in order, with a word in row `odd` that no other has and that the model cannot bear.
fn folder_with_odd_rows(odd: &[usize]) -> Folder {
    let folder = Folder::new();
    let mut rows = support::folder::pairs(24);
    for row in rows.iter_mut() {
        for side in ["prompt", "chosen", "rejected"] {
            row[side] = row[side].as_str().unwrap().replace("w22", "w21").into();
        }
    }
    odd.iter().for_each(|i| rows[*i]["chosen"] = " w3 w22".into());
    folder.lines("rows.jsonl", &rows);
    let mut model = CausalLm::<f32>::load(&folder.path("model")).unwrap();
    // Finite, but its square is not.
    let embedding = model.trainable().position("model.embed_tokens.weight").unwrap();
    let width = model.config().hidden_size;
    model.trainable_mut().tensor_mut(embedding)[22 * width..23 * width].fill(1e30);
    model.save(&folder.path("model")).unwrap();
    folder
}

/// Everything that happens until the end.
fn events(run: &mut Run) -> Vec<Event> {
    std::iter::from_fn(|| run.advance().unwrap()).collect()
}

fn finished(run: &mut Run) -> Summary {
    match events(run).pop() {
        Some(Event::Finished(summary)) => summary,
        other => panic!("{other:?}"),
    }
}

fn log(folder: &Folder, output: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.path(output).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn read(folder: &Folder, output: &str, file: &str) -> Vec<u8> {
    std::fs::read(folder.path(output).join(file)).unwrap_or_else(|e| panic!("{output}/{file}: {e}"))
}

#[test]
fn a_step_that_is_not_finite_changes_nothing_and_is_counted() {
    let folder = folder_with_odd_rows(&[9]);
    let all = ["output.save_every=1", "output.keep=0", "objective.type=sft"];
    let mut run = Run::start(folder.plan("whole", &all)).unwrap();
    let events = events(&mut run);
    let skipped: Vec<_> =
        events.iter().filter_map(|event| if let Event::Skipped(it) = event { Some(it) } else { None }).collect();
    let [skipped] = skipped[..] else { panic!("{skipped:?}") };
    assert_eq!((skipped.step, skipped.what), (3, "gradient norm"));
    assert!(skipped.rows.contains("rows.jsonl:10"), "{}", skipped.rows);
    let weights = |step: u64| read(&folder, "whole", &format!("checkpoints/step-{step:08}/model.safetensors"));
    assert!(weights(2) == weights(3) && weights(3) != weights(4));
    let Some(Event::Finished(summary)) = events.last() else { panic!("{events:?}") };
    assert_eq!((summary.steps, summary.watched.not_finite, summary.watched.not_finite_in_a_row), (6, 1, 0));
    let line = &log(&folder, "whole")[2];
    assert_eq!((&line["step"], &line["skipped"]), (&3.into(), &"the gradient norm is NaN".into()));

    // It is the same run, wherever it goes on.
    for stop in [2, 3, 4] {
        let output = format!("parts-{stop}");
        folder.stop_after(&output, &all, stop + 1);
        finished(
            &mut Run::resume(
                folder.plan(&output, &all),
                &checkpoints(&folder.path(&output)).join(format!("step-{stop:08}")),
            )
            .unwrap(),
        );
        for file in ["metrics.jsonl", "final/model.safetensors"] {
            assert!(read(&folder, "whole", file) == read(&folder, &output, file), "{stop}: {file}");
        }
    }
}

#[test]
fn too_many_in_a_row_stop_the_run_with_what_was_before() {
    // Rows of steps 2, 4 and 5.
    let folder = folder_with_odd_rows(&[4, 12, 17]);
    let all = ["output.save_every=1", "objective.type=sft"];
    let ends_at = |output: &str, more: &str| {
        let mut run = Run::start(folder.plan(output, &[&all[..], &[more]].concat())).unwrap();
        loop {
            match run.advance() {
                Err(Error::NotFinite { step, .. }) => break step,
                event => assert!(event.unwrap().is_some(), "it ended well"),
            }
        }
    };
    assert_eq!(ends_at("one", "watch.not_finite_in_a_row=1"), 2);
    assert_eq!(ends_at("two", "watch.not_finite_in_a_row=2"), 5);
    assert_eq!(folder.latest("two").state.step, 4);
    assert_eq!(finished(&mut Run::start(folder.plan("three", &all)).unwrap()).watched.not_finite, 3);
}

#[test]
fn a_budget_stops_the_run_and_a_larger_one_goes_on() {
    let folder = Folder::new();
    folder.lines("rows.jsonl", &support::folder::pairs(40));
    let all = ["optimizer.learning_rate=0.03", "output.save_every=4", "evaluation.rows=32..", "data.rows=..32"];
    let with = |budget: &'static str| [&all[..], &[budget]].concat();
    let tight = with("watch.kl_budget=0.5");
    let mut run = Run::start(folder.plan("tight", &tight)).unwrap();
    let summary = finished(&mut run);
    let Some(Stop::KlBudget { log_ratio, budget }) = summary.watched.stopped.clone() else { panic!("{summary:?}") };
    assert!(log_ratio > 0.5 && budget < 0.6 && (2..8).contains(&summary.steps), "{summary:?}");
    let stopped: Vec<_> = log(&folder, "tight").into_iter().filter(|line| line.get("stopped").is_some()).collect();
    assert_eq!((stopped.len(), &stopped[0]["step"]), (1, &summary.steps.into()));
    let measured =
        log(&folder, "tight").iter().rfind(|line| line.get("loss").is_some()).unwrap()["log_ratios/absolute"].clone();
    assert_eq!(measured.as_f64(), Some(log_ratio));
    assert!(folder.path("tight/final/model.safetensors").exists() && summary.held_out.is_some());

    // Again: it is over. With a larger budget: it goes on, as if there had been no other.
    let again = finished(&mut folder.try_resume("tight", &tight).unwrap());
    assert_eq!((again.steps, again.watched.stopped), (summary.steps, summary.watched.stopped));
    let wide = with("watch.kl_budget=1000");
    finished(&mut folder.try_resume("tight", &wide).unwrap());
    finished(&mut Run::start(folder.plan("wide", &wide)).unwrap());
    assert!(read(&folder, "tight", "final/model.safetensors") == read(&folder, "wide", "final/model.safetensors"));
    folder.refuses(&["watch.kl_budget=1", "objective.type=sft"], &["watch.kl_budget", "no reference"]);
}

#[test]
fn patience_ends_a_run_and_its_best_weights_are_the_result() {
    let folder = Folder::new();
    folder.lines("rows.jsonl", &support::folder::pairs(72));
    // It soon gets all of them right, which nothing is better than.
    let all = [
        "optimizer.learning_rate=0.05",
        "output.save_every=2",
        "output.keep=1",
        "data.rows=..64",
        "evaluation.rows=64..",
        "evaluation.every=1",
        "watch.patience=3",
        "watch.metric=rewards/accuracies",
        "output.result=best",
    ];
    let summary = finished(&mut Run::start(folder.plan("whole", &all)).unwrap());
    let best = summary.watched.best.unwrap();
    let Some(Stop::Patience { evaluations: 3, .. }) = summary.watched.stopped else { panic!("{summary:?}") };
    assert_eq!(summary.steps, best.step + 3);
    let accuracies: Vec<(u64, f64)> = log(&folder, "whole")
        .iter()
        .filter_map(|line| Some((line["step"].as_u64()?, line.get("eval_rewards/accuracies")?.as_f64()?)))
        .collect();
    let greatest = accuracies.iter().copied().rev().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert_eq!((best.step, best.value), greatest);
    let mut left: Vec<_> = std::fs::read_dir(checkpoints(&folder.path("whole")))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    let name = |step: u64| format!("step-{step:08}");
    assert_eq!(left, [name(best.step).as_str(), name(summary.steps).as_str()]);
    let kept = format!("checkpoints/{}/model.safetensors", name(best.step));
    assert!(read(&folder, "whole", "final/model.safetensors") == read(&folder, "whole", &kept));

    // Wherever it is interrupted, it knows what was best and how long ago.
    for stop in 1..=summary.steps {
        let output = format!("parts-{stop}");
        folder.stop_after(&output, &all, stop);
        let resumed = match stop {
            1 => Run::start(folder.plan(&output, &all)),
            _ => folder.try_resume(&output, &all),
        };
        let again = finished(&mut resumed.unwrap());
        assert_eq!((again.steps, again.watched), (summary.steps, summary.watched.clone()), "stopped after {stop}");
        assert_eq!((&again.rows, &again.held_out), (&summary.rows, &summary.held_out), "stopped after {stop}");
        for file in ["metrics.jsonl", "final/model.safetensors", "held_out/scores.jsonl"] {
            assert!(read(&folder, "whole", file) == read(&folder, &output, file), "stopped after {stop}: {file}");
        }
    }
}

#[test]
fn what_nothing_measures_or_reads_is_refused_before_the_first_step() {
    let folder = Folder::new();
    folder.lines("rows.jsonl", &support::folder::pairs(12));
    let held_out = ["data.rows=..8", "evaluation.rows=8..", "evaluation.every=1"];
    let with = |more: &[&'static str]| [&held_out[..], more].concat();
    folder.refuses(
        &with(&["output.keep_best=true", "watch.metric=rewards/accuracy"]),
        &["watch.metric", "\"rewards/accuracy\"", "rewards/accuracies"],
    );
    folder
        .refuses(&with(&["watch.metric=rewards/accuracies"]), &["watch.metric", "watch.patience", "output.keep_best"]);
    folder.refuses(&with(&["watch.min_delta=0.1"]), &["watch.min_delta", "nothing asks"]);
    folder.refuses(&with(&["watch.grad_norm_factor=0.5"]), &["watch.grad_norm_factor", "above 1"]);
    folder.refuses(&with(&["watch.not_finite_in_a_row=0"]), &["watch.not_finite_in_a_row", "at least 1"]);
    let moving = with(&["objective.type=tr_dpo", "output.result=best"]);
    folder.refuses(&moving, &["watch.metric", "\"loss\"", "which moves", "logps/chosen"]);
    folder.plan("of-its-own", &[&moving[..], &["watch.metric=logps/chosen"]].concat());
    let plateau = with(&["objective.type=tr_dpo", "schedule.kind=reduce_lr_on_plateau"]);
    folder.refuses(&plateau, &["schedule.kind", "moves the reference"]);
    folder.refuses(&["watch.patience=2"], &["watch.patience", "evaluation.every"]);
    folder.refuses(&["output.result=best"], &["output.result", "[evaluation]"]);
    folder.refuses(&["output.save_minutes=-1"], &["output.save_minutes", "positive"]);
    folder.refuses(&["output.save_minutes=1"], &["output.save_minutes", "Run::tell_time"]);
}

#[test]
fn a_reference_that_never_moves_or_reads_other_tokens_is_told() {
    let folder = Folder::new();
    folder.lines("rows.jsonl", &support::folder::pairs(12));
    let first = |update: &str| {
        let mut run = Run::start(folder.plan(&format!("out-{update}"), &["objective.type=tr_dpo", update])).unwrap();
        run.advance().unwrap().unwrap()
    };
    let Event::Alarm { step: 0, alarm, .. } = first("objective.update=hard") else { panic!("no alarm") };
    assert!(alarm.to_string().contains("step 512 for the first time, and the run has 3"), "{alarm}");
    assert!(matches!(first("objective.update={hard={every=3}}"), Event::Step(_)));

    support::write_model(&folder.path("other"), 2);
    let tokenizer = std::fs::read_to_string(folder.path("other/tokenizer.json")).unwrap();
    folder.text("other/tokenizer.json", &tokenizer.replace("\"w5\":5", "\"w5\":6").replace("\"w6\":6", "\"w6\":5"));
    folder.refuses(&[&folder.at("reference.path", "other")], &["reference.path", "other ids"]);
    // Written another way it is the same.
    folder.text("other/tokenizer.json", &format!("{tokenizer}\n"));
    Run::start(folder.plan("same", &[&folder.at("reference.path", "other")])).unwrap();
}

#[test]
fn alarms_are_told_and_written_down() {
    let folder = Folder::new();
    folder.lines("rows.jsonl", &support::folder::pairs(40));
    let all = ["watch.chosen_drop=0.0001", "optimizer.learning_rate=0.05", "objective.beta=5.0"];
    let mut run = Run::start(folder.plan("out", &all)).unwrap();
    let told: Vec<(u64, String)> = events(&mut run)
        .into_iter()
        .filter_map(
            |event| if let Event::Alarm { step, alarm, .. } = event { Some((step, alarm.to_string())) } else { None },
        )
        .collect();
    let written: Vec<(u64, String)> = log(&folder, "out")
        .iter()
        .filter(|line| line.get("alarm").is_some())
        .map(|line| (line["step"].as_u64().unwrap(), line["message"].as_str().unwrap().to_owned()))
        .collect();
    assert!(!told.is_empty());
    assert_eq!(told, written);
    // Once for each time that it falls below.
    let below: Vec<bool> = log(&folder, "out")
        .iter()
        .filter_map(|line| Some(line.get("log_ratios/chosen")?.as_f64()? < -0.0001))
        .collect();
    let falls =
        below.iter().zip(std::iter::once(&false).chain(&below)).filter(|(now, before)| **now && !**before).count();
    assert!(falls < below.iter().filter(|below| **below).count());
    assert_eq!(told.iter().filter(|(_, text)| text.contains("watch.chosen_drop")).count(), falls);
}

#[test]
fn minutes_decide_when_it_is_saved_and_nothing_else() {
    let folder = Folder::new();
    folder.lines("rows.jsonl", &support::folder::pairs(40));
    let mut run =
        Run::start(folder.plan("out", &["output.save_every=0", "output.save_minutes=2.5", "output.keep=0"])).unwrap();
    let mut saved = Vec::new();
    loop {
        // A step a minute.
        run.tell_time(Duration::from_secs(60 * run.trainer().steps_done()));
        match run.advance().unwrap() {
            Some(Event::Saved(path)) => saved.push(path.file_name().unwrap().to_string_lossy().into_owned()),
            Some(_) => {}
            None => break,
        }
    }
    assert_eq!(saved, ["step-00000003", "step-00000006", "step-00000009", "step-00000010"]);
    let plain = folder.run("plain", &[]);
    assert!(plain.weights == read(&folder, "out", "final/model.safetensors"));
}

#[test]
fn a_checkpoint_written_in_the_background_is_the_same() {
    let folder = Folder::new();
    folder.lines("rows.jsonl", &support::folder::pairs(40));
    let moving = ["objective.type=tr_dpo", "model.lora={rank = 2}"];
    for (name, variant) in [("full", &[][..]), ("moving", &moving[..])] {
        let run = |way: &str| {
            let background = format!("output.background={}", way == "background");
            let all = [&["output.save_every=1", "output.keep=0", &background], variant].concat();
            let output = format!("{name}-{way}");
            let mut run = Run::start(folder.plan(&output, &all)).unwrap();
            let saved: Vec<_> = events(&mut run).into_iter().filter(|event| matches!(event, Event::Saved(_))).collect();
            assert_eq!(saved.len(), 10);
            folder.path(&output).join("checkpoints")
        };
        let (beside, inline) = (run("background"), run("inline"));
        for step in 1..=10 {
            let step = format!("step-{step:08}");
            let mut files: Vec<_> =
                std::fs::read_dir(inline.join(&step)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            files.sort();
            assert!(files.len() >= 5, "{files:?}");
            for file in files.iter().filter(|file| *file != "state.json") {
                let read = |place: &std::path::Path| std::fs::read(place.join(&step).join(file)).unwrap();
                assert!(read(&beside) == read(&inline), "{name}, {step}, {file:?}");
            }
            let place = |place: &std::path::Path| {
                candlewick_train::Checkpoint::open(&place.join(&step)).unwrap().state.bookmark["place"].clone()
            };
            assert_eq!(place(&beside), place(&inline));
        }
    }
}

#[test]
fn an_interrupt_ends_what_is_under_way_and_nothing_is_lost() {
    let folder = Folder::new();
    let mut rows = support::folder::pairs(40);
    rows[5]["chosen"] = rows[5]["rejected"].clone();
    rows[30]["prompt"] = 7.into();
    folder.lines("rows.jsonl", &rows);
    let all = [
        "train.order=shuffled",
        "train.bucket=3",
        "train.micro_batches=2",
        "train.batch_size=2",
        "data.rows=..34",
        "evaluation.rows=34..",
        "evaluation.every=2",
        "train.epochs=2",
    ];
    for objective in ["objective.type=dpo", "objective.type=aot"] {
        let all = [&all[..], &[objective]].concat();
        let name = |way: &str| format!("{way}-{objective}");
        let whole = finished(&mut Run::start(folder.plan(&name("whole"), &all)).unwrap());
        let mut run = Run::start(folder.plan(&name("parts"), &all)).unwrap();
        let interrupt = Arc::new(AtomicBool::new(false));
        run.set_interrupt(Arc::clone(&interrupt));
        let mut interrupted = 0;
        for asked in [true, false].into_iter().cycle() {
            interrupt.store(asked, Ordering::Relaxed);
            match run.advance() {
                Err(Error::Interrupted) => interrupted += 1,
                Ok(Some(Event::Finished(summary))) => {
                    assert_eq!((summary.rows, summary.held_out), (whole.rows, whole.held_out));
                    break;
                }
                // Saving is not to be interrupted.
                Ok(Some(event)) => {
                    assert!(!asked || matches!(event, Event::Saved(_) | Event::Alarm { .. }), "{event:?}")
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(interrupted > 20, "{interrupted}");
        for file in ["metrics.jsonl", "final/model.safetensors", "rejected.jsonl", "held_out/scores.jsonl"] {
            assert!(read(&folder, &name("whole"), file) == read(&folder, &name("parts"), file), "{objective}: {file}");
        }
    }
}

#[test]
fn a_disk_that_fails_in_the_background_is_told_at_the_next_call() {
    let folder = Folder::new();
    folder.lines("rows.jsonl", &support::folder::pairs(40));
    let all = ["output.save_every=2", "output.background=true"];
    let mut run = Run::start(folder.plan("out", &all)).unwrap();
    while !matches!(run.advance().unwrap(), Some(Event::Saved(_))) {}
    let before = run.trainer().steps_done();
    // Where the next one would be written lies a file.
    let next = format!(".step-{:08}.new", before / 2 * 2 + 2);
    std::fs::write(checkpoints(&folder.path("out")).join(&next), "in the way").unwrap();
    let error = loop {
        match run.advance() {
            Err(error) => break error,
            Ok(event) => assert!(event.is_some(), "it ended well"),
        }
    };
    assert!(error.to_string().contains(&next), "{error}");
    assert!(run.trainer().steps_done() <= before / 2 * 2 + 4, "it noticed late");
    assert_eq!(folder.latest("out").state.step, before / 2 * 2);
}
