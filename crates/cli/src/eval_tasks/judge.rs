//! A judge that is a command: it reads one JSON object a line, and answers one JSON object a line.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use candlewick::evaluate::tasks::{Judge, JudgeQuestion};

/// The longest answer, in bytes.
const LONGEST_LINE: u64 = 1 << 20;

/// A command that runs as long as it is asked.
#[derive(Debug)]
pub(crate) struct CommandJudge {
    command: String,
    child: Child,
    /// To the thread that writes, so that a judge that reads nothing cannot hold us up; none once there is nothing more to ask.
    questions: Option<Sender<String>>,
    answers: Receiver<Result<String, String>>,
    timeout: Duration,
}

impl CommandJudge {
    /// Starts the command in the system's shell; what it writes to standard error is shown.
    pub(crate) fn start(command: &str, timeout: Duration) -> std::io::Result<Self> {
        let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        let mut child =
            Command::new(shell).args([flag, command]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (questions, asked) = channel::<String>();
        std::thread::spawn(move || {
            let Some(mut stdin) = stdin else { return };
            // A judge that has ended is told by the end of its answers.
            while let Ok(line) = asked.recv() {
                if stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).is_err() {
                    return;
                }
            }
        });
        let (said, answers) = channel();
        std::thread::spawn(move || {
            let Some(stdout) = stdout else { return };
            let mut stdout = BufReader::new(stdout);
            while let Some(line) = read_line(&mut stdout) {
                let failed = line.is_err();
                if said.send(line).is_err() || failed {
                    return;
                }
            }
        });
        Ok(Self { command: command.to_owned(), child, questions: Some(questions), answers, timeout })
    }

    /// Tells the judge that nothing more is asked, and waits for its end.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        self.questions = None;
        match self.end() {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("`{}` failed at its end ({status})", self.command)),
            None => Err(format!(
                "`{}` was still running {} s after its last question; it has to end with its input",
                self.command,
                self.timeout.as_secs()
            )),
        }
    }

    /// The status with which it ends, where it does in time.
    fn end(&mut self) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if begun.elapsed() < self.timeout => std::thread::sleep(Duration::from_millis(5)),
                _ => return None,
            }
        }
    }
}

impl Judge for CommandJudge {
    fn ask(&mut self, question: &JudgeQuestion<'_>) -> Result<String, String> {
        let line = serde_json::to_string(question).map_err(|error| error.to_string())?;
        let sent = self.questions.as_ref().is_some_and(|questions| questions.send(format!("{line}\n")).is_ok());
        let answer = match sent {
            true => self.answers.recv_timeout(self.timeout),
            // What it said before it ended was not asked for.
            false => Err(RecvTimeoutError::Disconnected),
        };
        match answer {
            Ok(line) => line.map_err(|reason| format!("`{}`: {reason}", self.command)),
            Err(RecvTimeoutError::Timeout) => Err(format!(
                "`{}` gave no answer within {} s; give it more time with --judge-timeout",
                self.command,
                self.timeout.as_secs()
            )),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.end().map_or_else(|| "its output is closed".to_owned(), |status| status.to_string());
                Err(format!("`{}` ended before it answered ({status})", self.command))
            }
        }
    }
}

impl Drop for CommandJudge {
    fn drop(&mut self) {
        self.questions = None;
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next line; None at the end.
fn read_line(from: &mut impl BufRead) -> Option<Result<String, String>> {
    let mut line = Vec::new();
    match from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
        Ok(0) => None,
        Ok(_) if line.len() as u64 == LONGEST_LINE && !line.ends_with(b"\n") => {
            Some(Err(format!("it wrote a line longer than {LONGEST_LINE} bytes; expected one JSON object a line")))
        }
        Ok(_) => Some(String::from_utf8(line).map_err(|_| "it wrote bytes that are not UTF-8".to_owned())),
        Err(error) => Some(Err(format!("reading its answer: {error}"))),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn question() -> JudgeQuestion<'static> {
        JudgeQuestion::Score {
            task: "t",
            row: "r:1".into(),
            criterion: None,
            prompt: "p",
            answer: "a",
            reference: None,
        }
    }

    fn ask(command: &str, milliseconds: u64) -> Result<String, String> {
        CommandJudge::start(command, Duration::from_millis(milliseconds)).expect("a shell").ask(&question())
    }

    #[test]
    fn a_judge_answers_line_by_line_and_ends_with_its_input() {
        let mut judge =
            CommandJudge::start("while read -r line; do echo \"{\\\"score\\\": 1}\"; done", Duration::from_secs(20))
                .expect("a shell");
        for _ in 0..3 {
            assert_eq!(judge.ask(&question()).expect("an answer").trim(), "{\"score\": 1}");
        }
        judge.finish().expect("it ends");
        let mut failing =
            CommandJudge::start("read -r line; echo {}; exit 4", Duration::from_secs(20)).expect("a shell");
        assert_eq!(failing.ask(&question()).expect("an answer").trim(), "{}");
        assert!(failing.finish().expect_err("a failure").contains('4'));
    }

    #[test]
    fn a_judge_that_fails_is_told_how() {
        let found = ask("exit 3", 20_000).expect_err("it ended");
        assert!(found.contains("ended before it answered") && found.contains('3'), "{found}");
        let found = ask("sleep 30", 200).expect_err("it waits");
        assert!(found.contains("no answer within") && found.contains("--judge-timeout"), "{found}");
        let found = ask("head -c 2000000 /dev/zero | tr '\\0' x", 20_000).expect_err("too long");
        assert!(found.contains("longer than"), "{found}");
        assert!(ask("printf '\\377\\n'", 20_000).expect_err("no text").contains("UTF-8"));
    }
}
