//! Turns the kernel's events of the rules directory into scans.
//!
//! An event is only a reason to scan: it names files to scan, or asks for a scan of the whole directory, and the scan
//! finds out what is there. An event overflow, a replaced directory and a retargeted link are therefore one case: scan
//! everything and renew the watches.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::time::Instant;

use super::parallel::off_thread;
use super::pending::{Reread, ScanRequests};
use super::release::is_release_file_name;
use super::scope::ScanScope;
use crate::event;
use crate::rulefile::{is_rule_file_name, seems_a_rule};

/// Why a directory cannot be watched, with what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {}: {detail}", .path.display())]
struct WatchError {
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

/// The files that are being written according to the kernel's events. Reading one may return half of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnfinishedFiles(Arc<ScanRequests>);

impl UnfinishedFiles {
    /// Their names.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.0.lock().written.keys().cloned().collect()
    }

    /// Notes that every file is opened from now on, until the result is dropped.
    pub(crate) fn reread(&self) -> Reread {
        Reread::begin(Arc::clone(&self.0))
    }

    /// Whether a file is one of them.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.lock().written.contains_key(name)
    }
}

/// A watch on a directory, on its ancestors, on every folder with a link on the way to it, and on the folders that
/// links in it point to.
#[derive(Debug)]
pub(crate) struct Watch {
    directory: PathBuf,
    requests: Arc<ScanRequests>,
    watcher: Option<RecommendedWatcher>,
    watched: Option<Watched>,
    /// The directories that links among the files point to.
    link_targets: BTreeSet<PathBuf>,
    /// See [`Watch::failure`].
    failure: Option<String>,
}

/// What is watched: the directory, the folders in which a replacement of it is visible, and the folders that links
/// among the files point to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Watched {
    directory: Option<DirectoryIdentity>,
    parents: WatchedParents,
    link_targets: BTreeSet<PathBuf>,
}

/// Device and inode.
type DirectoryIdentity = (u64, u64);

/// Folders, each with the name that matters in it.
type WatchedParents = BTreeSet<(PathBuf, OsString)>;

impl Watch {
    /// Prepares a watch of `directory`, which need not exist yet. No event arrives before [`Watch::renew`].
    pub(crate) fn new(directory: PathBuf) -> Self {
        // Events carry absolute paths, however the watch was named.
        let directory = std::path::absolute(&directory).unwrap_or(directory);
        Self {
            directory,
            requests: Arc::default(),
            watcher: None,
            watched: None,
            link_targets: BTreeSet::new(),
            failure: None,
        }
    }

    /// Replaces the watches if the directory is not the one that is watched. Call it before each scan of the whole
    /// directory, so that no change falls between scan and watch.
    ///
    /// A failure is logged when it begins and when it ends; the scan at every `rescan_interval` still finds everything.
    pub(crate) async fn renew(&mut self, rescan_interval: Duration) {
        let failure = self.try_renew().await.err().map(|error| error.to_string());
        match (&self.failure, &failure) {
            (None, Some(error)) => tracing::warn!(
                message_id = event::WATCH_FAILED,
                "{error}; until then changes are found every {rescan_interval:?}"
            ),
            (Some(_), None) => tracing::info!(
                message_id = event::WATCH_FAILED,
                "the rules directory is watched again; changes are found at once"
            ),
            _ => {}
        }
        self.failure = failure;
    }

    /// Why the directory is not watched; `None` where it is.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    async fn try_renew(&mut self) -> Result<(), WatchError> {
        let (directory, link_targets) = (self.directory.clone(), self.link_targets.clone());
        let (requests, before) = (Arc::clone(&self.requests), self.watched.take());
        let watcher = self.watcher.take();
        let renewed = off_thread(move || {
            let watched = Watched {
                directory: identity(&directory),
                parents: watched_parents(&directory),
                link_targets,
            };
            match watcher.filter(|_| before.as_ref() == Some(&watched)) {
                Some(watcher) => Ok((watcher, watched)),
                None => Ok((watch(requests, directory, &watched)?, watched)),
            }
        });
        let (watcher, watched) = renewed.await?;
        (self.watcher, self.watched) = (Some(watcher), Some(watched));
        Ok(())
    }

    /// Waits for the next scan. Cancel safe.
    pub(crate) async fn next(&self) -> ScanScope {
        loop {
            let arrived = self.requests.arrived.notified();
            match self.requests.take(Instant::now()) {
                Some(Ok(scope)) => return scope,
                Some(Err(at)) => tokio::select! {
                    () = arrived => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => arrived.await,
            }
        }
    }

    /// Sets whether any rule file is a symbolic link. While one is, or before the first call, an event of a name that is
    /// no rule file's causes a scan of the whole directory, since a link may lead through it. Without links such
    /// events are ignored: editors and `rsync` cause them with each file.
    ///
    /// `targets` are the directories that the links point to. New ones cause a scan of the whole directory at once, and
    /// are watched from then on.
    pub(crate) fn expect_links(&mut self, has_links: bool, targets: BTreeSet<PathBuf>) {
        self.requests.no_links.store(!has_links, Ordering::Relaxed);
        if targets != self.link_targets {
            self.link_targets = targets;
            self.requests.scan_all(None);
        }
    }

    /// Schedules a scan of these files `after` this long.
    pub(crate) fn schedule_rescan(&self, names: impl IntoIterator<Item = String>, after: Duration) {
        let at = Instant::now() + after;
        let mut pending = self.requests.lock();
        pending.later.extend(names.into_iter().map(|name| (name, at)));
        drop(pending);
        self.requests.arrived.notify_one();
    }

    /// The files that are being written.
    pub(crate) fn unfinished(&self) -> UnfinishedFiles {
        UnfinishedFiles(Arc::clone(&self.requests))
    }
}

