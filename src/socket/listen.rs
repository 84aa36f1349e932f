//! Creates a daemon's socket.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// The longest path that a socket's address holds, in bytes.
const MAX_PATH: usize = 107;

/// Why a socket cannot be served. The daemon does not start until the environment is corrected.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The path does not fit into a socket's address.
    #[error("the socket path {} has {length} bytes; at most {MAX_PATH} are possible: choose a shorter one", path.display())]
    TooLong {
        /// The path, or the temporary one in its directory.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// A running daemon serves it.
    #[error("the socket {} is served by another process: stop that, or choose another socket", .0.display())]
    InUse(PathBuf),
    /// The path is something other than a socket.
    #[error("{} exists and is no socket: choose another path, or remove it", .0.display())]
    NotASocket(PathBuf),
    /// The group does not exist on this host.
    #[error("there is no group `{0}` on this host: create it, or correct socket_group")]
    NoGroup(String),
    /// The system refused to create it.
    #[error("the socket {} cannot be made: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// A listening socket at a path. Dropping it removes the path.
#[derive(Debug)]
pub(crate) struct Listening {
    path: PathBuf,
    inode: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Another daemon may have taken over the path meanwhile.
        if std::fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), error = %error, "the socket's file stays");
        }
    }
}

/// Listens at `path`, which becomes reachable only once it has its mode and its group. Takes over the socket of a
/// daemon that no longer runs. Dropping the second value removes the path.
///
/// # Errors
/// [`ListenError`] says what to do.
pub(crate) fn listen(
    path: &Path,
    mode: u32,
    group: Option<&str>,
) -> Result<(StdListener, Listening), ListenError> {
    let failed = |source| ListenError::Io { path: path.to_owned(), source };
    // Created under another name in the same directory, so that it is ready when it appears at `path`.
    let hidden = path.with_file_name(format!(".{}", std::process::id()));
    for path in [path, &hidden] {
        let length = path.as_os_str().as_bytes().len();
        if length > MAX_PATH {
            return Err(ListenError::TooLong { path: path.to_owned(), length });
        }
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => match try_connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                tracing::info!(path = %path.display(), "taking over the socket of a daemon that is gone");
            }
            // EAGAIN: a daemon listens, and its queue is full.
            Ok(()) => return Err(ListenError::InUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(ListenError::InUse(path.to_owned()));
            }
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let gid = group.map(group_id).transpose()?;
    let prepare = || {
        let _ = std::fs::remove_file(&hidden);
        let listener = StdListener::bind(&hidden)?;
        if gid.is_some() {
            std::os::unix::fs::chown(&hidden, None, gid)?;
        }
        std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(mode))?;
        let inode = std::fs::metadata(&hidden)?.ino();
        std::fs::rename(&hidden, path)?;
        listener.set_nonblocking(true)?;
        Ok((listener, Listening { path: path.to_owned(), inode }))
    };
    prepare().map_err(|error| {
        let _ = std::fs::remove_file(&hidden);
        failed(error)
    })
}

/// Connects to the daemon at `path` without waiting: the queue of one that is stopped may be full for ever.
fn try_connect(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(connect(&socket, &SocketAddrUnix::new(path)?)?)
}

/// The number of a group: by its name in `/etc/group`, or as it is written.
fn group_id(group: &str) -> Result<u32, ListenError> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let known = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let entry = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1))?
    });
    entry.and_then(|gid| gid.parse().ok()).ok_or_else(|| ListenError::NoGroup(group.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdStream;

    use super::*;

    #[test]
    fn a_socket_appears_with_its_mode_and_goes_with_its_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (_listener, listening) = listen(&path, 0o620, None).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o620);
        StdStream::connect(&path).unwrap();
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing else is left: {names:?}");
        drop(listening);
        assert!(!path.exists());
    }

    #[test]
    fn a_living_daemons_socket_is_refused_and_a_dead_ones_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let living = StdListener::bind(&path).unwrap();
        let refused = listen(&path, 0o660, None).unwrap_err();
        assert!(matches!(refused, ListenError::InUse(_)), "{refused}");
        StdStream::connect(&path).expect("the living one is not disturbed");
        drop(living);
        let (_listener, first) = listen(&path, 0o660, None).unwrap();
        // A third daemon takes over what the second no longer serves; the second then does not remove it.
        drop(_listener);
        let (_listener, _second) = listen(&path, 0o660, None).unwrap();
        drop(first);
        StdStream::connect(&path).unwrap();
    }

    /// As that of a daemon that is stopped.
    #[test]
    fn a_full_queue_is_a_living_daemons() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let living = StdListener::bind(&path).unwrap();
        rustix::net::listen(&living, 0).unwrap();
        let _waits = StdStream::connect(&path).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(listen(&path, 0o660, None)));
        let answer = receiver.recv_timeout(std::time::Duration::from_secs(30)).expect("it hangs");
        assert!(matches!(answer, Err(ListenError::InUse(_))));
    }

    #[test]
    fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        std::fs::write(&path, "notes").unwrap();
        assert!(matches!(listen(&path, 0o660, None), Err(ListenError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "notes");
        let nowhere = directory.path().join("no").join("s");
        assert!(matches!(listen(&nowhere, 0o660, None), Err(ListenError::Io { .. })));
    }

    #[test]
    fn a_path_may_have_107_bytes() {
        let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        let room = MAX_PATH - directory.path().as_os_str().len() - 1;
        let longest = directory.path().join("s".repeat(room));
        drop(listen(&longest, 0o660, None).unwrap());
        let refused = listen(&directory.path().join("s".repeat(room + 1)), 0o660, None).unwrap_err();
        assert!(refused.to_string().contains("108 bytes; at most 107"), "{refused}");
    }

    #[test]
    fn a_group_is_a_name_or_a_number() {
        assert_eq!(group_id("root").unwrap(), 0);
        assert_eq!(group_id("1234").unwrap(), 1234);
        let refused = group_id("no such group").unwrap_err();
        assert!(refused.to_string().contains("socket_group"), "{refused}");
    }
}
