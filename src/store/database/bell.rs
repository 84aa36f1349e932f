//! Wakes the followers of MySQL and MariaDB, which have no notifications: a doorbell of user locks, which need no right
//! and no table.
//!
//! The master holds one of a few bells. An idle follower waits for that bell; after a commit the master takes the next
//! one and releases it. The server passes the released lock from one waiting follower to the next: each takes and
//! releases it in one statement, so a follower that is frozen holds up nobody. A follower waits for the bell that the
//! master held before its last poll, so a commit during the poll wakes it, too.
//!
//! A bell is a hint: where there is none (no master, a replica, a cluster, a pooler that leads the two to different
//! sessions) a follower finds changes at its next poll.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connection::Connection;
use super::connector::Connector;
use super::row::Cell;
use super::sql::Purpose;
use super::thread::DatabaseThread;
use crate::backoff::Backoff;
use crate::store::StoreError;

const WHAT: &str = "waiting for a change";

/// How many bells there are. One is enough for the followers; the others are for the next rings while they still pass on
/// the last one.
const BELLS: usize = 4;

/// How often the master looks whether the server still knows its bell, and keeps its session from being silent.
const KEPT_ALIVE: Duration = Duration::from_secs(60);

/// The longest wait for a bell: a report or another poll may have to wait for its end.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A shorter wait is not worth its statement.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);

/// How much before the next poll a wait ends.
const MARGIN: Duration = Duration::from_millis(10);

/// For how long a follower does not look for a bell again after it found none.
const WITHOUT_BELL: Duration = Duration::from_secs(5);

/// The name of a lock: the master's mark, which says whose session the bells are, or a bell. Such locks are global on the
/// server, so the name contains the database.
fn lock(bell: Option<usize>) -> String {
    let end = bell.map_or_else(String::new, |bell| format!(":{bell}"));
    format!("CONCAT('rulesyncd:', LEFT(SHA2(DATABASE(), 256), 32), ':bell{end}')")
}

/// The master's side: rings at each commit through this process.
#[derive(Debug)]
pub(super) struct Ringer {
    task: Option<JoinHandle<()>>,
}

impl Ringer {
    /// Starts to ring on `thread`, if the database is one that has bells.
    pub(super) fn start(
        connector: &Arc<Connector>,
        thread: &DatabaseThread,
        committed: watch::Receiver<()>,
    ) -> Self {
        let has_bells = connector.dialect().has_bells;
        let connector = Arc::clone(connector);
        Self { task: has_bells.then(|| thread.spawn(ring_always(connector, committed))).flatten() }
    }
}

impl Drop for Ringer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Errors are not reported: the master's own session reports those of the database.
async fn ring_always(connector: Arc<Connector>, mut committed: watch::Receiver<()>) {
    let mut backoff = Backoff::default();
    loop {
        if let Err(error) = ring(&connector, &mut committed, &mut backoff).await {
            tracing::debug!(%error, "followers are not woken");
        }
        tokio::time::sleep(backoff.wait()).await;
    }
}

/// Rings until the session is lost, or another one has the mark.
async fn ring(
    connector: &Arc<Connector>,
    committed: &mut watch::Receiver<()>,
    backoff: &mut Backoff,
) -> Result<(), StoreError> {
    let mut connection = Connection::open(connector, Purpose::Read).await?;
    let (mark, first) = (lock(None), lock(Some(0)));
    let take = format!("SELECT CAST(GET_LOCK({mark}, 0) + GET_LOCK({first}, 0) AS CHAR) AS n");
    if !is(&mut connection, &take, "2").await? {
        connection.close().await;
        return Ok(());
    }
    backoff.reset();
    let mut held = 0;
    loop {
        match tokio::time::timeout(KEPT_ALIVE, committed.changed()).await {
            Ok(Ok(())) => {
                for next in (1..BELLS).map(|step| (held + step) % BELLS) {
                    // A follower may just pass it on.
                    let (next_lock, held_lock) = (lock(Some(next)), lock(Some(held)));
                    let ring = format!(
                        "SELECT CAST(CASE WHEN GET_LOCK({next_lock}, 0) = 1 THEN RELEASE_LOCK({held_lock}) END AS CHAR) AS n"
                    );
                    if is(&mut connection, &ring, "1").await? {
                        held = next;
                        break;
                    }
                }
            }
            // The process ends.
            Ok(Err(_)) => return Ok(()),
            Err(_) => {
                let keeps = format!("SELECT CAST(IS_USED_LOCK({mark}) = CONNECTION_ID() AS CHAR) AS n");
                if !is(&mut connection, &keeps, "1").await? {
                    return Ok(());
                }
            }
        }
    }
}

