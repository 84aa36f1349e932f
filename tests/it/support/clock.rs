//! Programs whose host has another time: libfaketime replaces the kernel's clock. Monotonic time is not changed, as on a
//! real host.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The library; `None` if it is not installed.
pub(crate) fn library() -> Option<PathBuf> {
    let directories = std::fs::read_dir("/usr/lib").unwrap();
    directories
        .map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
}

/// Makes a program start at this time, such as `2099-06-01 00:00:00`, from which its clock runs on.
pub(crate) fn start_at(command: &mut Command, time: &str) {
    let library = library().expect("libfaketime is not installed (Debian: faketime)");
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME", format!("@{time}"))
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1");
}

/// The environment of a program whose clock is 20 s ahead.
pub(crate) fn ahead() -> Vec<(String, String)> {
    let library = library().expect("libfaketime is not installed (Debian: faketime)");
    let variables = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", "+20s".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ];
    variables.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Removes the library's shared memory of killed processes: it would keep another process with the same id from
/// starting.
pub(crate) fn clear_up() {
    for entry in std::fs::read_dir("/dev/shm").unwrap().map_while(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = ["faketime_shm_", "sem.faketime_sem_"].iter().find_map(|start| name.strip_prefix(start));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
