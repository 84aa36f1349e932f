//! A relay in front of a server's Unix socket that counts the bytes which the server sends, and can be frozen.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockWriteGuard};

/// Passes on every connection until the process ends.
pub(crate) struct CountingRelay {
    sent: Arc<AtomicU64>,
    /// Read while bytes are passed on.
    open: Arc<RwLock<()>>,
}

impl CountingRelay {
    pub(crate) fn start(here: PathBuf, there: PathBuf) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let (listener, counted) = (UnixListener::bind(here).unwrap(), Arc::clone(&sent));
        let open = Arc::<RwLock<()>>::default();
        let gate = Arc::clone(&open);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = UnixStream::connect(&there) else { continue };
                let (to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let (counted, gates) = (Arc::clone(&counted), [&gate, &gate].map(Arc::clone));
                let [there, back] = gates;
                std::thread::spawn(move || pump(client, to_server, &AtomicU64::new(0), &there));
                std::thread::spawn(move || pump(server, to_client, &counted, &back));
            }
        });
        Self { sent, open }
    }

    /// Passes nothing on until the result is dropped; connections stay, and nothing answers.
    pub(crate) fn freeze(&self) -> RwLockWriteGuard<'_, ()> {
        self.open.write().unwrap()
    }

    /// How many bytes the server has sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

fn pump(mut from: UnixStream, mut to: UnixStream, counted: &AtomicU64, gate: &RwLock<()>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let _open = gate.read().unwrap();
        counted.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
