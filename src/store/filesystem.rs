//! A store over a directory of rule files, with the states in memory: for one host without a database.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::budget::Budget;
use super::rows::{ParsedRows, RowParser};
use super::{Follow, RowIndex, RuleStore, StoreError};
use crate::clock::{RisingStamp, SharedClock, Timestamp};
use crate::directory::{DELETE_AFTER, MissingFiles, ReleaseFiles, ScanScope, Scanner, Watch};
use crate::rule::plan::{Plan, Write, plan};
use crate::rule::{
    ContentDigest, FoundManifest, Limits, QuarantinedRow, RowFingerprint, RuleHeader, RuleId, RuleRow,
    RuleState, Table, TableDelta,
};
use crate::trust::RuleList;

/// `updated_by` of the rules of this store.
const UPDATED_BY: &str = "filesystem";

/// How long to wait before a file that changed while it was read is read again.
const CHANGING_FOR: Duration = Duration::from_millis(50);

/// How many texts are read at once.
const READ_TOGETHER: usize = 16;

/// The directory of a [`FilesystemStore`], and how to follow it.
#[derive(Debug, Clone)]
pub struct FilesystemConfig {
    /// The directory of the rule files.
    pub directory: PathBuf,
    /// Other directories to which links among the files may lead.
    pub follow_links_to: Vec<PathBuf>,
    /// The largest rule file, in bytes.
    pub max_rule_size: usize,
    /// How often every file is read, whatever the watch reports.
    pub full_scan_interval: Duration,
    /// The most memory of all rules and states together, in bytes.
    pub max_memory: usize,
}

/// The rules of a directory; the states are in memory and end with the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FilesystemStore {
    config: FilesystemConfig,
    clock: SharedClock,
    /// Whether followers read the files of the signed release.
    reads_release: bool,
    states: Arc<Mutex<States>>,
    states_changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct States {
    rows: BTreeMap<RuleId, RuleState>,
    set_at: RisingStamp,
}

impl FilesystemStore {
    /// A store that has not read the directory yet.
    pub fn new(config: FilesystemConfig, clock: SharedClock) -> Self {
        let (states, states_changed) = Default::default();
        Self { config, clock, reads_release: false, states, states_changed }
    }

    /// Makes followers read the files of the signed release, too.
    #[must_use]
    pub(crate) fn following_releases(mut self) -> Self {
        self.reads_release = true;
        self
    }

    fn scanner(&self) -> Scanner {
        let FilesystemConfig { directory, follow_links_to, max_rule_size, .. } = &self.config;
        let limits = Limits { size: *max_rule_size, ..Limits::default() };
        Scanner::new(directory.clone(), follow_links_to, limits, UPDATED_BY)
    }

    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RuleStore for FilesystemStore {
    type Follower = FilesystemFollower;

    async fn get_state(&self, rule_id: &RuleId) -> Result<RuleState, StoreError> {
        let state = self.states().rows.get(rule_id).cloned().unwrap_or_default();
        Ok(state.effective(self.clock.now()))
    }

    async fn set_state(&self, rule_id: &RuleId, state: RuleState) -> Result<RuleState, StoreError> {
        state.validate()?;
        let mut states = self.states();
        let set_at = states.set_at.next(self.clock.now());
        let state = RuleState { set_at: Some(set_at), ..state };
        states.rows.insert(rule_id.clone(), state.clone());
        drop(states);
        self.states_changed.send_replace(());
        Ok(state)
    }

    async fn clear_state(&self, rule_id: &RuleId) -> Result<bool, StoreError> {
        let had_one = self.states().rows.remove(rule_id).is_some();
        self.states_changed.send_replace(());
        Ok(had_one)
    }

    fn follow(&self) -> FilesystemFollower {
        FilesystemFollower {
            states_changed: self.states_changed.subscribe(),
            watch: Watch::new(self.config.directory.clone()),
            scanner: None,
            store: self.clone(),
            missing: MissingFiles::default(),
            rows: Vec::new(),
            pending: None,
            recheck_due: false,
            last_full: None,
            list: None,
        }
    }
}

/// Follows a directory.
///
/// It scans as a master does. Its rows are those that it handed out, and the plan that would make a table equal to
/// the files gives the changes.
#[derive(Debug)]
pub struct FilesystemFollower {
    store: FilesystemStore,
    states_changed: watch::Receiver<()>,
    watch: Watch,
    /// `None` before the first poll, and after one that was cancelled: the next poll then reads every file.
    scanner: Option<Scanner>,
    missing: MissingFiles,
    rows: Vec<RuleHeader>,
    /// What to scan at the next poll.
    pending: Option<ScanScope>,
    /// Whether to read files again whose stamps were too young: the next poll does, which nothing else cuts short.
    recheck_due: bool,
    last_full: Option<Instant>,
    /// The bytes of `MANIFEST.rules`, as the last poll found them.
    list: Option<Vec<u8>>,
}

impl Follow for FilesystemFollower {
    async fn woken(&mut self) {
        let now = self.store.clock.now();
        let recheck = self.scanner.as_ref().and_then(|scanner| scanner.recheck_in(now));
        tokio::select! {
            scope = self.watch.next() => self.pending = Some(scope.and(self.pending.take())),
            Ok(()) = self.states_changed.changed() => {}
            () = tokio::time::sleep(recheck.unwrap_or_default()), if recheck.is_some() => self.recheck_due = true,
        }
    }

