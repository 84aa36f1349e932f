//! The watermark: which rows the next poll reads again.
//!
//! A writer stamps a row before its transaction commits, by the writer's clock. So a row that one poll did not find
//! may appear at the next with a stamp below others that were found. The guarantee: the next poll finds every row
//! whose stamp is at most `overlap` older than its commit, both by the database's clock.
//!
//! Proof: let the last poll's snapshot be taken at `last_now`. A row that it did not find commits later, so its stamp
//! is greater than `last_now - overlap`, minus the [`SLACK`] that a column of whole seconds truncates.
//! [`Watermark::low`] is never above that. It does not depend on the stamps that were found, so a stamp in the future
//! hides no row; and after a long outage the window reaches back as far as the outage.
//!
//! In addition, while the table changes, the window reaches `overlap` below the greatest stamp found, so that changes
//! of writers whose clocks are all behind are found, too. Once the overlap has passed without a change, a poll reads
//! only rows above the greatest stamp: none, if the table is idle.

use std::time::Duration;

use crate::clock::Timestamp;

/// How much a column of whole seconds truncates a stamp.
const SLACK: Duration = Duration::from_secs(1);

/// What a follower remembers about the polls of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Watermark {
    /// The greatest stamp that was found.
    high: Timestamp,
    /// The database's clock at the last poll.
    last_now: Timestamp,
    /// The database's clock at the last poll that found a change.
    changed_at: Timestamp,
}

impl Watermark {
    /// The least stamp that every dialect can compare with: 1000-01-01.
    pub(super) const FLOOR: Timestamp = Timestamp::from_micros(-30_610_224_000_000_000);

    /// After the first poll, which read everything.
    pub(super) fn new(now: Timestamp, high: Timestamp) -> Self {
        Self { high, last_now: now, changed_at: now }
    }

    /// The next poll reads the rows whose stamp is greater than this.
    pub(super) fn low(&self, overlap: Duration) -> Timestamp {
        let reach = overlap.saturating_add(SLACK);
        let low = if self.last_now.since(self.changed_at) <= reach {
            self.high.min(self.last_now).before(reach)
        } else {
            self.high.min(self.last_now.before(reach))
        };
        low.max(Self::FLOOR)
    }

    /// The greatest stamp that was found.
    pub(super) const fn high(&self) -> Timestamp {
        self.high
    }

    /// Records a change with a stamp up to `high`, found at `now` by a poll that read only what is above the greatest
    /// stamp. `last_now` stays, so the guarantee does not need this poll.
    pub(super) fn found(&mut self, now: Timestamp, high: Timestamp) {
        self.high = self.high.max(high);
        self.changed_at = self.changed_at.max(now);
    }

    /// Records a poll at `now` that found stamps up to `high`, and whether it found a change.
    pub(super) fn advance(&mut self, now: Timestamp, high: Timestamp, changed: bool) {
        self.high = self.high.max(high);
        self.last_now = now;
        // If the clock was set back, the last change must not be in the future.
        self.changed_at = if changed { now } else { self.changed_at.min(now) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLAP: Duration = Duration::from_secs(5);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(1_777_620_000_000_000 + second * 1_000_000)
    }

    /// The window after polls at these times, the first of which read everything up to `high`.
    fn low_after(high: i64, polls: &[(i64, i64, bool)]) -> Timestamp {
        let mut polls = polls.iter();
        let first = polls.next().unwrap();
        let mut watermark = Watermark::new(at(first.0), at(high));
        for &(now, high, changed) in polls {
            watermark.advance(at(now), at(high), changed);
        }
        watermark.low(OVERLAP)
    }

    #[test]
    fn the_floor_is_the_first_day_of_the_year_1000() {
        assert_eq!(Watermark::FLOOR.to_string(), "1000-01-01T00:00:00.000000Z");
    }

    #[test]
    fn an_idle_table_is_read_strictly_above_what_was_seen() {
        assert_eq!(low_after(0, &[(0, 0, false), (7, 0, false)]), at(0));
        assert_eq!(low_after(0, &[(0, 0, false), (7_000, 0, false)]), at(0));
    }

    #[test]
    fn a_late_commit_is_in_the_window_while_it_is_within_the_overlap() {
        // Seen at 10 with the stamp 10; a transaction stamped 6 commits at 11.
        assert!(low_after(10, &[(10, 10, true)]) < at(6));
        // Nothing changed for a while: a transaction stamped 96 commits just after the poll at 100.
        assert!(low_after(10, &[(10, 10, true), (100, 10, false)]) < at(96));
    }

    #[test]
    fn a_stamp_in_the_future_hides_nothing_that_comes_after_it() {
        assert!(low_after(86_400, &[(10, 0, true)]) < at(10));
        assert!(low_after(86_400, &[(10, 0, true), (1_000, 0, false)]) < at(995));
    }

    #[test]
    fn a_future_stamp_that_has_come_is_read_no_more() {
        assert_eq!(low_after(60, &[(10, 0, true), (70, 0, false)]), at(60));
    }

    #[test]
    fn writers_whose_clocks_are_behind_are_followed_to_the_second() {
        // All stamps are an hour behind. One was just found; another of the same second must be read.
        assert!(low_after(-3_600, &[(0, 0, false), (100, -3_500, true)]) < at(-3_500));
        assert!(low_after(-3_600, &[(0, 0, false), (100, -3_600, false)]) >= at(-3_600));
    }

    #[test]
    fn after_a_long_outage_the_window_goes_back_to_the_last_look() {
        // No poll from 100 to 4000: what was committed at 101 with a stamp of 97 is still in it.
        assert!(low_after(50, &[(50, 50, true), (100, 50, false)]) < at(97));
    }

    #[test]
    fn a_database_clock_that_is_set_back_widens_the_window() {
        assert!(low_after(1_000, &[(1_000, 0, true), (10, 0, false)]) < at(5));
    }

    proptest::proptest! {
        /// The guarantee, for any history of polls.
        #[test]
        fn what_commits_after_a_look_within_the_overlap_is_in_the_window(
            polls in proptest::collection::vec((0_i64..10_000_000, -100_000_000_i64..100_000_000, proptest::bool::ANY), 1..20),
            late in 0_u64..=5_000_000,
            waits in 1_i64..5_000_000,
        ) {
            let mut now = 0;
            let mut watermark: Option<Watermark> = None;
            for (pause, ahead, changed) in polls {
                now += pause;
                let time = Timestamp::from_micros(at(0).as_micros() + now);
                let high = Timestamp::from_micros(time.as_micros() + ahead);
                match &mut watermark {
                    None => watermark = Some(Watermark::new(time, high)),
                    Some(watermark) => watermark.advance(time, high, changed),
                }
            }
            let commit = Timestamp::from_micros(at(0).as_micros() + now + waits);
            let stamp = commit.before(Duration::from_micros(late)).whole_second();
            proptest::prop_assert!(watermark.is_some_and(|watermark| stamp > watermark.low(OVERLAP)));
        }
    }
}
