//! Decides which deletions are carried out. A file may be back in a moment, and an emptied directory must not empty
//! the swarm.

use std::collections::BTreeSet;

use super::super::held::HeldDeletes;
use super::super::log;
use super::Reconciler;
use crate::config::{MasterConfig, Percent};
use crate::directory::DirectoryUnavailable;
use crate::rule::RuleHeader;
use crate::rule::plan::Plan;
use crate::store::{MasterSession, StoreError};

impl Reconciler {
    /// Takes out of the plan the deletions of files that are back by now, and returns their names for a rescan.
    pub(super) async fn drop_reappeared(&self, plan: &mut Plan) -> BTreeSet<String> {
        let paths = plan.deletes.iter().map(|delete| &*delete.source_path);
        let missing = paths.filter(|path| self.scanner.file(path).is_none()).map(str::to_owned).collect();
        let back = self.scanner.existing(missing).await;
        plan.deletes.retain(|delete| !back.contains(&*delete.source_path));
        back
    }

    /// Whether more files are missing than those whose rows this plan for a part of the directory deletes.
    pub(super) async fn other_files_missing(&self, plan: &Plan) -> Result<bool, DirectoryUnavailable> {
        let planned: BTreeSet<&str> = plan.deletes.iter().map(|delete| &*delete.source_path).collect();
        let is_seen = self.missing.paths().any(|path| !planned.contains(path));
        Ok(is_seen || self.scanner.has_missing_files().await?)
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
            self.hold(Some(HeldDeletes::take(plan, owned, recent)));
            return Ok((Vec::new(), false));
        }
        let deletes = std::mem::take(&mut plan.deletes).into_iter();
        Ok((deletes.map(|delete| delete.source_path.into_string()).collect(), false))
    }

    /// Remembers how many rows are owned when the first file is found missing, before the same plan inserts others.
    pub(super) async fn remember_owned(&mut self, session: &mut MasterSession) -> Result<(), StoreError> {
        if self.missing.paths().next().is_none() {
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
        let missing = |delete: &&RuleHeader| self.scanner.file(&delete.source_path).is_none();
        let missing = plan.deletes.iter().filter(missing).count();
        planned > 0
            && (exceeds_share(planned + fresh, recent, owned, share, free)
                || leaves_none(planned + fresh, missing + fresh, owned))
    }

    /// Whether a file is back whose deletion is held back.
    pub(super) fn held_files_are_back(&self) -> bool {
        let mut paths = self.held.iter().flat_map(|held| &held.source_paths);
        paths.any(|path| self.scanner.file(path).is_some())
    }

    fn hold(&mut self, held: Option<HeldDeletes>) {
        let is_same = match (&held, &self.held) {
            (Some(held), Some(before)) => held.is_same(before),
            (held, before) => held.is_none() && before.is_none(),
        };
        if !is_same {
            log::held_back(held.as_ref(), self.config.max_delete, self.config.rescan_interval);
            self.held = held;
        }
    }
}

/// Whether these deletions are more than the share that goes without asking.
///
/// `recent` is the number of deletions of the last rescan interval that no operator allowed, so that a directory that
/// empties file by file is a mass deletion, too. `owned` is the number of owned rows before the plan.
fn exceeds_share(planned: usize, recent: usize, owned: usize, share: Percent, free: usize) -> bool {
    let total = planned + recent;
    planned > 0 && total > free && share.is_exceeded_by(total, owned + recent)
}

/// Whether these deletions would leave none of the `owned` rows, as after a directory was emptied or mounted over.
/// `missing` of the `planned` deletions are of missing files: without one, files merely hold other ids now.
const fn leaves_none(planned: usize, missing: usize, owned: usize) -> bool {
    missing > 0 && planned >= owned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletions_are_a_mass_only_above_both_bounds() {
        let fifth = Percent::parse("20%").unwrap();
        assert!(!exceeds_share(5, 0, 5, fifth, 5), "five may always go");
        assert!(exceeds_share(6, 0, 6, fifth, 5));
        assert!(!exceeds_share(12, 0, 60, fifth, 5), "a fifth is within the share");
        assert!(exceeds_share(13, 0, 60, fifth, 5));
        assert!(exceeds_share(3, 12, 48, fifth, 5), "what went a moment ago counts");
        assert!(!exceeds_share(2, 10, 50, fifth, 5), "and so does that they stood a moment ago");
        assert!(!exceeds_share(0, 60, 10, fifth, 5), "nothing planned is nothing to hold");
    }
}
