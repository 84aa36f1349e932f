use super::reconcile::{Reconciler, Report};

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
            refused: report.refused,
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
