//! The other end of the stream: one connection, and a subscriber that connects again and resumes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::socket::REQUEST_TIMEOUT;
use crate::wire::{
    Cursor, ErrorCode, FrameError, LineReader, MAX_LINE, Op, PROTOCOL, Request, ServerLine, Subscribe, encode,
};

/// What went wrong between this program and a daemon's socket.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or it may not be opened.
    #[error("{} cannot be opened: {source}; is the daemon running, and may you open its socket?", path.display())]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] std::io::Error),
    /// The daemon closed the connection before it had said what was asked for.
    #[error("the daemon closed the connection")]
    Closed,
    /// The daemon did not answer in time.
    #[error("the daemon did not answer within {0:?}: it hangs, or was stopped")]
    Silent(Duration),
    /// The daemon refused.
    #[error("the daemon refused: {message}")]
    Refused {
        /// The kind.
        code: ErrorCode,
        /// The reason.
        message: String,
    },
    /// What came is not the protocol.
    #[error("what came is not the stream's protocol: {0}")]
    Protocol(String),
}

impl ClientError {
    /// Whether no daemon is there to answer.
    pub(crate) fn is_absent(&self) -> bool {
        let Self::Connect { source, .. } = self else { return false };
        matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
    }

    /// Whether the daemon's word is final: connecting again would end the same.
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

/// One line, as it came and as it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The line without its LF.
    pub text: String,
    /// What it says.
    pub line: ServerLine,
}

/// One connection to a daemon's socket.
#[derive(Debug)]
pub struct Connection {
    reader: LineReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub async fn open(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        let (read, writer) = stream.into_split();
        Ok(Self { reader: LineReader::new(read, MAX_LINE), writer })
    }

    /// Sends one request. That the daemon has closed the connection is for [`Connection::next`] to
    /// tell, for it may have said why.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn send(&mut self, op: Op) -> Result<(), ClientError> {
        let mut line = Vec::new();
        encode::line(&mut line, &Request { op, id: None });
        match self.writer.write_all(&line).await {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// The next line; `None` when the daemon has closed the connection. Cancel safe.
    ///
    /// # Errors
    /// When the connection is broken, or what came is no line of the protocol.
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

    /// As [`Connection::next`], for a line that needs no work and so is to come soon.
    ///
    /// # Errors
    /// As [`Connection::next`], and [`ClientError::Silent`].
    pub async fn next_soon(&mut self) -> Result<Option<Line>, ClientError> {
        timeout(REQUEST_TIMEOUT, self.next()).await.unwrap_or(Err(ClientError::Silent(REQUEST_TIMEOUT)))
    }

    /// As [`Connection::ask`], for so long at most.
    ///
    /// # Errors
    /// As [`Connection::ask`], and [`ClientError::Silent`].
    pub async fn ask_within(&mut self, op: Op, patience: Duration) -> Result<Value, ClientError> {
        timeout(patience, self.ask(op)).await.unwrap_or(Err(ClientError::Silent(patience)))
    }

    /// Asks one question and gives back the answer's `result`, however long that takes.
    ///
    /// # Errors
    /// When the daemon refuses or goes away.
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

/// Asks one question and gives back the answer's `result`.
///
/// # Errors
/// When the daemon cannot be reached, refuses, or does not answer in time.
pub async fn ask(path: &Path, op: Op) -> Result<Value, ClientError> {
    let asked = async { Connection::open(path).await?.ask(op).await };
    timeout(REQUEST_TIMEOUT, asked).await.unwrap_or(Err(ClientError::Silent(REQUEST_TIMEOUT)))
}

/// What a subscriber hears.
#[derive(Debug)]
pub enum Event {
    /// A line of the stream. Whoever keeps rules empties them at `snapshot_begin`.
    Line(Box<Line>),
    /// The connection is gone and is being made again; nothing is lost by it.
    Disconnected(ClientError),
}

/// A subscription that outlives its connections: it connects again, resumes after the last change
/// that it gave out, and begins anew where that is not possible.
#[derive(Debug)]
pub struct Subscriber {
    path: PathBuf,
    subscribe: Subscribe,
    connection: Option<Connection>,
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Subscriber {
    /// A subscription to the worker at `path`. `subscribe.cursor` is where it begins.
    pub fn new(path: PathBuf, subscribe: Subscribe) -> Self {
        Self { path, subscribe, connection: None, backoff: Backoff::default(), not_before: None }
    }

    /// The last change that was given out; `None` before the first snapshot is whole.
    pub const fn cursor(&self) -> Option<&Cursor> {
        self.subscribe.cursor.as_ref()
    }

    /// Tells the worker that everything up to the cursor was taken in, for its `status`. Best
    /// effort: where the connection is gone, [`Subscriber::next`] tells of it.
    pub async fn acknowledge(&mut self) {
        if let (Some(connection), Some(cursor)) = (&mut self.connection, &self.subscribe.cursor) {
            let _ = connection.send(Op::Ack { seq: cursor.seq }).await;
        }
    }

    /// The next thing that is heard. Cancel safe.
    ///
    /// # Errors
    /// Only what trying again cannot mend: the request is wrong, or this user may not connect.
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
                let mut connection = Connection::open(&self.path).await?;
                connection.send(Op::Subscribe(self.subscribe.clone())).await?;
                self.connection.insert(connection)
            }
        };
        let line = connection.next().await?.ok_or(ClientError::Closed)?;
        self.take_in(&line.line)?;
        Ok(line)
    }

    /// Moves the cursor. A stream that does not keep its promise is begun anew.
    fn take_in(&mut self, line: &ServerLine) -> Result<(), ClientError> {
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
