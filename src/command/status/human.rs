//! A status for people.

use std::time::Duration;

use serde_json::Value;

use crate::clock::{self, Clock as _, SystemClock, Timestamp};
use crate::command::print;
use crate::master::{LeaseStatus, LockStatus, MasterStatus};
use crate::paint::{Paint, sanitize, sanitize_painted};
use crate::plural::count;
use crate::trust::TrustState;
use crate::wire::Health;
use crate::worker::WorkerStatus;

/// A status for people. One that this version cannot parse is shown unchanged.
pub(super) fn human(status: &Value) -> String {
    let text = match status["mode"].as_str() {
        Some("worker") => serde_json::from_value(status.clone()).map(|status| worker(&status)),
        _ => serde_json::from_value(status.clone()).map(|status| master(&status)),
    };
    text.unwrap_or_else(|_| format!("{status:#}\n"))
}

fn worker(status: &WorkerStatus) -> String {
    let now = status.now;
    let database = &status.database;
    let mut lines = Lines::default();
    lines.add("worker", format!("{} (process {})", sanitize(&status.version), status.pid));
    lines.add("up", ago(now, status.started_at));
    lines.add("database", sanitize(&database.url));
    lines.add("", answers(database.state, now, database.since));
    add_problem(&mut lines, "without rulesyncd_version", database.version_problem.as_deref());
    add_problem(&mut lines, "not reported to the fleet", database.report_problem.as_deref());
    if database.stale_for_ms > 0 {
        let stale = Duration::from_millis(database.stale_for_ms);
        lines.add("stale", Paint::Warn.on(format!("since {} ago", span(stale))));
    }
    if database.master_silent_for_ms > 0 {
        let silent = Duration::from_millis(database.master_silent_for_ms);
        let master = match database.no_master_since {
            Some(since) => format!("no master has held the lease since {since}"),
            None => format!("silent for {}", span(silent)),
        };
        lines.add("master", Paint::Warn.on(master));
    }
    add_driver_failures(&mut lines, database.driver_failures);
    lines.add("rules", status.rules.to_string());
    lines.add("states", status.states.to_string());
    if let Some(watermark) = status.watermark {
        lines.add("last write", format!("{watermark} ({})", age(now, watermark)));
    }
    lines.add("digest", status.digest.map_or_else(|| "nothing is loaded".to_owned(), |d| d.to_string()));
    if let Some(trust) = &status.trust {
        let paint = if trust.state == TrustState::Ok { Paint::Good } else { Paint::Bad };
        let state = format!("{:?}", trust.state).to_lowercase();
        lines.add("trust", format!("{}: {}", paint.on(state), sanitize(&trust.sentence())));
        if let Some(expires) = &trust.expires {
            lines.add("", format!("expires {}", sanitize(expires)));
        }
    }
    lines.add("change", format!("{} of epoch {}", status.stream.seq, sanitize(status.stream.epoch.as_str())));
    lines.add(
        "journal",
        format!("from {}, {} bytes", status.stream.resumable_from, status.stream.journal_bytes),
    );
    if let Some(bus) = &status.bus {
        lines.add("bus", sanitize(&bus.socket));
        lines.add("", answers(bus.state, now, bus.since));
        lines.add("", format!("{} published, {} missed", count(bus.published, "notice"), bus.missed));
    }
    add_last_error(&mut lines, status.last_error.as_deref(), status.last_error_at, now);
    if let Some(since) = status.pending_since {
        lines.add("held back", format!("for {}", ago(now, since)));
    }
    let mut text = lines.text();
    let held = status.pending_mass_delete.iter().map(|rule_id| [rule_id.as_str()]);
    let title = "deletions held back; `rulesyncd allow-mass-delete` lets them go";
    let title = first_of(title, status.pending_mass_delete.len(), status.pending_deletions());
    text += &table(&title, ["RULE"], held);
    let unlisted = status.trust.iter().flat_map(|trust| &trust.unlisted).map(|key| [key.as_str()]);
    text += &table("rows that the signed release does not list", ["RULE"], unlisted);
    let without_effect = status.trust.iter().flat_map(|trust| &trust.without_effect);
    let without_effect = without_effect.map(|(id, why)| [id.as_str(), why.as_str()]);
    let title = status.trust.as_ref().map_or_else(String::new, |trust| {
        first_of("states without an effect", trust.without_effect.len(), trust.states_without_effect())
    });
    text += &table(&title, ["RULE", "REASON"], without_effect);
    let bad = status.quarantined.iter().map(|row| [row.rule_id.as_str(), &row.table, &row.reason]);
    let title = first_of("quarantined rows", status.quarantined.len(), status.quarantined_rows());
    text += &table(&title, ["ID", "TABLE", "REASON"], bad);
    let subscribers = status.stream.subscribers.iter().map(|peer| {
        [
            peer.id.to_string(),
            peer.pid.map_or_else(String::new, |pid| pid.to_string()),
            peer.uid.to_string(),
            ago(now, peer.connected_at),
            if peer.subscribed { peer.seq.to_string() } else { "asks".to_owned() },
            peer.lag.to_string(),
            peer.acked.map_or_else(String::new, |acked| acked.to_string()),
        ]
    });
    text + &table(
        "subscribers",
        ["NUMBER", "PROCESS", "USER", "SINCE", "CHANGE", "BEHIND", "ACKED"],
        subscribers,
    )
}

