//! Subscribers with different behaviours, which record every line and when they received it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::chance::Chance;
use super::clocks::Timeline;
use super::history::{Line, Transcript};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Stays connected, and reconnects when its worker returns.
    Steady,
    /// Stays connected, but the nemesis cuts its connection.
    Cut,
    /// Disconnects now and then, and resumes.
    Restless,
    /// Reads slowly.
    Slow,
    /// Never reads.
    Mute,
}

impl Behaviour {
    pub(super) const ALL: [Self; 6] =
        [Self::Steady, Self::Steady, Self::Cut, Self::Restless, Self::Slow, Self::Mute];
}

/// The epoch and the last change that a subscriber has.
pub(super) type Progress = Arc<Mutex<(String, u64)>>;

pub(super) struct Subscriber {
    pub(super) socket: PathBuf,
    pub(super) worker: usize,
    pub(super) behaviour: Behaviour,
    pub(super) place: Progress,
    /// The storm is over: slow subscribers read at full speed.
    pub(super) over: Arc<AtomicBool>,
    pub(super) end: Arc<AtomicBool>,
    pub(super) chance: Chance,
    pub(super) timeline: Timeline,
}

impl Subscriber {
    pub(super) fn listen(mut self) -> Transcript {
        let mut transcript = Transcript {
            worker: self.worker,
            name: format!("{:?} of worker {}", self.behaviour, self.worker),
            prompt: self.behaviour == Behaviour::Steady,
            connections: Vec::new(),
            to_the_end: self.behaviour != Behaviour::Mute,
        };
        while !self.end.load(Ordering::Relaxed) {
            let lines = UnixStream::connect(&self.socket).map(|stream| self.connection(stream));
            match lines {
                Ok(lines) if !lines.is_empty() => {
                    transcript.connections.push(lines);
                    // Sometimes it stays away for a while: its worker may have started a new epoch.
                    if self.behaviour == Behaviour::Restless && self.chance.below(4) == 0 {
                        self.chance.pause(2_000);
                    }
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        transcript
    }

    /// Reads one connection until one of its sides ends it. Drops an incomplete line, and an incomplete snapshot.
    fn connection(&mut self, mut stream: UnixStream) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut snapshot = None;
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        if stream.write_all(self.request().as_bytes()).is_err() {
            return lines;
        }
        if self.behaviour == Behaviour::Mute {
            while !self.end.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
            }
            return lines;
        }
        let patience =
            if self.behaviour == Behaviour::Restless { 1 + self.chance.below(60) } else { u64::MAX };
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
                        // The worker rejects the connection: its limit is reached.
                        "error" => std::thread::sleep(Duration::from_millis(20)),
                        _ => {}
                    }
                    lines.push(Line { at: self.timeline.now(), said });
                    if self.behaviour == Behaviour::Slow && !self.over.load(Ordering::Relaxed) {
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
