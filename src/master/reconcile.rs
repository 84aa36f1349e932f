//! Makes the table equal to the directory. Start, events, reloads, rescans, retries and `rulesyncd sync` all come
//! through here.
//!
//! 1. *Scan* the whole directory, or the files that an event names.
//! 2. *Plan*: compare the files with the rows ([`plan`]). A plan for named files also covers the files and rows
//!    that share an id with them. It reads those rows by key: `UnmatchedRows` knows the keys that the files do not
//!    show. If such a plan deletes rows while other files are missing, too, the whole directory is
//!    planned instead, because the guard must see every deletion.
//! 3. *Defer* the deletions of files that are not missing for long enough, and *guard* the rest.
//! 4. *Write* in batches, each one transaction. A file that changed since its scan is left to the next reconcile. If the
//!    rows of a plan for named files have changed since they were read, nothing is written, and everything is compared.
//!
//! The life of a deletion:
//!
//! ```text
//! (none) ──── a scan does not find the file of an owned row ─────────▶ missing
//! missing ─── the file is back ──────────────────────────────────────▶ (none)
//! missing ─── it is still missing after DELETE_AFTER ────────────────▶ confirmed
//! confirmed ─ with the missing ones it is a mass deletion, alone not ▶ deferred to the next scan
//! confirmed ─ it is no mass deletion, or an operator allows it ──────▶ deleted
//! confirmed ─ it is a mass deletion ─────────────────────────────────▶ held back, with all others of the plan
//! held back ─ an operator allows it, or it is no mass deletion now ──▶ deleted
//! held back ─ the file is back ──────────────────────────────────────▶ (none)
//! ```
//!
//! A mass deletion is more than `max_delete` of the owned rows and more than
//! `MasterConfig::FREE_DELETES` rows, counted with the deletions of the last rescan interval that no operator allowed;
//! or all owned rows, if a file is missing.

mod apply;
mod file_log;
mod guard;
mod planning;
mod release;
mod unmatched;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::file_log::FileLog;
pub use self::release::ReleaseStatus;
use self::release::Releases;
use self::unmatched::UnmatchedRows;
use super::held::{HeldDeletes, Operator};
use super::log;
use crate::clock::SharedClock;
use crate::config::MasterConfig;
use crate::directory::{
    ChangedFiles, DirectoryUnavailable, MissingFiles, ScanProgress, ScanScope, Scanner, UnfinishedFiles,
};
use crate::rule::plan::{self, Conflict, Plan};
use crate::rule::{ContentDigest, Limits, RuleHeader};
use crate::store::{MasterSession, RowsAsRead, StoreError};
use crate::trust::Policy;

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The directory cannot be read. Nothing is deleted for that.
    #[error(transparent)]
    Directory(#[from] DirectoryUnavailable),
    /// The database is unavailable, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The result of a reconcile.
#[derive(Debug, Default)]
pub struct Report {
    /// The plan as it was carried out: without what was deferred, held back or rejected.
    pub plan: Plan,
    /// How many rows the database rejected.
    pub refused: usize,
    /// Whether some of them may succeed later without anyone's doing.
    pub retry: bool,
    /// Missing files, to scan again after [`DELETE_AFTER`](crate::directory::DELETE_AFTER).
    pub rescan: Vec<String>,
    /// Files that changed between scan and write, to scan again in a moment.
    pub changing: Vec<String>,
    /// Why a release was not written although its files are right.
    pub why_not_published: Option<String>,
}

/// Reconciles the table with a directory, and remembers what the next reconcile needs.
#[derive(Debug)]
pub struct Reconciler {
    config: MasterConfig,
    clock: SharedClock,
    scanner: Scanner,
    unfinished: UnfinishedFiles,
    missing: MissingFiles,
    /// Deletions of the last rescan interval that no operator allowed, for the guard.
    recent: VecDeque<(Instant, usize)>,
    /// What the database rejected and the plan still wants, by the id.
    refused: BTreeMap<String, RefusedWrite>,
    held: Option<HeldDeletes>,
    /// How many rows were owned when the first of the missing files was found missing, so that rows that are inserted
    /// meanwhile do not make a mass deletion look small.
    owned_before: Option<usize>,
    noop: Option<NoopReconcile>,
    /// `None` until everything was compared, and after an error.
    unmatched: Option<UnmatchedRows>,
    file_log: FileLog,
    /// What a release must fulfil; `None` without trust.
    policy: Option<Policy>,
    /// What is known of releases; `None` before the first reconcile.
    releases: Option<Releases>,
}

/// A row that the database rejected, or its deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedWrite {
    /// The file.
    pub(crate) source_path: String,
    /// The text; `None` is a deletion.
    content_sha256: Option<ContentDigest>,
    /// The database's reason.
    pub(crate) reason: String,
}

