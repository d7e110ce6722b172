//! What is asked of a judge, and what it may say.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Answers questions about answers: a program that the caller starts, another model, a function in tests.
///
/// The library starts no program. Whoever does must have been told to by its user, not by a task file.
pub trait Judge {
    /// The answer to one question, as a line of JSON.
    ///
    /// # Errors
    /// Why there is none, in words.
    fn ask(&mut self, question: &JudgeQuestion<'_>) -> std::result::Result<String, String>;
}

/// What a judge is asked: an object on one line, told apart by `ask`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
#[non_exhaustive]
pub enum JudgeQuestion<'a> {
    /// How good an answer is. The judge says `{"score": x}` with x from 0 to 1.
    Score {
        /// The task.
        task: &'a str,
        /// Where the row stands.
        row: String,
        /// What the judge is to look at, in the words of the task; null where it says nothing.
        criterion: Option<&'a str>,
        /// What was asked.
        prompt: &'a str,
        /// What was answered.
        answer: &'a str,
        /// The reference answer; null where there is none.
        reference: Option<&'a str>,
    },
    /// Which of two answers is better. The judge says `{"winner": "first"}`, `"second"` or `"tie"`.
    Compare {
        /// The task.
        task: &'a str,
        /// Where the row stands.
        row: String,
        /// What the judge is to look at, in the words of the task; null where it says nothing.
        criterion: Option<&'a str>,
        /// What was asked.
        prompt: &'a str,
        /// One answer.
        first: &'a str,
        /// The other.
        second: &'a str,
    },
}

/// Which answer a judge prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Winner {
    /// The one shown first.
    First,
    /// The one shown second.
    Second,
    /// Neither.
    Tie,
}

/// Other keys, such as a reason, are the judge's own.
#[derive(Deserialize)]
struct ScoreAnswer {
    score: f64,
}

#[derive(Deserialize)]
struct CompareAnswer {
    winner: Winner,
}

/// Asks for a score.
pub(super) fn score(judge: &mut dyn Judge, question: &JudgeQuestion<'_>) -> Result<f64> {
    let line = ask(judge, question)?;
    let found: Option<ScoreAnswer> = serde_json::from_str(&line).ok();
    let score = found.map(|answer| answer.score).filter(|score| (0.0..=1.0).contains(score));
    score.ok_or_else(|| malformed(question, &line, "{\"score\": x} with x from 0 to 1"))
}

/// Asks for the better of two.
pub(super) fn compare(judge: &mut dyn Judge, question: &JudgeQuestion<'_>) -> Result<Winner> {
    let line = ask(judge, question)?;
    let found: Option<CompareAnswer> = serde_json::from_str(&line).ok();
    let expected = "{\"winner\": \"first\"}, \"second\" or \"tie\"";
    found.map(|answer| answer.winner).ok_or_else(|| malformed(question, &line, expected))
}

fn ask(judge: &mut dyn Judge, question: &JudgeQuestion<'_>) -> Result<String> {
    judge.ask(question).map_err(|reason| Error::Judge { place: place(question), reason })
}

fn malformed(question: &JudgeQuestion<'_>, line: &str, expected: &str) -> Error {
    let shown: String = line.trim().chars().take(200).collect();
    Error::Judge { place: place(question), reason: format!("it said {shown:?}; expected one line of JSON, {expected}") }
}

fn place(question: &JudgeQuestion<'_>) -> String {
    match question {
        JudgeQuestion::Score { row, .. } | JudgeQuestion::Compare { row, .. } => row.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(&'static str);

    impl Judge for Says {
        fn ask(&mut self, question: &JudgeQuestion<'_>) -> std::result::Result<String, String> {
            assert!(
                serde_json::to_string(question)
                    .is_ok_and(|line| line.starts_with("{\"ask\":\"") && !line.contains('\n'))
            );
            if self.0.is_empty() { Err("it was silent".into()) } else { Ok(self.0.into()) }
        }
    }

    fn question() -> JudgeQuestion<'static> {
        JudgeQuestion::Compare {
            task: "t",
            row: "r.jsonl:4".into(),
            criterion: None,
            prompt: "a\nb",
            first: "x",
            second: "y",
        }
    }

    #[test]
    fn a_judge_is_understood_or_named_with_what_it_said() {
        let found = score(&mut Says("{\"score\": 0.25, \"why\": \"so\"}"), &question()).expect("a score");
        assert!((found - 0.25).abs() < 1e-12);
        assert_eq!(compare(&mut Says("{\"winner\": \"tie\"}"), &question()).expect("a winner"), Winner::Tie);
        for said in ["{\"score\": 2}", "{\"score\": \"1\"}", "0.5", "", "{}"] {
            let error = score(&mut Says(said), &question()).expect_err("malformed").to_string();
            assert!(error.contains("r.jsonl:4"), "{error}");
            assert!(error.contains("x from 0 to 1") || error.contains("silent"), "{error}");
        }
        assert!(
            compare(&mut Says("{\"winner\": \"both\"}"), &question())
                .expect_err("malformed")
                .to_string()
                .contains("both")
        );
    }
}