fn master(status: &MasterStatus) -> String {
    let now = SystemClock.now();
    let mut lines = Lines::default();
    lines.add("master", sanitize(&status.version));
    lines.add("up", ago(now, status.started_at));
    lines.add("database", sanitize(&status.backend));
    lines.add(
        "",
        match (status.database_down_since, status.database_up_since) {
            (Some(since), _) => answers(Health::Down, now, since),
            (None, Some(since)) => answers(Health::Up, now, since),
            // Of an earlier version's daemon it is not known since when.
            (None, None) if status.reconciled_at.is_some() => "answers".to_owned(),
            (None, None) if status.lock == LockStatus::Held => "answers".to_owned(),
            (None, None) => "not yet reached".to_owned(),
        },
    );
    add_problem(&mut lines, "without rulesyncd_version", status.version_problem.as_deref());
    add_problem(&mut lines, "without a lease", status.lease_problem.as_deref());
    add_driver_failures(&mut lines, status.driver_failures);
    let lease = status.lease.map_or_else(String::new, |LeaseStatus { term, confirmed_at }| {
        format!(": term {term}, confirmed {}", age(now, confirmed_at))
    });
    lines.add(
        "lock",
        match status.lock {
            LockStatus::Held => Paint::Good.on("held") + &lease,
            LockStatus::Standby => Paint::Warn.on("standby") + ": another master writes",
            LockStatus::None => Paint::Warn.on("unknown"),
        },
    );
    lines.add("directory", sanitize(&status.rules_dir));
    if let Some(since) = status.directory_unavailable_since {
        lines.add("", format!("{} for {}", Paint::Bad.on("unavailable"), ago(now, since)));
    }
    if let Some(error) = &status.watch_error {
        lines.add("", format!("{}: {}", Paint::Warn.on("not watched"), sanitize(error)));
    }
    lines.add("rules", status.rules.to_string());
    if let Some(release) = &status.release {
        let version = release.version.as_deref().unwrap_or("none yet");
        let signers = if release.signers.is_empty() {
            String::new()
        } else {
            format!(", signed by {}", release.signers.join(", "))
        };
        lines.add("release", sanitize(&format!("{version}{signers}")));
        if let Some(why) = &release.held_back {
            lines.add("", format!("{}: {}", Paint::Warn.on("held back"), sanitize(why)));
        }
    }
    if let Some(at) = status.reconciled_at {
        lines.add("compared", age(now, at));
    }
    add_last_error(&mut lines, status.last_error.as_deref(), status.last_error_at, now);
    let mut text = lines.text();
    let broken = status.broken.iter().map(|file| [&*file.source_path, &*file.reason]);
    text += &table(
        &first_of("invalid files", status.broken.len(), status.invalid_files()),
        ["FILE", "REASON"],
        broken,
    );
    let conflicts =
        status.conflicts.iter().map(|file| [file.rule_id.as_str(), &file.held_by, &file.source_path]);
    let title = first_of("ids in two files", status.conflicts.len(), status.conflicting_files());
    text += &table(&title, ["RULE", "HELD BY", "PASSED OVER"], conflicts);
    let rejected = status.rejected.iter().map(|rule| [&*rule.rule_id, &*rule.source_path, &*rule.reason]);
    let title = first_of("rules that the database rejects", status.rejected.len(), status.rejected_rules());
    text += &table(&title, ["RULE", "FILE", "REASON"], rejected);
    let passed_over = status.passed_over.iter().map(|path| [path.as_str()]);
    let more = match status.passes_over_more() {
        true => format!(" (the first {}, there may be more)", status.passed_over.len()),
        false => String::new(),
    };
    let title = format!("YAML files that are not read for their name or place{more}");
    text += &table(&title, ["FILE"], passed_over);
    let unlisted = status.release.iter().flat_map(|release| &release.unlisted).map(|path| [path.as_str()]);
    text += &table("files that the signed release does not list", ["FILE"], unlisted);
    let held = status.pending_mass_delete.iter().map(|rule_id| [rule_id.as_str()]);
    let title = "deletions held back; `rulesyncd sync --allow-mass-delete` lets them go";
    let title = first_of(title, status.pending_mass_delete.len(), status.pending_deletions());
    text + &table(&title, ["RULE"], held)
}