/// Watches the directory and all else that `watched` has.
fn watch(
    requests: Arc<ScanRequests>,
    directory: PathBuf,
    watched: &Watched,
) -> Result<RecommendedWatcher, WatchError> {
    let (own, seen) = (watched.directory.map(|_| directory.clone()), watched.clone());
    let listened = directory.clone();
    let mut watcher = notify::recommended_watcher(move |event| listen(&requests, &listened, &seen, event))
        .map_err(|error| WatchError::new(&directory, &error))?;
    let folders = watched.parents.iter().map(|(folder, _)| folder.as_path());
    for folder in folders.chain(watched.link_targets.iter().map(PathBuf::as_path)).chain(own.as_deref()) {
        match watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => {}
            // The rescan covers what is gone or may not be entered.
            Err(error) if own.as_deref() != Some(folder) && is_not_there(&error) => {}
            Err(error) => return Err(WatchError::new(folder, &error)),
        }
    }
    Ok(watcher)
}

/// Device and inode of what a path leads to; `None` where nothing is.
fn identity(path: &Path) -> Option<DirectoryIdentity> {
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

/// The folders in which a replacement of `directory` is visible, each with the name that matters: every ancestor on
/// its file system; for every link on the way, the folder that holds the link; and where a part of the way is missing,
/// the last folder that exists.
fn watched_parents(directory: &Path) -> WatchedParents {
    let device = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
    let own_device = device(directory);
    let mut parents = BTreeSet::new();
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
                    parents.insert((reached.clone(), name.to_owned()));
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
    parents
}

fn listen(
    requests: &ScanRequests,
    directory: &Path,
    watched: &Watched,
    event: notify::Result<notify::Event>,
) {
    let event = match event {
        Ok(event) if event.need_rescan() => return requests.scan_all(None),
        Ok(event) => event,
        Err(_) => return requests.scan_all(None),
    };
    if matches!(event.kind, EventKind::Access(AccessKind::Open(_))) {
        requests.rest_while_reread();
    }
    let Some(class) = EventClass::of(event.kind) else { return };
    for path in event.paths {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
        if watched.parents.iter().any(|(parent, part)| folder == parent && name == part) {
            requests.schedule_full_scan();
        }
        if folder != directory {
            if watched.link_targets.contains(folder)
                && !matches!(class, EventClass::Content | EventClass::Text)
            {
                requests.schedule_full_scan();
            }
            continue;
        }
        match name.to_str().filter(|_| is_rule_file_name(name)) {
            Some(name) => {
                let name = name.to_owned();
                match class {
                    EventClass::Finished => requests.finished(name),
                    EventClass::Text => requests.written(name),
                    EventClass::Gone => requests.gone(name),
                    EventClass::Name | EventClass::Content => requests.touched(name),
                }
            }
            None if name.to_str().is_some_and(is_release_file_name) => requests.schedule_full_scan(),
            // A scan of everything reports YAML files that are not read.
            None if seems_a_rule(name) && !matches!(class, EventClass::Content | EventClass::Text) => {
                requests.schedule_full_scan();
            }
            None if matches!(class, EventClass::Content | EventClass::Text)
                || requests.no_links.load(Ordering::Relaxed) => {}
            // A link on the way to the files may have been replaced, as `..data` of a mounted ConfigMap is.
            None => requests.schedule_full_scan(),
        }
    }
}

/// What an event means for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EventClass {
    /// The file is complete: closed after writing, or moved here.
    Finished,
    /// The name was created.
    Name,
    /// The name was removed.
    Gone,
    /// The text changed, and the writer has the file open.
    Text,
    /// The permissions or something unknown changed.
    Content,
}

impl EventClass {
    /// `None` for what changes nothing: reading a file causes events, too.
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
