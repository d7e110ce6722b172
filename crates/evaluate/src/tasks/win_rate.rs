//! A model's answers beside others to the same prompts.

use serde::{Deserialize, Serialize};

use super::field::{Field, Values};
use super::generate::Answers;
use super::judge::{self, Judge, JudgeQuestion, Winner};
use super::report::Measures;
use super::words::{CompareBy, Words};
use crate::error::{Error, Result};

/// A task of kind `win_rate`.
#[derive(Debug, Clone)]
pub(super) struct WinRate {
    pub(super) answers: Answers,
    opponent: Option<Field>,
    pub(super) by: CompareBy,
    criterion: Option<String>,
}

/// Two answers and which is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparisonOutcome {
    /// What was asked.
    pub prompt: String,
    /// The answer of the model.
    pub answer: String,
    /// The other answer.
    pub opponent: String,
    /// For each order, whether the model's answer won (1), lost (0) or neither (0.5). A judge is shown it first and then second;
    /// a reward has one order.
    pub wins: Vec<f64>,
    /// The model's reward less the other's, where rewards decide.
    pub margin: Option<f64>,
}

impl WinRate {
    pub(super) fn new(words: &Words, file: &str) -> Result<Self> {
        let by = words.by.unwrap_or(CompareBy::Judge);
        let wrong = |key: &str, reason: &str| Err(Error::config(format!("{file}: {key}"), reason));
        match by {
            CompareBy::Judge => {}
            CompareBy::LogRatio if words.judge.is_some() => {
                return wrong("judge", "stands beside by = \"log_ratio\", which asks no judge; leave one of them out");
            }
            CompareBy::LogRatio if words.criterion.is_some() => {
                return wrong("criterion", "is told to a judge, and by = \"log_ratio\" asks none; leave it out");
            }
            CompareBy::LogRatio => {}
            CompareBy::Sum | CompareBy::Mean => {
                return wrong("by", "is for tasks of kind \"rank\"; expected judge or log_ratio");
            }
        }
        Ok(Self {
            answers: Answers::new(words, file)?,
            opponent: Field::optional(file, "opponent", words.opponent.as_ref())?,
            by,
            criterion: words.criterion.clone(),
        })
    }

    /// The other answer, where the rows bring it.
    pub(super) fn opponent(&self, values: &Values<'_>) -> Result<Option<String>> {
        self.opponent.as_ref().map(|field| field.text(values)).transpose()
    }

    /// Whether another model has to answer.
    pub(super) fn needs_opponent(&self) -> bool {
        self.opponent.is_none()
    }

    /// Has a judge compare, in both orders.
    pub(super) fn judged(
        &self,
        values: &Values<'_>,
        texts: [String; 3],
        task: &str,
        judge: &mut dyn Judge,
    ) -> Result<ComparisonOutcome> {
        let [prompt, answer, opponent] = texts;
        let mut ask = |first: &str, second: &str| {
            let question = JudgeQuestion::Compare {
                task,
                row: values.row.origin.to_string(),
                criterion: self.criterion.as_deref(),
                prompt: &prompt,
                first,
                second,
            };
            judge::compare(judge, &question)
        };
        let wins = vec![won(ask(&answer, &opponent)?, Winner::First), won(ask(&opponent, &answer)?, Winner::Second)];
        Ok(ComparisonOutcome { prompt, answer, opponent, wins, margin: None })
    }

    /// Decides by rewards.
    pub(super) fn rewarded(texts: [String; 3], own: f64, other: f64) -> ComparisonOutcome {
        let [prompt, answer, opponent] = texts;
        let wins = vec![super::rank::order(own, other)];
        ComparisonOutcome { prompt, answer, opponent, wins, margin: Some(own - other) }
    }

    /// Decides where an answer is empty, which no reward is known of: it loses against any other, and is level with its like.
    pub(super) fn unrewarded(texts: [String; 3]) -> ComparisonOutcome {
        let [prompt, answer, opponent] = texts;
        let says = |text: &str| f64::from(u8::from(!text.trim().is_empty()));
        let wins = vec![super::rank::order(says(&answer), says(&opponent))];
        ComparisonOutcome { prompt, answer, opponent, wins, margin: None }
    }

