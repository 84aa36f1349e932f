//! Clients of the event stream: a single connection, and a subscriber that reconnects and resumes.

mod snapshot;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::paint::sanitize;
use crate::socket::REQUEST_TIMEOUT;
use crate::wire::{
    Cursor, ErrorCode, FrameError, LineReader, MAX_LINE, Op, PROTOCOL, Request, ServerLine, Subscribe, encode,
};

/// An error between this program and a daemon's socket.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens there, or this user may not open it.
    #[error("{} cannot be opened: {source}; is the daemon running, and may you open its socket?", path.display())]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] std::io::Error),
    /// The daemon closed the connection before it answered.
    #[error("the daemon closed the connection")]
    Closed,
    /// The daemon did not answer in time.
    #[error("the daemon did not answer within {0:?}: it hangs, or was stopped")]
    Timeout(Duration),
    /// The daemon refused the request.
    #[error("the daemon refused: {}", sanitize(message))]
    Refused {
        /// The kind.
        code: ErrorCode,
        /// The reason.
        message: String,
    },
    /// A line is not in the stream's protocol.
    #[error("the daemon does not speak the stream's protocol: {}", sanitize(.0))]
    Protocol(String),
}

impl ClientError {
    /// Whether no daemon is running there.
    pub(crate) fn is_absent(&self) -> bool {
        let Self::Connect { source, .. } = self else { return false };
        matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
    }

    /// Whether connecting again would end in the same error.
    const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: ErrorCode::BadJson
                    | ErrorCode::LineTooLong
                    | ErrorCode::UnknownOp
                    | ErrorCode::BadRequest
                    | ErrorCode::AlreadySubscribed
                    | ErrorCode::NotAllowed,
                ..
            }
        )
    }
}

/// One line, as it was received and parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The line without its LF.
    pub text: String,
    /// The parsed line.
    pub line: ServerLine,
}

/// One connection to a daemon's socket.
#[derive(Debug)]
pub struct SocketClient {
    reader: LineReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl SocketClient {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        let (read, writer) = stream.into_split();
        Ok(Self { reader: LineReader::new(read, MAX_LINE), writer })
    }

    /// Sends one request. If the daemon closed the connection, this succeeds, and [`SocketClient::next`] reads the
    /// daemon's last line, which may say why.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn send(&mut self, op: Op) -> Result<(), ClientError> {
        let mut line = Vec::new();
        encode::line(&mut line, &Request { op, id: None });
        match self.writer.write_all(&line).await {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// The next line; `None` if the daemon closed the connection. Cancel safe.
    ///
    /// # Errors
    /// The connection is broken, or a line is not in the protocol.
    pub async fn next(&mut self) -> Result<Option<Line>, ClientError> {
        let Some(bytes) = self.reader.next().await.map_err(|error| match error {
            FrameError::Io(error) => ClientError::Broken(error),
            FrameError::TooLong(_) => ClientError::Protocol(error.to_string()),
        })?
        else {
            return Ok(None);
        };
        let strange = |why: String| ClientError::Protocol(why);
        let text = std::str::from_utf8(bytes).map_err(|error| strange(error.to_string()))?;
        let line = serde_json::from_str(text).map_err(|error| strange(error.to_string()))?;
        Ok(Some(Line { text: text.to_owned(), line }))
    }

    /// Like [`SocketClient::next`], for a line that needs no work and so comes soon.
    ///
    /// # Errors
    /// As [`SocketClient::next`], and [`ClientError::Timeout`].
    pub(crate) async fn next_soon(&mut self) -> Result<Option<Line>, ClientError> {
        timeout(REQUEST_TIMEOUT, self.next()).await.unwrap_or(Err(ClientError::Timeout(REQUEST_TIMEOUT)))
    }

    /// Like [`SocketClient::ask`], with a time limit.
    ///
    /// # Errors
    /// As [`SocketClient::ask`], and [`ClientError::Timeout`].
    pub(crate) async fn ask_within(&mut self, op: Op, limit: Duration) -> Result<Value, ClientError> {
        timeout(limit, self.ask(op)).await.unwrap_or(Err(ClientError::Timeout(limit)))
    }

    /// Sends one request and returns the `result` of its answer, however long that takes.
    ///
    /// # Errors
    /// The daemon refuses the request or closes the connection.
    pub async fn ask(&mut self, op: Op) -> Result<Value, ClientError> {
        self.send(op).await?;
        loop {
            match self.next().await?.ok_or(ClientError::Closed)?.line {
                ServerLine::Response { result, .. } => return Ok(result),
                ServerLine::Error { code, message, .. } => {
                    return Err(ClientError::Refused { code, message });
                }
                _ => {}
            }
        }
    }
}

/// Connects, sends one request and returns the `result` of its answer.
///
/// # Errors
/// The daemon cannot be reached, refuses the request, or does not answer in time.
pub async fn ask(path: &Path, op: Op) -> Result<Value, ClientError> {
    let asked = async { SocketClient::connect(path).await?.ask(op).await };
    timeout(REQUEST_TIMEOUT, asked).await.unwrap_or(Err(ClientError::Timeout(REQUEST_TIMEOUT)))
}

/// What a subscriber receives.
#[derive(Debug)]
pub enum Event {
    /// A line of the stream. A client that keeps rules discards them at `snapshot_begin`.
    Line(Box<Line>),
    /// The connection broke and the subscriber reconnects; no change is lost.
    Disconnected(ClientError),
}

/// A subscription that outlives its connections: it reconnects and resumes after the last change that it returned, or
/// starts with a snapshot if it cannot resume.
#[derive(Debug)]
pub struct Subscriber {
    path: PathBuf,
    subscribe: Subscribe,
    connection: Option<SocketClient>,
    /// The last change that was acknowledged.
    acknowledged: Option<Cursor>,
    /// Whether the connection, which is new, has yet to hear that: the worker does not know it of this one.
    acknowledges: bool,
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Subscriber {
    /// A subscription to the worker at `path`, which begins at `subscribe.cursor`.
    pub fn new(path: PathBuf, subscribe: Subscribe) -> Self {
        Self {
            path,
            subscribe,
            connection: None,
            acknowledged: None,
            acknowledges: false,
            backoff: Backoff::default(),
            not_before: None,
        }
    }

    /// The last change that was returned; `None` before the first snapshot is complete.
    pub const fn cursor(&self) -> Option<&Cursor> {
        self.subscribe.cursor.as_ref()
    }

    /// Tells the worker, for its `status`, that everything up to the cursor was applied. Best effort: if the
    /// connection is broken, [`Subscriber::next`] returns that, and the next connection tells the worker.
    pub async fn acknowledge(&mut self) {
        let Some(cursor) = &self.subscribe.cursor else { return };
        self.acknowledged = Some(cursor.clone());
        if let Some(connection) = &mut self.connection {
            let _ = connection.send(Op::Ack { seq: cursor.seq }).await;
        }
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// Only errors that a retry cannot cure: the request is wrong, or this user may not connect.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        match self.try_next().await {
            Ok(line) => Ok(Event::Line(Box::new(line))),
            Err(error) if error.is_final() => Err(error),
            Err(error) => {
                self.connection = None;
                self.not_before = Some(Instant::now() + self.backoff.wait());
                Ok(Event::Disconnected(error))
            }
        }
    }

