//! The thread that runs the driver, with a runtime of its own.
//!
//! A reply of a server may make the driver panic, or keep it busy without end. This must not stop the stream, a
//! request or a signal, so no driver code runs on the caller's thread: an operation goes to the database's thread as
//! a future, and its result comes back. The thread catches panics. A thread whose runtime hangs is abandoned, and the
//! next operation starts a new one; an abandoned thread ends when its driver returns, or with the process.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::store::StoreError;
use crate::telemetry::metrics;

/// The names of the threads and of their helper threads.
const NAME: &str = "database";

/// The most threads of one database, including abandoned ones.
const MAX_THREADS: usize = 3;

/// How often a long operation checks whether the thread's runtime still responds.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// How often the driver of this process panicked or had to be abandoned.
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// How often the driver of this process panicked or had to be abandoned.
pub(crate) fn driver_failures() -> u64 {
    FAILURES.load(Ordering::Relaxed)
}

/// Runs a database's operations. The first operation starts the thread.
#[derive(Debug)]
pub(super) struct DatabaseThread {
    running: Mutex<Option<Running>>,
    alive: Arc<AtomicUsize>,
}

/// The current thread, which ends when this is dropped.
#[derive(Debug)]
struct Running {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

/// Counts a thread while it lives.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl DatabaseThread {
    pub(super) fn new() -> Self {
        Self { running: Mutex::default(), alive: Arc::default() }
    }

    /// Runs `work` on the thread. Dropping the returned future drops `work`, too.
    ///
    /// # Errors
    /// The error of `work`, or [`StoreError::Driver`] if it panics or the thread's runtime does not respond for
    /// `patience`.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        patience: Duration,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let handle = self.handle(what)?;
        let mut task = AbortOnDropHandle::new(handle.spawn(async move { caught(what, work).await? }));
        tokio::select! {
            // This panic came from dropping the values of an earlier panic.
            done = &mut task => done.unwrap_or_else(|_| Err(failure(what, "the database's driver panicked twice".into()))),
            () = stuck(&handle, patience) => {
                self.abandon(&handle);
                let detail = format!(
                    "the database's driver has been busy for {} without a pause; it is left behind on its thread",
                    humantime::format_duration(patience)
                );
                Err(failure(what, detail))
            }
        }
    }

    /// Runs `work` on the thread until it ends or the thread is abandoned; `None` if no thread can be started.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> Option<JoinHandle<()>> {
        self.handle("listening").ok().map(|handle| handle.spawn(work))
    }

    /// The handle of the thread, which is started if there is none.
    fn handle(&self, what: &'static str) -> Result<Handle, StoreError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*running {
            return Ok(running.handle.clone());
        }
        let unavailable = |detail: String| StoreError::Unavailable { what, detail };
        if self.alive.load(Ordering::Acquire) >= MAX_THREADS {
            return Err(unavailable(format!(
                "{MAX_THREADS} threads are busy in the database's driver without a pause; waiting for one of them to end"
            )));
        }
        let runtime = Builder::new_current_thread().enable_all().thread_name(NAME).build();
        let runtime = runtime.map_err(|error| unavailable(format!("no event queue: {error}")))?;
        let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel());
        self.alive.fetch_add(1, Ordering::AcqRel);
        let alive = Alive(Arc::clone(&self.alive));
        let thread = std::thread::Builder::new().name(NAME.into()).spawn(move || {
            // This ends with an error, since nothing is ever sent.
            runtime.block_on(async { stopped.await.unwrap_or(()) });
            runtime.shutdown_background();
            drop(alive);
        });
        thread.map_err(|error| unavailable(format!("no thread: {error}")))?;
        *running = Some(Running { handle: handle.clone(), _stop: stop });
        Ok(handle)
    }

    fn abandon(&self, stuck: &Handle) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // Another operation may have abandoned it already.
        running.take_if(|running| running.handle.id() == stuck.id());
    }
}

/// Ends when the runtime of `handle` starts no task within `patience`.
async fn stuck(handle: &Handle, patience: Duration) {
    loop {
        sleep(PING_INTERVAL).await;
        if timeout(patience, handle.spawn(async {})).await.is_err() {
            return;
        }
    }
}

