//! `rulesyncd status --check`: one line and the exit code of a monitoring plugin.

use super::Asked;
use crate::client::ClientError;
use crate::clock::Timestamp;
use crate::command::print::print;
use crate::command::{Failure, Outcome};
use crate::master::{LockStatus, MasterStatus};
use crate::paint::sanitize;
use crate::plural::count;
use crate::trust::TrustState;
use crate::wire::Health;
use crate::worker::WorkerStatus;

/// The severities, from the least to the worst, as in the plugins' guidelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Ok,
    Unknown,
    Warning,
    Critical,
}

impl Severity {
    /// Its word and its exit code.
    const fn shown(self) -> (&'static str, u8) {
        match self {
            Self::Ok => ("OK", 0),
            Self::Warning => ("WARNING", 1),
            Self::Critical => ("CRITICAL", 2),
            Self::Unknown => ("UNKNOWN", 3),
        }
    }
}

/// A finding, with its severity.
type Finding = (Severity, String);

/// Prints the state of the daemons, and exits with its code.
pub(super) fn report(asked: &[Asked], now: Timestamp) -> Outcome {
    let (severity, line) = assess(asked, now);
    end(severity, &line)
}

/// Prints why nothing could be checked.
pub(super) fn cannot_tell(failure: &Failure) -> Outcome {
    let why = failure.message().map_or_else(String::new, |error| format!("{error:#}"));
    end(Severity::Unknown, &why)
}

fn end(severity: Severity, line: &str) -> Outcome {
    let (_, code) = severity.shown();
    print(&plugin_output(severity, line))?;
    if code == 0 { Ok(()) } else { Err(Failure::Checked(code)) }
}

/// One line without performance data, which a `|` from a reason or a path would begin.
fn plugin_output(severity: Severity, line: &str) -> String {
    let (word, _) = severity.shown();
    format!("RULESYNCD {word}: {}\n", sanitize(&line.replace('\n', "; ").replace('|', "/")))
}

/// The worst severity, with all findings of at least a warning in one line, the worst first.
fn assess(asked: &[Asked], now: Timestamp) -> Finding {
    let mut findings: Vec<Finding> = asked.iter().flat_map(|asked| of_daemon(asked, now)).collect();
    if findings.is_empty() {
        let nothing = "no daemon of rulesyncd runs on this host, or is enabled here".to_owned();
        return (Severity::Unknown, nothing);
    }
    findings.sort_by_key(|&(severity, _)| std::cmp::Reverse(severity));
    let worst = findings[0].0;
    let shown =
        findings.into_iter().filter(|&(severity, _)| worst == Severity::Ok || severity > Severity::Ok);
    (worst, shown.map(|(_, text)| text).collect::<Vec<_>>().join("; "))
}

