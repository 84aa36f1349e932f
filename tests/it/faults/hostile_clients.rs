//! Hostile clients of the sockets: each must get a clear error or reach a bound.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::chance::Chance;
use super::clocks::Timeline;
use super::history::HostileClient;

/// More connections than a worker of the storm accepts.
pub(super) const CROWD: usize = 96;

/// How many connections a worker of the storm accepts.
pub(super) const ADMITTED: &str = "64";

/// How long a client waits for its answer.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Connects to these hosts' sockets until the end.
pub(super) fn visit(
    sockets: &[(String, PathBuf)],
    timeline: Timeline,
    mut chance: Chance,
    end: &AtomicBool,
) -> Vec<HostileClient> {
    let mut hostile_clients = Vec::new();
    while !end.load(Ordering::Relaxed) {
        chance.pause(400);
        let (host, socket) = chance.pick(sockets);
        let from = timeline.now();
        let (what, wanted, answer) = match chance.below(8) {
            0 => ("garbage", "bad_json", say(socket, b"GET / HTTP/1.1\r\n")),
            1 => ("no text", "bad_json", say(socket, b"\xff\xfe\x00\n")),
            2 => ("an unknown request", "unknown_op", say(socket, b"{\"op\":\"drop_tables\",\"id\":3}\n")),
            3 => ("a huge line", "line_too_long", say(socket, &[b'x'; 70 * 1024])),
            4 => (
                "a wrong request",
                "bad_request",
                say(socket, b"{\"op\":\"subscribe\",\"kinds\":\"state\"}\n"),
            ),
            5 => ("half a line", "closed", half_a_line(socket)),
            6 if host.starts_with("worker") => ("a crowd", "too_many_subscribers", crowd(socket)),
            _ => ("questions without listening", "bounded", ask_on_and_on(socket)),
        };
        if let Some(answer) = answer {
            hostile_clients.push(HostileClient {
                from,
                to: timeline.now(),
                host: host.clone(),
                what: what.to_owned(),
                wanted: wanted.to_owned(),
                answer,
            });
        }
    }
    hostile_clients
}

fn connect(socket: &Path) -> Option<UnixStream> {
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    stream.set_write_timeout(Some(TIME_LIMIT)).unwrap();
    Some(stream)
}

/// How a connection ends: with the code of an error, or `closed`, `cut` or `silence`. Other lines are ignored.
fn last_word(stream: UnixStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => return "closed".to_owned(),
            Ok(_) => {
                let said: Value = serde_json::from_slice(&line).unwrap_or_default();
                if said["type"] == "error" {
                    return said["code"].as_str().unwrap_or_default().to_owned();
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return "silence".to_owned();
            }
            Err(_) => return "cut".to_owned(),
        }
    }
}

fn say(socket: &Path, bytes: &[u8]) -> Option<String> {
    let mut stream = connect(socket)?;
    // The server may close the connection before it read everything.
    let _ = stream.write_all(bytes);
    Some(last_word(stream))
}

fn half_a_line(socket: &Path) -> Option<String> {
    let mut stream = connect(socket)?;
    let _ = stream.write_all(br#"{"op":"stat"#);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    Some(last_word(stream))
}

/// More connections than are allowed: the server must reject the excess at once.
fn crowd(socket: &Path) -> Option<String> {
    let crowd: Vec<UnixStream> = (0..CROWD).map_while(|_| connect(socket)).collect();
    // Only the last connection is rejected: the first are accepted and wait.
    Some(last_word(crowd.into_iter().next_back()?))
}

/// Sends requests without end and never reads: at some point the server stops reading.
fn ask_on_and_on(socket: &Path) -> Option<String> {
    const ENOUGH: usize = 4 << 20;
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let questions = "{\"op\":\"status\",\"id\":1}\n".repeat(1_000);
    let mut taken = 0;
    while taken < ENOUGH {
        match stream.write(questions.as_bytes()) {
            Ok(count) if count == questions.len() => taken += count,
            // The server read only a part in time.
            Ok(_) => return Some("bounded".to_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Some("bounded".to_owned());
            }
            Err(_) => return Some("cut".to_owned()),
        }
    }
    Some(format!("{taken} bytes of questions were taken"))
}
