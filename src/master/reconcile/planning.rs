//! Scans, reads rows and plans: for the whole directory, or for some files and what shares an id with them.

use std::collections::{BTreeSet, HashSet};

use super::{NoopReconcile, ReconcileError, Reconciler, UnmatchedRows};
use crate::directory::{ScanScope, ScannedFile};
use crate::rule::RuleId;
use crate::rule::plan::{self, Plan};
use crate::store::{MasterSession, RowsAsRead, Scope};
use crate::telemetry::metrics;

impl Reconciler {
    pub(super) async fn plan_everything(
        &mut self,
        session: &mut MasterSession,
        scope: &ScanScope,
        before: Option<(NoopReconcile, UnmatchedRows)>,
    ) -> Result<(Plan, Option<String>, UnmatchedRows), ReconcileError> {
        let changed = self.scan(scope).await?;
        let is_unchanged = changed.is_empty();
        self.file_log.note_changed(changed);
        let version = session.version().await?;
        if let Some((NoopReconcile { version: then, plan }, unmatched)) = before
            && is_unchanged
            && version.as_ref() == Some(&then)
        {
            return Ok((plan, version, unmatched));
        }
        let rows = metrics::timed("read_rows", session.rows(Scope::All)).await?;
        self.file_log.changes(&self.scanner, &rows);
        let plan = plan::plan(self.scanner.rules(), &rows, &self.config.updated_by);
        let writes = plan.writes.iter().map(|write| &*write.rule.source_path);
        let conflicts = plan.conflicts.iter().map(|conflict| &*conflict.source_path);
        self.scanner.mark_all_written_except(&writes.chain(conflicts).collect());
        self.file_log.note_conflicts(&plan.conflicts, |_| true);
        self.forget_refused(&plan, |_| true);
        let version = version.filter(|_| plan.is_empty());
        Ok((plan, version, UnmatchedRows::of(&rows, &self.scanner)))
    }

    /// Plans for some files, and for every other file and row of their ids.
    pub(super) async fn plan_names(
        &mut self,
        session: &mut MasterSession,
        mut names: BTreeSet<String>,
        unmatched: &mut UnmatchedRows,
    ) -> Result<(Plan, RowsAsRead), ReconcileError> {
        let mut ids: BTreeSet<RuleId> = BTreeSet::new();
        let mut read = RowsAsRead::default();
        let mut to_scan = names.clone();
        // Files lead to ids, ids to rows, and rows to other files and ids.
        while !to_scan.is_empty() {
            let changed = self.scan(&ScanScope::Names(to_scan.clone())).await?;
            let before = changed.values().flatten().filter_map(ScannedFile::rule_id);
            let now = to_scan.iter().filter_map(|name| self.scanner.file(name)?.rule_id());
            ids.extend(before.chain(now).cloned());
            self.file_log.note_changed(changed);
            let spelled =
                ids.iter().map(RuleId::as_str).chain(ids.iter().flat_map(|id| unmatched.spellings(id)));
            let at_paths = to_scan.iter().flat_map(|name| unmatched.ids_at(name));
            let keys: BTreeSet<String> = spelled.chain(at_paths).map(str::to_owned).collect();
            let keys: Vec<String> = keys.difference(&read.keys).cloned().collect();
            let rows = match keys.is_empty() {
                true => Vec::new(),
                false => metrics::timed("read_rows", session.rows(Scope::Keys(&keys))).await?,
            };
            ids.extend(rows.iter().filter_map(|row| RuleId::new(&row.rule_id).ok()));
            // A file with the same id may have been removed or changed at the same moment.
            let holders = ids.iter().flat_map(|id| self.scanner.names_of(id));
            let paths = rows.iter().map(|row| &*row.source_path);
            let known = paths.filter(|path| self.scanner.file(path).is_some());
            to_scan = holders.chain(known).filter(|name| !names.contains(*name)).map(str::to_owned).collect();
            names.extend(to_scan.iter().cloned());
            read.keys.extend(keys);
            read.rows.extend(rows);
        }
        read.rows.sort_unstable_by(|a, b| a.rule_id.cmp(&b.rule_id));
        // Where keys are compared without case, two of them find the same row.
        read.rows.dedup_by(|a, b| a.rule_id == b.rule_id);
        unmatched.replace(&read, &self.scanner);
        self.file_log.changes(&self.scanner, &read.rows);
        let files = names.iter().filter_map(|name| Some((name.as_str(), self.scanner.file(name)?.planned())));
        let plan = plan::plan(files, &read.rows, &self.config.updated_by);
        self.file_log.note_conflicts(&plan.conflicts, |path| names.contains(path));
        self.forget_refused(&plan, |path| names.contains(path));
        Ok((plan, read))
    }

    /// Forgets what the database rejected of the scanned files, unless this plan tries it again: the file is gone or
    /// invalid, or its row is equal to it.
    fn forget_refused(&mut self, plan: &Plan, is_scanned: impl Fn(&str) -> bool) {
        if self.refused.is_empty() {
            return;
        }
        let written = plan.writes.iter().map(|write| write.rule.rule_id.as_str());
        let planned: HashSet<&str> = written.chain(plan.deletes.iter().map(|row| &*row.rule_id)).collect();
        self.refused.retain(|rule_id, refused| {
            planned.contains(rule_id.as_str()) || !is_scanned(&refused.source_path)
        });
    }
}
