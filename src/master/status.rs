//! The status of a master, as `rulesyncd status` shows it.

use serde::{Deserialize, Serialize};

use super::Summary;
use super::reconcile::{Reconciler, ReleaseStatus};
use crate::address::DatabasePlace;
use crate::clock::Timestamp;
use crate::config::MasterConfig;
use crate::directory::{DirectoryUnavailable, MOST_PASSED_OVER};
use crate::plural::count;
use crate::rule::plan::Conflict;
use crate::store::{Database, StoreError, driver_failures};

/// The most files or rules that a list of the status names: each connection holds an answer until it is read.
const MAX_LISTED: usize = 1_000;

/// Whether this master may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LockStatus {
    /// It holds the lock: it is the one writer.
    Held,
    /// Another master holds it.
    Standby,
    /// Unknown: the database is unavailable.
    #[default]
    None,
}

/// The lease of the master that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseStatus {
    /// Which one it is: it rises whenever the lease is taken.
    pub(crate) term: u64,
    /// When the database last confirmed it, by this host's clock.
    pub(crate) confirmed_at: Timestamp,
}

/// The status of a master.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct MasterStatus {
    /// `master`.
    pub(crate) mode: String,
    /// The program's version.
    pub(crate) version: String,
    /// When it started.
    pub(crate) started_at: Timestamp,
    /// `sqlite`, `mysql` or `postgresql`.
    pub(crate) backend: String,
    /// Which database it writes.
    #[serde(default)]
    pub(crate) database: DatabasePlace,
    /// The directory that it watches.
    pub(crate) rules_dir: String,
    /// Whether it may write.
    pub(crate) lock: LockStatus,
    /// Since when the database is unavailable; `None` while it answers.
    pub(crate) database_down_since: Option<Timestamp>,
    /// Since when it answers; `None` while it is unavailable, and before the first answer.
    #[serde(default)]
    pub(crate) database_up_since: Option<Timestamp>,
    /// Since when the rules directory cannot be read; `None` while it can.
    #[serde(default)]
    pub(crate) directory_unavailable_since: Option<Timestamp>,
    /// When the last reconcile ended; `None` before the first.
    pub(crate) reconciled_at: Option<Timestamp>,
    /// The counts of the last reconcile.
    pub(crate) last: Option<Summary>,
    /// Valid rule files.
    pub(crate) rules: usize,
    /// Invalid files, with the reasons: the first 1,000.
    pub(crate) broken: Vec<InvalidFileStatus>,
    /// See [`MasterStatus::invalid_files`].
    #[serde(default)]
    pub(crate) broken_count: usize,
    /// Files whose id another file holds: the first 1,000.
    pub(crate) conflicts: Vec<Conflict>,
    /// See [`MasterStatus::conflicting_files`].
    #[serde(default)]
    pub(crate) conflict_count: usize,
    /// Rules that the database rejects, with its reasons: the first 1,000.
    #[serde(default)]
    pub(crate) rejected: Vec<RejectedRule>,
    /// See [`MasterStatus::rejected_rules`].
    #[serde(default)]
    pub(crate) rejected_count: usize,
    /// YAML files that are not read because of name or place: the first 20. See [`MasterStatus::passes_over_more`].
    #[serde(default)]
    pub(crate) passed_over: Vec<String>,
    /// Why the directory is not watched, so that only the rescan finds changes; `None` while it is watched.
    #[serde(default)]
    pub(crate) watch_error: Option<String>,
    /// Rules whose deletion is held back: the first 1,000.
    pub(crate) pending_mass_delete: Vec<String>,
    /// See [`MasterStatus::pending_deletions`].
    #[serde(default)]
    pub(crate) pending_count: usize,
    /// The signed release; `None` without trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<ReleaseStatus>,
    /// Why the database or the directory is unavailable; `None` while neither is.
    pub(crate) last_error: Option<String>,
    /// When that was last met.
    #[serde(default)]
    pub(crate) last_error_at: Option<Timestamp>,
    /// Why the version in `rulesyncd_version` is not raised, and what to do; `None` if it is, and before the first
    /// reconcile.
    #[serde(default)]
    pub(crate) version_problem: Option<String>,
    /// Why there is only the server's lock and no lease, and what to do; `None` if there is one, and on SQLite.
    #[serde(default)]
    pub(crate) lease_problem: Option<String>,
    /// `None` while another master leads, without a lease, and on SQLite.
    #[serde(default)]
    pub(crate) lease: Option<LeaseStatus>,
    /// How often in this run the database's driver panicked, or was kept busy without end, by what the database
    /// sent.
    #[serde(default)]
    pub(crate) driver_failures: u64,
}

/// An invalid file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InvalidFileStatus {
    /// The path, relative to the rules directory.
    pub(crate) source_path: String,
    /// The reason, with its place in the file.
    pub(crate) reason: String,
}

/// A rule whose row the database rejects, or the deletion of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RejectedRule {
    pub(crate) rule_id: String,
    /// The path, relative to the rules directory.
    pub(crate) source_path: String,
    /// The database's reason.
    pub(crate) reason: String,
    /// Whether it is the deletion that is rejected: then no file has the rule.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_deletion: bool,
}

impl MasterStatus {
    pub(super) fn new(config: &MasterConfig, database: &Database, now: Timestamp) -> Self {
        Self {
            mode: "master".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: now,
            backend: database.backend().to_owned(),
            database: database.place(),
            rules_dir: config.rules_dir.display().to_string(),
            ..Self::default()
        }
    }

