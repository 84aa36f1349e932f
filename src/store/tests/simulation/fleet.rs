//! Ten thousand workers, for an hour of virtual time: what the database is asked.
//!
//! Every worker polls the primary at an interval, at once when a notification wakes it, and compares everything once in
//! about a minute; it reports within a second after a change, and every 30 s. A master edits a rule every two minutes. The
//! statements are those of the product's algorithm; BEGIN and COMMIT count as one each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use super::Without;
use super::tables::Key;
use super::worker::{Course, Worker};
use super::world::{Options, World};
use crate::testing::Mutate;

const WORKERS: usize = 10_000;
const SECOND: i64 = 1_000_000;

/// How often a master edits a rule, in seconds.
const EDIT: i64 = 120;

/// How long a burst lasts after an edit, in seconds: notified polls, then the reports.
const BURST: i64 = 3;

/// When the first polls, which load everything, are over, in seconds.
const LOADED: usize = 90;

/// What was asked in a second.
#[derive(Debug, Default, Clone, Copy)]
struct Asked {
    /// Statements of polls, BEGIN and COMMIT among them.
    statements: u64,
    /// Of them, those of polls that compared every row.
    of_full: u64,
    polls: u64,
    full: u64,
    reports: u64,
}

impl Asked {
    fn add(self, other: Self) -> Self {
        Self {
            statements: self.statements + other.statements,
            of_full: self.of_full + other.of_full,
            polls: self.polls + other.polls,
            full: self.full + other.full,
            reports: self.reports + other.reports,
        }
    }
}

/// What happens next to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Poll,
    Notified,
    Report,
}

/// What every `shards`th worker asks that polls at `interval`, by seconds, for so many.
fn ask((shard, shards): (usize, usize), interval: i64, seconds: i64) -> Vec<Asked> {
    let (begin, mut chance) = (Instant::now(), Mutate::new(shard as u64 + 1));
    let mut world = World::new(Options {
        overlap: Duration::from_secs(5),
        whole_seconds: false,
        folds: false,
        is_cluster: false,
        has_locks: true,
        masters: 1,
        call: 2_000,
        rules: super::texts::IDS,
        has_row: true,
        without: Without::Nothing,
    });
    world.begin_other(0, &[(Key::State(0), Some(0))], true);
    world.finish(0);
    let numbers: Vec<usize> = (0..WORKERS).filter(|worker| worker % shards == shard).collect();
    let mut within = |longest: i64| i64::try_from(chance.below(usize::try_from(longest).unwrap())).unwrap();
    // A minute, changed at random by up to a tenth.
    let mut full_scan_interval = || Duration::from_micros((54 * SECOND + within(12 * SECOND)).unsigned_abs());
    let mut workers: Vec<Worker> = numbers.iter().map(|_| Worker::new(0, full_scan_interval())).collect();
    let mut events = BinaryHeap::new();
    for worker in 0..workers.len() {
        events.push(Reverse((within(interval), What::Poll, worker)));
        events.push(Reverse((within(30 * SECOND), What::Report, worker)));
    }
    let mut asked = vec![Asked::default(); usize::try_from(seconds).unwrap()];
    let mut polls_at = vec![0; workers.len()];
    let (mut reports_at, mut edit_at) = (vec![0; workers.len()], EDIT * SECOND);
    let mut version = world.head.version;
    while let Some(Reverse((at, what, worker))) = events.pop() {
        if at >= seconds * SECOND {
            break;
        }
        if edit_at <= at {
            let content = u8::try_from(edit_at / SECOND / EDIT % 2).unwrap() + 1;
            world.with_master(0, |master, _| master.directory.edit(0, Some(content)));
            edit_at += EDIT * SECOND;
        }
        world.advance((at - world.now - 1).max(0));
        if world.head.version > version {
            version = world.head.version;
            events.extend((0..workers.len()).map(|worker| Reverse((world.now, What::Notified, worker))));
        }
        let asked = &mut asked[usize::try_from(at / SECOND).unwrap()];
        if what == What::Report {
            // A change meanwhile has moved it.
            if reports_at[worker] <= at {
                asked.reports += 1;
                reports_at[worker] = at + 27 * SECOND + within(6 * SECOND);
            }
            events.push(Reverse((reports_at[worker], What::Report, worker)));
            continue;
        }
        if what == What::Poll && polls_at[worker] > at {
            events.push(Reverse((polls_at[worker], What::Poll, worker)));
            continue;
        }
        let is_notified = what == What::Notified;
        let course = Course { woken: is_notified, hurried: is_notified, ..Course::default() };
        let polled = workers[worker].poll(&mut world, course, begin).unwrap();
        let (calls, full) = (polled.calls as u64, u64::from(polled.full));
        *asked = asked.add(Asked { statements: calls, of_full: calls * full, polls: 1, full, reports: 0 });
        polls_at[worker] = at + interval * 9 / 10 + within(interval / 5);
        if is_notified {
            reports_at[worker] = at + within(SECOND);
            events.push(Reverse((reports_at[worker], What::Report, worker)));
        } else {
            events.push(Reverse((polls_at[worker], What::Poll, worker)));
        }
    }
    for worker in &workers {
        assert_eq!(worker.known.0.rule_count(), 2);
    }
    asked
}

