//! "Look there": what the kernel says of the rules directory, boiled down to hints.
//!
//! An event is never taken for the truth. It says which names to look at again, or that all of the
//! directory is to be looked at; what stands there is found by looking. So an overflow, a replaced
//! directory and a retargeted link are one case: look at all of it, and watch it anew.

use std::collections::{BTreeMap, BTreeSet};
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
use crate::rulefile::{is_rule_file_name, seems_a_rule};

/// How long a name must be quiet that came or went, or whose permissions changed. An editor that writes in steps, or removes and writes anew, is seen once.
const QUIET: Duration = Duration::from_millis(50);

/// How long after the last write a file is waited for that its writer has not closed. Who writes on is
/// waited for; who opened a file and forgot it is not.
const WRITTEN_AT_MOST: Duration = Duration::from_secs(5);

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
    /// Names that came or went, or whose permissions changed.
    touched: BTreeSet<String>,
    touched_due: Option<Due>,
    /// Files that are being written, each with when it is no longer waited for.
    written: BTreeMap<String, Instant>,
    /// Names to be looked at again, each with when.
    later: BTreeMap<String, Instant>,
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
        pending.written.remove(&name);
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

    fn written(&self, name: String) {
        let mut pending = self.lock();
        pending.touched.remove(&name);
        pending.finished.remove(&name);
        pending.written.insert(name, Instant::now() + WRITTEN_AT_MOST);
        drop(pending);
        self.arrived.notify_one();
    }

    fn gone(&self, name: String) {
        self.lock().written.remove(&name);
        self.touched(name);
    }

    fn something_else(&self) {
        let due = Due::later(self.lock().all, Instant::now());
        self.look_at_all(due);
    }

    /// What is due at `now`, or when to ask again; `None` when nothing is pending.
    fn take(&self, now: Instant) -> Option<Result<Extent, Instant>> {
        let mut pending = self.lock();
        if pending.all.is_some_and(|due| due.at <= now) {
            let Pending { written, later, .. } = std::mem::take(&mut *pending);
            (pending.written, pending.later) = (written, later);
            return Some(Ok(Extent::All));
        }
        let mut names = std::mem::take(&mut pending.finished);
        let Pending { written, later, .. } = &mut *pending;
        for waiting in [written, later] {
            names.extend(waiting.extract_if(.., |_, at| *at <= now).map(|(name, _)| name));
        }
        if pending.touched_due.is_some_and(|due| due.at <= now) {
            pending.touched_due = None;
            names.append(&mut pending.touched);
        }
        if !names.is_empty() {
            return Some(Ok(Extent::Names(names)));
        }
        let dues = [pending.all, pending.touched_due].into_iter().flatten().map(|due| due.at);
        let waiting = pending.written.values().chain(pending.later.values()).copied();
        dues.chain(waiting).min().map(Err)
    }
}

/// The files that are being written, as far as the kernel's events tell: whoever reads one gets a
/// half of it.
#[derive(Debug, Clone, Default)]
pub struct UnfinishedFiles(Arc<Hints>);

impl UnfinishedFiles {
    /// Their names.
    pub fn names(&self) -> BTreeSet<String> {
        self.0.lock().written.keys().cloned().collect()
    }

    /// Whether a file is one of them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.lock().written.contains_key(name)
    }
}

/// A watch on a directory, on its ancestors, on every folder in which a link leads to it, and on those
/// that links in it lead to.
#[derive(Debug)]
pub struct Watch {
    directory: PathBuf,
    hints: Arc<Hints>,
    watcher: Option<RecommendedWatcher>,
    watched: Option<Watched>,
    /// The directories that links among the files lead to.
    link_targets: BTreeSet<PathBuf>,
}

