//! Fronts and hypervolumes are those that moocore finds.

use candlewick_evaluate::pareto::{front, hypervolume};
use serde::Deserialize;

#[derive(Deserialize)]
struct Recorded {
    made_by: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    points: Vec<Vec<f64>>,
    reference: Vec<f64>,
    front: Vec<usize>,
    hypervolume: f64,
}

#[test]
fn fronts_and_volumes_are_those_of_moocore() {
    let recorded: Recorded = serde_json::from_str(include_str!("pareto.json")).expect("JSON");
    assert!(recorded.made_by.contains("moocore") && recorded.cases.len() == 30);
    for case in &recorded.cases {
        let (objectives, points) = (case.reference.len(), case.points.len());
        assert_eq!(front(&case.points), case.front, "{points} points, {objectives} objectives");
        let found = hypervolume(&case.points, &case.reference);
        assert!((found - case.hypervolume).abs() < 1e-12, "{points} points, {objectives} objectives: {found}");
    }
}
