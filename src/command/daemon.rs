//! What the daemons have in common: what is heard while they work, and how they end.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use anyhow::anyhow;

use super::Failure;
use crate::event;
use crate::lifecycle::{Lifecycle, Notifier, Pulse, Request, STOP_WITHIN, feed_watchdog};

/// How often the sentence for `systemctl status` is brought up to date.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Runs `work` to its end: obeys the signals, feeds the watchdog, tells systemd.
///
/// `work` is to end when the lifecycle's stop token is cancelled; what has not ended
/// [`STOP_WITHIN`] later is dropped.
///
/// # Errors
/// What `work` ended with, or [`Failure::Environment`] where it did not end in time.
pub(super) async fn attend(
    mode: &'static str,
    mut lifecycle: Lifecycle,
    pulse: Pulse,
    work: impl Future<Output = Result<(), Failure>>,
    sentence: impl Fn() -> String,
    mut on_request: impl FnMut(Request),
) -> Result<(), Failure> {
    let stop = lifecycle.stop_token();
    let mut notifier = Notifier::default();
    let mut work = pin!(work);
    let mut watchdog = pin!(feed_watchdog(pulse));
    let mut tick = tokio::time::interval(STATUS_INTERVAL);
    notifier.ready();
    tracing::info!(message_id = event::STARTED, version = env!("CARGO_PKG_VERSION"), "{mode} started");
    let ended = loop {
        tokio::select! {
            ended = &mut work => break ended,
            () = &mut watchdog => {}
            () = stop.cancelled() => {
                notifier.stopping();
                break tokio::time::timeout(STOP_WITHIN, &mut work).await.unwrap_or_else(|_| {
                    Err(Failure::Environment(anyhow!("{mode} did not end within {STOP_WITHIN:?} and was cut short")))
                });
            }
            request = lifecycle.request() => {
                if request == Request::Reload {
                    notifier.reloading();
                }
                on_request(request);
                if request == Request::Reload {
                    notifier.ready();
                }
            }
            _ = tick.tick() => notifier.status(sentence()),
        }
    };
    tracing::info!(message_id = event::STOPPED, "{mode} stopped");
    ended
}