    async fn poll<K: RowIndex + Send + Sync + 'static>(
        &mut self,
        index: &Arc<K>,
    ) -> Result<TableDelta, StoreError> {
        let interval = self.store.config.full_scan_interval;
        let is_due = self.last_full.is_none_or(|last| last.elapsed() >= interval);
        let full = is_due || self.scanner.is_none();
        if std::mem::take(&mut self.recheck_due)
            && let Some(scanner) = self.scanner.as_mut().filter(|_| !full)
        {
            let changed = scanner.recheck(self.store.clock.now()).await;
            if !changed.is_empty() {
                self.pending = Some(ScanScope::Names(changed).and(self.pending.take()));
            }
        }
        // It stays pending until the poll has ended: a poll may be cancelled.
        let scope = if full { Some(ScanScope::Reread) } else { self.pending.clone() };
        let mut delta = TableDelta { now: self.store.clock.now(), full, ..TableDelta::default() };
        if let Some(scope) = scope {
            if self.store.reads_release {
                delta.manifest = Some(self.read_release().await);
            }
            let listed = ListedPaths::of(self.list.as_deref());
            let scanner = self.scanner.take().unwrap_or_else(|| self.store.scanner());
            self.scan(scanner, &scope, &listed, &**index, &mut delta).await?;
            self.pending = None;
            if full {
                self.last_full = Some(Instant::now());
            }
        }
        // Reading the files may have taken long, and the states are read now.
        delta.now = self.store.clock.now();
        let states = self.store.states();
        delta.states = states.rows.iter().map(|(id, state)| Ok((id.clone(), state.clone()))).collect();
        delta.state_keys = Some(states.rows.keys().map(RuleId::to_string).collect());
        Ok(delta)
    }

    async fn release_list(&mut self, _bytes: usize) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.list.clone())
    }
}

