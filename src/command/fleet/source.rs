//! Where the reports come from: the table of a server, or the sockets of SQLite's workers.

use std::path::{Path, PathBuf};

use futures_util::future::join_all;

use crate::client::ask;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::fleet::{Look, ReportedWorker, WorkerReport};
use crate::rule::{Catalogue, CompiledRule};
use crate::store::{Database, FleetReader, FleetTables, StoreError};
use crate::trust::{Gate, Policy};
use crate::wire::Op;
use crate::worker::WorkerStatus;

/// Reads reports and tables.
pub(super) struct Source {
    database: Database,
    reader: FleetReader,
    /// The workers' sockets, if the database has no table of reports or the command line names them.
    sockets: Vec<PathBuf>,
}

impl Source {
    pub(super) fn new(database: Database, config: &Config, named: &[PathBuf]) -> Self {
        let sockets = match named {
            [] if database.has_reports() => Vec::new(),
            [] => vec![config.worker.socket.clone()],
            named => named.to_vec(),
        };
        Self { reader: database.fleet_reader(), database, sockets }
    }

    /// The version and the reports, on a connection that stays open.
    pub(super) async fn look(&mut self) -> Result<Look, StoreError> {
        let look = self.reader.look().await?;
        Ok(self.with_sockets(look).await)
    }

    /// How many reports lack this version, or, with `acknowledged`, an acknowledgement; `None` where only each worker
    /// itself knows.
    pub(super) async fn lacking(
        &mut self,
        version: u64,
        acknowledged: bool,
    ) -> Result<Option<usize>, StoreError> {
        if !self.sockets.is_empty() {
            return Ok(None);
        }
        self.reader.lacking(version, acknowledged).await.map(Some)
    }

    /// The same, with the digest of what a worker should serve.
    pub(super) async fn full(&self, policy: Option<&Policy>) -> Result<Look, StoreError> {
        let (served, look) = self.tables(policy).await?;
        let expected = Some((served.digest().to_string(), served.rule_count() as u64));
        Ok(self.with_sockets(Look { expected, ..look }).await)
    }

    /// The rules that a worker should serve, with their effective states.
    pub(super) async fn rules(&self, policy: Option<&Policy>) -> Result<Vec<CompiledRule>, StoreError> {
        let (served, _) = self.tables(policy).await?;
        let state = |rule_id: &str| served.state(rule_id);
        let rules = served.rules().filter_map(|(rule, _)| rule.compiled(state(rule.rule_id().as_str())).ok());
        Ok(rules.collect())
    }

    /// What a worker should serve, and the version and the reports of the table.
    async fn tables(&self, policy: Option<&Policy>) -> Result<(Catalogue, Look), StoreError> {
        let FleetTables { delta, look } =
            self.database.fleet(policy.map(|policy| policy.realm.as_str())).await?;
        let mut served = Catalogue::default();
        let now = delta.now;
        match policy {
            None => drop(served.apply(delta)),
            Some(policy) => {
                let mut gate = Gate::new(policy.clone(), None);
                gate.poll(delta, &served, now);
                if gate.wants_list().is_some() {
                    let (_, list) = self.database.release(policy.realm.as_str()).await?;
                    gate.take_list(list.as_deref(), &served);
                }
                let delta = gate.take_served(&served, now);
                served.apply(delta);
            }
        }
        Ok((served, look))
    }

    async fn with_sockets(&self, look: Look) -> Look {
        if self.sockets.is_empty() {
            return look;
        }
        let workers = join_all(self.sockets.iter().map(|path| worker(path, look.now))).await;
        Look { workers, ..look }
    }
}

/// What the worker at this socket says; silent if it does not answer.
async fn worker(path: &Path, now: Timestamp) -> ReportedWorker {
    let answer = ask(path, Op::Status {}).await.ok();
    let status = answer.and_then(|answer| serde_json::from_value::<WorkerStatus>(answer).ok());
    match status {
        Some(WorkerStatus { report: Some(report), started_at, .. }) => {
            ReportedWorker { report, started_at, reported_at: now }
        }
        _ => {
            let path = path.display().to_string();
            let report = WorkerReport {
                epoch: path.clone(),
                worker_id: path.clone(),
                host: path,
                ..WorkerReport::default()
            };
            ReportedWorker { report, started_at: Timestamp::MIN, reported_at: Timestamp::MIN }
        }
    }
}
