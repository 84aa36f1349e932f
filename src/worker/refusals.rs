//! Who is turned away, told so that a crowd that tries on and on does not flood the journal.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::event;

/// How long those that follow the one that was told are only counted.
const QUIET: Duration = Duration::from_mins(1);

/// Those that were turned away, by the reason: the first of each is told, the others as a number.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    user: Throttle,
    number: Throttle,
}

impl Refusals {
    /// A user was turned away who is none of those that may connect.
    pub(super) fn user(&mut self, uid: u32, pid: Option<i32>) {
        if self.user.tells(Instant::now()) {
            tracing::warn!(
                message_id = event::SUBSCRIBER_REFUSED,
                uid,
                pid,
                "a user that is not in worker.allow_uids was turned away: {uid}"
            );
        }
    }

    /// One was turned away because enough others are connected.
    pub(super) fn number(&mut self, uid: u32, pid: Option<i32>, connected: usize) {
        if self.number.tells(Instant::now()) {
            tracing::warn!(
                message_id = event::SUBSCRIBER_REFUSED,
                uid,
                pid,
                connected,
                "a subscriber was turned away: worker.max_subscribers, or worker.max_subscribers_per_uid, is reached"
            );
        }
    }

    /// Waits until others are to be told of, and tells. For ever, where there are none; cancel safe.
    pub(super) async fn tell_in_time(&mut self) {
        let [user, number] = [&self.user, &self.number].map(|throttle| throttle.quiet_until);
        match user.into_iter().chain(number).min() {
            Some(time) => sleep_until(time).await,
            None => std::future::pending().await,
        }
        self.tell(Instant::now());
    }

    /// Tells of all that were only counted.
    pub(super) fn tell_at_the_end(&mut self) {
        self.tell(Instant::now() + QUIET);
    }

    fn tell(&mut self, now: Instant) {
        let reasons = [
            (&mut self.user, "their users are not in worker.allow_uids"),
            (&mut self.number, "worker.max_subscribers, or worker.max_subscribers_per_uid, is reached"),
        ];
        for (throttle, why) in reasons {
            if let Some(count) = throttle.sum(now) {
                tracing::warn!(
                    message_id = event::SUBSCRIBER_REFUSED,
                    count,
                    "{count} more connections were turned away: {why}"
                );
            }
        }
    }
}

/// Lets one through, and counts those that come soon after.
#[derive(Debug, Default)]
struct Throttle {
    quiet_until: Option<Instant>,
    counted: u64,
}

impl Throttle {
    /// Whether this one is told by itself. Else it is counted.
    fn tells(&mut self, now: Instant) -> bool {
        if self.quiet_until.is_some() {
            self.counted += 1;
            return false;
        }
        self.quiet_until = Some(now + QUIET);
        true
    }

    /// How many were counted, once it is time to say so. When there were none, the next is told by
    /// itself again.
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
    fn the_first_is_told_then_a_number_each_minute_until_a_minute_was_quiet() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut throttle = Throttle::default();
        assert_eq!(throttle.sum(start), None, "there is nothing to tell");
        let told: Vec<_> = (0..130u32)
            .filter_map(|at| {
                let now = start + at * second;
                let sum = throttle.sum(now);
                let single = at < 100 && throttle.tells(now);
                (single || sum.is_some()).then_some((at, sum))
            })
            .collect();
        assert_eq!(told, [(0, None), (60, Some(59)), (120, Some(40))]);
        assert_eq!(throttle.sum(start + 180 * second), None);
        assert!(throttle.tells(start + 181 * second), "a new one is told by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_counted_is_told_though_nobody_comes_any_more() {
        let mut refusals = Refusals::default();
        refusals.number(0, None, 5);
        refusals.number(0, None, 5);
        let start = Instant::now();
        refusals.tell_in_time().await;
        assert_eq!((start.elapsed(), refusals.number.counted), (QUIET, 0));
        refusals.tell_in_time().await;
        assert_eq!(start.elapsed(), 2 * QUIET);
        assert!(refusals.number.quiet_until.is_none());
    }
}
