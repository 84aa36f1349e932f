//! How the daemons took it.

use std::collections::BTreeMap;

use super::super::{History, Sample};
use super::Verdict;

/// A daemon tries again at least this often (the backoff's cap), and then waits for an answer and
/// for its turn on a busy machine.
const RECOVERY: u64 = 10_000 + 3_000 + 3_000;

/// A standby asks every second.
const TAKEOVER: u64 = RECOVERY;

/// What a worker of these few rules may take, with its journal and everything that subscribers wait
/// for.
const MOST_MEMORY: u64 = 160 * 1024;

/// By so much a worker may grow from when it has served for a while; a journal of some thousand
/// changes is in it.
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
        verdict.expect(11, takeover <= TAKEOVER, || format!("a standby took over after {takeover} ms"));
    }
    judge_rejected(history, verdict);
    judge_guests(history, verdict);
}

fn judge_lives(history: &History, verdict: &mut Verdict) {
    for _ in history.ended.len()..history.lives {
        verdict.expect(10, true, String::new);
    }
    for who in &history.ended {
        verdict.expect(10, false, || format!("{who} ended by itself"));
    }
}

/// After each outage every daemon that lives on finds the database again in time.
fn judge_recovery(history: &History, host: &str, samples: &[&Sample], verdict: &mut Verdict) {
    for outage in history.faults.iter().filter(|fault| fault.is_outage() && fault.concerns(host)) {
        let back = samples.iter().find(|sample| sample.at >= outage.to && sample.database == Some(true));
        // The next fault begins the waiting anew.
        let until = back.map_or(u64::MAX, |sample| sample.at);
        let disturbed = history.faults_of(host, outage.to + 1, until).next().is_some();
        let took = back.map_or(u64::MAX, |sample| sample.at - outage.to);
        if took <= RECOVERY || !disturbed {
            if back.is_some() {
                verdict.slowest_recovery = verdict.slowest_recovery.max(took);
            }
            verdict.expect(10, took <= RECOVERY, || {
                format!("{host} found the database again {took} ms after `{}` was over", outage.what)
            });
        }
    }
}

/// One that never reads, and all others, cost bounded memory.
fn judge_memory(host: &str, samples: &[&Sample], verdict: &mut Verdict) {
    let mut lives: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for sample in samples {
        lives.entry(sample.pid).or_default().push(sample.resident_kib);
    }
    for resident in lives.values() {
        let settled = resident[resident.len() / 4];
        let most = resident.iter().max().copied().unwrap_or_default();
        verdict.expect(13, most <= MOST_MEMORY && most <= settled + GROWTH, || {
            format!("{host} took {most} KiB, and {settled} KiB once it had settled")
        });
    }
}

fn judge_restarts(history: &History, verdict: &mut Verdict) {
    for restart in &history.restarts {
        verdict.expect(9, restart.database == "down" && restart.stale_for_ms > 0, || {
            format!(
                "worker {} was started without a database and says {}, stale for {} ms",
                restart.worker, restart.database, restart.stale_for_ms
            )
        });
    }
}

/// What is no rule is told of, each by its name, and by every daemon that reads it.
fn judge_rejected(history: &History, verdict: &mut Verdict) {
    let (cast, rest) = (&history.cast, &history.rest);
    let rows = rest.rejected_rows.iter().map(|(who, rows)| (&**who, rows, &cast.bad_rows));
    for (who, rejected, bad) in rows.chain([("the master", &rest.rejected_files, &cast.bad_files)]) {
        for name in rejected.union(bad) {
            verdict.expect(16, rejected.contains(name) && bad.contains(name), || {
                format!("{who} rejects {rejected:?}; bad are {bad:?}")
            });
        }
    }
}

fn judge_guests(history: &History, verdict: &mut Verdict) {
    for guest in &history.guests {
        let meanwhile = |words: &[&str]| {
            history
                .faults_of(&guest.host, guest.from, guest.to)
                .any(|fault| words.iter().any(|word| fault.what.contains(word)))
        };
        // Who visits while the daemon ends is left standing; while it is stopped in its tracks, as it is for
        // a watch to overflow, nobody answers.
        let excused = match &*guest.answer {
            "silence" => meanwhile(&["overflowed"]),
            _ => meanwhile(&["killed", "restarted"]),
        };
        verdict.expect(17, excused || guest.answer == guest.wanted, || {
            format!("{} got `{}` of {}, not `{}`", guest.what, guest.answer, guest.host, guest.wanted)
        });
    }
}
