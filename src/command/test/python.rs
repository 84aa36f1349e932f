//! Python's own `re`, in a process that is ended when a pattern takes too long.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::SearchError;

/// How long one search may take.
const LONGEST: Duration = Duration::from_secs(10);

/// How long the interpreter may take to start.
const START: Duration = Duration::from_secs(60);

/// The longest answer: every character of a sample as a JSON escape, and more.
const LONGEST_ANSWER: u64 = 16 << 20;

/// Why an interpreter does not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("there is no such program")]
    Absent,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no Python 3 that answers")]
    NoPython,
}

/// A running interpreter.
#[derive(Debug)]
pub(super) struct Python {
    program: PathBuf,
    version: String,
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Found(Option<String>),
    Error(String),
}

impl Python {
    /// Starts an interpreter, without its user's settings and packages.
    ///
    /// # Errors
    /// [`StartError`].
    pub(super) fn start(program: &Path) -> Result<Self, StartError> {
        let mut child = Command::new(program)
            .args(["-I", "-S", "-c", include_str!("search.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StartError::Absent,
                _ => StartError::Io(error),
            })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(StartError::NoPython);
        };
        let (sender, answers) = mpsc::channel();
        let reader = thread::Builder::new().spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = String::new();
            while let Ok(1..) = output.by_ref().take(LONGEST_ANSWER).read_line(&mut line) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        reader.map_err(StartError::Io)?;
        let mut python = Self { program: program.to_owned(), version: String::new(), child, input, answers };
        let hello = python.answers.recv_timeout(START).map_err(|_| StartError::NoPython)?;
        python.version = serde_json::from_str(&hello).map_err(|_| StartError::NoPython)?;
        Ok(python)
    }

    /// The interpreter's version, `3.11.2`.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// The first match of the pattern in the text.
    ///
    /// # Errors
    /// [`SearchError`], never that it needs Python.
    pub(super) fn search(&mut self, pattern: &str, text: &str) -> Result<Option<String>, SearchError> {
        let gone = |reason: String| {
            SearchError::Engine(anyhow::anyhow!("{} does not answer: {reason}", self.program.display()))
        };
        let question = format!("{}\n", json!([pattern, text]));
        self.input
            .write_all(question.as_bytes())
            .and_then(|()| self.input.flush())
            .map_err(|error| gone(error.to_string()))?;
        let answer = match self.answers.recv_timeout(LONGEST) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                let program = self.program.clone();
                *self = Self::start(&program).map_err(|error| SearchError::Engine(error.into()))?;
                return Err(SearchError::Wrong(format!(
                    "it found nothing in this text within {LONGEST:?}: see `rulesyncd check --explain backtracking`"
                )));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(gone("the process ended".to_owned())),
        };
        match serde_json::from_str(&answer).map_err(|error| gone(error.to_string()))? {
            Answer::Found(found) => Ok(found),
            Answer::Error(reason) => Err(SearchError::Wrong(reason)),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It has nothing to save, and may be in a search without end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
