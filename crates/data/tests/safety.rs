//! Rows with labels of safety: what is read of them, what is refused, in which order their pairs stand, what is counted.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
#![expect(clippy::float_cmp, reason = "numbers are read as they stand")]

mod common;

use std::sync::Arc;

use candlewick_data::{
    EncodeOptions, NumberColumn, Order, Reason, Record, Rejection, Row, SafetyCounts, SafetyOrder, Source,
    SourceOptions, Stats, Stream, Text,
};
use common::{SMALL, encoder};
use serde_json::{Value, json};

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn source(rows: &[Value], options: &SourceOptions) -> Source {
    let file =
        std::env::temp_dir().join(format!("safety-{}-{:?}.jsonl", std::process::id(), std::thread::current().id()));
    std::fs::write(&file, lines(rows)).unwrap();
    Source::open(&SourceOptions { path: file, ..options.clone() }).unwrap()
}

/// Every row, and what the flags said.
fn read(rows: &[Value], options: &SourceOptions) -> (Vec<Result<Record, Rejection>>, SafetyCounts) {
    let mut records = source(rows, options).records().unwrap();
    let read = records.by_ref().map(|row| row.unwrap().map(|(_, record)| record)).collect();
    (read, records.safety())
}

fn one(row: &Value, options: &SourceOptions) -> Result<Record, Rejection> {
    read(std::slice::from_ref(row), options).0.remove(0)
}

fn asking(numbers: &[&str]) -> SourceOptions {
    SourceOptions { numbers: numbers.iter().map(|name| NumberColumn::any(*name)).collect(), ..SourceOptions::default() }
}

fn ordered(order: SafetyOrder) -> SourceOptions {
    SourceOptions { safety_order: Some(order), ..SourceOptions::default() }
}

fn chosen(row: &Result<Record, Rejection>) -> Result<&str, Reason> {
    match row {
        Ok(Record { row: Row::Pair { chosen: Text::Plain(chosen), .. }, .. }) => Ok(chosen),
        Ok(other) => panic!("{other:?}"),
        Err(rejection) => Err(rejection.reason),
    }
}

/// The seven columns of PKU-SafeRLHF.
fn pku(better: u8, safer: u8, safe: [bool; 2]) -> Value {
    json!({"prompt": "How does the old lock open?", "response_0": "With the brass key.", "response_1": "I keep that to myself.",
        "is_response_0_safe": safe[0], "is_response_1_safe": safe[1], "better_response_id": better,
        "safer_response_id": safer})
}

/// Of every kind one: both safe, mixed with and without a conflict, both unsafe, and a contradiction.
fn rows() -> Vec<Value> {
    vec![
        pku(0, 0, [true, true]),
        pku(0, 1, [false, true]),
        pku(1, 1, [false, true]),
        pku(0, 1, [false, false]),
        pku(0, 0, [false, true]),
    ]
}

const FIRST: &str = "With the brass key.";
const SECOND: &str = "I keep that to myself.";

#[test]
fn pairs_stand_in_the_order_that_is_asked_for_and_are_counted_before_any_is_dropped() {
    let counts = SafetyCounts {
        both_safe: 1,
        mixed: 3,
        both_unsafe: 1,
        contradictions: 1,
        conflicts: 2,
        ..SafetyCounts::default()
    };
    let contradicts = Err(Reason::LabelsContradict);
    for (order, expected) in [
        (SafetyOrder::Helpful, [Ok(FIRST), Ok(FIRST), Ok(SECOND), Ok(FIRST), Ok(FIRST)]),
        (SafetyOrder::Safer, [Ok(FIRST), Ok(SECOND), Ok(SECOND), Ok(SECOND), contradicts]),
        (SafetyOrder::SafeDpo, [Ok(FIRST), Ok(SECOND), Ok(SECOND), Err(Reason::BothUnsafe), contradicts]),
    ] {
        // Whichever label the form reads the pairs by, the order that is asked for is what counts.
        for criterion in [None, Some("better".to_owned())] {
            let (read, counted) = read(&rows(), &SourceOptions { criterion, ..ordered(order) });
            assert_eq!(read.iter().map(chosen).collect::<Vec<_>>(), expected, "{order:?}");
            assert_eq!(counted, SafetyCounts { conflicts: counted.conflicts, ..counts });
            assert_eq!(counted.conflicts, 2);
        }
    }
    let (read, counted) = read(&rows(), &SourceOptions::default());
    assert_eq!((read.iter().filter(|row| row.is_ok()).count(), counted), (5, counts));
}