impl FilesystemFollower {
    async fn read_release(&mut self) -> FoundManifest {
        let FilesystemConfig { directory, follow_links_to, .. } = self.store.config.clone();
        let files =
            tokio::task::spawn_blocking(move || ReleaseFiles::read(&directory, &follow_links_to)).await;
        match files.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(files) => {
                let signatures = files.joined_signatures();
                self.list = Some(files.list);
                FoundManifest::Read { body: files.manifest, signatures }
            }
            Err(why) => {
                self.list = None;
                FoundManifest::Missing(why)
            }
        }
    }

    /// Keeps the scanner and the rows only if it comes to its end, so that a cancelled poll loses no change.
    async fn scan(
        &mut self,
        mut scanner: Scanner,
        scope: &ScanScope,
        listed: &ListedPaths,
        index: &(impl RowIndex + ?Sized),
        delta: &mut TableDelta,
    ) -> Result<(), StoreError> {
        if scope.is_all() {
            self.watch.renew(self.store.config.full_scan_interval).await;
        }
        let unfinished = self.watch.unfinished();
        if let Err(error) = scanner.scan(scope, &unfinished, delta.now).await {
            self.pending = Some(ScanScope::All);
            self.scanner = Some(scanner);
            return Err(StoreError::Unavailable {
                what: "reading the rules directory",
                detail: error.to_string(),
            });
        }
        self.watch.expect_links(scanner.has_links(), scanner.link_targets().await);
        self.missing.forget_found(&scanner);
        let files =
            scanner.rules().filter(|(path, rule)| !rule.is_ok_and(|rule| listed.is_shadow(path, rule)));
        let mut plan = plan(files, &self.rows, UPDATED_BY);
        let mut rescan = self.missing.debounce(&mut plan.deletes, &scanner, true);
        plan.writes.retain(|write| !unfinished.contains(&write.rule.source_path));
        self.watch.schedule_rescan(std::mem::take(&mut rescan), DELETE_AFTER);

        let budget = Budget::new(self.store.config.max_memory, index.memory(), 0);
        let mut parser = RowParser::new(index.texts(), budget);
        let mut written = Vec::new();
        for some in plan.writes.chunks(READ_TOGETHER) {
            let paths: Vec<&str> = some.iter().map(|write| &*write.rule.source_path).collect();
            for (write, text) in some.iter().zip(scanner.texts(&paths).await) {
                let Some(text) = text else {
                    rescan.push(write.rule.source_path.to_string());
                    continue;
                };
                let row = RuleRow { header: write.rule.unchecked(), yaml_content: text.into() };
                written.push(row.header.clone());
                let replaced = index.memory_of(Table::Rules, row.rule_id());
                parser.push(row, replaced).await;
            }
        }
        self.watch.schedule_rescan(rescan, CHANGING_FOR);
        scanner.forget_texts();
        let ParsedRows { rules, over_budget } = parser.finish().await;
        self.take(&plan, written);
        delta.rows = scanner.files().count() as u64;
        delta.rules = rules;
        let mut keys: Vec<String> = self.rows.iter().map(|row| row.rule_id.clone()).collect();
        for rejected in rejected(&scanner, &plan, listed) {
            keys.push(rejected.key.clone());
            delta.rules.push(Err(Box::new(rejected)));
        }
        // An invalid file does not delete the rule that the worker served from its cache.
        let invalid = scanner.files().filter(|(_, file)| file.outcome.is_err());
        let named = invalid.filter_map(|(_, file)| file.rule_id()).map(ToString::to_string);
        keys.extend(named.filter(|id| index.fingerprint(Table::Rules, id).is_some()));
        delta.rule_keys = Some(keys);
        // The next scan tries the rules again that did not fit.
        self.rows.retain(|row| !over_budget.iter().any(|(id, _)| *id == row.rule_id));
        self.scanner = Some(scanner);
        Ok(())
    }

    /// Applies the plan to the rows.
    fn take(&mut self, plan: &Plan, written: Vec<RuleHeader>) {
        let deleted = plan.deletes.iter().map(|delete| &*delete.rule_id);
        let is_written = |write: &&Write| written.iter().any(|row| row.source_path == write.rule.source_path);
        let replaced = plan.writes.iter().filter(is_written).flat_map(|write| &write.replaces);
        let gone: HashSet<&str> = deleted.chain(replaced.map(|replaced| &*replaced.rule_id)).collect();
        self.rows.retain(|row| !gone.contains(&*row.rule_id));
        self.rows.extend(written);
    }
}

/// Where the release's list, of which nothing is verified yet, has each rule: a file that is not listed must not take the
/// place of one that is. Empty without a release.
#[derive(Debug, Default)]
struct ListedPaths(HashMap<String, Box<str>>);

impl ListedPaths {
    fn of(list: Option<&[u8]>) -> Self {
        let list = list.and_then(|list| RuleList::parse(list).ok()).unwrap_or_default();
        let paths = list.rules().iter().map(|rule| (rule.rule_id.folded(), rule.source_path.clone()));
        Self(paths.collect())
    }

    /// Whether another file than this one is listed for the rule.
    fn is_shadow(&self, path: &str, rule: &RuleHeader<RuleId>) -> bool {
        self.0.get(&rule.rule_id.folded()).is_some_and(|listed| **listed != *path)
    }
}

/// Files that are invalid, and those whose rule_id another file holds, by name.
fn rejected(scanner: &Scanner, plan: &Plan, listed: &ListedPaths) -> impl Iterator<Item = QuarantinedRow> {
    let shadows = scanner.rules().filter_map(|(path, rule)| {
        let rule = rule.ok().filter(|rule| listed.is_shadow(path, rule))?;
        let reason = format!("the signed release lists `{}` in another file", rule.rule_id);
        Some((path.to_owned(), reason))
    });
    let invalid = scanner.invalid().map(|(name, why)| (name.to_owned(), why.sentence()));
    let conflicts = plan.conflicts.iter().map(|conflict| {
        let (id, holder) = (&conflict.rule_id, &conflict.held_by);
        (
            conflict.source_path.clone(),
            format!("{holder} holds the rule_id `{id}`; change it in one of the two files"),
        )
    });
    invalid.chain(conflicts).chain(shadows).map(|(key, reason)| {
        let fingerprint = RowFingerprint::other(Timestamp::MIN, ContentDigest::of(&reason));
        QuarantinedRow { key, fingerprint, reason, is_text_invalid: false }
    })
}
