//! Subscribers of every temper, which write down every line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::chance::Chance;
use super::history::Heard;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Temper {
    /// Stays, and comes back when it is cut off.
    Steady,
    /// Goes away in the middle of things and resumes.
    Restless,
    /// Takes its time.
    Slow,
    /// Never reads.
    Mute,
}

/// The place up to which a subscriber has heard.
pub(super) type Place = Arc<Mutex<(String, u64)>>;

pub(super) struct Subscriber {
    pub(super) socket: PathBuf,
    pub(super) worker: usize,
    pub(super) temper: Temper,
    pub(super) place: Place,
    pub(super) end: Arc<AtomicBool>,
    pub(super) chance: Chance,
}

impl Subscriber {
    pub(super) fn listen(mut self) -> Heard {
        let mut heard = Heard {
            worker: self.worker,
            name: format!("{:?} of worker {}", self.temper, self.worker),
            connections: Vec::new(),
            to_the_end: self.temper != Temper::Mute,
        };
        while !self.end.load(Ordering::Relaxed) {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => heard.connections.push(self.connection(stream)),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        heard
    }

    /// Listens on one connection until either side has enough. A cut in the middle of a line, or
    /// of a snapshot, is as if that had not been said.
    fn connection(&mut self, mut stream: UnixStream) -> Vec<Value> {
        let mut lines = Vec::new();
        let mut snapshot = None;
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        if stream.write_all(self.request().as_bytes()).is_err() {
            return lines;
        }
        if self.temper == Temper::Mute {
            while !self.end.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
            }
            return lines;
        }
        let patience = if self.temper == Temper::Restless { 1 + self.chance.below(60) } else { u64::MAX };
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while !self.end.load(Ordering::Relaxed) && (lines.len() as u64) < patience {
            match reader.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) if line.ends_with(b"\n") => {
                    let said: Value = serde_json::from_slice(&line).unwrap();
                    line.clear();
                    match said["type"].as_str().unwrap() {
                        "snapshot_begin" => snapshot = Some(lines.len()),
                        "snapshot_end" => {
                            snapshot = None;
                            self.at(said["epoch"].as_str().unwrap(), said["seq"].as_u64().unwrap());
                        }
                        "change" => self.place.lock().unwrap().1 = said["seq"].as_u64().unwrap(),
                        _ => {}
                    }
                    lines.push(said);
                    if self.temper == Temper::Slow {
                        self.chance.pause(120);
                    }
                }
                Ok(_) => break,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        lines.truncate(snapshot.unwrap_or(lines.len()));
        lines
    }

    fn at(&self, epoch: &str, seq: u64) {
        *self.place.lock().unwrap() = (epoch.to_owned(), seq);
    }

    fn request(&self) -> String {
        let (epoch, seq) = self.place.lock().unwrap().clone();
        let request = match epoch.as_str() {
            "" => json!({"op": "subscribe"}),
            _ => json!({"op": "subscribe", "cursor": {"epoch": epoch, "seq": seq}}),
        };
        format!("{request}\n")
    }
}
