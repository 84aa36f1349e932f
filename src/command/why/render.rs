//! A rule's report for people.

use std::fmt::Display;

use super::report::{ReleaseView, Report, RuleInTables, WorkerView};
use crate::clock::Timestamp;
use crate::command::status::human::{Lines, age};
use crate::paint::{Paint, sanitize};
use crate::rule::{ContentDigest, RuleState};
use crate::wire::Health;

pub(super) fn human(report: &Report, wrong: &[String]) -> String {
    let now = report.table.as_ref().ok().map(|table| table.now);
    let mut lines = Lines::default();
    lines.add("rule", report.rule_id.to_string());
    match (&report.files_unknown, &*report.files) {
        (Some(why), _) => lines.add("file", unknown(why)),
        (None, []) => lines.add("file", "none"),
        (None, files) => {
            for file in files {
                lines.add("file", sanitize(&file.source_path));
                match file.rule_version {
                    Some(version) => lines.add("", text_of(version, file.content_sha256)),
                    None => lines.add("", Paint::Bad.on("no rule")),
                }
                if let Some(at) = file.modified_at {
                    lines.add("", format!("saved {}", moment(at, now)));
                }
            }
        }
    }
    match &report.table {
        Err(why) => lines.add("table", unknown(why)),
        Ok(table) => tables(&mut lines, table),
    }
    match &report.release {
        None => {}
        Some(Err(why)) => lines.add("release", unknown(why)),
        Some(Ok(held)) => release(&mut lines, held),
    }
    match &report.worker {
        Err(why) => lines.add("worker", unknown(why)),
        Ok(held) => worker(&mut lines, held, now),
    }
    let mut text = lines.text();
    text.push('\n');
    for place in &report.unanswered {
        text += &format!("{}: {place}\n", Paint::Bad.on("no answer"));
    }
    if wrong.is_empty() {
        return match &*report.compared() {
            [] | [_] => text + "there is nothing to compare\n",
            places => text + &format!("{}: {}\n", Paint::Good.on("in sync"), places.join(", ")),
        };
    }
    for wrong in wrong {
        text += &format!("{}: {}\n", Paint::Bad.on("wrong"), sanitize(wrong));
    }
    text
}

fn tables(lines: &mut Lines, table: &RuleInTables) {
    match &table.row {
        None => lines.add("row", "none"),
        Some(row) => {
            lines.add("row", format!("of {} from {}", sanitize(&row.updated_by), sanitize(&row.source_path)));
            lines.add("", text_of(row.rule_version, Some(row.content_sha256)));
            lines.add("", format!("written {}", moment(row.updated_at, Some(table.now))));
        }
    }
    let state = match &table.state {
        None => return lines.add("state", "none is set: enabled"),
        Some(Err(why)) => return lines.add("state", format!("cannot be read: {}", sanitize(why))),
        Some(Ok(state)) => state,
    };
    let ceiling = state.confidence_max.map_or_else(String::new, |ceiling| format!(" at most {ceiling}"));
    let by = state.set_by.as_deref().unwrap_or("nobody");
    let mut text = format!("{}{ceiling} by {}", Paint::Warn.on(sanitize(&state.state)), sanitize(by));
    if let Some(at) = state.set_at {
        text += &format!(", {}", moment(at, Some(table.now)));
    }
    lines.add("state", text);
    match state.expires_at {
        Some(end) if end <= table.now => lines.add("", format!("expired at {end}: enabled")),
        Some(end) => lines.add("", format!("until {end}")),
        None => lines.add("", "until it is cleared"),
    }
    if let Some(reason) = &state.reason {
        lines.add("", sanitize(reason));
    }
}

fn release(lines: &mut Lines, held: &ReleaseView) {
    lines.add("release", sanitize(&held.summary.sentence()));
    match &held.rule {
        None => lines.add("", "does not list the rule"),
        Some(rule) => lines.add("", text_of(rule.rule_version, Some(rule.content_sha256))),
    }
    if let Some(why) = &held.without_effect {
        lines.add("", format!("the state has {}: {}", Paint::Warn.on("no effect"), sanitize(why)));
    }
}

fn worker(lines: &mut Lines, held: &WorkerView, now: Option<Timestamp>) {
    match &held.rule {
        None => lines.add("worker", "knows no such rule"),
        Some(rule) => {
            lines.add("worker", text_of(rule.rule_version, Some(rule.content_sha256)));
            lines.add("", format!("written {}", moment(rule.updated_at, now)));
        }
    }
    if held.state != RuleState::default() {
        lines.add("", Paint::Warn.on(held.state.state));
    }
    if let Some(trust) = &held.trust {
        lines.add("", sanitize(&trust.sentence()));
    }
    if held.database == Health::Down {
        lines.add("", Paint::Bad.on("its database is unavailable"));
    }
    let all = held.subscribers.len();
    let acked =
        held.subscribers.iter().filter(|peer| peer.acked.is_some_and(|acked| acked >= held.seq)).count();
    lines.add(
        "subscribers",
        format!("{acked} of {all} have acknowledged everything up to change {}", held.seq),
    );
}

fn text_of(version: impl Display, digest: Option<ContentDigest>) -> String {
    let digest = digest.map_or_else(String::new, |digest| digest.to_string());
    format!("version {version}, sha256 {digest}")
}

fn moment(at: Timestamp, now: Option<Timestamp>) -> String {
    match now {
        Some(now) => format!("{at} ({})", age(now, at)),
        None => at.to_string(),
    }
}

fn unknown(why: &str) -> String {
    format!("{}: {}", Paint::Dim.on("unknown"), sanitize(why))
}
