//! How long after the shutdown something may still be waited for.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How long after the shutdown the last writes to the disk may take. The rest of
/// [`STOP_WITHIN`](crate::lifecycle::STOP_WITHIN) is for what a busy machine does after them.
pub(super) const DISK_GRACE: Duration = Duration::from_secs(8);

/// Ends so long after the shutdown.
pub(super) async fn stopped_for(shutdown: &CancellationToken, grace: Duration) {
    shutdown.cancelled().await;
    sleep(grace).await;
}
