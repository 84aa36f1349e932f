//! `check --watch`: notices changes to the checked files.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

/// An editor's save is several events: the check starts after so long without an event.
const QUIET: Duration = Duration::from_millis(100);

/// How long it waits at most while events continue.
const LONGEST: Duration = Duration::from_secs(1);

/// Notices changes from its creation on.
pub(super) struct Watching {
    events: Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl Watching {
    /// Watches the directories, and those of the files. A replaced directory is noticed through its parent, and must
    /// then be watched anew.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn start(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let (sender, events) = mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, is_change) {
                // The receiver is gone once the next watch exists.
                let _ = sender.send(());
            }
        })?;
        for path in paths {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let above = parent.unwrap_or(Path::new("."));
            for directory in [path.as_path(), above].into_iter().filter(|path| path.is_dir()) {
                watcher.watch(directory, RecursiveMode::NonRecursive)?;
            }
        }
        Ok(Self { events, _watcher: watcher })
    }

    /// Waits for a change, and then for a pause.
    pub(super) fn wait(&self) {
        // The channel lives as long as the watcher.
        let _ = self.events.recv();
        for _ in 0..LONGEST.as_millis() / QUIET.as_millis() {
            if self.events.recv_timeout(QUIET).is_err() {
                break;
            }
        }
    }
}

/// The check itself causes read events, which do not count.
fn is_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
