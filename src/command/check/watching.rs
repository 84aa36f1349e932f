//! `check --watch`: says when something happened to what is checked.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

/// An editor's save is several events: so long nothing must happen, until it is looked at.
const QUIET: Duration = Duration::from_millis(100);

/// How often it is looked at while events do not end.
const LONGEST: Duration = Duration::from_secs(1);

/// Hears of changes from its making on.
pub(super) struct Watching {
    events: Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl Watching {
    /// Watches the directories, and those in which the files stand. A directory that is replaced is heard of
    /// through the one above it, and then to be watched anew.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn start(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let (sender, events) = mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, is_change) {
                // Nobody listens any more once the next is made.
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

    /// Waits until something happened, and then for a pause.
    pub(super) fn wait(&self) {
        // The channel ends with the watcher, which is here.
        let _ = self.events.recv();
        for _ in 0..LONGEST.as_millis() / QUIET.as_millis() {
            if self.events.recv_timeout(QUIET).is_err() {
                break;
            }
        }
    }
}

/// Reading, which the check itself does, is none.
fn is_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
