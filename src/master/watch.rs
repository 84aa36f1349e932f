//! "Look there": what the kernel says of the rules directory, boiled down to hints.
//!
//! An event is never taken for the truth. It says which names to look at again, or that all of the
//! directory is to be looked at; what stands there is found by looking. So an overflow, a replaced
//! directory and a retargeted link are one case: look at all of it, and watch it anew.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::scan::Extent;
use crate::rulefile::is_rule_file_name;

/// How long a name must be quiet that was touched but not yet finished: created, written to,
/// removed. An editor that writes in steps, or removes and writes anew, is seen once.
const QUIET: Duration = Duration::from_millis(50);

/// The longest that such a name can be held back by further events.
const QUIET_AT_MOST: Duration = Duration::from_millis(500);

/// Why a directory cannot be watched, with what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {}: {detail}", .path.display())]
pub struct WatchError {
    path: PathBuf,
    detail: String,
}

impl WatchError {
    fn new(path: &Path, error: &notify::Error) -> Self {
        let advice = match &error.kind {
            notify::ErrorKind::MaxFilesWatch => "; raise fs.inotify.max_user_watches with sysctl(8)",
            notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                "; raise fs.inotify.max_user_instances with sysctl(8)"
            }
            _ => "",
        };
        Self { path: path.to_owned(), detail: format!("{error}{advice}") }
    }
}

/// What is to be looked at, and when: the meeting point of the kernel's thread and the master.
#[derive(Debug, Default)]
struct Hints {
    pending: Mutex<Pending>,
    arrived: Notify,
    /// Whether no rule file is a link, so that only the files' own names matter.
    no_links: AtomicBool,
}

#[derive(Debug, Default)]
struct Pending {
    /// All of the directory, and whether its watches are to be set anew.
    all: Option<Due>,
    /// Names that are finished: to be looked at at once.
    finished: BTreeSet<String>,
    /// Names that may still be written to.
    touched: BTreeSet<String>,
    touched_due: Option<Due>,
}

/// When something that is not yet quiet is to be looked at.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    at_most: Instant,
}

impl Due {
    fn later(due: Option<Self>, now: Instant) -> Option<Self> {
        let at_most = due.map_or(now + QUIET_AT_MOST, |due| due.at_most);
        Some(Self { at: (now + QUIET).min(at_most), at_most })
    }
}

impl Hints {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        // A poisoned set of names is still a set of names.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_at_all(&self, due: Option<Due>) {
        let now = Instant::now();
        self.lock().all = Some(due.unwrap_or(Due { at: now, at_most: now }));
        self.arrived.notify_one();
    }

    fn finished(&self, name: String) {
        let mut pending = self.lock();
        pending.touched.remove(&name);
        pending.finished.insert(name);
        drop(pending);
        self.arrived.notify_one();
    }

    fn touched(&self, name: String) {
        let mut pending = self.lock();
        pending.touched_due = Due::later(pending.touched_due, Instant::now());
        pending.touched.insert(name);
        drop(pending);
        self.arrived.notify_one();
    }

    fn something_else(&self) {
        let due = Due::later(self.lock().all, Instant::now());
        self.look_at_all(due);
    }

    /// What is due at `now`, or when to ask again; `None` when nothing is pending.
    fn take(&self, now: Instant) -> Option<Result<Extent, Instant>> {
        let mut pending = self.lock();
        if pending.all.is_some_and(|due| due.at <= now) {
            *pending = Pending::default();
            return Some(Ok(Extent::All));
        }
        if !pending.finished.is_empty() {
            return Some(Ok(Extent::Names(std::mem::take(&mut pending.finished))));
        }
        if pending.touched_due.is_some_and(|due| due.at <= now) {
            pending.touched_due = None;
            return Some(Ok(Extent::Names(std::mem::take(&mut pending.touched))));
        }
        let dues = [pending.all, pending.touched_due];
        dues.into_iter().flatten().map(|due| due.at).min().map(Err)
    }
}

/// A watch on a directory, on its parent, and on every folder in which a link leads to it.
#[derive(Debug)]
pub struct Watch {
    directory: PathBuf,
    hints: Arc<Hints>,
    watcher: Option<RecommendedWatcher>,
    watched: Option<(Option<Identity>, Outlooks)>,
}

/// Device and inode.
type Identity = (u64, u64);

/// Folders, each with the name to look for in it.
type Outlooks = BTreeSet<(PathBuf, OsString)>;

impl Watch {
    /// Prepares a watch of `directory`, which need not exist yet. Nothing is heard before
    /// [`Watch::renew`].
    pub fn new(directory: PathBuf) -> Self {
        // Events carry absolute paths, however the watch was named.
        let directory = std::path::absolute(&directory).unwrap_or(directory);
        Self { directory, hints: Arc::default(), watcher: None, watched: None }
    }

