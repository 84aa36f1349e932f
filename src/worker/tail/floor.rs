//! Saves the floor, and does not wait for a disk that hangs.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::grace::DISK_PATIENCE;
use super::super::{floor, log};
use super::Broker;

/// The file of the floor.
#[derive(Debug)]
pub(super) struct FloorFile {
    path: PathBuf,
    /// A write that the disk did not take in time, and gives back what it wrote.
    late: Option<JoinHandle<io::Result<String>>>,
    /// Whether the floor could not be saved; each poll tries again.
    is_unsaved: bool,
}

impl FloorFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, late: None, is_unsaved: false }
    }

    /// Saves the broker's floor, and waits for the disk for [`DISK_PATIENCE`]: after that, each later call looks
    /// whether the disk has taken it, so at most one write waits for a disk that hangs.
    pub(super) async fn save(&mut self, floor: String, broker: &Broker) {
        let saved = self.write(&floor).await;
        match &saved {
            Ok(()) => {
                broker.floor_saved();
                if self.is_unsaved {
                    log::floor_saved(&self.path);
                }
            }
            Err(error) if !self.is_unsaved => log::floor_unsaved(&self.path, error),
            Err(_) => {}
        }
        self.is_unsaved = saved.is_err();
    }

    async fn write(&mut self, floor: &str) -> io::Result<()> {
        loop {
            let (mut writing, patience) = match self.late.take() {
                Some(late) => (late, Duration::ZERO),
                None => (self.begin(floor.to_owned()), DISK_PATIENCE),
            };
            let Ok(written) = timeout(patience, &mut writing).await else {
                self.late = Some(writing);
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the disk hangs"));
            };
            // A late one may have written an older floor.
            if written.unwrap_or_else(|error| Err(io::Error::other(error)))? == floor {
                return Ok(());
            }
        }
    }

    fn begin(&self, floor: String) -> JoinHandle<io::Result<String>> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || floor::save(&path, &floor).map(|()| floor))
    }
}
