//! `rulesyncd history`: the changes that this host's worker received.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::Outcome;
use super::completions::rule_ids;
use crate::clock::{Clock as _, SystemClock, humanize};
use crate::command::flags::{ConfigFlags, prepare_quietly};
use crate::command::print::{write_stderr, write_stdout};
use crate::config::{Config, ValueOrigin, duration};
use crate::paint::{Paint, sanitize};
use crate::plural::{count, is_or_are};
use crate::rule::{RuleId, RuleState};
use crate::worker::history::{self, HistoryError, HistoryEvent, HistoryRecord};

/// The cache of the packaged worker, whose unit sets its state directory.
const UNIT_CACHE: &str = "/var/lib/rulesyncd-worker/catalogue.ndjson";

/// The length of the day in the text of a time.
const DAY: usize = "2026-05-01".len();

/// About so many bytes are printed at once.
const PRINTED: usize = 64 << 10;

/// Show the changes that this host's worker received
///
/// The newest come last. The worker records its changes in a file beside its cache, `worker.cache` with the suffix
/// `.history`: versions and digests, who wrote them and when, states with their reasons. It keeps the newest 32 to 64
/// MiB. The rules that a worker loads at its start are no changes. Changes that it could not record are counted as missed. A
/// crash of the host, unlike one of the worker, can lose the records of the last seconds.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rulesyncd history --since 7d\n  rulesyncd history R0015 --json | jq -r .updated_by"
)]
pub(crate) struct HistoryArgs {
    /// Only the changes of this rule
    #[arg(value_name = "RULE_ID", add = ArgValueCompleter::new(rule_ids))]
    rule_id: Option<RuleId>,
    /// Only the changes of the last so many days, hours or minutes, such as `7d`
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<Duration>,
    /// Print one JSON object for each change
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigFlags,
}

pub(crate) fn run(args: HistoryArgs) -> Outcome {
    let HistoryArgs { rule_id, since, json, config } = args;
    let config = prepare_quietly(config.flags())?;
    let from = since.map(|span| SystemClock.now().before(span));
    let places = places(&config);
    let mut printed = Printed::default();
    for path in &places {
        let (mut output, mut is_empty) = (Ok(()), true);
        let found = history::read(path, |record| {
            let is_wanted = from.is_none_or(|from| record.emitted_at >= from)
                && rule_id.as_ref().is_none_or(|id| record.event.rule_id().is_none_or(|of| of == id));
            if !is_wanted {
                return Ok(());
            }
            is_empty = false;
            let line = if json { serde_json::to_string(&record)? + "\n" } else { human(&record) };
            output = printed.add(&line);
            // Ends the reading.
            if output.is_ok() { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
        output?;
        match found {
            Err(HistoryError::Absent) => {}
            Err(HistoryError::Io(error)) => {
                return Err(environment!(
                    "the history {} cannot be read: {error}{}",
                    path.display(),
                    match error.kind() {
                        io::ErrorKind::PermissionDenied => "; run this as root or as the worker's user",
                        _ => "",
                    }
                ));
            }
            Ok(unreadable) => {
                printed.flush()?;
                if is_empty && !json {
                    let of = rule_id.map_or_else(String::new, |rule_id| format!(" of {rule_id}"));
                    let time =
                        since.map_or_else(String::new, |since| format!(" in the last {}", humanize(since)));
                    write_stderr(&format!(
                        "no change{of}{time} is in {}\n",
                        sanitize(&path.display().to_string())
                    ))?;
                }
                if unreadable > 0 {
                    tracing::warn!(
                        "{} of {} {} left out: no record, or one of a newer version",
                        count(unreadable, "line"),
                        path.display(),
                        is_or_are(&unreadable)
                    );
                }
                return Ok(());
            }
        }
    }
    let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    Err(environment!(
        "there is no history at {}: the worker of this host writes it beside its cache; name its configuration with \
         --config",
        places.join(" or ")
    ))
}

/// Where the history may be.
fn places(config: &Config) -> Vec<PathBuf> {
    let configured = history::path(&config.worker.cache);
    match config.origin("worker.cache") {
        ValueOrigin::Default => vec![history::path(UNIT_CACHE.as_ref()), configured],
        _ => vec![configured],
    }
}

/// How many changes of definitions and of states this host's worker received, by day; `None` if there is no history, or
/// this user may not read it.
pub(super) fn changes_by_day(config: &Config) -> Option<BTreeMap<String, [u64; 2]>> {
    places(config).iter().find_map(|path| changes_of(path).ok())
}

fn changes_of(path: &Path) -> Result<BTreeMap<String, [u64; 2]>, HistoryError> {
    let mut days: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    history::read(path, |record| {
        let day = record.emitted_at.to_string();
        let [definitions, states] = days.entry(day[..DAY].to_owned()).or_default();
        match &record.event {
            HistoryEvent::Written { .. } | HistoryEvent::Deleted { .. } => *definitions += 1,
            HistoryEvent::State { .. } => *states += 1,
            HistoryEvent::Missed { .. } => {}
        }
        Ok(())
    })?;
    Ok(days)
}

/// Prints many lines at once.
#[derive(Default)]
struct Printed(String);

impl Printed {
    fn add(&mut self, line: &str) -> Outcome {
        self.0 += line;
        if self.0.len() < PRINTED { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Outcome {
        let text = std::mem::take(&mut self.0);
        if text.is_empty() { Ok(()) } else { write_stdout(&text) }
    }
}

/// A record on one line.
fn human(record: &HistoryRecord) -> String {
    let mut line = format!("{}  ", Paint::Dim.on(record.emitted_at));
    let _ = match &record.event {
        HistoryEvent::Written { rule_id, rule_version, content_sha256, source_path, updated_by, .. } => {
            let (from, by) = (sanitize(source_path), sanitize(updated_by));
            let origin = Paint::Dim.on(format!("from {from} by {by}, sha256 {content_sha256}"));
            write!(
                line,
                "{}  {} v{rule_version}  {origin}",
                Paint::Good.on("written"),
                Paint::Bold.on(rule_id)
            )
        }
        HistoryEvent::Deleted { rule_id, .. } => {
            write!(line, "{}  {}", Paint::Bad.on("deleted"), Paint::Bold.on(rule_id))
        }
        HistoryEvent::State { rule_id, new_value, auto_revert, .. } => {
            let how = if *auto_revert { "expired" } else { "state  " };
            let state = match *new_value == RuleState::default() {
                true => "enabled again".to_owned(),
                false => sanitize(&new_value.summary()).into_owned(),
            };
            write!(line, "{}  {} {state}", Paint::Warn.on(how), Paint::Bold.on(rule_id))
        }
        HistoryEvent::Missed { changes } => {
            write!(line, "{}", Paint::Bad.on(format!("missed {}", count(*changes, "change"))))
        }
    };
    line.push('\n');
    line
}
