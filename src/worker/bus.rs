//! A client of the host's message bus, which publishes one notice for each change.
//!
//! The bus delivers at most once and may be unavailable. The client is a position in the journal, so nothing
//! waits for the bus and nothing is queued for it. While the bus is unavailable the position does not move; if
//! too many changes come meanwhile, they are skipped and counted.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::broker::{Broker, Next, Position};
use super::grace::stopped_for;
use super::journal::EncodedChange;
use super::snapshot::Filter;
use super::status::BusStatus;
use crate::backoff::Backoff;
use crate::clock::Timestamp;
use crate::outage::Outage;
use crate::rule::{ChangeKind, RuleState};
use crate::wire::{Health, Subscribe};

/// The name that this client gives the bus.
const CLIENT: &str = "rulesyncd";

/// The most changes of one write.
const BATCH: usize = 64;

/// A connection that ends sooner is none: a bus that closes each at once is unavailable.
const LASTS: Duration = Duration::from_secs(10);

/// How long the bus may take to read the last frame.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// The client and its state for `status`.
#[derive(Debug)]
pub(super) struct Bus {
    path: PathBuf,
    status: Mutex<BusStatus>,
}

impl Bus {
    pub(super) fn new(path: PathBuf, now: Timestamp) -> Self {
        let status = BusStatus {
            socket: path.display().to_string(),
            state: Health::Down,
            since: now,
            published: 0,
            missed: 0,
            last_error: None,
        };
        Self { path, status: Mutex::new(status) }
    }

    pub(super) fn status(&self) -> BusStatus {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BusStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_state(&self, state: Health, now: Timestamp) {
        let mut status = self.lock();
        status.state = state;
        status.since = now;
    }

    /// Publishes every change from now on until the shutdown.
    pub(super) async fn publish(&self, broker: Arc<Broker>, shutdown: CancellationToken) {
        let mut position = broker.position_after(broker.head_status().seq);
        let mut backoff = Backoff::default();
        let mut outage = Outage::default();
        // Whether the last connection ended at once.
        let mut is_fleeting = false;
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                connected = connect(&self.path) => match connected {
                    Ok(stream) => {
                        self.set_state(Health::Up, broker.clock.now());
                        self.lock().last_error = None;
                        let was_fleeting = std::mem::replace(&mut is_fleeting, true);
                        let lasts = async {
                            if was_fleeting {
                                sleep(LASTS).await;
                            }
                            tracing::info!("the message bus at {} is connected", self.path.display());
                            outage.ended(Instant::now());
                            if !was_fleeting {
                                sleep(LASTS).await;
                            }
                            backoff.reset();
                            is_fleeting = false;
                            std::future::pending().await
                        };
                        tokio::select! {
                            ended = self.serve(stream, &broker, &mut position, &shutdown) => ended,
                            never = lasts => never,
                        }
                    }
                    Err(error) => {
                        is_fleeting = false;
                        Err(error)
                    }
                },
            };
            let Err(error) = ended else { return };
            // What comes until the bus is back counts as lag, even if it had everything.
            position.keep_busy();
            if self.status().state == Health::Up {
                self.set_state(Health::Down, broker.clock.now());
            }
            self.lock().last_error = Some(error.to_string());
            if outage.failed(&error.to_string(), Instant::now()).is_some() {
                tracing::warn!(
                    error = %error,
                    "the message bus at {} is unavailable, retrying: {error}; subscribers are not affected",
                    self.path.display()
                );
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(backoff.wait()) => {}
            }
        }
    }

    /// Publishes over one connection. `Ok` is the shutdown.
    async fn serve(
        &self,
        stream: UnixStream,
        broker: &Broker,
        position: &mut Position,
        shutdown: &CancellationToken,
    ) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut closed = pin!(until_closed(read));
        let mut head = broker.watch_head();
        let everything = Filter::new(&Subscribe::default());
        loop {
            let mut frames = Vec::new();
            let mut count = 0;
            // The position moves before the write, so that a notice is published at most once.
            match broker.next(position, &everything, BATCH, usize::MAX) {
                Next::Changes(changes) => {
                    count = changes.len() as u64;
                    let now = broker.clock.now();
                    changes.iter().for_each(|change| frame(&mut frames, change, now));
                }
                Next::Lagged => {
                    let newest = broker.head_status().seq;
                    self.lock().missed += newest - position.cursor;
                    tracing::warn!(
                        missed = newest - position.cursor,
                        "the message bus is too slow or was unavailable for too long: changes were not published"
                    );
                    *position = broker.position_after(newest);
                    continue;
                }
                Next::CaughtUp => {}
            }
            if frames.is_empty() {
                tokio::select! {
                    error = &mut closed => return Err(error),
                    _ = head.changed() => continue,
                    () = shutdown.cancelled() => {}
                }
                write_frame(&mut frames, "BYE", b"");
                let _ = timeout(SHUTDOWN_GRACE, write.write_all(&frames)).await;
                return Ok(());
            }
            tokio::select! {
                error = closed.as_mut() => {
                    self.lock().missed += count;
                    return Err(error);
                }
                written = write.write_all(&frames) => {
                    let mut status = self.lock();
                    *if written.is_ok() { &mut status.published } else { &mut status.missed } += count;
                    drop(status);
                    written?;
                }
                () = stopped_for(shutdown, SHUTDOWN_GRACE) => return Ok(()),
            }
        }
    }
}

