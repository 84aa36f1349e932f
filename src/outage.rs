//! Decides which events get a record of their own: the begin of an outage, a change of its cause, each hour of it,
//! and its end; and one record for many events at once, so that journald drops none.
//!
//! Nothing here logs. The time is an argument and not the host's clock, which may step.

use std::time::Duration;

use tokio::time::Instant;

/// How often an outage that lasts gets a record.
pub(crate) const REMINDER_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// How many changes of the cause get a record between two reminders: two causes may alternate.
pub(crate) const MAX_CAUSE_CHANGES: u32 = 10;

/// An operation that fails for now and is retried.
#[derive(Debug, Default)]
pub(crate) struct Outage(Option<Ongoing>);

#[derive(Debug)]
struct Ongoing {
    since: Instant,
    /// The time of the last hourly record.
    reminded: Instant,
    /// The cause of the last record.
    cause: String,
    /// Changes of the cause since `reminded`.
    cause_changes: u32,
}

/// A record of an outage. Each but the first has the time since the outage began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutageRecord {
    /// The outage begins.
    Begun,
    /// The cause differs from that of the last record.
    CauseChanged(Duration),
    /// The outage lasts: [`REMINDER_INTERVAL`] has passed.
    Reminder(Duration),
}

impl Outage {
    /// Records that a try failed at `now`, for this cause. Returns the record to log; `None` if none is due.
    pub(crate) fn failed(&mut self, cause: &str, now: Instant) -> Option<OutageRecord> {
        let Some(ongoing) = &mut self.0 else {
            let cause = cause.to_owned();
            self.0 = Some(Ongoing { since: now, reminded: now, cause, cause_changes: 0 });
            return Some(OutageRecord::Begun);
        };
        let lasted = now.duration_since(ongoing.since);
        let record = if now.duration_since(ongoing.reminded) >= REMINDER_INTERVAL {
            (ongoing.reminded, ongoing.cause_changes) = (now, 0);
            OutageRecord::Reminder(lasted)
        } else if ongoing.cause != cause && ongoing.cause_changes < MAX_CAUSE_CHANGES {
            ongoing.cause_changes += 1;
            OutageRecord::CauseChanged(lasted)
        } else {
            return None;
        };
        cause.clone_into(&mut ongoing.cause);
        Some(record)
    }

    /// Records that a try succeeded at `now`. Returns how long the outage lasted that ends with it; `None` if there
    /// was none.
    pub(crate) fn ended(&mut self, now: Instant) -> Option<Duration> {
        self.0.take().map(|ongoing| now.duration_since(ongoing.since))
    }

    /// Whether the last try failed.
    pub(crate) const fn is_ongoing(&self) -> bool {
        self.0.is_some()
    }
}

/// How many events may get a record each within [`BUDGET_INTERVAL`]. By default, journald accepts 10,000 records of a
/// unit in 30 s (`RateLimitBurst` in journald.conf(5)), and drops the rest.
pub(crate) const RECORD_BUDGET: usize = 1_000;

/// How long an exhausted budget takes to refill.
pub(crate) const BUDGET_INTERVAL: Duration = Duration::from_secs(30);

/// Limits how many events of one kind get a record each; for the rest, one record sums them up.
#[derive(Debug)]
pub(crate) struct RecordBudget {
    left: usize,
    /// When `left` was last computed; `None` before the first time.
    counted: Option<std::time::Instant>,
}

impl Default for RecordBudget {
    fn default() -> Self {
        Self { left: RECORD_BUDGET, counted: None }
    }
}

impl RecordBudget {
    /// Takes `count` records from the budget, if it has them at `now`. Returns whether it had.
    pub(crate) fn take(&mut self, count: usize, now: std::time::Instant) -> bool {
        let share = self.counted.map_or(1.0, |then| {
            now.saturating_duration_since(then).as_secs_f64() / BUDGET_INTERVAL.as_secs_f64()
        });
        let earned = (RECORD_BUDGET as f64 * share.min(1.0)) as usize;
        if earned > 0 {
            self.left = (self.left + earned).min(RECORD_BUDGET);
            self.counted = Some(now);
        }
        let is_enough = count <= self.left;
        if is_enough {
            self.left -= count;
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_of_records_is_used_up_and_comes_back() {
        let (mut budget, begun) = (RecordBudget::default(), std::time::Instant::now());
        assert!(budget.take(RECORD_BUDGET, begun));
        assert!(!budget.take(1, begun));
        // However often it is asked, the budget refills at its rate.
        let asked = (1..=3_000).map(|tick| begun + BUDGET_INTERVAL * tick / 3_000);
        let taken = asked.filter(|&now| budget.take(1, now)).count();
        assert!((RECORD_BUDGET / 2..=RECORD_BUDGET).contains(&taken), "{taken}");
        assert!(!budget.take(RECORD_BUDGET + 1, begun + BUDGET_INTERVAL * 9), "more than it ever has");
        assert!(budget.take(RECORD_BUDGET, begun + BUDGET_INTERVAL * 9));
    }

    const TRY_INTERVAL: Duration = Duration::from_secs(10);

    /// The records of an operation that fails at an interval for so long, with the number of the try.
    fn records(tries: u32, cause: impl Fn(u32) -> String) -> Vec<(u32, OutageRecord)> {
        let (mut outage, begun) = (Outage::default(), Instant::now());
        let at = |number| begun + TRY_INTERVAL * number;
        (0..tries).filter_map(|number| Some((number, outage.failed(&cause(number), at(number))?))).collect()
    }

    #[test]
    fn an_outage_of_one_cause_has_a_record_at_its_beginning_and_each_hour() {
        let hours = |hours: u64| OutageRecord::Reminder(Duration::from_secs(3_600 * hours));
        let expected = [(0, OutageRecord::Begun), (360, hours(1)), (720, hours(2)), (1_080, hours(3))];
        assert_eq!(records(1_100, |_| "refused".into()), expected);
    }

    #[test]
    fn another_cause_has_a_record_and_a_cause_that_returns_has_one() {
        let cause = |number| if (100..200).contains(&number) { "wrong password" } else { "refused" };
        let changed = |number| (number, OutageRecord::CauseChanged(TRY_INTERVAL * number));
        let expected = [(0, OutageRecord::Begun), changed(100), changed(200)];
        assert_eq!(records(300, |number| cause(number).into()), expected);
    }

    #[test]
    fn causes_that_change_with_each_try_do_not_fill_the_journal() {
        let day = records(24 * 360, |number| number.to_string());
        assert_eq!(day.len(), 24 * (1 + MAX_CAUSE_CHANGES as usize));
    }

    #[test]
    fn an_outage_ends_once_and_the_next_begins_anew() {
        let (mut outage, begun) = (Outage::default(), Instant::now());
        assert_eq!(outage.ended(begun), None);
        outage.failed("refused", begun);
        assert_eq!(outage.ended(begun + TRY_INTERVAL), Some(TRY_INTERVAL));
        assert_eq!((outage.ended(begun + TRY_INTERVAL), outage.is_ongoing()), (None, false));
        assert_eq!(outage.failed("refused", begun + TRY_INTERVAL * 2), Some(OutageRecord::Begun));
    }
}
