//! The records of files: invalid ones, conflicts, and YAML files that are not read. Each has a record when it begins and
//! one when it ends.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use super::super::log;
use super::super::trace::Ingest;
use crate::directory::{ChangedFiles, InvalidFile, ScannedFile, Scanner};
use crate::outage::RecordBudget;
use crate::rule::plan::Conflict;
use crate::rule::{RuleHeader, RuleId};
use crate::telemetry::metrics;

/// What was logged, and what is yet to be logged.
#[derive(Debug, Default)]
pub(super) struct FileLog {
    /// By the path of the file that does not get the id.
    conflicts: BTreeMap<String, Conflict>,
    passed_over: BTreeSet<String>,
    /// Files that changed and have no record yet, each as it was before; `None` is new.
    changed: ChangedFiles,
    pub(super) records: RecordBudget,
}

impl FileLog {
    pub(super) fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.values()
    }

    /// Keeps what changed until it can be logged: the rows tell whether an invalid file has a last valid version.
    pub(super) fn note_changed(&mut self, changed: ChangedFiles) {
        for (name, before) in changed {
            self.changed.entry(name).or_insert(before);
        }
    }

    /// Logs the changed files that are invalid, or no longer.
    pub(super) fn changes(&mut self, scanner: &Scanner, rows: &[RuleHeader]) {
        let passed_over = scanner.passed_over();
        passed_over.difference(&self.passed_over).for_each(|path| log::passed_over(path));
        self.passed_over.difference(passed_over).for_each(|path| log::no_longer_passed_over(path));
        self.passed_over.clone_from(passed_over);
        let (mut invalid, mut uncompilable) = (Vec::new(), Vec::new());
        for (name, before) in std::mem::take(&mut self.changed) {
            let now = scanner.file(&name);
            if let Some(place) = now.and_then(|scanned| scanned.bad_pattern.clone()) {
                uncompilable.push((name.clone(), place));
            }
            let before = before.as_ref().filter(|before| before.invalid().is_some());
            match now.map(|scanned| &scanned.outcome) {
                Some(Err(InvalidFile::Unfinished)) => {}
                Some(Err(_)) => invalid.push(name),
                Some(Ok(rule)) if before.is_some() => log::valid_again(&name, rule),
                None if before.is_some() => {
                    log::invalid_file_removed(&name, before.and_then(ScannedFile::rule_id));
                }
                _ => {}
            }
        }
        log::uncompilable(&uncompilable);
        if !invalid.is_empty() {
            self.invalid(&invalid, scanner, rows);
        }
    }

    fn invalid(&mut self, names: &[String], scanner: &Scanner, rows: &[RuleHeader]) {
        let by_path: HashMap<&str, &str> =
            rows.iter().map(|row| (&*row.source_path, &*row.rule_id)).collect();
        let ids: HashSet<String> = rows.iter().map(|row| row.rule_id.to_ascii_lowercase()).collect();
        let singly = self.records.take(names.len(), Instant::now());
        let has_row = |name: &str| {
            let named = || scanner.file(name)?.rule_id();
            by_path.contains_key(name) || named().is_some_and(|id| ids.contains(&id.folded()))
        };
        if !singly {
            log::many_invalid_files(names, names.iter().filter(|name| has_row(name)).count());
        }
        for name in names {
            let Some(scanned) = scanner.file(name) else { continue };
            let Some(why) = scanned.invalid() else { continue };
            let ingest = Ingest::of(name, Some(scanned));
            if singly {
                let kept = by_path.get(name.as_str()).copied();
                let rule_id = scanned.rule_id().map(RuleId::as_str).or(kept);
                log::invalid_file(name, rule_id, has_row(name), why, ingest.trace_id());
            }
            metrics::rejected(why.word());
            ingest.rejected();
        }
    }

    /// Remembers the conflicts among the scanned files, and logs those that are new or have ended.
    pub(super) fn note_conflicts(&mut self, conflicts: &[Conflict], is_scanned: impl Fn(&str) -> bool) {
        let before = std::mem::take(&mut self.conflicts);
        for conflict in conflicts {
            if before.get(&conflict.source_path) != Some(conflict) {
                log::conflict(conflict);
                metrics::rejected("conflict");
            }
            self.conflicts.insert(conflict.source_path.clone(), conflict.clone());
        }
        for (path, conflict) in before {
            if !is_scanned(&path) {
                self.conflicts.insert(path, conflict);
            } else if !self.conflicts.contains_key(&path) {
                log::conflict_ended(&conflict);
            }
        }
    }
}
