//! Decides which deletions are carried out. A file may be back in a moment, and an emptied directory must not empty
//! the swarm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::super::held::HeldDeletes;
use super::super::log;
use super::super::plan::{self, Delete, Plan};
use super::super::scan::DirectoryAway;
use super::{DELETE_AFTER, Reconciler};
use crate::config::MasterConfig;
use crate::store::{MasterSession, StoreError};

impl Reconciler {
    /// Takes out of the plan the deletions of files that have been missing for less than [`DELETE_AFTER`], and returns
    /// their names for a rescan. Where the file exists and holds another id, the deletion stays.
    pub(super) fn debounce_deletes(&mut self, plan: &mut Plan, everything: bool) -> Vec<String> {
        let now = Instant::now();
        let mut missing = BTreeMap::new();
        let mut rescan = Vec::new();
        plan.deletes.retain(|Delete { source_path, .. }| {
            if self.scanner.file(source_path).is_some() {
                return true;
            }
            let since = *self.missing.get(source_path).unwrap_or(&now);
            missing.insert(source_path.clone(), since);
            let is_confirmed = now.duration_since(since) >= DELETE_AFTER;
            if !is_confirmed {
                rescan.push(source_path.clone());
            }
            is_confirmed
        });
        if everything {
            self.missing = missing;
        } else {
            self.missing.extend(missing);
        }
        rescan
    }

    /// Takes out of the plan the deletions of files that are back by now, and returns their names for a rescan.
    pub(super) fn drop_reappeared(&self, plan: &mut Plan) -> Vec<String> {
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

    /// Whether more files are missing than those whose rows this plan for a part of the directory deletes.
    pub(super) fn other_files_missing(&self, plan: &Plan) -> Result<bool, DirectoryAway> {
        let planned: BTreeSet<&str> = plan.deletes.iter().map(|delete| &*delete.source_path).collect();
        let is_seen = self.missing.keys().any(|path| !planned.contains(&**path));
        Ok(is_seen || self.scanner.has_missing_files()?)
    }

    /// Holds back the deletions of the plan if they are a mass deletion and not allowed.
    ///
    /// Deletions that would be one only together with the `fresh` ones, which are not confirmed yet, are deferred.
    /// Returns the names of the deferred ones, and whether an allowed mass deletion is in the plan.
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

    /// Remembers how many rows are owned when the first file is found missing, before the same plan inserts others.
    pub(super) async fn count_before(&mut self, session: &mut MasterSession) -> Result<(), StoreError> {
        if self.missing.is_empty() {
            self.owned_before = None;
        } else if self.owned_before.is_none() {
            let owned = session.owned(&self.config.updated_by).await?;
            self.owned_before = Some(usize::try_from(owned).unwrap_or(usize::MAX));
        }
        Ok(())
    }

    /// Whether the deletions of the plan, together with the `fresh` ones, are a mass deletion.
    pub(super) fn is_mass_delete(&self, plan: &Plan, fresh: usize, recent: usize, owned: usize) -> bool {
        let (share, free) = (self.config.max_delete, MasterConfig::FREE_DELETES);
        let planned = plan.deletes.len();
        let missing = |delete: &&Delete| self.scanner.file(&delete.source_path).is_none();
        let missing = plan.deletes.iter().filter(missing).count();
        planned > 0
            && (plan::is_mass_delete(planned + fresh, recent, owned, share, free)
                || plan::leaves_none(planned + fresh, missing + fresh, owned))
    }

    /// Whether a file is back whose deletion is held back.
    pub(super) fn held_files_are_back(&self) -> bool {
        let mut paths = self.held.iter().flat_map(|held| &held.source_paths);
        paths.any(|path| self.scanner.file(path).is_some())
    }

    fn hold(&mut self, held: Option<HeldDeletes>) {
        if held != self.held {
            log::held_back(held.as_ref(), self.config.max_delete);
            self.held = held;
        }
    }
}
