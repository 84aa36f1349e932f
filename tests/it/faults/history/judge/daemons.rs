//! Judges how the daemons coped.

use std::collections::BTreeMap;

use super::super::{History, Sample};
use super::{Promise, Verdict};

/// A daemon retries at least this often (the backoff's cap), and then waits for an answer and for its turn on a busy
/// machine.
const RECOVERY: u64 = 10_000 + 3_000 + 3_000;

/// A standby tries to take the lock every second.
const TAKEOVER: u64 = RECOVERY;

/// The most memory for a worker of these few rules, with its journal and everything that subscribers have not read.
const MOST_MEMORY: u64 = 160 * 1024;

/// How much a worker may grow after its first quarter; this includes a journal of some thousand changes.
const GROWTH: u64 = 64 * 1024;

pub(super) fn judge(history: &History, verdict: &mut Verdict) {
    let by_host = history.samples.iter().fold(BTreeMap::new(), |mut hosts, sample| {
        hosts.entry(&*sample.host).or_insert_with(Vec::new).push(sample);
        hosts
    });
    judge_lives(history, verdict);
    for (host, samples) in &by_host {
        judge_recovery(history, host, samples, verdict);
        if host.starts_with("worker") {
            judge_memory(host, samples, verdict);
        }
    }
    judge_restarts(history, verdict);
    for &takeover in &history.takeovers {
        verdict.slowest_takeover = verdict.slowest_takeover.max(takeover);
        verdict.expect(Promise::TwoMasters, takeover <= TAKEOVER, || {
            format!("a standby took over after {takeover} ms")
        });
    }
    judge_rejected(history, verdict);
    judge_hostile_clients(history, verdict);
}

fn judge_lives(history: &History, verdict: &mut Verdict) {
    for _ in history.ended.len()..history.lives {
        verdict.expect(Promise::DatabaseUnavailable, true, String::new);
    }
    for who in &history.ended {
        verdict.expect(Promise::DatabaseUnavailable, false, || format!("{who} ended by itself"));
    }
}

/// After each outage, every running daemon reconnects to the database in time.
fn judge_recovery(history: &History, host: &str, samples: &[&Sample], verdict: &mut Verdict) {
    for outage in history.faults.iter().filter(|fault| fault.is_outage() && fault.concerns(host)) {
        let back = samples.iter().find(|sample| sample.at >= outage.to && sample.database == Some(true));
        // The next fault starts the wait again.
        let until = back.map_or(u64::MAX, |sample| sample.at);
        let disturbed = history.faults_of(host, outage.to + 1, until).next().is_some();
        let took = back.map_or(u64::MAX, |sample| sample.at - outage.to);
        if took <= RECOVERY || !disturbed {
            if back.is_some() {
                verdict.slowest_recovery = verdict.slowest_recovery.max(took);
            }
            verdict.expect(Promise::DatabaseUnavailable, took <= RECOVERY, || {
                format!("{host} found the database again {took} ms after `{}` was over", outage.what)
            });
        }
    }
}

/// A worker's memory is bounded, although one subscriber never reads.
fn judge_memory(host: &str, samples: &[&Sample], verdict: &mut Verdict) {
    let mut lives: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for sample in samples {
        lives.entry(sample.pid).or_default().push(sample.resident_kib);
    }
    for resident in lives.values() {
        let settled = resident[resident.len() / 4];
        let most = resident.iter().max().copied().unwrap_or_default();
        verdict.expect(Promise::SlowReader, most <= MOST_MEMORY && most <= settled + GROWTH, || {
            format!("{host} took {most} KiB, and {settled} KiB once it had settled")
        });
    }
}

fn judge_restarts(history: &History, verdict: &mut Verdict) {
    for restart in &history.restarts {
        verdict.expect(Promise::WorkerKilled, restart.database == "down" && restart.stale_for_ms > 0, || {
            format!(
                "worker {} was started without a database and says {}, stale for {} ms",
                restart.worker, restart.database, restart.stale_for_ms
            )
        });
    }
}

/// Every daemon reports each invalid file or row by its name.
fn judge_rejected(history: &History, verdict: &mut Verdict) {
    let (roles, final_state) = (&history.roles, &history.final_state);
    let rows = final_state.rejected_rows.iter().map(|(who, rows)| (&**who, rows, &roles.bad_rows));
    for (who, rejected, bad) in rows.chain([("the master", &final_state.rejected_files, &roles.bad_files)]) {
        for name in rejected.union(bad) {
            verdict.expect(Promise::Poison, rejected.contains(name) && bad.contains(name), || {
                format!("{who} rejects {rejected:?}; bad are {bad:?}")
            });
        }
    }
}

fn judge_hostile_clients(history: &History, verdict: &mut Verdict) {
    for client in &history.hostile_clients {
        let meanwhile = |words: &[&str]| {
            history
                .faults_of(&client.host, client.from, client.to)
                .any(|fault| words.iter().any(|word| fault.what.contains(word)))
        };
        // A client may lose its connection when the daemon ends; and while the daemon is paused, as it is to overflow
        // a watch, nothing answers.
        let excused = match &*client.answer {
            "silence" => meanwhile(&["overflowed"]),
            _ => meanwhile(&["killed", "restarted"]),
        };
        verdict.expect(Promise::HostileClient, excused || client.answer == client.wanted, || {
            format!("{} got `{}` of {}, not `{}`", client.what, client.answer, client.host, client.wanted)
        });
    }
}
