//! The thread in which the driver runs, with a runtime of its own.
//!
//! What a server sends may make the driver panic, or keep it busy without end. Neither may stop the
//! stream, a request or a signal, so nothing of the driver runs on the caller's thread: an operation
//! goes to the database's thread as a future, and its result comes back. A panic is caught there. A
//! thread whose runtime no longer turns is abandoned, and the next operation has a new one; a thread
//! that was abandoned ends as soon as its driver comes back, or with the process.

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

/// The threads' name, and that of the threads which help them.
const NAME: &str = "database";

/// Threads of one database that may live at once, abandoned ones among them.
const MAX_THREADS: usize = 3;

/// How often it is asked whether the thread's runtime still turns, while an operation takes long.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// How often the driver of this process panicked or had to be abandoned.
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// How often the driver of this process panicked or had to be abandoned.
pub fn driver_failures() -> u64 {
    FAILURES.load(Ordering::Relaxed)
}

/// Where a database's operations run. The thread starts with the first of them.
#[derive(Debug)]
pub(super) struct DatabaseThread {
    running: Mutex<Option<Running>>,
    alive: Arc<AtomicUsize>,
}

/// The thread that takes operations now. It ends when this is dropped.
#[derive(Debug)]
struct Running {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

/// Counts a thread for as long as it lives.
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
    /// What `work` ends with; [`StoreError::Driver`] where it panics, or where the thread's runtime
    /// does not turn for `patience`.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        patience: Duration,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let handle = self.handle(what)?;
        let mut task = AbortOnDropHandle::new(handle.spawn(async move { caught(what, work).await? }));
        tokio::select! {
            // A panic that gets here came from dropping what had panicked before.
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

    /// Lets `work` run on the thread, until it ends or the thread is abandoned; `None` where there is
    /// no thread to run it.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> Option<JoinHandle<()>> {
        self.handle("listening").ok().map(|handle| handle.spawn(work))
    }

    /// The handle of the thread, which is started where there is none.
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
            // It ends by an error: nothing is ever sent.
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

/// Ends when the runtime of `handle` does not take up a task within `patience`.
async fn stuck(handle: &Handle, patience: Duration) {
    loop {
        sleep(PING_INTERVAL).await;
        if timeout(patience, handle.spawn(async {})).await.is_err() {
            return;
        }
    }
}

thread_local! {
    /// Where this thread last panicked.
    static PANICKED_AT: Cell<Option<String>> = const { Cell::new(None) };
}

/// Does `work`; its panic is an error.
pub(super) async fn caught<T>(what: &'static str, work: impl Future<Output = T>) -> Result<T, StoreError> {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        // What a panic leaves behind is dropped: the connection is, and with it what was half read.
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

/// Takes panics of the databases' threads out of the hands of the process's panic hook, which would
/// print each of them: they are caught, and told by whoever waits for the database. What the panic
/// says is not kept, for it may quote what the server sent.
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

/// A source file from its crate's directory on: what is before that is the building host's.
fn source(file: &str) -> &str {
    let from = file.rfind("/src/").and_then(|src| file[..src].rfind('/'));
    from.map_or(file, |slash| &file[slash + 1..])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    async fn thread_id() -> Result<std::thread::ThreadId, StoreError> {
        Ok(std::thread::current().id())
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_thread_goes_on() {
        let thread = DatabaseThread::new();
        let before = thread.run("asking", PATIENCE, thread_id()).await.unwrap();
        assert_ne!(before, std::thread::current().id());
        let panicked = thread.run("asking", PATIENCE, async { Ok([0_u8; 3].get(7).copied().unwrap()) }).await;
        assert!(matches!(&panicked, Err(StoreError::Driver { what: "asking", .. })), "{panicked:?}");
        assert_eq!(thread.run("asking", PATIENCE, thread_id()).await.unwrap(), before);
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
            let left = thread.run("asking", PATIENCE, spinning).await;
            assert!(matches!(&left, Err(StoreError::Driver { .. })), "{left:?}");
        }
        let refused = thread.run("asking", PATIENCE, thread_id()).await;
        assert!(matches!(&refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        // Each of them ends when its driver comes back.
        released.store(true, Ordering::Release);
        while thread.alive.load(Ordering::Acquire) > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60));
            sleep(Duration::from_millis(5)).await;
        }
        thread.run("asking", PATIENCE, thread_id()).await.unwrap();
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
        timeout(Duration::from_millis(50), thread.run("asking", PATIENCE, work)).await.unwrap_err();
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
