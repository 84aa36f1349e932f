//! Which rows are not those of the files, so that a plan for some files finds all rows that concern them by key.

use std::collections::{BTreeMap, BTreeSet};

use crate::directory::{ScannedFile, Scanner};
use crate::rule::plan::Plan;
use crate::rule::{RuleHeader, RuleId};
use crate::store::RowsAsRead;

/// The rows of which no file with their path holds their id, as it is spelled: rows of other programs, of files that are
/// missing or invalid, of ids that moved. As of the last full comparison and of what was read and written since; what
/// other programs did meanwhile is found by the next full comparison.
#[derive(Debug, Default)]
pub(super) struct UnmatchedRows {
    /// The paths, by the id in lower case and as it is spelled.
    paths: BTreeMap<(String, String), Box<str>>,
    /// The spelled ids by path.
    ids: BTreeSet<(Box<str>, String)>,
}

impl UnmatchedRows {
    /// Those among all rows of the table.
    pub(super) fn of(rows: &[RuleHeader], scanner: &Scanner) -> Self {
        let mut unmatched = Self::default();
        unmatched.note(rows, scanner);
        unmatched
    }

    /// Takes those among rows that were read, in place of what was known of their keys.
    pub(super) fn replace(&mut self, read: &RowsAsRead, scanner: &Scanner) {
        read.keys.iter().for_each(|key| self.forget(key));
        self.note(&read.rows, scanner);
    }

    /// The same after a plan was carried out: a written row is its file's.
    pub(super) fn after(mut self, plan: &Plan) -> Self {
        plan.deletes.iter().for_each(|row| self.forget(&row.rule_id));
        for write in &plan.writes {
            let replaced = write.replaces.iter().chain(&write.case_variants);
            replaced.for_each(|row| self.forget(&row.rule_id));
            self.forget(write.rule.rule_id.as_str());
        }
        self
    }

    fn note(&mut self, rows: &[RuleHeader], scanner: &Scanner) {
        let holds = |row: &&RuleHeader| {
            let held = scanner.file(&row.source_path).and_then(ScannedFile::rule);
            held.is_some_and(|rule| rule.rule_id.as_str() == row.rule_id)
        };
        for row in rows.iter().filter(|row| !holds(row)) {
            let key = (row.rule_id.to_ascii_lowercase(), row.rule_id.clone());
            self.paths.insert(key, row.source_path.clone());
            self.ids.insert((row.source_path.clone(), row.rule_id.clone()));
        }
    }

    /// Forgets the row of an id, as it is spelled.
    fn forget(&mut self, rule_id: &str) {
        if let Some(path) = self.paths.remove(&(rule_id.to_ascii_lowercase(), rule_id.to_owned())) {
            self.ids.remove(&(path, rule_id.to_owned()));
        }
    }

    /// How the rows of an id are spelled.
    pub(super) fn spellings(&self, id: &RuleId) -> impl Iterator<Item = &str> {
        let folded = id.folded();
        let found = self.paths.range((folded.clone(), String::new())..);
        found.take_while(move |((other, _), _)| *other == folded).map(|((_, spelled), _)| spelled.as_str())
    }

    /// The ids of the rows with a path.
    pub(super) fn ids_at(&self, path: &str) -> impl Iterator<Item = &str> {
        let found = self.ids.range((Box::from(path), String::new())..);
        found.take_while(move |(other, _)| **other == *path).map(|(_, id)| id.as_str())
    }
}