async fn connect(path: &Path) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path).await?;
    let mut hello = Vec::new();
    write_frame(&mut hello, &format!("HELLO {CLIENT}"), b"");
    stream.write_all(&hello).await?;
    Ok(stream)
}

/// Discards what the bus sends until it closes the connection.
async fn until_closed(mut read: OwnedReadHalf) -> std::io::Error {
    let mut buffer = [0; 4096];
    loop {
        match read.read(&mut buffer).await {
            Ok(0) => return std::io::Error::other("it closed the connection"),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

/// Appends a header line, the length of the body in four bytes, and the body.
fn write_frame(out: &mut Vec<u8>, header: &str, body: &[u8]) {
    out.extend_from_slice(header.as_bytes());
    out.push(b'\n');
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
}

/// The fields of a change's line that go into a notice.
#[derive(Deserialize)]
struct Notice {
    rule_version: Option<i64>,
    new_value: Option<Value>,
}

fn frame(out: &mut Vec<u8>, change: &EncodedChange, now: Timestamp) {
    let Ok(notice) = serde_json::from_slice::<Notice>(change.line.bytes()) else { return };
    let rule_id = change.rule_id.as_str();
    let (subject, payload) = match change.kind {
        ChangeKind::Definition => (
            "reloaded",
            match notice.rule_version {
                Some(version) => json!({ "rule_id": rule_id, "rule_version": version }),
                None => json!({ "rule_id": rule_id, "deleted": true }),
            },
        ),
        ChangeKind::State => {
            let state: RuleState =
                notice.new_value.and_then(|state| serde_json::from_value(state).ok()).unwrap_or_default();
            (
                "state",
                if state == RuleState::default() {
                    json!({ "rule_id": rule_id, "auto_revert": true })
                } else {
                    json!({ "rule_id": rule_id, "state": state.state, "set_by": state.set_by })
                },
            )
        }
    };
    let topic = format!("ttp.rule.{subject}.{rule_id}");
    #[expect(clippy::cast_precision_loss, reason = "a double has microseconds until the year 2255")]
    let seconds = now.as_micros() as f64 / 1e6;
    let envelope = json!({
        "v": 1,
        "id": uuid::Uuid::new_v4().simple().to_string(),
        "topic": topic,
        "type": "",
        "ts": seconds,
        "payload": payload,
    });
    write_frame(out, &format!("PUB {topic}"), envelope.to_string().as_bytes());
}

#[cfg(test)]
mod tests;