    async fn try_next(&mut self) -> Result<Line, ClientError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                if let Some(time) = self.not_before {
                    sleep_until(time).await;
                }
                let mut connection = SocketClient::connect(&self.path).await?;
                connection.send(Op::Subscribe(self.subscribe.clone())).await?;
                self.acknowledges = false;
                self.connection.insert(connection)
            }
        };
        if std::mem::take(&mut self.acknowledges)
            && let Some(Cursor { seq, .. }) = self.acknowledged
        {
            connection.send(Op::Ack { seq }).await?;
        }
        let line = connection.next().await?.ok_or(ClientError::Closed)?;
        self.move_cursor(&line.line)?;
        if let ServerLine::Hello { epoch, .. } = &line.line {
            // The worker has taken the subscription once its greeting was read, and not before.
            let is_known = |known: &Option<Cursor>| known.as_ref().is_some_and(|known| known.epoch == *epoch);
            self.acknowledges = is_known(&self.acknowledged) && is_known(&self.subscribe.cursor);
        }
        Ok(line)
    }

    /// Moves the cursor. After a gap in the stream, the subscription starts with a snapshot.
    fn move_cursor(&mut self, line: &ServerLine) -> Result<(), ClientError> {
        let filtered = self.subscribe.kinds.is_some() || self.subscribe.rule_ids.is_some();
        let cursor = &mut self.subscribe.cursor;
        match line {
            ServerLine::Error { code: ErrorCode::NotReady, .. }
            | ServerLine::Rule(_)
            | ServerLine::State { .. }
            | ServerLine::Response { .. } => {}
            ServerLine::Hello { protocol, .. } if *protocol == PROTOCOL => {}
            ServerLine::Hello { protocol, .. } => {
                let why = format!("the server speaks version {protocol}, this program {PROTOCOL}");
                return Err(ClientError::Protocol(why));
            }
            ServerLine::SnapshotBegin { .. } => *cursor = None,
            ServerLine::SnapshotEnd { epoch, seq, .. } => {
                *cursor = Some(Cursor { epoch: epoch.clone(), seq: *seq });
                self.backoff.reset();
            }
            ServerLine::Change(change) => match cursor {
                Some(cursor) if change.seq == cursor.seq + 1 || (filtered && change.seq > cursor.seq) => {
                    cursor.seq = change.seq;
                    self.backoff.reset();
                }
                other => {
                    let before = other.take().map_or_else(|| "no snapshot".to_owned(), |c| c.seq.to_string());
                    return Err(ClientError::Protocol(format!("change {} follows {before}", change.seq)));
                }
            },
            ServerLine::Heartbeat { seq, .. } => {
                if let Some(cursor) = cursor {
                    cursor.seq = cursor.seq.max(*seq);
                    self.backoff.reset();
                }
            }
            ServerLine::Error { code, message, .. } => {
                return Err(ClientError::Refused { code: *code, message: message.clone() });
            }
        }
        Ok(())
    }
}