/// What is watched: the directory, the folders from which one sees that it is replaced, and those that
/// links among the files lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Watched {
    directory: Option<Identity>,
    outlooks: Outlooks,
    link_targets: BTreeSet<PathBuf>,
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
        Self { directory, hints: Arc::default(), watcher: None, watched: None, link_targets: BTreeSet::new() }
    }

    /// Sets the watches anew if the directory is another than the one that is watched, or there
    /// was none. To be called before each look at all of the directory, so that nothing falls
    /// between the watch and the look.
    ///
    /// # Errors
    /// [`WatchError`] when the kernel refuses. What was watched is not watched any more; the
    /// regular rescan still finds everything.
    pub fn renew(&mut self) -> Result<(), WatchError> {
        let watched = Watched {
            directory: identity(&self.directory),
            outlooks: outlooks(&self.directory),
            link_targets: self.link_targets.clone(),
        };
        if self.watched.as_ref() == Some(&watched) {
            return Ok(());
        }
        self.watched = None;
        self.watcher = None;
        let (directory, hints, seen) = (self.directory.clone(), Arc::clone(&self.hints), watched.clone());
        let mut watcher = notify::recommended_watcher(move |event| listen(&hints, &directory, &seen, event))
            .map_err(|error| WatchError::new(&self.directory, &error))?;
        let own = watched.directory.map(|_| self.directory.as_path());
        let folders = watched.outlooks.iter().map(|(folder, _)| folder.as_path());
        for folder in folders.chain(watched.link_targets.iter().map(PathBuf::as_path)).chain(own) {
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // What may not be entered or is gone is seen by the rescan.
                Err(error) if own != Some(folder) && is_not_there(&error) => {}
                Err(error) => return Err(WatchError::new(folder, &error)),
            }
        }
        self.watcher = Some(watcher);
        self.watched = Some(watched);
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
    ///
    /// `targets` are the directories that the links lead to: they are watched, too, from the next look at all on,
    /// which is to come at once where they are new.
    pub fn expect_links(&mut self, has_links: bool, targets: BTreeSet<PathBuf>) {
        self.hints.no_links.store(!has_links, Ordering::Relaxed);
        if targets != self.link_targets {
            self.link_targets = targets;
            self.hints.look_at_all(None);
        }
    }

    /// Makes names be looked at again, `after` a while.
    pub fn look_again(&self, names: impl IntoIterator<Item = String>, after: Duration) {
        let at = Instant::now() + after;
        let mut pending = self.hints.lock();
        pending.later.extend(names.into_iter().map(|name| (name, at)));
        drop(pending);
        self.hints.arrived.notify_one();
    }

    /// The files that are being written.
    pub fn unfinished(&self) -> UnfinishedFiles {
        UnfinishedFiles(Arc::clone(&self.hints))
    }
}

/// Device and inode of what a path leads to; `None` when nothing is there.
fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Whether a folder is gone or may not be read.
fn is_not_there(error: &notify::Error) -> bool {
    let of_io = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied)
    };
    matches!(&error.kind, notify::ErrorKind::PathNotFound)
        || matches!(&error.kind, notify::ErrorKind::Io(error) if of_io(error))
}

/// The folders from which one sees that `directory` is replaced, each with the name to look for: every
/// ancestor on its file system; for every link on the way, the folder that the link is in; and where a
/// part of the way is missing, the last folder that is there.
fn outlooks(directory: &Path) -> Outlooks {
    let device = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
    let own_device = device(directory);
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
                let is_on_its_disk = own_device.is_some() && device(&here) == own_device;
                if link.is_ok() || parts.peek().is_none() || !here.exists() || is_on_its_disk {
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

fn listen(hints: &Hints, directory: &Path, watched: &Watched, event: notify::Result<notify::Event>) {
    let event = match event {
        Ok(event) if event.need_rescan() => return hints.look_at_all(None),
        Ok(event) => event,
        Err(_) => return hints.look_at_all(None),
    };
    let Some(weight) = Weight::of(event.kind) else { return };
    for path in event.paths {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
        if watched.outlooks.iter().any(|(outlook, part)| folder == outlook && name == part) {
            hints.something_else();
        }
        if folder != directory {
            if watched.link_targets.contains(folder) && !matches!(weight, Weight::Content | Weight::Text) {
                hints.something_else();
            }
            continue;
        }
        match name.to_str().filter(|_| is_rule_file_name(name)) {
            Some(name) => {
                let name = name.to_owned();
                match weight {
                    Weight::Finished => hints.finished(name),
                    Weight::Text => hints.written(name),
                    Weight::Gone => hints.gone(name),
                    Weight::Name | Weight::Content => hints.touched(name),
                }
            }
            // A YAML file that is not read is told of.
            None if seems_a_rule(name) && !matches!(weight, Weight::Content | Weight::Text) => {
                hints.something_else();
            }
            None if matches!(weight, Weight::Content | Weight::Text)
                || hints.no_links.load(Ordering::Relaxed) => {}
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
    /// The name came.
    Name,
    /// The name went.
    Gone,
    /// The text is changing, and whoever changes it has the file open.
    Text,
    /// The permissions changed, or it is not known what did.
    Content,
}

impl Weight {
    /// `None` for what changes nothing: looking at a file makes events too.
    const fn of(kind: EventKind) -> Option<Self> {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Self::Finished),
            EventKind::Access(_) => None,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Some(Self::Gone),
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_)) => Some(Self::Name),
            EventKind::Modify(ModifyKind::Data(_)) => Some(Self::Text),
            EventKind::Modify(_) | EventKind::Any | EventKind::Other => Some(Self::Content),
        }
    }
}

#[cfg(test)]
mod tests;