#[test]
fn a_contradiction_is_refused_where_a_label_of_safety_is_read_and_nowhere_else() {
    let row = pku(0, 0, [false, true]);
    let safer = SourceOptions { criterion: Some("safer".to_owned()), ..SourceOptions::default() };
    for options in [safer, asking(&["safe_chosen"]), asking(&["safer"]), ordered(SafetyOrder::Safer)] {
        let refused = one(&row, &options).unwrap_err();
        assert_eq!((refused.reason, refused.origin.line), (Reason::LabelsContradict, 1), "{options:?}");
        assert!(refused.detail.contains("labelled unsafe, and the other one safe"), "{refused}");
    }
    for options in [SourceOptions::default(), asking(&["better"]), ordered(SafetyOrder::Helpful)] {
        assert_eq!(chosen(&one(&row, &options)), Ok(FIRST), "{options:?}");
    }
    // A file that has labels of safety alone is read by them.
    let mut alone = row;
    alone.as_object_mut().unwrap().remove("better_response_id");
    assert_eq!(one(&alone, &SourceOptions::default()).unwrap_err().reason, Reason::LabelsContradict);
}

/// Helpfulness that is even stands in nobody's way where safety decides alone.
#[test]
fn a_tie_of_helpfulness_is_set_aside_only_where_helpfulness_decides() {
    let tied = |safer: u8, safe: [bool; 2]| {
        let mut row = pku(0, safer, safe);
        row["better_response_id"] = json!("tie");
        row
    };
    let rows = [tied(1, [false, true]), tied(1, [false, false]), tied(0, [true, true])];
    for (order, expected) in [
        (SafetyOrder::Helpful, [Err(Reason::Tied), Err(Reason::Tied), Err(Reason::Tied)]),
        (SafetyOrder::Safer, [Ok(SECOND), Ok(SECOND), Ok(FIRST)]),
        (SafetyOrder::SafeDpo, [Ok(SECOND), Err(Reason::BothUnsafe), Err(Reason::Tied)]),
    ] {
        let source = source(&rows, &SourceOptions::default()).ordered_by_safety(order);
        let later: Vec<_> = source.records().unwrap().map(|row| row.unwrap().map(|(_, record)| record)).collect();
        for read in [read(&rows, &ordered(order)).0, later] {
            assert_eq!(read.iter().map(chosen).collect::<Vec<_>>(), expected, "{order:?}");
            let decided = read.iter().flatten().map(|record| record.numbers["preference"]);
            assert!(decided.into_iter().all(|preference| preference == 1.0), "a label decided: {order:?}");
        }
    }
    // Of any form: even scores, and labels of safety beside them.
    let row = json!({"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 2, "score_rejected": 2,
        "safe_chosen": false, "safe_rejected": true});
    for (order, expected) in
        [(SafetyOrder::Helpful, Err(Reason::Tied)), (SafetyOrder::Safer, Ok("b")), (SafetyOrder::SafeDpo, Ok("b"))]
    {
        assert_eq!(chosen(&one(&row, &ordered(order))), expected, "{order:?}");
    }
    let mut both_safe = row;
    both_safe["safe_chosen"] = json!(true);
    assert_eq!(chosen(&one(&both_safe, &ordered(SafetyOrder::SafeDpo))), Err(Reason::Tied));
}

