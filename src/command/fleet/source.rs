//! Where the reports come from: the table of a server, or the sockets of SQLite's workers.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::client::ask;
use crate::clock::Timestamp;
use crate::command::release::PublishedRelease;
use crate::config::Config;
use crate::fleet::{Expected, ExpectedRelease, Look, ReportedWorker, WorkerReport};
use crate::rule::{Catalogue, CompiledRule, Observation};
use crate::socket::REQUEST_TIMEOUT;
use crate::store::{Database, FleetReader, FleetTables, StoreError};
use crate::trust::Policy;
use crate::wire::Op;
use crate::worker::WorkerStatus;

/// Reads reports and tables.
pub(super) struct Source {
    database: Database,
    reader: FleetReader,
    /// The workers' sockets, if the database has no table of reports or the command line names them, each with what was
    /// last known of its worker.
    sockets: Vec<(PathBuf, Option<ReportedWorker>)>,
    /// When the rules were last read; `None` if they never were.
    read_at: Option<Instant>,
}

/// The rules are read again after this time although no version and no worker says that they changed: nobody may report.
const REREAD: Duration = Duration::from_secs(10);

/// How long to wait for a worker's answer that was asked before: what it said then is known.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

impl Source {
    pub(super) fn new(database: Database, config: &Config, named: &[PathBuf]) -> Self {
        let sockets = match named {
            [] if database.has_reports() => Vec::new(),
            [] => vec![config.worker.socket.clone()],
            named => named.to_vec(),
        };
        let sockets = sockets.into_iter().map(|path| (path, None)).collect();
        Self { reader: database.fleet_reader(), database, sockets, read_at: None }
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

    /// The same, with what the workers should serve.
    pub(super) async fn full(&mut self, policy: Option<&Policy>) -> Result<Look, StoreError> {
        let (tables, look, now) = self.tables().await?;
        self.read_at = Some(Instant::now());
        let mut look = self.with_sockets(look).await;
        let quarantined = tables.quarantined().count() as u64;
        look.expected = Some(Expected {
            digest: tables.digest().to_string(),
            rules: tables.rule_count() as u64,
            quarantined,
        });
        if look.has_trust() {
            // Verified where this host has the keys.
            let release = match PublishedRelease::of_database(&self.database, policy).await? {
                Some(release) => release,
                None => PublishedRelease::unverified(&self.database).await?,
            };
            let served = release.as_ref().ok().map(|release| release.served(&tables, now));
            look.release = Some(ExpectedRelease {
                served: served.map(|served| Expected {
                    digest: served.digest().to_string(),
                    rules: served.rules.len() as u64,
                    quarantined,
                }),
                not_verified: match (release, policy) {
                    (Err(why), _) => Some(why),
                    (Ok(_), None) => Some("the section `trust` is not configured here".to_owned()),
                    (Ok(_), Some(_)) => None,
                },
            });
        }
        Ok(look)
    }

    /// The same after the look `before`, without reading the rules again while the version and what the workers serve are
    /// as they were then. Workers report what another program writes, and states that expire.
    pub(super) async fn next(&mut self, policy: Option<&Policy>, before: &Look) -> Result<Look, StoreError> {
        let look = self.look().await?;
        let is_due = self.read_at.is_none_or(|at| at.elapsed() >= REREAD);
        if is_due || !look.is_as_before(before) {
            return self.full(policy).await;
        }
        Ok(Look { expected: before.expected.clone(), release: before.release.clone(), ..look })
    }

    /// The rules that a worker should serve, with their effective states: with `policy` those of the release, and none
    /// if it does not verify.
    pub(super) async fn rules(&self, policy: Option<&Policy>) -> Result<Vec<CompiledRule>, StoreError> {
        let (tables, _, now) = self.tables().await?;
        let served = match PublishedRelease::of_database(&self.database, policy).await? {
            None => Observation::from(&tables),
            Some(Ok(release)) => release.served(&tables, now),
            Some(Err(_)) => Observation::default(),
        };
        let rules = tables.rules().filter_map(|(rule, _)| {
            let listed = served.rules.get(rule.rule_id())?;
            let state = served.states.get(rule.rule_id()).cloned().unwrap_or_default();
            (listed.content_sha256 == rule.header.content_sha256).then(|| rule.compiled(state).ok())?
        });
        Ok(rules.collect())
    }

    /// What the tables hold, with the version and the reports, and the time by the database's clock.
    async fn tables(&self) -> Result<(Catalogue, Look, Timestamp), StoreError> {
        let FleetTables { delta, look } = self.database.fleet().await?;
        let (mut tables, now) = (Catalogue::default(), delta.now);
        tables.apply(delta);
        Ok((tables, look, now))
    }

    async fn with_sockets(&mut self, look: Look) -> Look {
        if self.sockets.is_empty() {
            return look;
        }
        let asking = self.sockets.iter().map(|(path, before)| async {
            let limit = if before.is_some() { ASKED_AGAIN } else { REQUEST_TIMEOUT };
            timeout(limit, worker(path, look.now)).await.ok().flatten()
        });
        let answers = join_all(asking).await;
        for ((path, known), answer) in self.sockets.iter_mut().zip(answers) {
            *known = Some(answer.unwrap_or_else(|| without_answer(path, known.take())));
        }
        // Two paths may lead to one worker.
        let mut epochs = HashSet::new();
        let known = self.sockets.iter().filter_map(|(_, known)| known.as_ref());
        let workers = known.filter(|worker| epochs.insert(&worker.report.epoch)).cloned().collect();
        Look { workers, ..look }
    }
}

/// What the worker at this socket says; `None` if it does not answer.
async fn worker(path: &Path, now: Timestamp) -> Option<ReportedWorker> {
    let answer = ask(path, Op::Status {}).await.ok()?;
    let status = serde_json::from_value::<WorkerStatus>(answer).ok()?;
    let started_at = status.started_at;
    let report = status.report.clone().unwrap_or_else(|| from_status(path, status));
    Some(ReportedWorker { report, started_at, reported_at: now })
}

/// What a worker would report whose version does not report: it has no version of the tables, but a digest.
fn from_status(path: &Path, status: WorkerStatus) -> WorkerReport {
    let path = path.display().to_string();
    WorkerReport {
        epoch: status.stream.epoch.to_string(),
        worker_id: path.clone(),
        host: path,
        program: status.version.clone(),
        seq: status.stream.seq,
        digest: status.digest.map(|digest| digest.to_string()),
        rules: status.rules,
        states: status.states,
        quarantined: status.quarantined_rows() as u64,
        quarantined_ids: WorkerReport::join_ids(status.quarantined.iter().map(|row| &*row.rule_id)),
        stale_ms: status.database.stale_for_ms,
        ..WorkerReport::default()
    }
}

/// A worker that does not answer: as it was when it last did, and silent soon; one that never did is silent at once.
fn without_answer(path: &Path, known: Option<ReportedWorker>) -> ReportedWorker {
    if let Some(mut known) = known {
        // It is asked at each look, and does not report at an interval.
        known.report.interval_ms = 0;
        return known;
    }
    let path = path.display().to_string();
    let report =
        WorkerReport { epoch: path.clone(), worker_id: path.clone(), host: path, ..WorkerReport::default() };
    ReportedWorker { report, started_at: Timestamp::MIN, reported_at: Timestamp::MIN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Waiting;

    #[test]
    fn a_worker_that_no_longer_answers_is_waited_for_and_one_that_never_did_is_not() {
        let now = Timestamp::from_micros(1_750_000_000_000_000);
        let report = |applied| WorkerReport {
            epoch: "e".to_owned(),
            worker_id: "w".to_owned(),
            host: "host".to_owned(),
            interval_ms: 30_000,
            applied: Some(applied),
            ..WorkerReport::default()
        };
        let answer = |applied| ReportedWorker { report: report(applied), started_at: now, reported_at: now };
        let look = |now, workers| Look {
            now,
            version: Some(7),
            changed_at: None,
            leader: None,
            no_master_since: None,
            expected: None,
            release: None,
            workers,
        };
        let absent = without_answer(Path::new("/run/absent.sock"), None);
        let start = look(now, vec![answer(6), absent.clone()]);
        let waiting = Waiting::new(7, &start, false, false);

        let path = Path::new("/run/w.sock");
        let frozen = without_answer(path, Some(answer(6)));
        assert!(!frozen.is_silent(now.after(Duration::from_secs(2))));
        assert!(frozen.is_silent(now.after(Duration::from_secs(4))), "it is asked each time");
        let still_absent = without_answer(Path::new("/run/absent.sock"), Some(absent));
        let wait =
            waiting.check(&look(now.after(Duration::from_secs(4)), vec![frozen, still_absent.clone()]));
        assert_eq!(wait.missing.iter().map(|host| &*host.host).collect::<Vec<_>>(), ["host"]);
        assert_eq!(wait.passed_over.iter().map(|host| &*host.host).collect::<Vec<_>>(), ["/run/absent.sock"]);
        assert!(waiting.check(&look(now, vec![answer(7), still_absent])).is_done());
    }
}
