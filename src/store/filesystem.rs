//! A store over a directory of rule files, with the states in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use tokio::sync::watch;

use super::rows::known_rule;
use super::{Follow, Known, RuleStore, StoreError, subscription};
use crate::clock::{RisingStamp, SharedClock, Timestamp};
use crate::rule::{
    CompiledRule, ContentDigest, KnownRule, Limits, Look, Rejected, RuleId, RuleRow, RuleState, Seen, parse,
};
use crate::rulefile::{self, LinkPolicy, Listing};

/// What a rule of this store says of its writer.
const UPDATED_BY: &str = "filesystem";

/// Rules as a directory holds them; states live in memory and go with the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FilesystemStore {
    directory: PathBuf,
    clock: SharedClock,
    states: Arc<Mutex<States>>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct States {
    rows: BTreeMap<RuleId, RuleState>,
    set_at: RisingStamp,
}

impl FilesystemStore {
    /// A store over `directory`, which is read at every look.
    pub fn new(directory: impl Into<PathBuf>, clock: SharedClock) -> Self {
        let (states, changed) = Default::default();
        Self { directory: directory.into(), clock, states, changed }
    }

    /// Tells every follower that a file may have changed: whoever watches the directory calls it.
    pub fn look_again(&self) {
        self.changed.send_replace(());
    }

    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RuleStore for FilesystemStore {
    type Follower = FilesystemFollower;

    async fn load_compiled(&self) -> Result<Vec<CompiledRule>, StoreError> {
        subscription::load(self.follow()).await
    }

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
        self.look_again();
        Ok(state)
    }

    async fn clear_state(&self, rule_id: &RuleId) -> Result<bool, StoreError> {
        let stood = self.states().rows.remove(rule_id).is_some();
        self.look_again();
        Ok(stood)
    }

    fn follow(&self) -> FilesystemFollower {
        FilesystemFollower { changed: self.changed.subscribe(), store: self.clone(), files: BTreeMap::new() }
    }
}

/// One follower's place in a directory.
#[derive(Debug)]
pub struct FilesystemFollower {
    store: FilesystemStore,
    changed: watch::Receiver<()>,
    /// The files of the last look, by name.
    files: BTreeMap<String, File>,
}

/// A file that was read.
#[derive(Debug, Clone)]
struct File {
    content: ContentDigest,
    /// The rule that it held when it last held one: a save that breaks it keeps the rule.
    rule_id: Option<RuleId>,
}

impl Follow for FilesystemFollower {
    async fn hint(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending().await
        }
    }

    async fn look<K: Known + Send + Sync + 'static>(&mut self, known: &Arc<K>) -> Result<Look, StoreError> {
        let first = known.count(crate::rule::Table::Rules) == 0;
        let (directory, files) = (self.store.directory.clone(), std::mem::take(&mut self.files));
        let before = if first { BTreeMap::new() } else { files.clone() };
        self.files = files;
        let scan = tokio::task::spawn_blocking(move || Scan::read(&directory, &before));
        let scan = scan.await.map_err(|_| StoreError::Closed)??;
        self.files = scan.files;
        let states = self.store.states();
        Ok(Look {
            now: self.store.clock.now(),
            rules: scan.rules,
            rule_keys: Some(scan.keys.into_iter().collect()),
            states: states.rows.iter().map(|(id, state)| Ok((id.clone(), state.clone()))).collect(),
            state_keys: Some(states.rows.keys().map(RuleId::to_string).collect()),
            full: true,
            ..Look::default()
        })
    }
}

/// What a directory holds.
#[derive(Default)]
struct Scan {
    files: BTreeMap<String, File>,
    rules: Vec<Result<Arc<KnownRule>, Box<Rejected>>>,
    /// Ids of rules, and names of files that hold none.
    keys: BTreeSet<String>,
}

impl Scan {
    fn read(directory: &Path, before: &BTreeMap<String, File>) -> Result<Self, StoreError> {
        let away = |error: std::io::Error| StoreError::Unavailable {
            what: "reading the rules directory",
            detail: format!("{}: {error}", directory.display()),
        };
        let names = Listing::of(directory).map_err(away)?.rules;
        let links = LinkPolicy::new(directory, &[]);
        let mut scan = Self::default();
        for name in names {
            scan.file(&directory.join(&name), &name, &links, before.get(&name));
        }
        Ok(scan)
    }

    fn file(&mut self, path: &Path, name: &str, links: &LinkPolicy, before: Option<&File>) {
        let read =
            rulefile::read_within(path, Limits::default().size, links).map_err(|error| error.to_string());
        let content = match &read {
            Ok(text) => ContentDigest::of(text),
            Err(reason) => ContentDigest::of(reason),
        };
        let last_good = before.and_then(|file| file.rule_id.clone());
        let rule = match (read, before) {
            (_, Some(file)) if file.content == content => None,
            (Ok(text), _) => Some(rule(path, name, &text)),
            (Err(reason), _) => Some(Err(reason)),
        };
        let rule_id = match &rule {
            Some(Ok(rule)) => Some(rule.rule_id.clone()),
            _ => last_good,
        };
        let is_taken = rule_id.as_ref().is_some_and(|id| self.keys.contains(id.as_str()));
        let rule = match rule {
            Some(Ok(rule)) if is_taken => {
                Some(Err(format!("the id `{}` stands in another file", rule.rule_id)))
            }
            rule => rule,
        };
        if let Some(rule) = rule {
            let seen = Seen::other(Timestamp::MIN, content);
            self.keys.extend(rule.is_err().then(|| name.to_owned()));
            self.rules.push(rule.map_err(|reason| Box::new(Rejected { key: name.to_owned(), seen, reason })));
        }
        self.keys.extend(rule_id.as_ref().map(RuleId::to_string));
        self.files.insert(name.to_owned(), File { content, rule_id });
    }
}

/// The rule that a file holds, or why it holds none.
fn rule(path: &Path, name: &str, text: &[u8]) -> Result<Arc<KnownRule>, String> {
    let rejected = |findings: Vec<crate::rule::Diagnostic>| super::rows::first_error(&findings);
    let definition = parse(text, &Limits::default()).map_err(rejected)?.definition;
    let modified = path.metadata().and_then(|found| found.modified()).ok();
    let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let row = RuleRow {
        rule_id: definition.rule_id.to_string(),
        rule_version: definition.rule_version.into(),
        source_path: name.to_owned(),
        yaml_content: String::from_utf8_lossy(text).into_owned(),
        updated_at: Timestamp::from_micros(0).after(modified),
        updated_by: UPDATED_BY.to_owned(),
    };
    known_rule(&row).map_err(|rejected| rejected.reason)
}
