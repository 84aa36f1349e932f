//! Tables in memory that a test writes by hand, and a worker over them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rulesyncd::clock::{Clock as _, SharedClock, SystemClock, Timestamp};
use rulesyncd::config::{Percent, WorkerConfig};
use rulesyncd::lifecycle::Liveness;
use rulesyncd::rule::{
    ContentDigest, Definition, Emit, KnownRule, QuarantinedRow, RowFingerprint, RuleHeader, RuleId,
    RuleState, TableDelta,
};
use rulesyncd::socket::ListenError;
use rulesyncd::store::{Follow, RowIndex, RuleStore, StoreError};
use rulesyncd::worker::{CacheOrigin, Worker, WorkerHandle};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Both tables; clones are the same tables.
#[derive(Clone, Default)]
pub(crate) struct Tables {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    rules: BTreeMap<String, Result<Arc<KnownRule>, Box<QuarantinedRow>>>,
    states: BTreeMap<String, RuleState>,
    stamp: i64,
    /// The error of polls, if they fail.
    away: Option<String>,
    /// Whether polls wait without end.
    hangs: bool,
    /// How far this database's clock is ahead of the host's.
    clock_ahead: i64,
}

impl Tables {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut Inner) -> T) -> T {
        let result = edit(&mut self.lock());
        self.changed.notify_one();
        result
    }

    /// Writes rules in one transaction.
    pub(crate) fn write(&self, rules: impl IntoIterator<Item = (impl AsRef<str>, i32)>) {
        self.edit(|inner| {
            for (rule_id, version) in rules {
                inner.stamp += 1;
                let rule = known_rule(rule_id.as_ref(), version, inner.stamp);
                inner.rules.insert(rule_id.as_ref().to_owned(), Ok(Arc::new(rule)));
            }
        });
    }

    /// Makes a row invalid.
    pub(crate) fn break_rule(&self, rule_id: &str, reason: &str) {
        let fingerprint = RowFingerprint::other(Timestamp::MIN, ContentDigest::of(reason));
        let rejected = Box::new(QuarantinedRow {
            key: rule_id.to_owned(),
            fingerprint,
            reason: reason.to_owned(),
            is_text_invalid: true,
        });
        self.edit(|inner| inner.rules.insert(rule_id.to_owned(), Err(rejected)));
    }

    pub(crate) fn delete(&self, rule_id: &str) {
        self.edit(|inner| inner.rules.remove(rule_id));
    }

    pub(crate) fn set(&self, rule_id: &str, state: RuleState) {
        self.edit(|inner| inner.states.insert(rule_id.to_owned(), state));
    }

    pub(crate) fn clear(&self, rule_id: &str) {
        self.edit(|inner| inner.states.remove(rule_id));
    }

    /// From now on polls fail with this; `None` ends that.
    pub(crate) fn set_unavailable(&self, why: Option<&str>) {
        self.edit(|inner| inner.away = why.map(str::to_owned));
    }

    /// From now on polls wait without end.
    pub(crate) fn hang(&self) {
        self.edit(|inner| inner.hangs = true);
    }

    /// Sets this database's clock ahead of the host's; negative is behind.
    pub(crate) fn set_clock_ahead(&self, seconds: i64) {
        self.edit(|inner| inner.clock_ahead = seconds * 1_000_000);
    }

    /// This database's clock.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().as_micros() + self.lock().clock_ahead)
    }
}

pub(crate) fn known_rule(rule_id: &str, version: i32, stamp: i64) -> KnownRule {
    let rule_id = RuleId::new(rule_id).unwrap();
    let definition = Definition {
        rule_id: rule_id.clone(),
        rule_version: version,
        name: format!("rule \"{rule_id}\" — é"),
        description: None,
        applies_to: vec!["command".to_owned()],
        match_spec: serde_json::from_str(r#"{"pattern":"a\\b","field":"x","n":[1,2.50,null]}"#).unwrap(),
        emits: vec![Emit {
            technique_id: "T1083".to_owned(),
            sub_technique_id: None,
            tactic: "TA0007".to_owned(),
            confidence: 0.85,
        }],
        evidence_fields: vec![],
    };
    let text = text(rule_id.as_str(), version);
    KnownRule {
        header: RuleHeader {
            source_path: format!("{rule_id}.yaml").into(),
            rule_version: version.into(),
            updated_at: Timestamp::from_micros(1_777_000_000_000_000 + stamp),
            updated_by: "filesystem".into(),
            content_sha256: ContentDigest::of(text),
            rule_id,
        },
        definition_json: serde_json::to_string(&definition).unwrap().into(),
    }
}

/// The text of [`known_rule`].
fn text(rule_id: &str, version: i32) -> String {
    format!(
        r#"{{"rule_id": "{rule_id}", "rule_version": {version}, "name": "rule \"{rule_id}\" — é", "applies_to": ["command"],
         "match": {{"pattern": "a\\b", "field": "x", "n": [1, 2.50, null]}},
         "emits": [{{"technique_id": "T1083", "tactic": "TA0007", "confidence": 0.85}}]}}"#
    )
}

