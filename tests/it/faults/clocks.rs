//! Steps the clocks of hosts while their programs run: libfaketime replaces the kernel's clock and reads its offset
//! from a file. Monotonic time is not changed, as on a real host.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use rulesyncd::clock::{Clock as _, SystemClock};
use tempfile::TempDir;

use super::history::Step;
use crate::support::clock;

/// A clock that is never stepped.
#[derive(Clone, Copy)]
pub(super) struct Timeline {
    began: Instant,
    /// The same moment in microseconds since 1970, by the kernel's clock.
    pub(super) began_at: i64,
}

impl Timeline {
    pub(super) fn begin() -> Self {
        Self { began: Instant::now(), began_at: SystemClock.now().as_micros() }
    }

    /// Milliseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap()
    }
}

pub(super) struct Clocks {
    /// `None` if libfaketime is not installed: no clock is stepped then.
    library: Option<PathBuf>,
    directory: TempDir,
    timeline: Timeline,
    steps: Mutex<BTreeMap<String, Vec<Step>>>,
}

impl Clocks {
    /// If `demanded`, a missing libfaketime is an error.
    pub(super) fn new(timeline: Timeline, demanded: bool) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let library = clock::library();
        assert!(library.is_some() || !demanded, "libfaketime is not installed (Debian: faketime)");
        let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        // A server runs as a user of its own, and reads its clock's file from here.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { library, directory, timeline, steps: Mutex::default() }
    }

    pub(super) fn can_be_stepped(&self) -> bool {
        self.library.is_some()
    }

    /// The environment for the programs of this host.
    pub(super) fn environment(&self, host: &str) -> Vec<(String, String)> {
        let Some(library) = &self.library else { return Vec::new() };
        let file = self.directory.path().join(host);
        if !file.exists() {
            self.step(host, 0);
        }
        [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    pub(super) fn adopt(&self, host: &str, command: &mut Command) {
        command.envs(self.environment(host));
    }

    /// Sets the offset of a host's clock, in seconds.
    pub(super) fn step(&self, host: &str, seconds: i64) {
        let (file, beside) = (self.directory.path().join(host), self.directory.path().join("next"));
        std::fs::write(&beside, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(beside, file).unwrap();
        let step = Step { at: self.timeline.now(), seconds };
        self.steps.lock().unwrap().entry(host.to_owned()).or_default().push(step);
    }

    /// Sets every clock to the right time.
    pub(super) fn put_right(&self) {
        let hosts: Vec<String> = self.steps.lock().unwrap().keys().cloned().collect();
        hosts.iter().for_each(|host| self.step(host, 0));
    }

    pub(super) fn steps(&self) -> BTreeMap<String, Vec<Step>> {
        self.steps.lock().unwrap().clone()
    }
}

impl Drop for Clocks {
    fn drop(&mut self) {
        clock::clear_up();
    }
}
