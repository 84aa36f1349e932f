//! Finds the test files and their rules from the paths of the command line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::rulefile::is_rule_file_name;

/// A test file, and the rule that it tests.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Test {
    pub(super) path: PathBuf,
    /// `None` if there is no such rule.
    pub(super) rule: Option<PathBuf>,
}

/// The tests of all paths.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// In the order of their names, each once.
    pub(super) tests: BTreeSet<Test>,
    /// How many rules there are, with or without tests.
    pub(super) rules: usize,
}

impl Targets {
    /// Finds the tests of directories, of rule files, and test files themselves.
    ///
    /// # Errors
    /// A path cannot be read, a named rule file has no test, or there is no test.
    pub(super) fn collect(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut targets = Self::default();
        let mut rules = BTreeSet::new();
        for path in paths {
            if path.is_dir() {
                let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
                for entry in entries.with_context(|| format!("{} cannot be read", path.display()))? {
                    let path = path.join(entry.file_name());
                    if rule_name(&path).is_some() {
                        targets.tests.insert(Test::of(path));
                    } else if is_rule_file_name(&entry.file_name()) {
                        rules.insert(path);
                    }
                }
            } else if rule_name(path).is_some() {
                targets.tests.insert(Test::of(path.clone()));
            } else {
                let tests = ["test.yaml", "test.yml"].map(|end| path.with_extension(end));
                let Some(test) = tests.into_iter().find(|test| test.is_file()) else {
                    let expected = path.with_extension("test.yaml");
                    bail!("{} has no test: expected its samples in {}", path.display(), expected.display());
                };
                targets.tests.insert(Test { path: test, rule: Some(path.clone()) });
            }
        }
        if targets.tests.is_empty() {
            bail!(
                "no test in {}: the samples of NAME.yaml are in NAME.test.yaml beside it",
                paths[0].display()
            );
        }
        rules.extend(targets.tests.iter().filter_map(|test| test.rule.clone()));
        targets.rules = rules.len();
        Ok(targets)
    }
}

impl Test {
    fn of(path: PathBuf) -> Self {
        let name = rule_name(&path).unwrap_or_default().to_owned();
        let beside = ["yaml", "yml"].map(|end| path.with_file_name(format!("{name}.{end}")));
        let rule = beside
            .into_iter()
            .find(|rule| rule.file_name().is_some_and(is_rule_file_name) && rule.symlink_metadata().is_ok());
        Self { path, rule }
    }
}

/// The name of the rule that a file tests, without its ending; `None` if it is not a test file's name.
fn rule_name(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".test.yaml").or_else(|| name.strip_suffix(".test.yml"))?;
    (!name.is_empty() && !name.starts_with('.')).then_some(name)
}
