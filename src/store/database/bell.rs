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
//!
//! What else wakes a follower was measured in a prototype, on a busy machine of two cores: 20 followers that poll once a
//! second, from a commit to the poll that finds it (median), and what they cost the server while nothing happens:
//!
//! | | MariaDB 10.11 | MySQL 9 |
//! |---|---|---|
//! | polls alone | 495 ms, 0.7 % of a core | 500 ms, 1.2 % |
//! | the bell | 7 ms, 1.0 % | 25 ms, 1.8 % |
//! | `MASTER_GTID_WAIT`, `WAIT_FOR_EXECUTED_GTID_SET` | 501 ms, 1.1 % | < 1 ms, 1.6 % |
//! | a poll in 50 ms for two seconds after a change | 486 ms, 0.7 % | 530 ms, 1.4 % |
//! | a poll in 100 ms | 48 ms, 3.7 % | 37 ms, 3.8 % |
//!
//! MariaDB waits for what a replica has applied, so on the server that takes the writes it only waits. MySQL's wait needs
//! `gtid_mode`, which is off by default, and ends with each transaction of anyone, as the beats and reports here. Adaptive
//! polls are late for the first change. The bell costs the server a fifth more than polls alone, whatever is in its
//! statement: that is one more round trip a poll. It cannot be the poll's own statement. A wait at its end would hold back
//! what the poll found; one at its beginning is no part of the snapshot only if the server reads no table before, and MariaDB
//! reads tables with one row while it plans the statement.

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
use super::version;
use crate::backoff::Backoff;
use crate::store::StoreError;

const WHAT: &str = "waiting for a change";

/// How many bells there are. A follower that takes long for a poll, or is frozen, must not find its bell held again after
/// so many rings: it would not know of them before its next poll.
const BELLS: usize = 16;

/// How often the master looks whether another program raised the version of the tables, as `state set` does, and keeps
/// its session from being silent.
const LOOKED_AFTER: Duration = Duration::from_millis(250);

/// The same where the version cannot be read.
const KEPT_ALIVE: Duration = Duration::from_secs(60);

/// The longest wait for a bell: a report or another poll may have to wait for its end.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A shorter wait is not worth its statement.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);

/// For how long a follower does not look for a bell again after it found none.
const WITHOUT_BELL: Duration = Duration::from_secs(5);

/// The names of the locks: the master's mark, which says whose session the bells are, and the bells. The server computes
/// them once, because a wait is to cost it little.
#[derive(Debug, Clone)]
struct Names {
    mark: Arc<str>,
    is_mariadb: bool,
}

impl Names {
    /// Such locks are global on the server, so the name contains the database; `None` if there is none.
    async fn ask(connection: &mut Connection) -> Result<Option<Self>, StoreError> {
        let query = connection
            .query("SELECT CONCAT_WS(' ', LEFT(SHA2(DATABASE(), 256), 32), VERSION() LIKE '%MariaDB%') AS n");
        let Cell::Text(answer) = connection.cell(WHAT, query).await? else { return Ok(None) };
        let parts = answer.split_once(' ');
        let parts = parts.filter(|(database, _)| database.bytes().all(|byte| byte.is_ascii_hexdigit()));
        Ok(parts.map(|(database, is_mariadb)| Self {
            mark: format!("rulesyncd:{database}:bell").into(),
            is_mariadb: is_mariadb == "1",
        }))
    }

    fn mark(&self) -> String {
        format!("'{}'", self.mark)
    }

    fn bell(&self, bell: usize) -> String {
        format!("'{}:{bell}'", self.mark)
    }

    /// An expression of the bell that the master holds; null if it holds none. It is looked for from `first` on.
    fn held_bell(&self, first: usize) -> String {
        let bells = (0..BELLS).map(|step| (first + step) % BELLS);
        let whens: Vec<String> =
            bells.map(|bell| format!("WHEN IS_USED_LOCK({}) THEN {bell}", self.bell(bell))).collect();
        format!("CASE IS_USED_LOCK({}) {} END", self.mark(), whens.join(" "))
    }
}

/// The master's side: rings at each commit through this process, and soon after one of another program that raises the
/// version of the tables.
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
    let Some(names) = Names::ask(&mut connection).await? else { return Ok(()) };
    let mut has_version = version::why_not_readable(&mut connection).await?.is_none();
    let take = format!("GET_LOCK({}, 0) = 1 AND GET_LOCK({}, 0) = 1", names.mark(), names.bell(0));
    let (is_taken, mut seen) = answer(&mut connection, &take, has_version).await?;
    if !is_taken {
        connection.close().await;
        return Ok(());
    }
    backoff.reset();
    let mut held = 0;
    loop {
        let looked_after = if has_version { LOOKED_AFTER } else { KEPT_ALIVE };
        match tokio::time::timeout(looked_after, committed.changed()).await {
            Ok(Ok(())) => {}
            // The process ends.
            Ok(Err(_)) => return Ok(()),
            Err(_) => {
                let keeps = format!("IS_USED_LOCK({}) = CONNECTION_ID()", names.mark());
                let (keeps, version) = answer(&mut connection, &keeps, has_version).await?;
                if !keeps {
                    return Ok(());
                }
                has_version = has_version || version::why_not_readable(&mut connection).await?.is_none();
                if version == seen {
                    continue;
                }
            }
        }
        for next in (1..BELLS).map(|step| (held + step) % BELLS) {
            // A follower may just pass it on.
            let (next_bell, held_bell) = (names.bell(next), names.bell(held));
            let ring =
                format!("CASE WHEN GET_LOCK({next_bell}, 0) = 1 THEN RELEASE_LOCK({held_bell}) END = 1");
            let rang;
            (rang, seen) = answer(&mut connection, &ring, has_version).await?;
            if rang {
                held = next;
                break;
            }
        }
    }
}