impl RuleStore for Tables {
    type Follower = Self;

    async fn get_state(&self, _: &RuleId) -> Result<RuleState, StoreError> {
        Err(StoreError::Closed)
    }

    async fn set_state(&self, rule_id: &RuleId, state: RuleState) -> Result<RuleState, StoreError> {
        self.set(rule_id.as_str(), state.clone());
        Ok(state)
    }

    async fn clear_state(&self, _: &RuleId) -> Result<bool, StoreError> {
        Err(StoreError::Closed)
    }

    fn follow(&self) -> Self {
        self.clone()
    }
}

impl Follow for Tables {
    async fn woken(&mut self) {
        self.changed.notified().await;
    }

    async fn poll<K: RowIndex + Send + Sync + 'static>(
        &mut self,
        index: &Arc<K>,
    ) -> Result<TableDelta, StoreError> {
        let now = self.now();
        if self.lock().hangs {
            std::future::pending::<()>().await;
        }
        let inner = self.lock();
        if let Some(detail) = inner.away.clone() {
            return Err(StoreError::Unavailable { what: "looking at the tables", detail });
        }
        if let Some(texts) = index.texts() {
            for rule in inner.rules.values().flatten() {
                let version = i32::try_from(rule.header.rule_version).unwrap();
                texts.put(rule.header.content_sha256, &text(rule.rule_id().as_str(), version));
            }
        }
        let state = |(key, state): (&String, &RuleState)| Ok((RuleId::new(key).unwrap(), state.clone()));
        Ok(TableDelta {
            now,
            rules: inner.rules.values().cloned().collect(),
            states: inner.states.iter().map(state).collect(),
            rule_keys: Some(inner.rules.keys().cloned().collect()),
            state_keys: Some(inner.states.keys().cloned().collect()),
            ..TableDelta::default()
        })
    }
}

/// A worker in the test's process, over [`Tables`].
pub(crate) struct TestWorker {
    pub(crate) tables: Tables,
    pub(crate) config: WorkerConfig,
    pub(crate) handle: WorkerHandle,
    stop: CancellationToken,
    running: JoinHandle<Result<(), ListenError>>,
}

/// A worker's configuration in tests: short intervals, and a socket and a cache in `directory`.
pub(crate) fn worker_config(directory: &Path) -> WorkerConfig {
    WorkerConfig {
        socket: directory.join("events.sock"),
        socket_mode: 0o660,
        socket_group: None,
        allow_uids: Vec::new(),
        poll_interval: Duration::from_millis(50),
        overlap: Duration::from_secs(5),
        full_scan_interval: Duration::from_secs(60),
        journal_length: 1_000,
        max_rules: 100_000,
        max_memory: 64 << 20,
        max_delete: Percent::parse("20%").unwrap(),
        max_delete_hold: Duration::from_secs(3_600),
        heartbeat_interval: Duration::from_millis(100),
        max_subscribers: 64,
        max_subscribers_per_uid: 1_024,
        subscriber_queue: 100,
        cache: directory.join("catalogue.ndjson"),
        id: None,
        report_spread: Duration::from_secs(1),
        report_interval: Duration::from_secs(30),
        report_url: None,
        bus_socket: None,
    }
}

impl TestWorker {
    pub(crate) fn start(tables: &Tables, config: &WorkerConfig) -> Self {
        Self::start_from("memory://tables", tables, config)
    }

    /// A worker whose store is said to be at `url`.
    pub(crate) fn start_from(url: &str, tables: &Tables, config: &WorkerConfig) -> Self {
        let clock: SharedClock = Arc::new(SystemClock);
        let origin = CacheOrigin {
            url: url.to_owned(),
            url_file: None,
            place: url.to_owned(),
            backend: "memory".to_owned(),
        };
        let worker = Worker::new(config.clone(), origin, clock);
        let (handle, stop) = (worker.handle(), CancellationToken::new());
        let (store, token) = (tables.clone(), stop.clone());
        let running =
            tokio::spawn(async move { worker.run(&store, None, &Liveness::default(), token).await });
        Self { tables: tables.clone(), config: config.clone(), handle, stop, running }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.config.socket
    }

    /// Stops softly and waits for the end.
    pub(crate) async fn stop(self) -> Result<(), ListenError> {
        self.stop.cancel();
        self.running.await.unwrap()
    }

    /// Ends at once, as if killed, without writing anything.
    pub(crate) async fn kill(self) {
        self.running.abort();
        let _ = self.running.await;
    }
}

/// A worker over tables that hold `rules`, and the directory that it lives in.
pub(crate) fn worker_over<const N: usize>(rules: [(&str, i32); N]) -> (TestWorker, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write(rules);
    (TestWorker::start(&tables, &worker_config(directory.path())), directory)
}
