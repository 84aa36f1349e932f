//! A relay in front of a server's Unix socket that counts the bytes which the server sends.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Passes on every connection until the process ends.
pub(crate) struct CountingRelay {
    sent: Arc<AtomicU64>,
}

impl CountingRelay {
    pub(crate) fn start(here: PathBuf, there: PathBuf) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let (listener, counted) = (UnixListener::bind(here).unwrap(), Arc::clone(&sent));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = UnixStream::connect(&there) else { continue };
                let (to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || pump(client, to_server, &AtomicU64::new(0)));
                std::thread::spawn(move || pump(server, to_client, &counted));
            }
        });
        Self { sent }
    }

    /// How many bytes the server has sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

fn pump(mut from: UnixStream, mut to: UnixStream, counted: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        counted.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
