use std::collections::HashMap;

use super::reconcile::{Reconciler, Report};
use crate::clock::Timestamp;
use crate::rule::ContentDigest;

/// The most rules that are named: an answer of the master is bounded.
const NAMED: usize = 50_000;

/// What a requested reconcile did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Reconciled {
    /// The counts.
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// The rules that were written or deleted, up to 50,000.
    #[serde(default)]
    pub(crate) written: Vec<WrittenRule>,
}

/// A rule that was written or deleted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct WrittenRule {
    /// Its id.
    pub(crate) rule_id: String,
    /// The digest of its text; `None` if it was deleted.
    pub(crate) content_sha256: Option<ContentDigest>,
    /// The stamp of the row before; `None` if there was none.
    pub(crate) replaced_at: Option<Timestamp>,
}

impl Reconciled {
    /// What a report says.
    pub(crate) fn of(report: &Report, reconciler: &Reconciler) -> Self {
        let deleted = report.plan.deletes.iter().map(|row| WrittenRule {
            rule_id: row.rule_id.clone(),
            content_sha256: None,
            replaced_at: Some(row.updated_at),
        });
        let written = report.plan.writes.iter().map(|write| WrittenRule {
            rule_id: write.rule.rule_id.to_string(),
            content_sha256: Some(write.rule.content_sha256),
            replaced_at: write.replaces.as_ref().map(|row| row.updated_at),
        });
        Self {
            summary: Summary::of(report, reconciler),
            written: written.chain(deleted).take(NAMED).collect(),
        }
    }

    /// Combines this with a later one.
    #[must_use]
    pub(crate) fn then(self, later: Self) -> Self {
        let mut again: HashMap<String, WrittenRule> =
            later.written.into_iter().map(|rule| (rule.rule_id.clone(), rule)).collect();
        let mut written = self.written;
        for rule in &mut written {
            if let Some(later) = again.remove(&rule.rule_id) {
                rule.content_sha256 = later.content_sha256;
            }
        }
        written.extend(again.into_values());
        written.truncate(NAMED);
        Self { summary: self.summary.then(later.summary), written }
    }
}

/// The counts of a reconcile of everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Summary {
    /// Rows that were inserted.
    pub(crate) inserted: usize,
    /// Rows that were updated.
    pub(crate) updated: usize,
    /// Rows that were deleted.
    pub(crate) deleted: usize,
    /// Files whose row was already equal to them.
    pub(crate) unchanged: usize,
    /// Files whose id another file holds.
    pub(crate) conflicts: usize,
    /// Invalid files.
    pub(crate) broken: usize,
    /// Rows that the database rejected.
    pub(crate) refused: usize,
    /// Deletions that are held back.
    pub(crate) held: usize,
    /// Whether the signed release in the directory is held back.
    #[serde(default)]
    pub(crate) release_held_back: bool,
}

impl Summary {
    /// Sums up a report.
    pub(crate) fn of(report: &Report, reconciler: &Reconciler) -> Self {
        let updated = report.plan.writes.iter().filter(|write| write.replaces.is_some()).count();
        Self {
            inserted: report.plan.writes.len() - updated,
            updated,
            deleted: report.plan.deletes.len(),
            unchanged: report.plan.unchanged,
            conflicts: reconciler.conflicts().count(),
            broken: reconciler.scanner().invalid().count(),
            refused: report.refused.max(reconciler.refused().count()),
            held: reconciler.held().map_or(0, |held| held.rule_ids.len()),
            release_held_back: reconciler.release().is_some_and(|release| release.held_back.is_some()),
        }
    }

    /// Combines this summary with a later one: writes add up, and the rest is the later one's.
    #[must_use]
    pub(crate) const fn then(self, later: Self) -> Self {
        Self {
            inserted: self.inserted + later.inserted,
            updated: self.updated + later.updated,
            deleted: self.deleted + later.deleted,
            // What this one wrote is unchanged in the later one.
            unchanged: later.unchanged.saturating_sub(self.inserted + self.updated),
            ..later
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_is_written_twice_replaced_the_row_before_the_first_write() {
        let at = |seconds: i64| Timestamp::from_micros(1_750_000_000_000_000 + seconds * 1_000_000);
        let rule = |rule_id: &str, text: Option<&str>, replaced_at: Option<i64>| WrittenRule {
            rule_id: rule_id.to_owned(),
            content_sha256: text.map(ContentDigest::of),
            replaced_at: replaced_at.map(at),
        };
        let of = |written: Vec<WrittenRule>| Reconciled { written, ..Reconciled::default() };
        let first = of(vec![rule("R1", Some("one"), Some(1)), rule("R2", Some("two"), None)]);
        let total = first.then(of(vec![rule("R1", None, Some(5)), rule("R3", Some("three"), None)]));
        let wanted = of(vec![
            rule("R1", None, Some(1)),
            rule("R2", Some("two"), None),
            rule("R3", Some("three"), None),
        ]);
        assert_eq!(total, wanted);
        // As the master's socket passes it on; a master of an earlier version names no rules.
        let line = serde_json::to_string(&total).unwrap();
        assert_eq!(serde_json::from_str::<Reconciled>(&line).unwrap(), wanted);
        let earlier = serde_json::to_string(&total.summary).unwrap();
        assert_eq!(serde_json::from_str::<Reconciled>(&earlier).unwrap(), Reconciled::default());
    }
}