impl RefusedWrite {
    /// Whether the database rejected the deletion of the row.
    pub(crate) const fn is_deletion(&self) -> bool {
        self.content_sha256.is_none()
    }
}

/// A reconcile of everything that found nothing to do. While no file changes and nobody commits, the same session
/// would find the same again.
#[derive(Debug)]
struct NoopReconcile {
    /// [`MasterSession::version`] before the rows were read.
    version: String,
    plan: Plan,
}

impl Reconciler {
    /// A reconciler that has scanned nothing yet.
    pub fn new(config: MasterConfig, clock: SharedClock) -> Self {
        let limits = Limits { size: config.max_rule_size, ..Limits::default() };
        let scanner =
            Scanner::new(config.rules_dir.clone(), &config.follow_links_to, limits, &config.updated_by);
        Self {
            config,
            clock,
            scanner,
            unfinished: UnfinishedFiles::default(),
            missing: MissingFiles::default(),
            recent: VecDeque::new(),
            refused: BTreeMap::new(),
            held: None,
            owned_before: None,
            noop: None,
            unmatched: None,
            file_log: FileLog::default(),
            policy: None,
            releases: None,
        }
    }

    /// Uses another configuration from now on. The guard keeps its recent deletions and what is held back.
    pub fn configure(&mut self, config: MasterConfig) {
        self.noop = None;
        let reads_alike =
            (&config.rules_dir, &config.follow_links_to, config.max_rule_size, &config.updated_by)
                == (
                    &self.config.rules_dir,
                    &self.config.follow_links_to,
                    self.config.max_rule_size,
                    &self.config.updated_by,
                );
        if reads_alike {
            self.config = config;
            return;
        }
        let anew = Self::new(config, Arc::clone(&self.clock));
        let before = std::mem::replace(self, anew);
        (self.recent, self.held, self.unfinished) = (before.recent, before.held, before.unfinished);
        self.owned_before = before.owned_before;
        (self.policy, self.releases) = (before.policy, before.releases);
        self.scanner.set_progress(before.scanner.progress().clone());
    }

    /// What the scans do with files, also while one is running.
    pub(super) const fn scan_progress(&self) -> &ScanProgress {
        self.scanner.progress()
    }

    /// A new session begins. Its database may be another, or have been restored: rows that are missing there were not
    /// deleted by another program.
    pub(super) fn begin_session(&mut self) {
        self.scanner.forget_written();
    }

    /// Sets where to ask which files are being written; they keep their rows until they are complete.
    pub(crate) fn skip_unfinished(&mut self, unfinished: UnfinishedFiles) {
        self.unfinished = unfinished;
    }

    /// How long to wait before [`Reconciler::recheck`]; `None` if no file must be read again.
    pub(crate) fn recheck_in(&self) -> Option<Duration> {
        self.scanner.recheck_in(self.clock.now())
    }

    /// Reads the files again whose stamps were too young to be trusted, and returns the names of those to reconcile.
    pub(crate) async fn recheck(&mut self) -> BTreeSet<String> {
        self.scanner.recheck(self.clock.now()).await
    }

    /// The files as they were last scanned.
    pub const fn scanner(&self) -> &Scanner {
        &self.scanner
    }

