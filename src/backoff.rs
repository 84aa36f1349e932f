//! How long to wait before a retry.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest wait between two tries.
pub(crate) const CAP: Duration = Duration::from_secs(10);

const FIRST: Duration = Duration::from_millis(100);

/// Waits that double from a tenth of a second to [`CAP`], each shortened at random by up to a half, so that a swarm
/// does not reconnect all at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The next wait.
    pub(crate) fn wait(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.tries.min(16)).min(CAP);
        self.tries = self.tries.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * random())
    }

    /// A try succeeded: the next wait is the first one again.
    pub(crate) const fn reset(&mut self) {
        self.tries = 0;
    }
}

/// `interval`, changed at random by up to a tenth, so that many workers do not poll at the same time.
pub(crate) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * random())
}

/// Waits until `then`; for ever where that is `None`.
pub(crate) async fn until(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}

/// A number from 0 to 1, random enough to spread waits: the hash keys of the standard library are its only
/// randomness.
#[expect(clippy::cast_precision_loss, reason = "the lowest bits of a random number do not matter")]
pub(crate) fn random() -> f64 {
    random_bits() as f64 / u64::MAX as f64
}

/// The same as 64 bits.
pub(crate) fn random_bits() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_begin_anew_after_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| backoff.wait()).collect();
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2);
        assert!(waits[20..].iter().all(|&wait| wait <= CAP && wait >= CAP / 2));
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }

    #[test]
    fn polls_spread_by_a_tenth() {
        let second = Duration::from_secs(1);
        let spread: Vec<_> = (0..100).map(|_| jittered(second)).collect();
        assert!(spread.iter().all(|&wait| wait >= second.mul_f64(0.9) && wait <= second.mul_f64(1.1)));
        assert!(spread.iter().max().unwrap() > spread.iter().min().unwrap());
    }
}