    pub(super) fn database_failed(&mut self, error: &StoreError, now: Timestamp) {
        self.database_down_since.get_or_insert(now);
        self.database_up_since = None;
        (self.last_error, self.last_error_at) = (Some(error.to_string()), Some(now));
        self.driver_failures = driver_failures();
    }

    pub(super) fn directory_failed(&mut self, error: &DirectoryUnavailable, now: Timestamp) {
        self.directory_unavailable_since.get_or_insert(now);
        (self.last_error, self.last_error_at) = (Some(error.to_string()), Some(now));
    }

    pub(super) fn directory_works(&mut self) {
        self.directory_unavailable_since = None;
        self.forget_error();
    }

    pub(super) fn database_works(&mut self, now: Timestamp) {
        self.database_down_since = None;
        self.database_up_since.get_or_insert(now);
        self.forget_error();
    }

    /// The error is forgotten with the last outage.
    fn forget_error(&mut self) {
        if self.database_down_since.is_none() && self.directory_unavailable_since.is_none() {
            (self.last_error, self.last_error_at) = (None, None);
        }
    }

    pub(super) fn reconciled(&mut self, reconciler: &Reconciler, summary: Summary, now: Timestamp) {
        self.reconciled_at = Some(now);
        self.last = Some(summary);
        let scanner = reconciler.scanner();
        self.rules = scanner.valid_count();
        (self.broken_count, self.conflict_count) =
            (scanner.invalid().count(), reconciler.conflicts().count());
        let invalid = scanner.invalid().take(MAX_LISTED);
        self.broken = invalid
            .map(|(name, why)| InvalidFileStatus { source_path: name.to_owned(), reason: why.sentence() })
            .collect();
        self.conflicts = reconciler.conflicts().take(MAX_LISTED).cloned().collect();
        self.rejected_count = reconciler.refused().count();
        let rejected = reconciler.refused().take(MAX_LISTED);
        self.rejected = rejected
            .map(|(rule_id, refused)| RejectedRule {
                rule_id: rule_id.to_owned(),
                source_path: refused.source_path.clone(),
                reason: refused.reason.clone(),
                is_deletion: refused.is_deletion(),
            })
            .collect();
        self.passed_over = scanner.passed_over().iter().cloned().collect();
        self.release = reconciler.release();
        let held = reconciler.held().map_or(&[][..], |held| &held.rule_ids);
        self.pending_count = held.len();
        self.pending_mass_delete = held.iter().take(MAX_LISTED).cloned().collect();
    }

    /// How many files are invalid. (A master of an earlier version names all of them, and no number; so with the others.)
    pub(crate) fn invalid_files(&self) -> usize {
        self.broken_count.max(self.broken.len())
    }

    /// How many files have an id that another file holds.
    pub(crate) fn conflicting_files(&self) -> usize {
        self.conflict_count.max(self.conflicts.len())
    }

    /// How many rules the database rejects.
    pub(crate) fn rejected_rules(&self) -> usize {
        self.rejected_count.max(self.rejected.len())
    }

    /// Whether more files may be passed over than are named: a scan looks for no more, so nobody knows how many.
    pub(crate) fn passes_over_more(&self) -> bool {
        self.passed_over.len() >= MOST_PASSED_OVER
    }

    /// How many deletions are held back.
    pub(crate) fn pending_deletions(&self) -> usize {
        self.pending_count.max(self.pending_mass_delete.len())
    }

    pub(super) fn why_not_writing(&self) -> String {
        match self.lock {
            LockStatus::Standby => "this master stands by: another holds the lock, ask that one".to_owned(),
            LockStatus::Held | LockStatus::None => {
                format!(
                    "the database does not answer: {}",
                    self.last_error.as_deref().unwrap_or("not yet reached")
                )
            }
        }
    }

    /// One sentence for `systemctl status`.
    pub(crate) fn sentence(&self) -> String {
        let doing = match (self.lock, self.database_down_since, self.directory_unavailable_since) {
            (_, Some(since), _) => format!("database unavailable since {since}"),
            (LockStatus::Standby, None, _) => "standby: another master holds the lock".to_owned(),
            (LockStatus::None, None, _) => "connecting".to_owned(),
            (LockStatus::Held, None, Some(since)) => {
                format!(
                    "rules directory {} unavailable since {since}; every rule stays as it is",
                    self.rules_dir
                )
            }
            (LockStatus::Held, None, None) if self.reconciled_at.is_none() => {
                "comparing the directory with the table".to_owned()
            }
            (LockStatus::Held, None, None) => {
                let deletions = self.rejected.iter().filter(|rule| rule.is_deletion).count();
                let apart = self.rejected_rules() - deletions + self.conflicting_files();
                format!("{} in sync", count(self.rules.saturating_sub(apart), "rule"))
            }
        };
        let mut sentence = doing;
        for (number, what, then) in [
            (self.invalid_files(), "file", "rejected"),
            (self.conflicting_files(), "file", "in conflict"),
            (self.rejected_rules(), "rule", "rejected by the database"),
            (self.passed_over.len(), "YAML file", "not read because of name or place"),
            (self.pending_deletions(), "deletion", "held back, see `rulesyncd sync --allow-mass-delete`"),
        ] {
            if number > 0 {
                let least = if what == "YAML file" && self.passes_over_more() { "at least " } else { "" };
                sentence += &format!("; {least}{} {then}", count(number, what));
            }
        }
        if let Some(why) = self.release.as_ref().and_then(|release| release.held_back.as_ref()) {
            sentence += &format!("; {why}");
        }
        if self.watch_error.is_some() {
            sentence += "; the directory is not watched";
        }
        sentence
    }
}