fn of_daemon(asked: &Asked, now: Timestamp) -> Vec<Finding> {
    let name = asked.name;
    let status = match &asked.answer {
        Err(error) if error.is_absent() && !asked.is_expected => return Vec::new(),
        Err(ClientError::Connect { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            return vec![(
                Severity::Unknown,
                format!("{name}: its socket may not be opened; run this as root"),
            )];
        }
        Err(error) => return vec![(Severity::Critical, format!("{name}: {error}"))],
        Ok(status) => status.clone(),
    };
    let read = match name {
        "master" => serde_json::from_value(status).map(|status| master(&status)),
        _ => serde_json::from_value(status).map(|status| worker(&status, now)),
    };
    let findings = match read {
        Ok((findings, _)) if !findings.is_empty() => findings,
        Ok((_, well)) => vec![(Severity::Ok, well)],
        Err(error) => vec![(Severity::Unknown, format!("its status cannot be read: {error}"))],
    };
    findings.into_iter().map(|(severity, text)| (severity, format!("{name}: {text}"))).collect()
}

/// A warning of so many things, if there are any; `what` is said of them.
fn some(number: usize, thing: &str, what: &str) -> Option<Finding> {
    (number > 0).then(|| (Severity::Warning, format!("{}{what}", count(number, thing))))
}

/// The findings about a master, or a sentence if there are none.
fn master(status: &MasterStatus) -> (Vec<Finding>, String) {
    let mut findings = Vec::new();
    let cause = status.last_error.as_deref().unwrap_or("no answer yet");
    if let Some(since) = status.database_down_since {
        findings.push((Severity::Critical, format!("database unavailable since {since}: {cause}")));
    }
    if let Some(since) = status.directory_unavailable_since {
        let directory = &status.rules_dir;
        findings.push((Severity::Critical, format!("rules directory {directory} unavailable since {since}")));
    }
    let well = match (status.lock, status.reconciled_at) {
        (LockStatus::Standby, _) => return (findings, "standby, another master writes".to_owned()),
        (LockStatus::None, _) if findings.is_empty() => {
            findings.push((Severity::Warning, "not yet connected to the database".to_owned()));
            String::new()
        }
        (LockStatus::Held, None) if findings.is_empty() => {
            findings.push((Severity::Warning, "nothing is compared yet".to_owned()));
            String::new()
        }
        _ => count(status.rules, "rule"),
    };
    let rejected = status.last.map_or(0, |last| last.refused).max(status.rejected_rules());
    let held = " held back, `rulesyncd sync --allow-mass-delete` carries them out";
    findings.extend(some(status.pending_deletions(), "deletion", held));
    findings.extend(some(status.invalid_files(), "invalid file", ""));
    findings.extend(some(status.conflicting_files(), "conflict", ""));
    findings.extend(some(rejected, "rule", " rejected by the database"));
    if let Some(why) = status.release.as_ref().and_then(|release| release.held_back.as_ref()) {
        findings.push((Severity::Warning, why.clone()));
    }
    if let Some(why) = &status.watch_error {
        findings.push((Severity::Warning, format!("changes are found by the rescan alone: {why}")));
    }
    (findings, well)
}

/// The findings about a worker, or a sentence if there are none.
fn worker(status: &WorkerStatus, now: Timestamp) -> (Vec<Finding>, String) {
    let mut findings = Vec::new();
    let stale = std::time::Duration::from_secs(status.database.stale_for_ms / 1_000);
    let stale = humantime::format_duration(stale);
    match (status.database.state, status.digest) {
        (Health::Up, None) => findings.push((Severity::Critical, "nothing is loaded yet".to_owned())),
        (Health::Up, Some(_)) if status.database.stale_for_ms > 0 => {
            findings.push((Severity::Warning, format!("what it serves is stale for {stale}")));
        }
        (Health::Up, Some(_)) => {}
        (Health::Down, digest) => {
            let serves = match digest {
                None => "nothing was ever loaded".to_owned(),
                Some(_) => format!("{} stale for {stale}", count(status.rules, "rule")),
            };
            let since = status.database.since;
            let cause = status.database.last_error.as_deref().unwrap_or("no answer yet");
            findings
                .push((Severity::Critical, format!("database unavailable since {since}, {serves}: {cause}")));
        }
    }
    if let Some(trust) = status.trust.as_ref().filter(|trust| trust.state != TrustState::Ok) {
        let severity = if trust.state == TrustState::None { Severity::Critical } else { Severity::Warning };
        findings.push((severity, trust.sentence()));
    }
    findings.extend(some(status.quarantined_rows(), "quarantined row", ""));
    findings.extend(some(status.pending_deletions(), "deletion", " held back"));
    if let Some(bus) = status.bus.as_ref().filter(|bus| bus.state == Health::Down) {
        let lasted = super::human::ago(now, bus.since);
        findings.push((Severity::Warning, format!("the bus {} is unavailable for {lasted}", bus.socket)));
    }
    let subscribers = status.stream.subscribers.iter().filter(|peer| peer.subscribed).count();
    (findings, format!("{}, {}", count(status.rules, "rule"), count(subscribers, "subscriber")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reason_begins_performance_data_or_another_line() {
        let line = "database unavailable: {\"a\"|b}\n'load'=1";
        let shown = plugin_output(Severity::Critical, line);
        assert_eq!(shown, "RULESYNCD CRITICAL: database unavailable: {\"a\"/b}; 'load'=1\n");
    }
}
