//! Runs the patterns: with Python's `re`, or with the most similar engine in the program.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::SearchError;
use super::python::{self, Python};
use crate::python_re;

/// A regular expression engine.
#[derive(Debug)]
pub(super) enum Engine {
    Python(Python),
    /// The crate `fancy-regex`, with the patterns compiled so far.
    Fancy(HashMap<String, fancy_regex::Regex>),
}

impl Engine {
    /// Python's `re` in the named interpreter, or in python3, or the crate.
    ///
    /// # Errors
    /// The named interpreter does not run, or python3 exists and fails.
    pub(super) fn choose(named: Option<PathBuf>) -> anyhow::Result<Self> {
        let program = named.as_deref().unwrap_or(Path::new("python3"));
        match Python::start(program) {
            Ok(python) => Ok(Self::Python(python)),
            Err(python::StartError::Absent) if named.is_none() => Ok(Self::Fancy(HashMap::new())),
            Err(error) => Err(anyhow::anyhow!("{} does not run: {error}", program.display())),
        }
    }

    /// The first match of the pattern in the text.
    ///
    /// # Errors
    /// [`SearchError`].
    pub(super) fn search(&mut self, pattern: &str, text: &str) -> Result<Option<String>, SearchError> {
        match self {
            Self::Python(python) => python.search(pattern, text),
            Self::Fancy(compiled) => {
                if !compiled.contains_key(pattern) {
                    compiled.insert(pattern.to_owned(), compile(pattern)?);
                }
                let found = compiled[pattern].find(text);
                let found = found.map_err(|error| SearchError::Wrong(error.to_string()))?;
                Ok(found.map(|found| found.as_str().to_owned()))
            }
        }
    }
}

fn compile(pattern: &str) -> Result<fancy_regex::Regex, SearchError> {
    if let Err(fault) = python_re::validate(pattern) {
        return Err(SearchError::Wrong(format!("not a regular expression of Python's: {fault}")));
    }
    let spelled = python_re::spell_for_fancy_regex(pattern).map_err(SearchError::NeedsPython)?;
    fancy_regex::Regex::new(&spelled).map_err(|error| SearchError::NeedsPython(error.to_string()))
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Python(python) => write!(f, "the `re` of Python {}", python.version()),
            Self::Fancy(_) => {
                f.write_str("the Rust crate fancy-regex, since there is no python3 (see --python)")
            }
        }
    }
}