    /// Sets the watches anew if the directory is another than the one that is watched, or there
    /// was none. To be called before each look at all of the directory, so that nothing falls
    /// between the watch and the look.
    ///
    /// # Errors
    /// [`WatchError`] when the kernel refuses. What was watched is not watched any more; the
    /// regular rescan still finds everything.
    pub fn renew(&mut self) -> Result<(), WatchError> {
        let identity = identity(&self.directory);
        let outlooks = outlooks(&self.directory);
        let (directory, hints, seen) = (self.directory.clone(), Arc::clone(&self.hints), outlooks.clone());
        let watched = Some((identity, outlooks.clone()));
        if watched == self.watched {
            return Ok(());
        }
        self.watched = None;
        self.watcher = None;
        let mut watcher = notify::recommended_watcher(move |event| listen(&hints, &directory, &seen, event))
            .map_err(|error| WatchError::new(&self.directory, &error))?;
        for (folder, _) in &outlooks {
            watcher
                .watch(folder, RecursiveMode::NonRecursive)
                .map_err(|error| WatchError::new(folder, &error))?;
        }
        if identity.is_some() {
            watcher
                .watch(&self.directory, RecursiveMode::NonRecursive)
                .map_err(|error| WatchError::new(&self.directory, &error))?;
        }
        self.watcher = Some(watcher);
        self.watched = watched;
        Ok(())
    }

    /// Waits until something is to be looked at. Cancel safe.
    pub async fn next(&self) -> Extent {
        loop {
            let arrived = self.hints.arrived.notified();
            match self.hints.take(Instant::now()) {
                Some(Ok(extent)) => return extent,
                Some(Err(at)) => tokio::select! {
                    () = arrived => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => arrived.await,
            }
        }
    }

    /// Says whether any rule file is a link. While one is, or nothing was said, names that come and go beside
    /// the files are hints to look at all: one may stand on the way to a file. Editors and `rsync` make such
    /// names with each file.
    pub fn expect_links(&self, has_links: bool) {
        self.hints.no_links.store(!has_links, Ordering::Relaxed);
    }

    /// Makes names be looked at again after a quiet moment, as if they had been touched.
    pub fn look_again(&self, names: impl IntoIterator<Item = String>) {
        for name in names {
            self.hints.touched(name);
        }
    }
}

/// Device and inode of what a path leads to; `None` when nothing is there.
fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The folders from which one sees that `directory` is replaced, each with the name to look for:
/// its parent; for every link on the way, the folder that the link is in; and where a part of the
/// way is missing, the last folder that is there.
fn outlooks(directory: &Path) -> Outlooks {
    let mut outlooks = BTreeSet::new();
    let mut to_resolve = vec![directory.to_owned()];
    // A chain of links longer than the kernel follows (path_resolution(7)) leads nowhere.
    for _ in 0..40 {
        let Some(path) = to_resolve.pop() else { break };
        let mut reached = PathBuf::new();
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            if let Component::Normal(name) = part {
                let here = reached.join(name);
                let link = std::fs::read_link(&here);
                if link.is_ok() || parts.peek().is_none() || !here.exists() {
                    outlooks.insert((reached.clone(), name.to_owned()));
                }
                if let Ok(target) = link {
                    to_resolve.push(reached.join(target).join(parts.collect::<PathBuf>()));
                    break;
                }
                if !here.exists() {
                    break;
                }
            }
            reached.push(part);
        }
    }
    outlooks
}

fn listen(hints: &Hints, directory: &Path, outlooks: &Outlooks, event: notify::Result<notify::Event>) {
    let event = match event {
        Ok(event) if event.need_rescan() => return hints.look_at_all(None),
        Ok(event) => event,
        Err(_) => return hints.look_at_all(None),
    };
    let Some(weight) = Weight::of(event.kind) else { return };
    for path in event.paths {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
        if outlooks.iter().any(|(outlook, part)| folder == outlook && name == part) {
            hints.something_else();
        }
        if folder != directory {
            continue;
        }
        match name.to_str().filter(|_| is_rule_file_name(name)) {
            Some(name) if weight == Weight::Finished => hints.finished(name.to_owned()),
            Some(name) => hints.touched(name.to_owned()),
            None if weight == Weight::Content || hints.no_links.load(Ordering::Relaxed) => {}
            // A link that leads to the files may have been swapped, as a mounted ConfigMap's
            // `..data` is.
            None => hints.something_else(),
        }
    }
}

/// What an event means for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// The file is whole: closed after writing, or moved here.
    Finished,
    /// The name came or went.
    Name,
    /// The content or the permissions are changing.
    Content,
}

impl Weight {
    /// `None` for what changes nothing: looking at a file makes events too.
    const fn of(kind: EventKind) -> Option<Self> {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Self::Finished),
            EventKind::Access(_) => None,
            EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                Some(Self::Name)
            }
            EventKind::Modify(_) | EventKind::Any | EventKind::Other => Some(Self::Content),
        }
    }
}

#[cfg(test)]
mod tests;
