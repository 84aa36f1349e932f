//! Logs rejected connections without flooding the journal when clients try again and again.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::until;
use crate::event;

/// How long after a record further rejections for the same reason are only counted.
const QUIET: Duration = Duration::from_mins(1);

/// Rejections by reason: the first one is logged by itself, further ones as a number.
#[derive(Debug, Default)]
pub(super) struct RejectionLog {
    user: Throttle,
    limit: Throttle,
}

impl RejectionLog {
    /// A user was rejected who is not in `worker.allow_uids`.
    pub(super) fn user_not_allowed(&mut self, uid: u32, pid: Option<i32>) {
        if self.user.logs_now(Instant::now()) {
            tracing::warn!(
                message_id = event::SUBSCRIBER_REFUSED,
                uid,
                pid,
                "a connection of user {uid} was rejected: the user is not in worker.allow_uids"
            );
        }
    }

    /// A connection was rejected because too many others are open.
    pub(super) fn limit_reached(&mut self, uid: u32, pid: Option<i32>, connected: usize) {
        if self.limit.logs_now(Instant::now()) {
            tracing::warn!(
                message_id = event::SUBSCRIBER_REFUSED,
                uid,
                pid,
                connected,
                "a connection of user {uid} was rejected: worker.max_subscribers or worker.max_subscribers_per_uid is reached"
            );
        }
    }

    /// Waits until counted rejections are due for a record, and logs it. Pending while none are counted.
    /// Cancel safe.
    pub(super) async fn log_when_due(&mut self) {
        let [user, limit] = [&self.user, &self.limit].map(|throttle| throttle.quiet_until);
        until(user.into_iter().chain(limit).min()).await;
        self.log(Instant::now());
    }

    /// Logs all rejections that were only counted.
    pub(super) fn log_rest(&mut self) {
        self.log(Instant::now() + QUIET);
    }

    fn log(&mut self, now: Instant) {
        let reasons = [
            (&mut self.user, "their users are not in worker.allow_uids"),
            (&mut self.limit, "worker.max_subscribers or worker.max_subscribers_per_uid is reached"),
        ];
        for (throttle, why) in reasons {
            if let Some(count) = throttle.sum(now) {
                tracing::warn!(
                    message_id = event::SUBSCRIBER_REFUSED,
                    count,
                    "{count} more connections were rejected: {why}"
                );
            }
        }
    }
}

/// Lets the first event through and counts those of the next minute.
#[derive(Debug, Default)]
struct Throttle {
    quiet_until: Option<Instant>,
    counted: u64,
}

impl Throttle {
    /// Whether this event is logged by itself; if not, it is counted.
    fn logs_now(&mut self, now: Instant) -> bool {
        if self.quiet_until.is_some() {
            self.counted += 1;
            return false;
        }
        self.quiet_until = Some(now + QUIET);
        true
    }

    /// How many events were counted, once they are due. If none were, the next event is logged by itself
    /// again.
    fn sum(&mut self, now: Instant) -> Option<u64> {
        self.quiet_until.filter(|&time| time <= now)?;
        let counted = Some(std::mem::take(&mut self.counted)).filter(|&count| count > 0);
        self.quiet_until = counted.map(|_| now + QUIET);
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_logged_then_a_number_each_minute_until_a_minute_was_quiet() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut throttle = Throttle::default();
        assert_eq!(throttle.sum(start), None, "nothing is counted");
        let logged: Vec<_> = (0..130u32)
            .filter_map(|at| {
                let now = start + at * second;
                let sum = throttle.sum(now);
                let single = at < 100 && throttle.logs_now(now);
                (single || sum.is_some()).then_some((at, sum))
            })
            .collect();
        assert_eq!(logged, [(0, None), (60, Some(59)), (120, Some(40))]);
        assert_eq!(throttle.sum(start + 180 * second), None);
        assert!(throttle.logs_now(start + 181 * second), "a new one is logged by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn counted_rejections_are_logged_without_a_further_one() {
        let mut rejections = RejectionLog::default();
        rejections.limit_reached(0, None, 5);
        rejections.limit_reached(0, None, 5);
        let start = Instant::now();
        rejections.log_when_due().await;
        assert_eq!((start.elapsed(), rejections.limit.counted), (QUIET, 0));
        rejections.log_when_due().await;
        assert_eq!(start.elapsed(), 2 * QUIET);
        assert!(rejections.limit.quiet_until.is_none());
    }
}
