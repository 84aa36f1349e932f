//! A simulation of a fleet: servers with replicas, writers, and workers that poll with the algorithm of the product, in
//! one thread and in virtual time.
//!
//! The model is one log of commits. A server shows a prefix of it, and has a clock of its own. Replication lengthens the
//! prefix; a failover cuts the log to the prefix of the server that becomes the primary. Every row is stamped before it
//! is committed. A poll may be interrupted between any two of its calls, and every call may fail.
//!
//! After each poll the judge checks:
//!
//! 1. *Poll*: the catalogue is what the snapshot holds, except for rows that were committed longer than `overlap` after
//!    their stamp; after a poll that compared every row, without exception.
//! 2. *Stream*: no change equals what it replaces, and the changes make the catalogue.
//! 3. *Never early*: a worker that reports version v has delivered every commit up to v.
//!
//! At the end the faults stop, and every worker must have what its server holds.
//!
//! A history is a list of numbers, each one step, so that a failing one is shrunk by leaving steps out. It follows from
//! its seed alone.

mod history;
mod judge;
mod reader;
mod texts;
mod worker;
mod world;

use history::{History, Verdict};

/// A defence that a simulation leaves out, to show that the judge misses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A window reaches no further than a second below the last poll.
    Overlap,
    /// Polls do not count rows.
    Count,
    /// No poll compares every row, but the first.
    FullScan,
    /// The version is read after the snapshot was taken.
    VersionOfTheSnapshot,
    /// The time of a poll is the clock of the server that it asks, whether it takes writes or not.
    BeatAsTheTime,
    /// A poll does not notice that its server fell back.
    FallenBeat,
}

/// Runs the histories of `seeds`, on as many threads as there are cores. Returns the first that fails, shrunk.
fn run(seeds: std::ops::Range<u64>, without: Without) -> Option<(u64, History, Verdict)> {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get) as u64;
    let found = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let seeds = seeds.clone();
                scope.spawn(move || {
                    let mut seeds = seeds.filter(|seed| seed % threads == thread);
                    seeds.find(|&seed| History::of(seed).run(without).is_err())
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).min()
    })?;
    let history = History::of(found).shrunk(without);
    let verdict = history.run(without).unwrap_err();
    Some((found, history, verdict))
}

/// Fails with the first history of `seeds` that breaks a promise.
fn expect_every_promise(seeds: std::ops::Range<u64>) {
    if let Some((seed, history, verdict)) = run(seeds, Without::Nothing) {
        panic!("seed {seed}: {verdict}\n{history}");
    }
}

#[test]
fn a_hundred_thousand_histories_keep_every_promise() {
    expect_every_promise(0..100_000);
}

#[test]
#[ignore = "takes an hour"]
fn ten_million_histories_keep_every_promise() {
    expect_every_promise(100_000..10_000_000);
}

#[test]
fn each_defence_is_missed_if_it_is_left_out() {
    for (without, promise) in [
        (Without::Overlap, "poll"),
        (Without::Count, "poll"),
        (Without::FullScan, "progress"),
        (Without::VersionOfTheSnapshot, "early"),
        (Without::BeatAsTheTime, "poll"),
        (Without::FallenBeat, "poll"),
    ] {
        let found = run(0..10_000, without);
        let (seed, history, verdict) = found.unwrap_or_else(|| panic!("{without:?} is not missed"));
        let verdict = verdict.to_string();
        assert!(verdict.starts_with(promise), "{without:?}, seed {seed}: {verdict}\n{history}");
    }
}