thread_local! {
    /// The source position of this thread's last panic.
    static PANICKED_AT: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs `work`, and returns its panic as an error.
pub(super) async fn caught<T>(what: &'static str, work: impl Future<Output = T>) -> Result<T, StoreError> {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        // The panic drops the connection and everything that was half read.
        catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))).map_or_else(
            |_| {
                let place = PANICKED_AT.take().map_or_else(String::new, |place| format!(" at {place}"));
                Poll::Ready(Err(failure(what, format!("the database's driver panicked{place}"))))
            },
            |poll| poll.map(Ok),
        )
    })
    .await
}

fn failure(what: &'static str, detail: String) -> StoreError {
    FAILURES.fetch_add(1, Ordering::Relaxed);
    metrics::driver_failed();
    StoreError::Driver { what, detail }
}

/// Keeps the process's panic hook from printing panics of the databases' threads: they are caught, and the caller
/// reports them. The panic's message is not kept, because it may quote a reply.
pub fn quiet_driver_panics() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        if std::thread::current().name() == Some(NAME) {
            PANICKED_AT.set(info.location().map(|at| format!("{}:{}", source(at.file()), at.line())));
        } else {
            others(info);
        }
    }));
}

/// The path of a source file within its crate, without the build host's directories.
fn source(file: &str) -> &str {
    let from = file.rfind("/src/").and_then(|src| file[..src].rfind('/'));
    from.map_or(file, |slash| &file[slash + 1..])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    use super::*;

    const TIME_LIMIT: Duration = Duration::from_millis(300);

    async fn thread_id() -> Result<std::thread::ThreadId, StoreError> {
        Ok(std::thread::current().id())
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_thread_goes_on() {
        let thread = DatabaseThread::new();
        let before = thread.run("asking", TIME_LIMIT, thread_id()).await.unwrap();
        assert_ne!(before, std::thread::current().id());
        let panicked =
            thread.run("asking", TIME_LIMIT, async { Ok([0_u8; 3].get(7).copied().unwrap()) }).await;
        assert!(matches!(&panicked, Err(StoreError::Driver { what: "asking", .. })), "{panicked:?}");
        assert_eq!(thread.run("asking", TIME_LIMIT, thread_id()).await.unwrap(), before);
    }

    #[tokio::test]
    async fn a_thread_that_never_pauses_is_left_behind_and_no_more_than_three_are() {
        let thread = DatabaseThread::new();
        let (released, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
        for _ in 0..MAX_THREADS {
            let released = Arc::clone(&released);
            let spinning = async move {
                while !released.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            };
            let left = thread.run("asking", TIME_LIMIT, spinning).await;
            assert!(matches!(&left, Err(StoreError::Driver { .. })), "{left:?}");
        }
        let refused = thread.run("asking", TIME_LIMIT, thread_id()).await;
        assert!(matches!(&refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        // Each of them ends when its driver returns.
        released.store(true, Ordering::Release);
        while thread.alive.load(Ordering::Acquire) > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60));
            sleep(Duration::from_millis(5)).await;
        }
        thread.run("asking", TIME_LIMIT, thread_id()).await.unwrap();
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_dropped() {
        struct Dropped(Option<oneshot::Sender<()>>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.take().unwrap().send(()).unwrap();
            }
        }
        let thread = DatabaseThread::new();
        let (sender, receiver) = oneshot::channel();
        let dropped = Dropped(Some(sender));
        let work = async move {
            std::future::pending::<()>().await;
            drop(dropped);
            Ok(())
        };
        timeout(Duration::from_millis(50), thread.run("asking", TIME_LIMIT, work)).await.unwrap_err();
        timeout(Duration::from_secs(10), receiver).await.unwrap().unwrap();
    }

    #[test]
    fn a_panic_can_be_caught_in_every_profile() {
        let manifest = include_str!("../../../Cargo.toml");
        assert!(manifest.contains("[profile.dist]") && !manifest.contains("panic = \"abort\""));
    }

    #[test]
    fn a_place_in_the_source_has_nothing_of_the_building_host() {
        let file = "/home/me/.cargo/registry/src/index.crates.io-1/sqlx-postgres-0.9.0/src/message/mod.rs";
        assert_eq!(source(file), "sqlx-postgres-0.9.0/src/message/mod.rs");
        assert_eq!(source("src/store/mod.rs"), "src/store/mod.rs");
    }
}
