//! Files that take 0.1 s to open, and a disk that hangs, for a process that has a library loaded.

use std::path::{Path, PathBuf};
use std::process::Command;

/// How such files are counted and made slow for a process.
pub(crate) struct SlowFiles {
    library: PathBuf,
    opened: PathBuf,
}

impl SlowFiles {
    pub(crate) fn new(directory: &Path) -> Self {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/slow_files.c");
        let library = directory.join("slow_files.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
        assert!(compiler.status().unwrap().success());
        Self { library, opened: directory.join("opened") }
    }

    /// The name of one of these files.
    pub(crate) fn name(number: u64) -> String {
        format!("slow_{number:03}.yaml")
    }

    /// Makes them slow for this program.
    pub(crate) fn slow_down(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("SLOW_FILES_OPENED", &self.opened);
    }

    /// Makes this program wait whenever it syncs a file ("fsync"), or writes or reads one of a worker's own ("write",
    /// "read").
    pub(crate) fn hang(&self, command: &mut Command, call: &str) {
        command.env("LD_PRELOAD", &self.library).env("DISK_HANGS", call);
    }

    /// How often one was opened.
    pub(crate) fn opened(&self) -> u64 {
        std::fs::metadata(&self.opened).map_or(0, |opened| opened.len())
    }
}