#[test]
fn rows_that_fall_back_to_safety_are_counted() {
    let mut rows = rows();
    rows.truncate(4);
    rows[1].as_object_mut().unwrap().remove("better_response_id");
    rows[3]["better_response_id"] = Value::Null;
    let without = |options: &SourceOptions| read(&rows, options).1.without_better;
    assert_eq!(without(&SourceOptions::default()), 2);
    assert_eq!(without(&ordered(SafetyOrder::SafeDpo)), 2);
    // Where safety is what was asked for, nothing is missing.
    assert_eq!(without(&ordered(SafetyOrder::Safer)), 0);
    assert_eq!(without(&SourceOptions { criterion: Some("safer".to_owned()), ..SourceOptions::default() }), 0);
    let counts = read(&rows, &SourceOptions::default()).1;
    let said = "; 2 without better_response_id, which stand in the order of safety";
    assert!(counts.to_string().contains(said), "{counts}");
}

#[test]
fn the_columns_of_2024_are_read_and_checked() {
    let with = |levels: [Value; 2], harms: Value| {
        let mut row = pku(0, 1, [false, true]);
        for (name, value) in [
            ("prompt_source", json!("written by hand")),
            ("response_0_source", json!("alpaca3-8b")),
            ("response_1_source", json!("alpaca2-7b")),
            ("response_0_severity_level", levels[0].clone()),
            ("response_1_severity_level", levels[1].clone()),
            ("response_0_harm_category", harms.clone()),
            ("response_1_harm_category", json!({"Privacy": false, "Theft": null})),
            ("response_0_sha256", json!("0a")),
            ("response_1_sha256", json!("0b")),
        ] {
            row[name] = value;
        }
        row
    };
    let harms = || json!({"Privacy": true, "Theft": true});
    let read = one(&with([json!(2), json!(0)], harms()), &SourceOptions::default()).unwrap();
    let number = |name: &str| read.numbers[name];
    assert_eq!([number("severity_chosen"), number("severity_rejected")], [2.0, 0.0]);
    assert_eq!([number("harms_chosen"), number("harms_rejected")], [2.0, 0.0]);
    // In a file of text cells they are strings.
    let cells = with([json!("2"), json!("0")], json!("{\"Privacy\": true, \"Theft\": true}"));
    assert_eq!(one(&cells, &SourceOptions::default()).unwrap(), read);
    let safer = ordered(SafetyOrder::Safer);
    assert_eq!(one(&with([json!(2), json!(0)], harms()), &safer).unwrap().numbers["severity_chosen"], 0.0);
    for levels in [[json!(0), json!(0)], [json!(2), json!(1)]] {
        let refused = one(&with(levels, harms()), &safer).unwrap_err();
        assert_eq!(refused.reason, Reason::LabelsContradict);
        assert!(refused.detail.contains("severity of its harm"), "{refused}");
    }
    for (row, column) in [
        (with([json!("high"), json!(0)], harms()), "response_0_severity_level"),
        (with([json!(-1), json!(0)], harms()), "response_0_severity_level"),
        (with([json!(2), json!(0)], json!(["Theft"])), "response_0_harm_category"),
        (with([json!(2), json!(0)], json!({"Theft": "maybe"})), "\"Theft\""),
    ] {
        let refused = one(&row, &SourceOptions::default()).unwrap_err();
        assert!(refused.detail.contains(column) && refused.detail.contains("expected"), "{refused}");
    }
}

#[test]
fn flags_are_read_of_any_form_under_the_names_that_people_use() {
    let options = asking(&["safe_chosen", "safe_rejected", "safer"]);
    for (names, values) in [
        (["safe_chosen", "safe_rejected"], [json!(true), json!(false)]),
        (["is_chosen_safe", "is_rejected_safe"], [json!(1), json!(0)]),
        (["chosen_is_safe", "rejected_is_safe"], [json!("Safe"), json!("unsafe")]),
        (["chosen_safe", "rejected_safe"], [json!("yes"), json!(-1)]),
    ] {
        let row = json!({"prompt": "p", "chosen": "a", "rejected": "b", names[0]: values[0], names[1]: values[1]});
        let read = one(&row, &options).unwrap();
        let number = |name: &str| read.numbers[name];
        assert_eq!([number("safe_chosen"), number("safe_rejected"), number("safer")], [1.0, 0.0, 1.0], "{row}");
    }
    let row = json!({"prompt": "p", "chosen": "a", "rejected": "b", "safe_chosen": "perhaps", "safe_rejected": 0});
    let refused = one(&row, &options).unwrap_err();
    assert_eq!(refused.reason, Reason::WrongType);
    assert!(
        refused.detail.contains("`safe_chosen` is \"perhaps\" (a string), expected true (safe) or false"),
        "{refused}"
    );
    let single = json!({"prompt": "p", "response": "a", "is_safe": false});
    let read = one(&single, &asking(&["safe"])).unwrap();
    assert_eq!((read.numbers["safe"], matches!(read.row, Row::Labelled { desirable: false, .. })), (0.0, true));
    // A mapping says which column it is, for an order too.
    let row = json!({"prompt": "p", "chosen": "a", "rejected": "b", "harmless.a": false, "harmless.b": true});
    let columns = [("safe_chosen".to_owned(), "harmless.a".into()), ("safe_rejected".to_owned(), "harmless.b".into())];
    let mapped = SourceOptions { columns: columns.into(), ..ordered(SafetyOrder::SafeDpo) };
    assert_eq!(chosen(&one(&row, &mapped)), Ok("b"));
    assert_eq!(chosen(&one(&row, &ordered(SafetyOrder::SafeDpo))), Err(Reason::MissingColumn));
}