    /// What the database rejected when it was last tried, by the id.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&str, &RefusedWrite)> {
        self.refused.iter().map(|(rule_id, refused)| (rule_id.as_str(), refused))
    }

    /// The conflicts, by the path of the file that does not get the id.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.file_log.conflicts()
    }

    /// The deletions that are held back; `None` where there are none.
    pub const fn held(&self) -> Option<&HeldDeletes> {
        self.held.as_ref()
    }

    /// What a reconcile of everything would do with these rows. Nothing is written. A missing file counts as missing at
    /// once.
    ///
    /// # Errors
    /// [`DirectoryUnavailable`] when the directory cannot be read.
    pub(crate) async fn preview(
        &mut self,
        rows: &[RuleHeader],
        allow_mass_delete: bool,
    ) -> Result<Report, DirectoryUnavailable> {
        let changed = self.scan(&ScanScope::Reread).await?;
        self.file_log.note_changed(changed);
        self.file_log.changes(&self.scanner, rows);
        if let Some(policy) = self.policy.clone() {
            return Ok(self.preview_release(policy, rows));
        }
        let mut plan = plan::plan(self.scanner.rules(), rows, &self.config.updated_by);
        self.file_log.note_conflicts(&plan.conflicts, |_| true);
        let owned = rows.iter().filter(|row| row.is_owned_by(&self.config.updated_by)).count();
        if !allow_mass_delete && self.is_mass_delete(&plan, 0, 0, owned) {
            self.held = Some(HeldDeletes::take(&mut plan, owned, 0));
        }
        Ok(Report { plan, ..Report::default() })
    }

    /// Makes the table equal to the directory, for the files of `scope`.
    ///
    /// Mass deletions are held back unless `lifted_by` names who lifts the guard, which is logged as one warning.
    ///
    /// # Errors
    /// [`ReconcileError`]; the next reconcile of everything makes up for it.
    pub async fn reconcile(
        &mut self,
        session: &mut MasterSession,
        scope: &ScanScope,
        lifted_by: Option<Operator>,
    ) -> Result<Report, ReconcileError> {
        if let Some(policy) = self.policy.clone() {
            return self.publish(session, policy, scope).await;
        }
        let noop = self.noop.take();
        // An error loses it: then everything is compared.
        let unmatched = self.unmatched.take();
        match (scope, unmatched) {
            (ScanScope::Names(names), Some(unmatched)) => {
                match self.reconcile_names(session, names, unmatched, lifted_by.clone()).await? {
                    Some(report) => Ok(report),
                    None => self.reconcile_all(session, &ScanScope::All, None, lifted_by).await,
                }
            }
            (ScanScope::Names(_), None) => {
                self.reconcile_all(session, &ScanScope::All, None, lifted_by).await
            }
            (scope, unmatched) => self.reconcile_all(session, scope, noop.zip(unmatched), lifted_by).await,
        }
    }

    async fn reconcile_all(
        &mut self,
        session: &mut MasterSession,
        scope: &ScanScope,
        before: Option<(NoopReconcile, UnmatchedRows)>,
        lifted_by: Option<Operator>,
    ) -> Result<Report, ReconcileError> {
        let (mut plan, version, unmatched) = self.plan_everything(session, scope, before).await?;
        let rescan = self.missing.debounce(&mut plan.deletes, &self.scanner, true);
        let report = match self.carry_out_guarded(session, plan, rescan, None, lifted_by).await {
            // The operator who allowed a mass deletion is gone. The next reconcile plans the rest.
            Err(StoreError::Withdrawn { .. }) => return Ok(Report { retry: true, ..Report::default() }),
            done => done?,
        };
        self.unmatched = Some(unmatched.after(&report.plan));
        self.noop = version.map(|version| NoopReconcile { version, plan: report.plan.clone() });
        Ok(report)
    }

    /// Reconciles some files and what concerns them; `None` if everything must be compared: the guard must see every
    /// deletion, and where another program changed a row a moment ago, it may have changed others.
    async fn reconcile_names(
        &mut self,
        session: &mut MasterSession,
        names: &BTreeSet<String>,
        mut unmatched: UnmatchedRows,
        lifted_by: Option<Operator>,
    ) -> Result<Option<Report>, ReconcileError> {
        let (mut plan, read) = self.plan_names(session, names.clone(), &mut unmatched).await?;
        let rescan = self.missing.debounce(&mut plan.deletes, &self.scanner, false);
        if self.held_files_are_back() || !plan.deletes.is_empty() && self.other_files_missing(&plan).await? {
            return Ok(None);
        }
        match self.carry_out_guarded(session, plan, rescan, Some(read), lifted_by).await {
            Ok(report) => {
                self.unmatched = Some(unmatched.after(&report.plan));
                Ok(Some(report))
            }
            Err(StoreError::RowsChanged { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Carries out a plan, apart from the deletions that are held back. `read` are the rows of a plan for some files.
    async fn carry_out_guarded(
        &mut self,
        session: &mut MasterSession,
        mut plan: Plan,
        mut rescan: Vec<String>,
        read: Option<RowsAsRead>,
        lifted_by: Option<Operator>,
    ) -> Result<Report, StoreError> {
        self.remember_owned(session).await?;
        let lifted_by = lifted_by.filter(|operator| !operator.gone.is_cancelled());
        let (everything, is_allowed) = (read.is_none(), lifted_by.is_some());
        let (deferred, is_lifted) =
            self.guard(session, &mut plan, rescan.len(), everything, is_allowed).await?;
        rescan.extend(deferred);
        rescan.extend(self.drop_reappeared(&mut plan).await);
        // A file that began to be written while it was read is not complete.
        plan.writes.retain(|write| !self.unfinished.contains(&write.rule.source_path));
        let mut report = Report { plan, rescan, ..Report::default() };
        self.carry_out(session, &mut report, read, lifted_by.clone()).await?;
        if let Some(operator) = lifted_by.filter(|_| is_lifted && !report.plan.deletes.is_empty()) {
            log::guard_lifted(&operator, &report.plan.deletes);
        }
        self.scanner.forget_texts();
        Ok(report)
    }

    async fn scan(&mut self, scope: &ScanScope) -> Result<ChangedFiles, DirectoryUnavailable> {
        let changed = self.scanner.scan(scope, &self.unfinished, self.clock.now()).await;
        // Whatever the rest of this reconcile does, a file that was found is not missing.
        self.missing.forget_found(&self.scanner);
        changed
    }
}
