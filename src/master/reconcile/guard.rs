//! Which deletions are carried out: a file may be back in a moment, and a directory that is emptied
//! must not empty the swarm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::super::log;
use super::super::plan::{self, Delete, Plan};
use super::super::scan::DirectoryAway;
use super::{DELETE_AFTER, HeldDeletes, Reconciler};
use crate::config::MasterConfig;
use crate::store::{MasterSession, StoreError};

impl HeldDeletes {
    /// Takes the deletions out of a plan, for an operator to order; `owned` are the rows before it.
    pub(super) fn take(plan: &mut Plan, owned: usize) -> Self {
        let deletes = std::mem::take(&mut plan.deletes).into_iter();
        let (rule_ids, source_paths) =
            deletes.map(|Delete { rule_id, source_path }| (rule_id, source_path)).unzip();
        Self { rule_ids, source_paths, owned }
    }
}

impl Reconciler {
    /// Takes out of the plan the rows whose file has been missing only for a moment, and returns
    /// the names to look at again. A row whose file stands with another id goes at once.
    pub(super) fn put_off_fresh_deletes(&mut self, plan: &mut Plan, everything: bool) -> Vec<String> {
        let now = Instant::now();
        let mut missing = BTreeMap::new();
        let mut look_again = Vec::new();
        plan.deletes.retain(|Delete { source_path, .. }| {
            if self.scanner.file(source_path).is_some() {
                return true;
            }
            let since = *self.missing.get(source_path).unwrap_or(&now);
            missing.insert(source_path.clone(), since);
            let due = now.duration_since(since) >= DELETE_AFTER;
            if !due {
                look_again.push(source_path.clone());
            }
            due
        });
        if everything {
            self.missing = missing;
        } else {
            self.missing.extend(missing);
        }
        look_again
    }

    /// Takes out of the plan the rows whose file was missing and stands again by now, and returns the names
    /// to look at again.
    pub(super) fn spare_what_is_back(&self, plan: &mut Plan) -> Vec<String> {
        let mut back = Vec::new();
        plan.deletes.retain(|Delete { source_path, .. }| {
            let is_back = self.scanner.file(source_path).is_none() && self.scanner.is_there(source_path);
            if is_back {
                back.push(source_path.clone());
            }
            !is_back
        });
        back
    }

    /// Whether files are missing besides those whose rows this plan for a part of the directory deletes:
    /// some that were seen to be, or some that nobody looked at since.
    pub(super) fn more_is_gone_than(&self, plan: &Plan) -> Result<bool, DirectoryAway> {
        let planned: BTreeSet<&str> = plan.deletes.iter().map(|delete| &*delete.source_path).collect();
        let is_seen = self.missing.keys().any(|path| !planned.contains(&**path));
        Ok(is_seen || self.scanner.others_are_gone()?)
    }

    /// Takes deletions out of the plan that only an operator may order, unless they are allowed. Those that
    /// would be such together with as many as are still `fresh` wait for them: returns their names, and
    /// whether deletions are carried out that would be held back if they were not allowed.
    pub(super) async fn guard(
        &mut self,
        session: &mut MasterSession,
        plan: &mut Plan,
        fresh: usize,
        everything: bool,
        is_allowed: bool,
    ) -> Result<(Vec<String>, bool), StoreError> {
        let window = self.config.rescan_interval;
        self.recent.retain(|(at, _)| at.elapsed() < window);
        if plan.deletes.is_empty() {
            if everything {
                self.hold(None);
            }
            return Ok((Vec::new(), false));
        }
        let recent = self.recent.iter().map(|(_, count)| count).sum();
        let owned = usize::try_from(session.owned(&self.config.updated_by).await?).unwrap_or(usize::MAX);
        let owned = self.owned_before.map_or(owned, |before| before.min(owned));
        if is_allowed || !self.is_mass_delete(plan, fresh, recent, owned) {
            if everything {
                self.hold(None);
            }
            return Ok((Vec::new(), is_allowed && self.is_mass_delete(plan, 0, recent, owned)));
        }
        if self.is_mass_delete(plan, 0, recent, owned) {
            self.hold(Some(HeldDeletes::take(plan, owned)));
            return Ok((Vec::new(), false));
        }
        let deletes = std::mem::take(&mut plan.deletes).into_iter();
        Ok((deletes.map(|delete| delete.source_path).collect(), false))
    }

    /// Notes how many rows are owned when the first file is found missing, before anything is
    /// inserted in the same breath.
    pub(super) async fn count_before(&mut self, session: &mut MasterSession) -> Result<(), StoreError> {
        if self.missing.is_empty() {
            self.owned_before = None;
        } else if self.owned_before.is_none() {
            let owned = session.owned(&self.config.updated_by).await?;
            self.owned_before = Some(usize::try_from(owned).unwrap_or(usize::MAX));
        }
        Ok(())
    }

    /// Whether the deletions of the plan, together with as many as are `fresh`, are for an operator to order.
    pub(super) fn is_mass_delete(&self, plan: &Plan, fresh: usize, recent: usize, owned: usize) -> bool {
        let (share, free) = (self.config.max_delete, MasterConfig::FREE_DELETES);
        let planned = plan.deletes.len();
        let missing = |delete: &&Delete| self.scanner.file(&delete.source_path).is_none();
        let missing = plan.deletes.iter().filter(missing).count();
        planned > 0
            && (plan::is_mass_delete(planned + fresh, recent, owned, share, free)
                || plan::leaves_none(planned + fresh, missing + fresh, owned))
    }

    /// Whether a file stands again whose deletion is held back.
    pub(super) fn held_are_back(&self) -> bool {
        let mut paths = self.held.iter().flat_map(|held| &held.source_paths);
        paths.any(|path| self.scanner.file(path).is_some())
    }

    fn hold(&mut self, held: Option<HeldDeletes>) {
        if held != self.held {
            log::held(held.as_ref(), self.config.max_delete);
            self.held = held;
        }
    }
}