    pub(super) fn measure(&self, rows: &[&ComparisonOutcome], measures: &mut Measures) {
        let rates: Vec<f64> = rows.iter().map(|row| row.win()).collect();
        measures.mean("win_rate", &rates);
        let share =
            |of: &dyn Fn(f64) -> bool| rates.iter().map(|rate| f64::from(u8::from(of(*rate)))).collect::<Vec<f64>>();
        measures.mean("wins", &share(&|rate| rate > 0.5));
        measures.mean("ties", &share(&|rate| (rate - 0.5).abs() < 1e-9));
        measures.mean("losses", &share(&|rate| rate < 0.5));
        let both: Vec<&[f64]> = rows.iter().map(|row| row.wins.as_slice()).filter(|wins| wins.len() == 2).collect();
        let steady: Vec<f64> = both.iter().map(|wins| f64::from(u8::from((wins[0] - wins[1]).abs() < 1e-9))).collect();
        measures.mean("position_consistency", &steady);
        // How often the place decides for itself: shown first, less shown second.
        let first: Vec<f64> = both.iter().map(|wins| f64::midpoint(wins[0], 1.0 - wins[1])).collect();
        measures.mean("first_place_wins", &first);
        let margins: Vec<f64> = rows.iter().filter_map(|row| row.margin).collect();
        measures.mean("margin", &margins);
        let lengths = |of: fn(&ComparisonOutcome) -> &str| {
            rows.iter().map(|row| of(row).chars().count() as f64).collect::<Vec<f64>>()
        };
        measures.mean("characters", &lengths(|row| &row.answer));
        measures.mean("opponent_characters", &lengths(|row| &row.opponent));
    }
}

impl ComparisonOutcome {
    /// The mean over both orders.
    pub fn win(&self) -> f64 {
        self.wins.iter().sum::<f64>() / self.wins.len().max(1) as f64
    }
}

fn won(winner: Winner, own: Winner) -> f64 {
    match winner {
        Winner::Tie => 0.5,
        winner if winner == own => 1.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Bootstrap;

    fn row(wins: &[f64]) -> ComparisonOutcome {
        ComparisonOutcome {
            prompt: "p".into(),
            answer: "a".into(),
            opponent: "bb".into(),
            wins: wins.to_vec(),
            margin: None,
        }
    }

    #[test]
    fn both_orders_count_half_each() {
        let text = "kind = \"win_rate\"\nprompt = \"p\"\nopponent = \"o\"\n";
        let task = WinRate::new(&Words::parse(text, "t.toml").expect("words"), "t.toml").expect("a task");
        let rows = [row(&[1.0, 1.0]), row(&[1.0, 0.0]), row(&[0.5, 0.5]), row(&[0.0, 0.0])];
        let mut measures = Measures::new(Bootstrap { draws: 10, ..Bootstrap::default() });
        task.measure(&rows.iter().collect::<Vec<_>>(), &mut measures);
        let value = |name: &str| measures.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value);
        assert_eq!(value("win_rate"), Some(0.5));
        assert_eq!((value("wins"), value("ties"), value("losses")), (Some(0.25), Some(0.5), Some(0.25)));
        assert_eq!((value("position_consistency"), value("first_place_wins")), (Some(0.75), Some(0.625)));
        assert_eq!((value("characters"), value("opponent_characters"), value("margin")), (Some(1.0), Some(2.0), None));
    }

    #[test]
    fn a_judge_that_likes_the_first_place_gives_ties() {
        struct First;
        impl Judge for First {
            fn ask(&mut self, _: &JudgeQuestion<'_>) -> std::result::Result<String, String> {
                Ok("{\"winner\":\"first\"}".into())
            }
        }
        let text = "kind = \"win_rate\"\nprompt = \"p\"\nopponent = \"o\"\n";
        let task = WinRate::new(&Words::parse(text, "t.toml").expect("words"), "t.toml").expect("a task");
        let columns = serde_json::Map::new();
        let row = super::super::field::TaskRow { origin: candlewick_data::Origin::memory(1), number: 0, columns };
        let texts = ["p".to_owned(), "a".to_owned(), "b".to_owned()];
        let found = task.judged(&Values::of(&row), texts, "t", &mut First).expect("judged");
        assert_eq!((found.wins.as_slice(), found.win()), (&[1.0, 0.0][..], 0.5));
    }

    #[test]
    fn an_empty_answer_loses() {
        let of = |answer: &str, other: &str| WinRate::unrewarded(["p".into(), answer.into(), other.into()]).win();
        assert_eq!((of("a", " "), of("", "b"), of("", "\n")), (1.0, 0.0, 0.5));
    }

    #[test]
    fn what_compares_is_said_once() {
        let refused = |more: &str| {
            let text = format!("kind = \"win_rate\"\nprompt = \"p\"\n{more}\n");
            WinRate::new(&Words::parse(&text, "t.toml").expect("words"), "t.toml").expect_err("refused").to_string()
        };
        assert!(refused("by = \"mean\"").contains("t.toml: by"));
        assert!(refused("by = \"log_ratio\"\njudge = \"j\"").contains("t.toml: judge"));
    }
}
