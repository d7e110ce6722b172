use super::*;

fn text(text: &str) -> Text {
    Text::Plain(text.to_owned())
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> Record {
    Row::Pair { prompt: text(prompt), chosen: text(chosen), rejected: text(rejected) }.into()
}

fn labelled(prompt: &str, completion: &str, desirable: bool) -> Record {
    Row::Labelled { prompt: text(prompt), completion: text(completion), desirable }.into()
}

fn of(records: &[Record]) -> Summary {
    let mut stats = Stats::default();
    for (index, record) in records.iter().enumerate() {
        let _ = stats.row(&Origin::memory(index as u64 + 1), record, None);
    }
    stats.summary()
}

#[test]
fn a_prompt_is_shared_within_and_across_rows() {
    // Two rows of one prompt of 10 characters, one of a prompt of 4; completions of 2.
    let summary = of(&[pair("0123456789", "ab", "cd"), pair("0123456789", "ef", "gh"), pair("0123", "ab", "cd")]);
    let prompts = &summary.prompts;
    assert_eq!((prompts.distinct, prompts.unit), (2, LengthUnit::Characters));
    assert_eq!(prompts.total, 2 * (12 + 12) + 2 * 6);
    assert_eq!((prompts.saved_within_rows, prompts.saved_across_rows), (10 + 10 + 4, 10));
    assert!((prompts.share_within_rows - 24.0 / 60.0).abs() < 1e-12);
    assert_eq!(summary.characters[&RowPart::Total].count, 6);
    assert_eq!(summary.characters[&RowPart::Prompt].max, 10);
}

#[test]
fn duplicates_and_contradictions() {
    let summary = of(&[
        pair("p", "a", "b"),
        pair("p", "a", "b"),
        pair("p", "b", "a"),
        pair("q", "b", "a"),
        labelled("p", "a", true),
        labelled("p", "a", true),
        labelled("p", "a", false),
    ]);
    assert_eq!((summary.duplicates.rows, summary.duplicates.contradictions), (2, 2));
    // Where one string ends and the next begins matters.
    assert_eq!(of(&[pair("ab", "c", "d"), pair("a", "bc", "d")]).duplicates.rows, 0);
    let rated = |rating| {
        Record::from(Row::Ranked { prompt: text("p"), completions: vec![(text("a"), 1.0), (text("b"), rating)] })
    };
    assert_eq!(of(&[rated(2.0), rated(3.0), rated(2.0)]).duplicates.rows, 1);
}

#[test]
fn balance_ties_bias_and_reasons() {
    let tied = pair("p", "x", "y").with_number("preference", 0.5);
    let records = [
        labelled("p", "a", true),
        labelled("q", "a", true),
        labelled("r", "a", false),
        pair("p", "long one", "short"),
        pair("q", "a", "bc"),
        tied,
        pair("p", "same", "same"),
    ];
    let mut stats = Stats::default();
    for record in &records {
        let _ = stats.row(&Origin::memory(1), record, None);
    }
    let rejection = |reason| Rejection { origin: Origin::memory(9), reason, detail: String::new() };
    stats.dropped(&rejection(Reason::Tied));
    let summary = stats.summary();
    assert_eq!((summary.rows.read, summary.rows.kept, summary.rows.dropped), (8, 6, 2));
    assert_eq!(summary.rows.reasons, [(Reason::Identical, 1), (Reason::Tied, 1)].into());
    let labels = summary.labels.unwrap();
    assert_eq!((labels.desirable, labels.undesirable), (2, 1));
    let ties = summary.ties.unwrap();
    assert_eq!((ties.kept, ties.dropped, ties.share), (1, 1, 0.5));
    let bias = summary.length_bias.unwrap();
    assert_eq!((bias.chosen_longer, bias.rejected_longer, bias.equal), (1, 1, 1));
    assert!((bias.mean_difference - (3.0 - 1.0) / 3.0).abs() < 1e-12);
    assert_eq!(summary.numbers["preference"].count, 1);
    assert!(summary.judgments.is_none() && summary.tokens.is_none() && summary.votes.is_none());
}

#[test]
fn keys_of_the_json_are_stable() {
    let mut stats = Stats::default();
    stats.source("pairs.jsonl", Form::TrlPair);
    stats.row(&Origin::memory(1), &pair("p", "a", "b").with_number("margin", 2.0), None).unwrap();
    let value = serde_json::to_value(&stats).unwrap();
    let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "sources",
        "rows",
        "safety",
        "kinds",
        "conversational",
        "with_tools",
        "characters",
        "tokens",
        "labels",
        "judgments",
        "ties",
        "prompts",
        "duplicates",
        "length_bias",
        "votes",
        "numbers",
    ];
    expected.sort_unstable();
    let mut keys = keys;
    keys.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!(value["sources"][0], serde_json::json!({"name": "pairs.jsonl", "form": "trl_pair"}));
    assert_eq!(value["kinds"], serde_json::json!({"pair": 1}));
    assert_eq!(value["rows"], serde_json::json!({"read": 1, "kept": 1, "dropped": 0, "reasons": {}}));
    assert_eq!(value["characters"]["chosen"]["histogram"], serde_json::json!([{"from": 1, "to": 1, "count": 1}]));
    assert_eq!(value["numbers"]["margin"]["max"], 2.0);
}

#[test]
fn text_is_aligned_and_no_wider_than_asked() {
    let records: Vec<Record> = (1..200).map(|n| pair(&"p".repeat(n * 7), &"a".repeat(n), "b")).collect();
    for width in [0, 60, 80, 500] {
        let shown = of(&records).to_text(width);
        let widest = shown.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= width.clamp(60, 100).max(80), "{widest}\n{shown}");
        assert!(shown.contains("rows read          199"), "{shown}");
        assert!(shown.lines().all(|line| line.trim_end() == line), "{shown}");
    }
}

#[test]
fn memory_of_numbers_is_bounded() {
    let mut stats = Stats::default();
    for column in 0..2000 {
        let record = pair("p", "a", &format!("b{column}")).with_number(format!("score_{column}"), f64::from(column));
        stats.row(&Origin::memory(1), &record, None).unwrap();
    }
    assert_eq!(stats.summary().numbers.len(), MOST_NUMBERS);
}
