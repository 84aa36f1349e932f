//! A relay in front of a Unix socket, whose connections a test can cut, refuse or freeze.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Pass,
    /// Nothing listens.
    Refuse,
    /// Connections are accepted, but nothing goes through.
    Hang,
    End,
}

/// Passes on connections until it is dropped.
pub(super) struct Relay {
    way: Arc<Way>,
    accepting: Option<JoinHandle<()>>,
}

struct Way {
    here: PathBuf,
    there: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    mode: Mode,
    last: u64,
    open: BTreeMap<u64, [UnixStream; 2]>,
}

impl Relay {
    pub(super) fn start(here: PathBuf, there: PathBuf) -> Self {
        let state = Mutex::new(State { mode: Mode::Pass, last: 0, open: BTreeMap::new() });
        let way = Arc::new(Way { here, there, state, changed: Condvar::new() });
        let accepting = std::thread::spawn({
            let way = Arc::clone(&way);
            move || way.accept()
        });
        Self { way, accepting: Some(accepting) }
    }

    pub(super) fn set(&self, mode: Mode) {
        self.way.state.lock().unwrap().mode = mode;
        self.way.changed.notify_all();
    }

    /// Cuts every open connection.
    pub(super) fn cut(&self) {
        for stream in self.way.state.lock().unwrap().open.values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.set(Mode::End);
        self.cut();
        self.accepting.take().map(JoinHandle::join);
    }
}

impl Way {
    fn accept(self: &Arc<Self>) {
        let mut listener = None;
        loop {
            let state = self.state.lock().unwrap();
            match state.mode {
                Mode::End => return,
                Mode::Refuse => {
                    listener = None;
                    drop(self.changed.wait_while(state, |state| state.mode == Mode::Refuse).unwrap());
                    continue;
                }
                Mode::Pass | Mode::Hang => drop(state),
            }
            let listener = listener.get_or_insert_with(|| {
                let _ = std::fs::remove_file(&self.here);
                let listener = UnixListener::bind(&self.here).unwrap();
                listener.set_nonblocking(true).unwrap();
                listener
            });
            match listener.accept() {
                Ok((client, _)) => {
                    client.set_nonblocking(false).unwrap();
                    let way = Arc::clone(self);
                    std::thread::spawn(move || way.carry(client));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn carry(self: Arc<Self>, client: UnixStream) {
        self.while_it_hangs();
        let Ok(server) = UnixStream::connect(&self.there) else { return };
        let both = || [client.try_clone().unwrap(), server.try_clone().unwrap()];
        let number = {
            let mut state = self.state.lock().unwrap();
            state.last += 1;
            let number = state.last;
            state.open.insert(number, both());
            number
        };
        let ([from_client, to_server], [to_client, from_server]) = (both(), both());
        let way = Arc::clone(&self);
        let back = std::thread::spawn(move || way.pump(from_server, to_client));
        self.pump(from_client, to_server);
        let _ = back.join();
        self.state.lock().unwrap().open.remove(&number);
    }

    fn pump(&self, mut from: UnixStream, mut to: UnixStream) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            self.while_it_hangs();
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        self.while_it_hangs();
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }

    fn while_it_hangs(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| state.mode == Mode::Hang).unwrap());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a byte to the echo server and waits briefly for its return.
    fn echoes(stream: &mut UnixStream) -> bool {
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
    }

    fn connect(path: &std::path::Path) -> UnixStream {
        crate::support::swarm::wait_for("the relay", || UnixStream::connect(path).ok())
    }

    #[test]
    fn a_relay_passes_cuts_hangs_and_refuses() {
        let directory = tempfile::tempdir().unwrap();
        let [here, there] = ["here", "there"].map(|name| directory.path().join(name));
        let server = UnixListener::bind(&there).unwrap();
        std::thread::spawn(move || {
            for mut stream in server.incoming().map_while(Result::ok) {
                std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        let relay = Relay::start(here.clone(), there);
        let mut stream = connect(&here);
        assert!(echoes(&mut stream));
        relay.set(Mode::Hang);
        assert!(!echoes(&mut stream));
        relay.set(Mode::Pass);
        stream.read_exact(&mut [0]).expect("what was held up arrives");
        relay.cut();
        assert!(!echoes(&mut stream));
        assert!(echoes(&mut connect(&here)));
        relay.set(Mode::Refuse);
        crate::support::swarm::wait_for("a refusal", || UnixStream::connect(&here).err());
        relay.set(Mode::Pass);
        assert!(echoes(&mut connect(&here)));
    }
}
