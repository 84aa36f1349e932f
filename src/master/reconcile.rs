//! One code path that makes the table equal to the directory: look, plan, guard, write. Start-up,
//! hints, reloads, rescans and retries all come through here, and so does `rulesyncd sync`.

mod apply;
mod guard;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log;
use super::plan::{self, Conflict, File, Plan};
use super::scan::{Broken, DirectoryAway, Extent, Found, Scanned, Scanner};
use super::trace::Ingest;
use super::watch::UnfinishedFiles;
use crate::clock::SharedClock;
use crate::config::MasterConfig;
use crate::outage::RecordBudget;
use crate::rule::{ContentDigest, Limits, RuleId};
use crate::store::{MasterSession, RowSummary, Scope, StoreError};
use crate::telemetry::metrics;

/// How long a file must have been missing before its row goes: `git checkout` and many editors
/// remove a file and write it anew, on a slow mount in seconds. Nobody waits for a deletion.
pub const DELETE_AFTER: Duration = Duration::from_millis(1_500);

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The directory cannot be read: nothing is deleted for that.
    #[error(transparent)]
    Directory(#[from] DirectoryAway),
    /// The database does not answer, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who lets deletions above the guard's bounds be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    /// The user's number, as the kernel gives it.
    pub uid: u32,
    /// The process; `None` where the kernel does not say.
    pub pid: Option<i32>,
}

impl Operator {
    /// Whoever runs this process.
    pub fn this_process() -> Self {
        let pid = i32::try_from(std::process::id()).ok();
        Self { uid: rustix::process::geteuid().as_raw(), pid }
    }
}

/// Deletions that wait for an operator's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDeletes {
    /// The rules whose rows would go, by id.
    pub rule_ids: Vec<String>,
    /// The files that they came from.
    pub source_paths: BTreeSet<String>,
    /// The rows that the master owned before.
    pub owned: usize,
}

/// What a reconcile did.
#[derive(Debug, Default)]
pub struct Report {
    /// The plan, without what was put off or refused.
    pub plan: Plan,
    /// Rows that the database did not take.
    pub refused: usize,
    /// Whether it may take some of them later, without anyone's doing.
    pub retry: bool,
    /// Names that are to be looked at again after [`DELETE_AFTER`]: their files are missing.
    pub look_again: Vec<String>,
    /// Names that are to be looked at again in a moment: their files changed while they were read.
    pub changing: Vec<String>,
}

/// The directory, and what is remembered of it from one reconcile to the next.
#[derive(Debug)]
pub struct Reconciler {
    config: MasterConfig,
    clock: SharedClock,
    scanner: Scanner,
    unfinished: UnfinishedFiles,
    /// Since when each of these files is missing, though a row names it; what a look at a part of
    /// the directory did not see stays as it was.
    missing: BTreeMap<String, Instant>,
    /// Deletions that were carried out, for the guard.
    recent: VecDeque<(Instant, usize)>,
    conflicts: BTreeMap<String, Conflict>,
    refused: BTreeMap<String, ContentDigest>,
    held: Option<HeldDeletes>,
    /// How many rows were owned when the first of the files went that are missing now: what is
    /// inserted meanwhile does not make a mass deletion a small one.
    owned_before: Option<usize>,
    /// YAML files of which it was said that they are not read.
    passed_over: BTreeSet<String>,
    settled: Option<Settled>,
    /// Files that changed and have no record yet, each as it was before; `None` is new.
    unlogged: BTreeMap<String, Option<Scanned>>,
    records: RecordBudget,
}

/// A reconcile of everything that found nothing to do. While no file changes and nobody commits,
/// another one by the same session would find the same.
#[derive(Debug)]
struct Settled {
    /// What [`MasterSession::version`] said before the rows were read.
    version: String,
    plan: Plan,
}

impl Reconciler {
    /// A reconciler that has looked at nothing yet.
    pub fn new(config: MasterConfig, clock: SharedClock) -> Self {
        let limits = Limits { size: config.max_rule_size, ..Limits::default() };
        let scanner = Scanner::new(config.rules_dir.clone(), &config.follow_links_to, limits);
        let (missing, conflicts, refused) = Default::default();
        Self {
            config,
            clock,
            scanner,
            unfinished: UnfinishedFiles::default(),
            missing,
            recent: VecDeque::new(),
            conflicts,
            refused,
            held: None,
            owned_before: None,
            passed_over: BTreeSet::new(),
            settled: None,
            unlogged: BTreeMap::new(),
            records: RecordBudget::default(),
        }
    }