/// The mean of the idle seconds, and the second after an edit with the most statements, and the most reports of one.
fn idle_and_busiest(interval: i64, seconds: i64) -> (Asked, Asked) {
    let shards = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let asked = std::thread::scope(|scope| {
        let ask = |shard| scope.spawn(move || ask((shard, shards), interval, seconds));
        let shards: Vec<_> = (0..shards).map(ask).collect();
        let sum = |a: Vec<Asked>, b: Vec<Asked>| a.into_iter().zip(b).map(|(a, b)| a.add(b)).collect();
        shards.into_iter().map(|shard| shard.join().unwrap()).reduce(sum).unwrap()
    });
    let is_burst = |second: usize| i64::try_from(second).unwrap() % EDIT < BURST;
    let (burst, idle): (Vec<_>, Vec<_>) =
        asked.into_iter().enumerate().skip(LOADED).partition(|(second, _)| is_burst(*second));
    let n = idle.len() as u64;
    let sum = idle.into_iter().map(|(_, asked)| asked).reduce(Asked::add).unwrap();
    let idle = Asked {
        statements: sum.statements / n,
        of_full: sum.of_full / n,
        polls: sum.polls / n,
        full: sum.full / n,
        reports: sum.reports / n,
    };
    let burst = burst.into_iter().map(|(_, asked)| asked);
    let most = burst.clone().map(|asked| asked.reports).max().unwrap();
    let busiest = burst.max_by_key(|asked| asked.statements).unwrap();
    (idle, Asked { reports: most, ..busiest })
}

/// Compares what they ask that poll every `interval` seconds, for so many seconds, with arithmetic.
fn expect_arithmetic(interval: u64, seconds: i64) {
    let (idle, busiest) = idle_and_busiest(i64::try_from(interval).unwrap() * SECOND, seconds);
    // Shown with `--show-output`.
    let figures = format!("every {interval} s: idle, a second: {idle:?}; busiest second: {busiest:?}\n");
    std::io::stdout().write_all(figures.as_bytes()).unwrap();
    let (workers, near) = (WORKERS as u64, |what: u64, expected: u64| {
        assert!(what.abs_diff(expected) <= expected / 10, "{what} instead of {expected}");
    });
    // One statement each poll, five each that compares everything, and a report every 30 s, but after an edit.
    near(idle.polls, workers / interval);
    near(idle.full, workers / (60 + interval / 2));
    near(idle.statements, idle.polls - idle.full + 5 * idle.full);
    assert!(idle.reports <= workers / 30, "{idle:?}");
    // An edit wakes everyone, to four statements each.
    assert!(busiest.polls >= workers, "{busiest:?}");
    assert!(busiest.statements <= 5 * busiest.polls, "{busiest:?}");
}

/// As PostgreSQL's workers may, which are notified.
#[test]
#[ignore = "takes minutes"]
fn ten_thousand_workers_ask_for_an_hour_what_arithmetic_says() {
    expect_arithmetic(10, 3_600);
}

/// As by default: as many polls as in the hour of the others.
#[test]
#[ignore = "takes minutes"]
fn ten_thousand_workers_that_poll_every_second_ask_what_arithmetic_says() {
    expect_arithmetic(1, 360);
}
