//! What runs the patterns: Python's own `re`, or the nearest thing to it that is in the program.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::python::{self, Python};
use crate::rule::spell_for_fancy_regex;

/// Why a pattern found nothing, and did not fail to match either.
#[derive(Debug)]
pub(super) enum SearchError {
    /// The pattern does not compile, or takes too long on the text.
    Wrong(String),
    /// The pattern is one that only Python's own `re` can try.
    NeedsPython(String),
    /// The engine is gone.
    Engine(anyhow::Error),
}

/// A regular expression engine.
#[derive(Debug)]
pub(super) enum Engine {
    Python(Python),
    /// The crate `fancy-regex`, with the patterns compiled so far.
    Fancy(HashMap<String, fancy_regex::Regex>),
}

impl Engine {
    /// Python's `re` by the interpreter that is named, else by python3, else the crate.
    ///
    /// # Errors
    /// When the interpreter that is named does not run, or python3 is there and fails.
    pub(super) fn choose(named: Option<PathBuf>) -> anyhow::Result<Self> {
        let program = named.as_deref().unwrap_or(Path::new("python3"));
        match Python::start(program) {
            Ok(python) => Ok(Self::Python(python)),
            Err(python::StartError::Absent) if named.is_none() => Ok(Self::Fancy(HashMap::new())),
            Err(error) => Err(anyhow::anyhow!("{} does not run: {error}", program.display())),
        }
    }

    /// The first text that the pattern finds.
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
    let fault = crate::rule::pattern_fault(pattern);
    if let Some(fault) = fault {
        return Err(SearchError::Wrong(format!("not a regular expression of Python's: {fault}")));
    }
    let spelled = spell_for_fancy_regex(pattern).map_err(SearchError::NeedsPython)?;
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