#[test]
fn gaps_are_differences_of_what_was_scored() {
    let row = json!({"prompt": "p", "chosen": "a", "rejected": "b", "reward_chosen": 2.5, "reward_rejected": -1.0,
        "cost_chosen": "1.5", "cost_rejected": 0.25, "cost_2_chosen": 0, "cost_2_rejected": 3});
    let read = one(&row, &asking(&["reward_gap", "cost_gap", "cost_gap_2"])).unwrap();
    let number = |name: &str| read.numbers[name];
    assert_eq!([number("reward_gap"), number("cost_gap"), number("cost_gap_2")], [3.5, 1.25, -3.0]);
    let refused = one(&row, &asking(&["cost_gap_3"])).unwrap_err();
    assert!(refused.detail.contains("`cost_3_chosen` and `cost_3_rejected` would do as well"), "{refused}");
    // Of rows with two responses the scores go with them, whichever is chosen.
    let mut row = pku(1, 1, [false, true]);
    for (name, value) in [("reward_0", 1.0), ("reward_1", 3.0), ("cost_0", 2.0), ("cost_1", -1.0)] {
        row[name] = json!(value);
    }
    let read = one(&row, &asking(&["reward_gap", "cost_gap"])).unwrap();
    assert_eq!([read.numbers["reward_gap"], read.numbers["cost_gap"], read.numbers["cost_chosen"]], [2.0, -3.0, -1.0]);
    row["cost_1"] = json!("low");
    assert!(one(&row, &SourceOptions::default()).unwrap_err().detail.contains("`cost_1` is \"low\""));
    let own = json!({"prompt": "p", "chosen": "a", "rejected": "b", "cost_gap": 7});
    assert_eq!(one(&own, &asking(&["cost_gap"])).unwrap().numbers["cost_gap"], 7.0);
}

#[test]
fn a_number_may_be_the_same_for_a_whole_file() {
    let row = json!({"prompt": "p", "chosen": "a", "rejected": "b", "safer": -1});
    let given = SourceOptions { given_numbers: [("safer".to_owned(), 0.0)].into(), ..asking(&["safer"]) };
    assert_eq!(one(&row, &given).unwrap().numbers["safer"], 0.0);
    let out_of_range = SourceOptions {
        numbers: vec![NumberColumn::share("safer")],
        given_numbers: [("safer".to_owned(), 2.0)].into(),
        ..SourceOptions::default()
    };
    assert_eq!(one(&row, &out_of_range).unwrap_err().reason, Reason::OutOfRange);
    let twice = SourceOptions { columns: [("safer".to_owned(), "x".into())].into(), ..given.clone() };
    let nothing = SourceOptions { given_numbers: [("safer".to_owned(), f64::NAN)].into(), ..given };
    for options in [twice, nothing] {
        let refused = Source::from_reader("{}".as_bytes(), &options).unwrap_err().to_string();
        assert!(refused.starts_with("numbers: got safer"), "{refused}");
    }
}

