//! How long the disk is waited for, and after the shutdown everything else.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A disk that takes longer for a file hangs, so far as anybody can tell: the worker says so and goes on without it.
pub(super) const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// How long after the shutdown the last writes to the disk may take. The rest of
/// [`STOP_WITHIN`](crate::lifecycle::STOP_WITHIN) is for what a busy machine does after them.
pub(super) const DISK_GRACE: Duration = Duration::from_secs(8);

/// Ends so long after the shutdown.
pub(super) async fn stopped_for(shutdown: &CancellationToken, grace: Duration) {
    shutdown.cancelled().await;
    sleep(grace).await;
}

/// Waits for the disk, however long it takes; calls `late` once after [`DISK_PATIENCE`].
pub(super) async fn told_when_late<T>(work: impl Future<Output = T>, late: impl FnOnce()) -> T {
    tokio::pin!(work);
    if let Ok(done) = timeout(DISK_PATIENCE, &mut work).await {
        return done;
    }
    late();
    work.await
}

/// The same of work that blocks this thread.
pub(super) fn blocking<T>(work: impl FnOnce() -> T, late: impl FnOnce() + Send) -> T {
    std::thread::scope(|scope| {
        let (working, ended) = mpsc::channel::<()>();
        let watch = move || {
            if ended.recv_timeout(DISK_PATIENCE) == Err(RecvTimeoutError::Timeout) {
                late();
            }
        };
        // Without a thread there is nobody to say it.
        let _ = std::thread::Builder::new().spawn_scoped(scope, watch);
        let done = work();
        drop(working);
        done
    })
}