async fn is(connection: &mut Connection, sql: &str, expected: &str) -> Result<bool, StoreError> {
    let query = connection.query(sql);
    Ok(matches!(connection.cell(WHAT, query).await?, Cell::Text(text) if text == expected))
}

/// A follower's side: waits on the connection that polls.
#[derive(Debug, Default)]
pub(super) struct Doorbell {
    /// The bell that the master held when the last wait ended.
    bell: Option<usize>,
    waiting: Option<oneshot::Receiver<(Connection, Outcome)>>,
    /// When to look for a bell again.
    again_at: Option<Instant>,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The master holds this bell now; whether it was another one at the beginning.
    Bell {
        bell: usize,
        rang: bool,
    },
    Missing,
}

impl Doorbell {
    /// Begins to wait until shortly before `until`, if that is worth it, and takes the connection for so long.
    pub(super) fn begin(
        &mut self,
        connection: &mut Option<Connection>,
        thread: &DatabaseThread,
        until: Instant,
    ) {
        let now = Instant::now();
        let wait = until.saturating_duration_since(now).saturating_sub(MARGIN).min(LONGEST_WAIT);
        let is_worth_it = wait >= SHORTEST_WAIT && self.again_at.is_none_or(|again_at| now >= again_at);
        let has_bells = |connection: &Connection| connection.dialect().has_bells && !connection.is_broken();
        if self.waiting.is_some() || !is_worth_it || !connection.as_ref().is_some_and(has_bells) {
            return;
        }
        let (Some(mut taken), (send, receive)) = (connection.take(), oneshot::channel()) else { return };
        let bell = self.bell;
        let waiting = async move {
            let outcome = wait_for(&mut taken, bell, wait).await.unwrap_or(Outcome::Missing);
            drop(send.send((taken, outcome)));
        };
        if thread.spawn(waiting).is_some() {
            self.waiting = Some(receive);
        }
    }

    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// When to begin to wait, although nothing else happens; `None` if not before the next poll.
    pub(super) fn due(&self) -> Option<Instant> {
        self.again_at.filter(|again_at| !self.is_waiting() && *again_at > Instant::now())
    }

    /// Waits for the end of the wait, for ever if there is none; returns the connection, and whether the bell rang. Cancel
    /// safe.
    pub(super) async fn end(&mut self, connection: &mut Option<Connection>) -> bool {
        let Some(waiting) = &mut self.waiting else { return std::future::pending().await };
        let ended = waiting.await;
        self.waiting = None;
        let Ok((returned, outcome)) = ended else { return false };
        if returned.is_broken() {
            self.bell = None;
            return false;
        }
        *connection = Some(returned);
        match outcome {
            Outcome::Bell { bell, rang } => {
                self.bell = Some(bell);
                rang
            }
            Outcome::Missing => {
                (self.bell, self.again_at) = (None, Some(Instant::now() + WITHOUT_BELL));
                false
            }
        }
    }
}

async fn wait_for(
    connection: &mut Connection,
    bell: Option<usize>,
    wait: Duration,
) -> Result<Outcome, StoreError> {
    let whens: Vec<String> = (0..BELLS)
        .map(|bell| format!("WHEN IS_USED_LOCK(CONCAT(name.mark, ':{bell}')) THEN {bell}"))
        .collect();
    // Its text is always the same, so that the server prepares it once. The parts are computed in this order. MySQL waits
    // for whole seconds.
    let bell_end = bell.map_or_else(|| ":none".to_owned(), |bell| format!(":{bell}"));
    let query = connection.query("SELECT CONCAT_WS(' ', CASE WHEN IS_USED_LOCK(CONCAT(name.mark, ");
    let query =
        query.text(&bell_end).push(")) = IS_USED_LOCK(name.mark) THEN CASE WHEN GET_LOCK(CONCAT(name.mark, ");
    let query = query.text(&bell_end).push("), CASE WHEN VERSION() LIKE '%MariaDB%' THEN CAST(");
    let query = query.text(format!("{:.3}", wait.as_secs_f64())).push(" AS DECIMAL(6, 3)) ELSE 1 END) = 1 ");
    let query =
        query.push("THEN RELEASE_LOCK(CONCAT(name.mark, ").text(&bell_end).push(")) ELSE 0 END ELSE 0 END, ");
    let query = query.push(&format!(
        "CASE IS_USED_LOCK(name.mark) {} END) AS n FROM (SELECT {} AS mark) AS name",
        whens.join(" "),
        lock(None)
    ));
    let Cell::Text(answer) = connection.cell(WHAT, query).await? else { return Ok(Outcome::Missing) };
    let now = answer.split_once(' ').and_then(|(_, held)| held.parse().ok());
    Ok(now.map_or(Outcome::Missing, |now| Outcome::Bell { bell: now, rang: bell != Some(now) }))
}
