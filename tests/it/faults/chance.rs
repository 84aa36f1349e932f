//! Repeatable random numbers (xorshift64*, Vigna 2014).

use std::time::Duration;

pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self((seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03)) | 1)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let end = items.len() as u64;
        &items[usize::try_from(self.below(end)).unwrap()]
    }

    /// Waits up to this many milliseconds: the pause itself is random, and nothing is waited for.
    pub(crate) fn pause(&mut self, most: u64) {
        std::thread::sleep(Duration::from_millis(self.below(most)));
    }
}

/// Leaves a fault in place for this long. The time itself is the fault: nothing else is waited for.
pub(super) fn fault_lasts(outage: Duration) {
    std::thread::sleep(outage);
}