/// Asks whether a condition is true, with the version of the tables.
async fn answer(
    connection: &mut Connection,
    condition: &str,
    has_version: bool,
) -> Result<(bool, String), StoreError> {
    let version = match has_version {
        true => "(SELECT max(version) FROM rulesyncd_version WHERE name = 'tables')",
        false => "NULL",
    };
    let query = connection.query(format!("SELECT CONCAT_WS(' ', COALESCE({condition}, 0), {version}) AS n"));
    let Cell::Text(answer) = connection.cell(WHAT, query).await? else { return Ok((false, String::new())) };
    let (is_true, version) = answer.split_once(' ').unwrap_or((&answer, ""));
    Ok((is_true == "1", version.to_owned()))
}

/// A follower's side: waits on the connection that polls.
#[derive(Debug, Default)]
pub(super) struct Doorbell {
    names: Option<Names>,
    /// The bell that the master held when the last wait ended.
    bell: Option<usize>,
    waiting: Option<oneshot::Receiver<(Connection, Option<Ended>)>>,
    /// When to look for a bell again.
    again_at: Option<Instant>,
}

/// How a wait ended.
#[derive(Debug)]
struct Ended {
    names: Names,
    /// The bell that the master holds now; `None` if it holds none.
    bell: Option<usize>,
}

impl Doorbell {
    /// Begins to wait until `until`, if that is worth it, and takes the connection for so long.
    pub(super) fn begin(
        &mut self,
        connection: &mut Option<Connection>,
        thread: &DatabaseThread,
        until: Instant,
    ) {
        let now = Instant::now();
        let is_worth_it = until.saturating_duration_since(now) >= SHORTEST_WAIT
            && self.again_at.is_none_or(|again_at| now >= again_at);
        let has_bells = |connection: &Connection| connection.dialect().has_bells && !connection.is_broken();
        if self.waiting.is_some() || !is_worth_it || !connection.as_ref().is_some_and(has_bells) {
            return;
        }
        let (Some(mut taken), (send, receive)) = (connection.take(), oneshot::channel()) else { return };
        let (names, bell) = (self.names.clone(), self.bell);
        let waiting = async move {
            let ended = wait(&mut taken, names, bell, until).await.unwrap_or_default();
            drop(send.send((taken, ended)));
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
        let before = self.bell.take();
        (self.waiting, self.names) = (None, None);
        let Ok((returned, ended)) = ended else { return false };
        if returned.is_broken() {
            return false;
        }
        *connection = Some(returned);
        if let Some(Ended { names, bell }) = ended {
            (self.names, self.bell) = (Some(names), bell);
        }
        if self.bell.is_none() {
            self.again_at = Some(Instant::now() + WITHOUT_BELL);
        }
        // Before the first wait nobody waited for the bell.
        self.bell.is_some() && self.bell != before
    }

    /// The same for at most so long: a thread that hangs keeps the connection.
    pub(super) async fn end_within(&mut self, limit: Duration, connection: &mut Option<Connection>) -> bool {
        let ended = tokio::time::timeout(limit, self.end(connection)).await;
        ended.unwrap_or_else(|_| {
            *self = Self::default();
            false
        })
    }
}

/// Waits for the bell, at most until `until`; only looks which one the master holds if that is not known yet. Returns at
/// once if the master holds another one already.
async fn wait(
    connection: &mut Connection,
    names: Option<Names>,
    bell: Option<usize>,
    until: Instant,
) -> Result<Option<Ended>, StoreError> {
    let names = match names {
        Some(names) => names,
        None => match Names::ask(connection).await? {
            Some(names) => names,
            None => return Ok(None),
        },
    };
    let query = match bell {
        Some(bell) => {
            let wait = until.saturating_duration_since(Instant::now()).min(LONGEST_WAIT);
            // MySQL waits for whole seconds.
            let wait = if names.is_mariadb { format!("{:.3}", wait.as_secs_f64()) } else { "1".to_owned() };
            let (name, held) = (names.bell(bell), names.held_bell(bell));
            // The parts are computed in this order. A wait that ends without the bell asks nothing more of the server.
            let query = connection.query(format!("SELECT CASE GET_LOCK({name}, "));
            let look = format!("CONCAT_WS(' ', RELEASE_LOCK({name}), COALESCE({held}, '-'))");
            query.text(wait).push(&format!(") WHEN 0 THEN '{bell}' ELSE {look} END AS n"))
        }
        None => connection.query(format!("SELECT CONCAT_WS(' ', {}) AS n", names.held_bell(0))),
    };
    let Cell::Text(answer) = connection.cell(WHAT, query).await? else { return Ok(None) };
    let bell = answer.rsplit(' ').next().and_then(|bell| bell.parse().ok());
    Ok(Some(Ended { names, bell }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_hangs_keeps_no_follower_waiting() {
        let (_hangs, receive) = oneshot::channel();
        let mut doorbell = Doorbell { waiting: Some(receive), ..Doorbell::default() };
        let (begun, limit) = (Instant::now(), Duration::from_secs(12));
        assert!(!doorbell.end_within(limit, &mut None).await);
        assert!(begun.elapsed() <= limit + Duration::from_secs(1) && !doorbell.is_waiting());
    }
}
