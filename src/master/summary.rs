use super::reconcile::{Reconciler, Report};

/// What a reconcile of everything came to, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// Rows that were not there before.
    pub inserted: usize,
    /// Rows that were there and are another now.
    pub updated: usize,
    /// Rows that are gone.
    pub deleted: usize,
    /// Files that stood in the table as they are.
    pub unchanged: usize,
    /// Files whose id another file holds.
    pub conflicts: usize,
    /// Files that hold no rule.
    pub broken: usize,
    /// Rows that the database did not take.
    pub refused: usize,
    /// Deletions that wait for an operator's word.
    pub held: usize,
}

impl Summary {
    /// Sums up a report.
    pub fn of(report: &Report, reconciler: &Reconciler) -> Self {
        let updated = report.plan.writes.iter().filter(|write| write.replaces.is_some()).count();
        Self {
            inserted: report.plan.writes.len() - updated,
            updated,
            deleted: report.plan.deletes.len(),
            unchanged: report.plan.unchanged,
            conflicts: reconciler.conflicts().count(),
            broken: reconciler.broken().count(),
            refused: report.refused,
            held: reconciler.held().map_or(0, |held| held.rule_ids.len()),
        }
    }

    /// This and a later one as one: what was done adds up, what stands is the later one's.
    #[must_use]
    pub const fn then(self, later: Self) -> Self {
        Self {
            inserted: self.inserted + later.inserted,
            updated: self.updated + later.updated,
            deleted: self.deleted + later.deleted,
            // What was written before stands in the table as it is by now.
            unchanged: later.unchanged.saturating_sub(self.inserted + self.updated),
            ..later
        }
    }
}