fn add_problem(lines: &mut Lines, what: &str, problem: Option<&str>) {
    if let Some(problem) = problem {
        lines.add("", format!("{}: {}", Paint::Warn.on(what), sanitize(problem)));
    }
}

fn add_driver_failures(lines: &mut Lines, failures: u64) {
    if failures > 0 {
        lines.add("driver", Paint::Bad.on(format!("failed {}", count(failures, "time"))));
    }
}

fn add_last_error(lines: &mut Lines, error: Option<&str>, at: Option<Timestamp>, now: Timestamp) {
    if let Some(error) = error {
        let when = at.map_or_else(String::new, |at| format!(" ({})", age(now, at)));
        lines.add("last error", format!("{}{when}", sanitize(error)));
    }
}

fn answers(state: Health, now: Timestamp, since: Timestamp) -> String {
    let state = match state {
        Health::Up => Paint::Good.on("answers"),
        Health::Down => Paint::Bad.on("unavailable"),
    };
    format!("{state} for {}", ago(now, since))
}

/// How long ago that was, or how far in the future it is.
pub(in crate::command) fn age(now: Timestamp, then: Timestamp) -> String {
    clock::age(now, then, span)
}

/// How long that has lasted, by this host's own clock.
pub(in crate::command) fn ago(now: Timestamp, then: Timestamp) -> String {
    span(now.since(then))
}

/// A duration in its two largest units.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds == 0 => format!("{} ms", span.as_millis()),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Aligned names and values.
#[derive(Default)]
pub(in crate::command) struct Lines(Vec<(&'static str, String)>);

impl Lines {
    pub(in crate::command) fn add(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.push((name, value.into()));
    }

    pub(in crate::command) fn text(self) -> String {
        let line = |(name, value): (_, String)| {
            format!("{}{}\n", Paint::Bold.on(format_args!("{name:<12}")), sanitize_painted(&value))
        };
        self.0.into_iter().map(line).collect()
    }
}

/// A title that says if the table below it does not name all.
fn first_of(title: &str, named: usize, all: usize) -> String {
    if named < all { format!("{title} (the first {named} of {all})") } else { title.to_owned() }
}

/// A table under its title; empty without rows.
fn table<const N: usize, T: AsRef<str>>(
    title: &str,
    header: [&'static str; N],
    rows: impl Iterator<Item = [T; N]>,
) -> String {
    match &*print::table(header, rows) {
        "" => String::new(),
        table => format!("\n{}\n{table}", Paint::Bold.on(title)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_ahead_is_not_told_as_now() {
        let told = |now, then| age(Timestamp::from_micros(now), Timestamp::from_micros(then));
        assert_eq!(told(90_000_000, 30_000_000), "1 min 0 s ago");
        assert_eq!(told(0, 1_000_000), "0 ms ago");
        assert_eq!(told(0, 61_000_000), "in the future: 1 min 1 s ahead of this clock");
    }

    #[test]
    fn a_time_is_told_in_two_units() {
        let told = |millis| span(Duration::from_millis(millis));
        assert_eq!(told(12), "12 ms");
        assert_eq!(told(59_900), "59 s");
        assert_eq!(told(61_000), "1 min 1 s");
        assert_eq!(told(3_600_000 * 5 + 60_000), "5 h 1 min");
        assert_eq!(told(3_600_000 * 49), "2 d 1 h");
    }
}
