//! How the fleet is shown.

use serde_json::json;

use super::Shown;
use crate::clock::{Timestamp, age, humanize};
use crate::command::print;
use crate::fleet::{Host, HostState};
use crate::paint::sanitize;
use crate::plural::count;

/// A table for people, or one JSON object.
pub(super) fn render(shown: &Shown, as_json: bool) -> String {
    if as_json { format!("{}\n", to_json(shown)) } else { human(shown) }
}

fn to_json(shown: &Shown) -> serde_json::Value {
    let hosts = shown.hosts.iter().map(|(host, state)| {
        let mut object = json!(host.worker);
        object["name"] = json!(host.name);
        object["same_id_as"] = json!(host.same_id_as);
        object["state"] = json!(state);
        object
    });
    json!({
        "now": shown.look.now,
        "version": shown.look.version,
        "changed_at": shown.look.changed_at,
        "leader": shown.look.leader,
        "no_master_since": shown.look.no_master_since,
        "in_sync": shown.is_in_sync(),
        "release_not_verified": not_verified(shown),
        "hosts": hosts.collect::<Vec<_>>(),
    })
}

fn human(shown: &Shown) -> String {
    let now = shown.look.now;
    let table = print::table(
        ["HOST", "STATE", "RULES", "SUBSCRIBERS", "VERSION", "REPORTED"],
        shown.hosts.iter().map(|(host, state)| cells(host, state, now)),
    );
    let in_sync = shown.hosts.iter().filter(|(_, state)| state.is_in_sync()).count();
    let changes = match (shown.look.version, shown.look.changed_at) {
        (Some(version), Some(at)) => format!("; changes {version}, the last {}", age(now, at, humanize)),
        _ => String::new(),
    };
    let leader = match (&shown.look.leader, shown.look.no_master_since) {
        (Some(leader), _) => format!(" by {}", sanitize(leader)),
        (None, Some(since)) => format!("; no master has held the lease since {since}"),
        (None, None) => String::new(),
    };
    let footer = match shown.hosts.len() {
        0 => "no worker has reported".to_owned(),
        all => format!("{in_sync} of {all} in sync"),
    };
    let release = not_verified(shown)
        .map_or_else(String::new, |why| format!("the signed release is not verified: {}\n", sanitize(why)));
    format!("{table}{footer}{changes}{leader}\n{release}")
}

/// Why the release with which hosts are compared is not verified.
pub(super) fn not_verified(shown: &Shown) -> Option<&str> {
    shown.look.release.as_ref()?.not_verified.as_deref()
}

/// The columns of a host: its name, state, rules, subscribers, version, and when it reported.
pub(super) fn cells(host: &Host, state: &HostState, now: Timestamp) -> [String; 6] {
    let report = &host.worker.report;
    let subscribers = match (report.subscribers, report.acknowledging) {
        (0, _) => "–".to_owned(),
        (all, 0) => all.to_string(),
        (_, acknowledging) => format!("{} of {acknowledging} acknowledged", report.acknowledged),
    };
    let is_silent = matches!(state, HostState::Silent { .. });
    let dash = || "–".to_owned();
    [
        host.name.clone(),
        in_words(host, state),
        if is_silent { dash() } else { report.rules.to_string() },
        if is_silent { dash() } else { subscribers },
        report.program.clone(),
        match host.worker.reported_at {
            Timestamp::MIN => "never".to_owned(),
            at => age(now, at, humanize),
        },
    ]
}

/// The state of a host with its reason.
fn in_words(host: &Host, state: &HostState) -> String {
    match &host.same_id_as {
        None => state_in_words(state),
        Some(other) => format!("{}; same id as {other}", state_in_words(state)),
    }
}

fn state_in_words(state: &HostState) -> String {
    let span = |millis: u64| humanize(std::time::Duration::from_millis(millis)).to_string();
    match state {
        HostState::InSync => "in sync".to_owned(),
        HostState::Behind { changes } => format!("behind by {}", count(*changes, "change")),
        HostState::Differs { reason: None } => "differs".to_owned(),
        HostState::Differs { reason: Some(reason) } => format!("differs: {reason}"),
        HostState::Stale { stale_ms } => format!("stale for {}", span(*stale_ms)),
        HostState::Silent { since_ms: None } => "does not answer".to_owned(),
        HostState::Silent { since_ms: Some(since) } => format!("silent {}", span(*since)),
        HostState::Unknown => "unknown".to_owned(),
    }
}