    /// Works by another configuration from now on. What was deleted a short while ago, and what is held back,
    /// stays known to the guard.
    pub fn configure(&mut self, config: MasterConfig) {
        self.settled = None;
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
    }

    /// Leaves files alone that are being written; nobody tells of such before this is called.
    pub fn heed(&mut self, unfinished: UnfinishedFiles) {
        self.unfinished = unfinished;
    }

    /// How long to wait before [`Reconciler::recheck`]; `None` where there is nothing to do.
    pub fn recheck_in(&self) -> Option<Duration> {
        self.scanner.recheck_in(self.clock.now())
    }

    /// Reads the files again that were so young when they were read that their stamp may not show a
    /// later change; names those that are to be looked at.
    pub fn recheck(&mut self) -> BTreeSet<String> {
        self.scanner.recheck(self.clock.now())
    }

    /// The rules directory.
    pub fn directory(&self) -> &Path {
        self.scanner.directory()
    }

    /// Whether a link leads to any of the rule files, as far as was seen.
    pub fn has_links(&self) -> bool {
        self.scanner.has_links()
    }

    /// The directories that links among the rule files lead to.
    pub fn link_targets(&self) -> BTreeSet<PathBuf> {
        self.scanner.link_targets()
    }

    /// Files whose id another file holds, by path.
    pub fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.values()
    }

    /// YAML files that are not read for their name or place, by path.
    pub const fn passed_over(&self) -> &BTreeSet<String> {
        self.scanner.passed_over()
    }

    /// Files that hold no rule, by name.
    pub fn broken(&self) -> impl Iterator<Item = (&str, &Broken)> {
        self.scanner
            .files()
            .filter_map(|(name, scanned)| scanned.outcome.as_ref().err().map(|why| (name, why)))
            .filter(|(_, why)| **why != Broken::Unfinished)
    }

    /// Whether the directory has no rule file.
    pub fn is_empty(&self) -> bool {
        self.scanner.files().next().is_none()
    }

    /// How many files hold a rule.
    pub fn valid(&self) -> usize {
        self.scanner.files().filter(|(_, scanned)| scanned.rule().is_some()).count()
    }

    /// Deletions that wait for an operator's word; `None` when there are none.
    pub const fn held(&self) -> Option<&HeldDeletes> {
        self.held.as_ref()
    }

    /// What a reconcile of everything would do with these rows, and what would come of it; nothing is
    /// written or remembered as done. No file is waited for that may be back in a moment.
    ///
    /// # Errors
    /// [`DirectoryAway`] when the directory cannot be read.
    pub async fn preview(
        &mut self,
        rows: &[RowSummary],
        allow_mass_delete: bool,
    ) -> Result<Report, DirectoryAway> {
        let found = self.scan(&Extent::Reread).await?;
        self.take_in(found);
        self.tell_of_files(rows);
        let files: Vec<_> = self.scanner.facts().collect();
        let mut plan = plan::plan(&files, rows, &self.config.updated_by);
        self.tell_of_conflicts(&plan.conflicts, |_| true);
        let owned = rows.iter().filter(|row| row.updated_by == self.config.updated_by).count();
        if !allow_mass_delete && self.is_mass_delete(&plan, 0, 0, owned) {
            self.held = Some(HeldDeletes::take(&mut plan, owned));
        }
        Ok(Report { plan, ..Report::default() })
    }

    /// Makes the table equal to the directory, as far as `extent` goes.
    ///
    /// Deletions above the guard's bounds are held back, unless somebody lifts the guard; that is one warning.
    ///
    /// # Errors
    /// [`ReconcileError`]; the next reconcile of everything does what this one could not.
    pub async fn reconcile(
        &mut self,
        session: &mut MasterSession,
        extent: &Extent,
        lifted_by: Option<Operator>,
    ) -> Result<Report, ReconcileError> {
        let settled = self.settled.take();
        let mut everything = extent.is_all();
        let (mut plan, mut version) = match extent {
            Extent::All | Extent::Reread => self.plan_everything(session, extent, settled).await?,
            Extent::Names(names) => (self.plan_names(session, names.clone()).await?, None),
        };
        let mut look_again = self.put_off_fresh_deletes(&mut plan, everything);
        if !everything
            && (self.held_are_back() || !plan.deletes.is_empty() && self.more_is_gone_than(&plan)?)
        {
            // The guard is to judge all of it.
            everything = true;
            (plan, version) = self.plan_everything(session, &Extent::All, None).await?;
            look_again = self.put_off_fresh_deletes(&mut plan, everything);
        }
        self.count_before(session).await?;
        let is_allowed = lifted_by.is_some();
        let (put_off, is_lifted) =
            self.guard(session, &mut plan, look_again.len(), everything, is_allowed).await?;
        look_again.extend(put_off);
        look_again.extend(self.spare_what_is_back(&mut plan));
        // What began to be written while it was read is not whole.
        plan.writes.retain(|write| !self.unfinished.contains(&write.path));
        let mut report = Report { plan, look_again, ..Report::default() };
        self.carry_out(session, &mut report).await?;
        if let Some(operator) = lifted_by.filter(|_| is_lifted && !report.plan.deletes.is_empty()) {
            log::guard_lifted(operator, &report.plan.deletes);
        }
        self.scanner.forget_texts();
        self.settled = version.map(|version| Settled { version, plan: report.plan.clone() });
        Ok(report)
    }

    async fn scan(&mut self, extent: &Extent) -> Result<Found, DirectoryAway> {
        let now = self.clock.now();
        let found = match extent {
            Extent::Names(_) => self.scanner.update(extent, &self.unfinished.names(), now),
            // A whole directory may take a while: it is read beside the runtime, not on it.
            Extent::All | Extent::Reread => {
                let empty = Scanner::new(self.config.rules_dir.clone(), &[], Limits::default());
                let mut scanner = std::mem::replace(&mut self.scanner, empty);
                let (extent, unfinished) = (extent.clone(), self.unfinished.names());
                let scanned = tokio::task::spawn_blocking(move || {
                    let found = scanner.update(&extent, &unfinished, now);
                    (scanner, found)
                });
                let (scanner, found) =
                    scanned.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
                self.scanner = scanner;
                found
            }
        };
        // Whatever comes of the rest of this reconcile: what was seen is not missing.
        self.missing.retain(|path, _| self.scanner.file(path).is_none());
        found
    }

    async fn plan_everything(
        &mut self,
        session: &mut MasterSession,
        extent: &Extent,
        settled: Option<Settled>,
    ) -> Result<(Plan, Option<String>), ReconcileError> {
        let found = self.scan(extent).await?;
        let is_unchanged = found.changed.is_empty();
        self.take_in(found);
        let version = session.version().await?;
        if let Some(Settled { version: then, plan }) = settled
            && is_unchanged
            && version.as_ref() == Some(&then)
        {
            return Ok((plan, version));
        }
        let rows = metrics::timed("read_rows", session.rows(Scope::All)).await?;
        self.tell_of_files(&rows);
        let files: Vec<_> = self.scanner.facts().collect();
        let plan = plan::plan(&files, &rows, &self.config.updated_by);
        self.remember_written(&files, &plan);
        self.tell_of_conflicts(&plan.conflicts, |_| true);
        let version = version.filter(|_| plan.is_empty());
        Ok((plan, version))
    }

    /// Plans for some files, and for every other file and row that has to do with them.
    async fn plan_names(
        &mut self,
        session: &mut MasterSession,
        mut names: BTreeSet<String>,
    ) -> Result<Plan, ReconcileError> {
        let mut ids = BTreeSet::new();
        let mut to_look = names.clone();
        while !to_look.is_empty() {
            let found = self.scan(&Extent::Names(to_look.clone())).await?;
            let before = found.changed.values().flatten().filter_map(|scanned| scanned.rule());
            let now = to_look.iter().filter_map(|name| self.scanner.file(name)?.rule());
            ids.extend(before.chain(now).map(|rule| rule.rule_id.folded()));
            self.take_in(found);
            // A file that claims the same id may have gone or changed in the same breath.
            to_look =
                self.names_where(|name, id| !names.contains(name) && id.is_some_and(|id| ids.contains(&id)));
            names.extend(to_look.iter().cloned());
        }
        let (id_list, path_list): (Vec<_>, Vec<_>) =
            (ids.iter().cloned().collect(), names.iter().cloned().collect());
        let scope = Scope::Touching { rule_ids: &id_list, source_paths: &path_list };
        let rows = metrics::timed("read_rows", session.rows(scope)).await?;
        self.tell_of_files(&rows);
        for row in &rows {
            ids.insert(row.rule_id.to_ascii_lowercase());
            names.insert(row.source_path.clone());
        }
        let concerned =
            self.names_where(|name, id| names.contains(name) || id.is_some_and(|id| ids.contains(&id)));
        let files: Vec<_> = self.scanner.facts().filter(|file| concerned.contains(&file.path)).collect();
        let plan = plan::plan(&files, &rows, &self.config.updated_by);
        self.tell_of_conflicts(&plan.conflicts, |path| names.contains(path) || concerned.contains(path));
        Ok(plan)
    }

    fn names_where(&self, wanted: impl Fn(&str, Option<String>) -> bool) -> BTreeSet<String> {
        let folded = |scanned: &Scanned| scanned.rule().map(|rule| rule.rule_id.folded());
        let files = self.scanner.files().filter(|&(name, scanned)| wanted(name, folded(scanned)));
        files.map(|(name, _)| name.to_owned()).collect()
    }

    /// What changed has its record once the rows are read: whether a broken file has a last good version is
    /// theirs to say.
    fn take_in(&mut self, found: Found) {
        for (name, before) in found.changed {
            self.unlogged.entry(name).or_insert(before);
        }
    }

    /// The table has these files as they are, but for those that the plan writes or leaves out.
    fn remember_written(&mut self, files: &[File], plan: &Plan) {
        let writes = plan.writes.iter().map(|write| write.path.as_str());
        let not_written: BTreeSet<&str> =
            writes.chain(plan.conflicts.iter().map(|conflict| conflict.path.as_str())).collect();
        let written = files.iter().filter(|file| file.rule.is_some()).map(|file| file.path.as_str());
        self.scanner.are_written(written.filter(|path| !not_written.contains(path)));
    }

    fn tell_of_files(&mut self, rows: &[RowSummary]) {
        let passed_over = self.scanner.passed_over();
        passed_over.difference(&self.passed_over).for_each(|path| log::passed_over(path));
        self.passed_over.difference(passed_over).for_each(|path| log::no_longer_passed_over(path));
        self.passed_over.clone_from(passed_over);
        let mut broken = Vec::new();
        for (name, before) in std::mem::take(&mut self.unlogged) {
            let was_broken = before
                .as_ref()
                .is_some_and(|before| matches!(&before.outcome, Err(why) if *why != Broken::Unfinished));
            match self.scanner.file(&name).map(|scanned| &scanned.outcome) {
                Some(Err(Broken::Unfinished)) => {}
                Some(Err(_)) => broken.push(name),
                Some(Ok(rule)) if was_broken => log::mended(&name, rule),
                None if was_broken => {
                    log::broken_file_removed(&name, before.as_ref().and_then(Scanned::rule_id))
                }
                _ => {}
            }
        }
        if broken.is_empty() {
            return;
        }
        let rows: HashMap<&str, &str> =
            rows.iter().map(|row| (row.source_path.as_str(), row.rule_id.as_str())).collect();
        let singly = self.records.take(broken.len(), Instant::now());
        if !singly {
            log::many_broken(&broken);
        }
        for name in broken {
            let Some(scanned) = self.scanner.file(&name) else { continue };
            let Err(why) = &scanned.outcome else { continue };
            let ingest = Ingest::of(&name, Some(scanned));
            if singly {
                let kept = rows.get(name.as_str()).copied();
                let rule_id = scanned.rule_id().map(RuleId::as_str).or(kept);
                log::broken(&name, rule_id, kept.is_some(), why, ingest.trace_id());
            }
            metrics::rejected(why.word());
            ingest.rejected();
        }
    }

    /// Takes over the conflicts among the files that were looked at, and tells of the new ones.
    fn tell_of_conflicts(&mut self, conflicts: &[Conflict], looked_at: impl Fn(&str) -> bool) {
        let before: BTreeMap<_, _> = std::mem::take(&mut self.conflicts);
        for conflict in conflicts {
            if before.get(&conflict.path) != Some(conflict) {
                log::conflict(conflict);
                metrics::rejected("conflict");
            }
            self.conflicts.insert(conflict.path.clone(), conflict.clone());
        }
        for (path, conflict) in before {
            if !looked_at(&path) {
                self.conflicts.insert(path, conflict);
            } else if !self.conflicts.contains_key(&path) {
                log::conflict_ended(&conflict);
            }
        }
    }
}
