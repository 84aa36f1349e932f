//! PostgreSQL's frames, version 3: <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::frames::{Fields, Frame, FrameRules, LONGEST_FRAME, LONGEST_ROW, Violation};
use super::route::Reached;
use super::{Route, Stream, password_in_the_clear, tls, violation};
use crate::address::{Host, TlsMode};

/// The most bytes that a server may send, besides rows, before the driver sends something again: notifications and
/// notices come unasked.
const LONGEST_ANSWER: usize = 1 << 20;

/// The most bytes of parameters during a connection: the driver keeps them.
const LONGEST_PARAMETERS: usize = 256 << 10;

/// The types of the columns and arguments of all statements, by their numbers in `pg_type`: text types, numbers,
/// times, and void. For any other type the driver would ask the server for a description, and then for those of its
/// parts, without end.
const TYPES: [u32; 20] =
    [16, 17, 18, 19, 20, 21, 23, 25, 26, 700, 701, 705, 1042, 1043, 1082, 1114, 1184, 1700, 2278, 0];

const PASSWORD_IN_THE_CLEAR: u32 = 3;

/// Which frames of PostgreSQL may pass.
pub(super) struct Postgres {
    /// Whether the server may ask for the cleartext password.
    is_private: bool,
    answer: usize,
    parameters: usize,
    told: Arc<Told>,
}

/// What the server says unasked, for whoever uses the connection.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The process that serves the connection; 0 until the server says it.
    pub(super) process: AtomicU32,
    /// Changes at each notification.
    pub(super) notified: watch::Sender<()>,
}

impl Postgres {
    pub(super) fn new(is_private: bool) -> Self {
        Self { is_private, answer: 0, parameters: 0, told: Arc::default() }
    }

    /// Puts there what the server says unasked.
    pub(super) fn telling(self, told: Arc<Told>) -> Self {
        Self { told, ..self }
    }
}

impl FrameRules for Postgres {
    fn header(&mut self, bytes: &[u8]) -> Result<Option<Frame>, Violation> {
        let [kind, length @ ..] = bytes else { return Ok(None) };
        let longest = match kind {
            b'D' => LONGEST_ROW,
            b'1' | b'2' | b'3' | b'A' | b'C' | b'E' | b'I' | b'K' | b'N' | b'R' | b'S' | b'T' | b'Z'
            | b'n' | b's' | b't' => LONGEST_FRAME,
            _ => return Err(Violation::sent(format!("a message of the unknown kind 0x{kind:02x}"))),
        };
        let Ok(length) = <[u8; 4]>::try_from(length) else { return Ok(None) };
        let length = u32::from_be_bytes(length) as usize;
        if length < 4 || length > longest {
            return Err(Violation::sent(format!(
                "a message of the kind `{}` that has {length} bytes; at most {longest} are read",
                char::from(*kind)
            )));
        }
        let total = 1 + length;
        if *kind == b'D' {
            return Ok(Some(Frame::Passing(total)));
        }
        self.answer += total;
        if *kind == b'S' {
            self.parameters += total;
        }
        if self.answer > LONGEST_ANSWER || self.parameters > LONGEST_PARAMETERS {
            return Err(Violation::sent(format!(
                "more than {} bytes of messages that are no rows",
                self.answer.min(LONGEST_ANSWER)
            )));
        }
        Ok(Some(match kind {
            b'K' | b'R' | b'T' | b't' => Frame::Whole(total),
            // The driver takes it only while it waits for an answer.
            b'A' => {
                self.told.notified.send_replace(());
                Frame::Kept(total)
            }
            _ => Frame::Passing(total),
        }))
    }

    fn frame(&mut self, frame: &[u8]) -> Result<(), Violation> {
        let mut body = Fields(&frame[5..]);
        match frame[0] {
            b'R' if body.array() == Some(PASSWORD_IN_THE_CLEAR.to_be_bytes()) && !self.is_private => {
                Err(password_in_the_clear())
            }
            b'K' => {
                let process = body.array().map_or(0, u32::from_be_bytes);
                self.told.process.store(process, Ordering::Relaxed);
                Ok(())
            }
            b'T' => are_known(columns(body), "columns"),
            b't' => are_known(arguments(body), "arguments"),
            _ => Ok(()),
        }
    }

    fn driver_sent(&mut self, _bytes: &[u8]) -> Result<(), Violation> {
        self.answer = 0;
        Ok(())
    }
}

fn are_known(types: Option<Vec<u32>>, what: &str) -> Result<(), Violation> {
    match types {
        Some(types) if types.iter().all(|kind| TYPES.contains(kind)) => Ok(()),
        Some(_) => Err(Violation::sent(format!("{what} of a type that no statement has"))),
        None => Err(Violation::sent(format!("a description of {what} that ends too soon"))),
    }
}

/// Checks the types of a row's columns.
fn columns(mut body: Fields<'_>) -> Option<Vec<u32>> {
    let count = u16::from_be_bytes(body.array()?);
    (0..count)
        .map(|_| {
            body.text()?;
            // The table and the column's number in it.
            body.take(6)?;
            let kind = u32::from_be_bytes(body.array()?);
            // The type's length, its modifier, the format.
            body.take(8)?;
            Some(kind)
        })
        .collect()
}

/// Checks the types of a statement's arguments.
fn arguments(mut body: Fields<'_>) -> Option<Vec<u32>> {
    let count = u16::from_be_bytes(body.array()?);
    (0..count).map(|_| Some(u32::from_be_bytes(body.array()?))).collect()
}

/// Asks the server for TLS if it is wanted.
pub(super) async fn encrypt(
    reached: Reached,
    route: &Route,
) -> Result<(Box<dyn Stream>, Postgres), sqlx::Error> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let (mut server, plain) = (reached.stream, Postgres::new(reached.is_private));
    let Host::Tcp(name, _) = &route.host else { return Ok((server, plain)) };
    if route.tls == TlsMode::Disable {
        return Ok((server, plain));
    }
    server.write_all(&SSL_REQUEST).await?;
    // Reads only one byte: cleartext that came with it must not be taken for bytes that TLS protects.
    match (server.read_u8().await?, route.tls) {
        (b'S', _) => {
            let server = tls::handshake(server, name, route).await?;
            Ok((server, Postgres::new(route.trusts_tls())))
        }
        (b'N', TlsMode::Prefer) => Ok((server, plain)),
        (b'N', _) => Err(sqlx::Error::Tls("the server has no TLS".into())),
        (other, _) => {
            Err(violation(Violation::sent(format!("0x{other:02x} in answer to a request for TLS"))))
        }
    }
}