#[test]
fn a_number_that_an_order_takes_out_of_its_range_sets_the_row_aside() {
    let row = json!({"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2, "safe_chosen": 0, "safe_rejected": 1});
    let margin = NumberColumn { name: "margin".to_owned(), low: 0.0, high: 10.0 };
    let options = SourceOptions { numbers: vec![margin], ..ordered(SafetyOrder::SafeDpo) };
    let refused = one(&row, &options).unwrap_err();
    assert!(refused.reason == Reason::OutOfRange && refused.detail.contains("-2"), "{refused}");
}

#[test]
fn a_stream_reports_the_shares_whatever_it_drops_and_however_many_threads_read() {
    let mut reports = Vec::new();
    for (workers, unpair) in [(0, false), (3, false), (0, true)] {
        let source = source(&rows(), &ordered(SafetyOrder::SafeDpo)).unpaired(unpair);
        let encoder = encoder(SMALL, EncodeOptions::default());
        let mut stream = Stream::new(source, encoder, Order::File).unwrap().with_workers(workers).unwrap();
        while stream.next_example().unwrap().is_some() {}
        reports.push(stream.report().clone());
    }
    for report in &reports {
        let counts = report.safety;
        assert_eq!((counts.both_safe, counts.mixed, counts.both_unsafe, counts.contradictions), (1, 3, 1, 1));
        assert_eq!((report.reasons[&Reason::BothUnsafe], report.reasons[&Reason::LabelsContradict]), (1, 1));
        assert!(
            report.summary().contains("both safe 20.0 %, mixed 60.0 %, both unsafe 20.0 %"),
            "{}",
            report.summary()
        );
    }
    assert_eq!(reports[0], reports[1]);
    // A report of before has no such counts.
    let mut old = serde_json::to_value(&reports[0]).unwrap();
    old.as_object_mut().unwrap().remove("safety");
    assert!(serde_json::from_value::<candlewick_data::Report>(old).unwrap().safety.is_empty());
}

#[test]
fn statistics_tell_shares_and_a_class_that_is_alone() {
    let told = |rows: &[Value]| {
        let mut stats = Stats::default();
        let (read, counts) = read(rows, &ordered(SafetyOrder::SafeDpo));
        for row in &read {
            match row {
                Ok(record) => stats.row(&candlewick_data::Origin::memory(1), record, None).unwrap(),
                Err(rejection) => stats.dropped(rejection),
            }
        }
        stats.safety(counts);
        (serde_json::to_value(&stats).unwrap()["safety"].clone(), stats.summary().to_text(100))
    };
    let (json, text) = told(&rows());
    assert_eq!(
        (&json["both_unsafe"], &json["both_unsafe_share"], &json["one_class"]),
        (&json!(1), &json!(0.2), &Value::Null)
    );
    for line in
        ["both safe          1 (20.0 %) of the pairs", "contradictory      1 (20.0 %)", "at odds            2 (40.0 %)"]
    {
        assert!(text.contains(line), "{text}");
    }
    let (json, text) = told(&[pku(0, 1, [true, true]), pku(1, 1, [true, true])]);
    assert_eq!(json["one_class"], json!(true));
    assert!(text.contains("one class          every completion is safe"), "{text}");
    let plain = json!({"prompt": "p", "chosen": "a", "rejected": "b"});
    let mut stats = Stats::default();
    let (_, counts) = read(&[plain], &SourceOptions::default());
    stats.safety(counts);
    assert_eq!(serde_json::to_value(&stats).unwrap()["safety"], Value::Null);
}

#[test]
fn rows_of_an_application_are_ordered_too() {
    let text = |text: &str| Text::Plain(text.to_owned());
    let pair = Record::from(Row::Pair { prompt: text("p"), chosen: text("a"), rejected: text("b") })
        .with_number("safe_chosen", 0.0)
        .with_number("safe_rejected", 1.0);
    let source = Source::from_records(Arc::from([pair])).ordered_by_safety(SafetyOrder::SafeDpo);
    let rows: Vec<_> = source.records().unwrap().map(|row| row.unwrap().map(|(_, record)| record)).collect();
    assert_eq!(chosen(&rows[0]), Ok("b"));
}
