//! Every key of the configuration, as data: its name, its default, what it means.

use serde_json::{Map, Value, json};

/// One key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// `section.name`, as in the file.
    pub key: &'static str,
    /// What holds when nobody says anything; `None` is nothing.
    pub default: Option<&'static str>,
    /// What a value looks like.
    pub kind: ValueKind,
    /// What the key means, in half a sentence.
    pub about: &'static str,
    /// A short name in the environment beside the regular one.
    pub short_env: Option<&'static str>,
}

/// What the values of a key look like; the schema and the messages say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// Any text.
    Text,
    /// A path in the file system.
    Path,
    /// `250ms`, `1s`, `5m`.
    Duration,
    /// `256KiB`.
    Size,
    /// `20%`.
    Percent,
    /// A whole number.
    Count,
    /// `true` or `false`.
    Flag,
    /// Permission bits in octal.
    Mode,
    /// A list of whole numbers.
    Counts,
    /// A list of paths.
    Paths,
}

impl Setting {
    /// The variable that sets this key: `RULESYNCD_WORKER_POLL_INTERVAL`.
    pub fn env(&self) -> String {
        format!("RULESYNCD_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// The part of the key before the dot.
    pub fn section(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(section, _)| section)
    }

    /// The part of the key after the dot.
    pub fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    const fn short(self, short_env: &'static str) -> Self {
        Self { short_env: Some(short_env), ..self }
    }
}

const fn set(key: &'static str, default: &'static str, kind: ValueKind, about: &'static str) -> Setting {
    Setting { key, default: Some(default), kind, about, short_env: None }
}

const fn unset(key: &'static str, kind: ValueKind, about: &'static str) -> Setting {
    Setting { key, default: None, kind, about, short_env: None }
}

/// The sections, in the order in which they are shown.
pub const SECTIONS: [&str; 4] = ["database", "master", "worker", "telemetry"];

/// All keys, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    set("database.url", "sqlite:///var/lib/rulesyncd/rules.db", ValueKind::Text, "where the tables are"),
    unset(
        "database.url_file",
        ValueKind::Path,
        "a file that holds the address, such as a systemd credential",
    ),
    set(
        "database.max_connections",
        "4",
        ValueKind::Count,
        "connections of one daemon at most, beside the one that listens",
    ),
    set("database.connect_timeout", "5s", ValueKind::Duration, "how long connecting or one query may take"),
    set(
        "database.allow_plaintext",
        "false",
        ValueKind::Flag,
        "allow a connection to another host that is not encrypted or not verified",
    ),
    set("master.rules_dir", "/etc/rulesyncd/rules", ValueKind::Path, "the directory that holds the rules")
        .short("RULESYNCD_RULES_DIR"),
    unset(
        "master.follow_links_to",
        ValueKind::Paths,
        "directories outside of rules_dir that links among the rules may lead to",
    ),
    set("master.updated_by", "filesystem", ValueKind::Text, "the label of the rows that this master owns"),
    set(
        "master.rescan_interval",
        "60s",
        ValueKind::Duration,
        "how often everything is compared, whatever the watch said",
    ),
    set(
        "master.max_delete",
        "20%",
        ValueKind::Percent,
        "the share of the owned rows that may go at once, above 5",
    ),
    set("master.max_rule_size", "256KiB", ValueKind::Size, "the largest file that is read as a rule"),
    set("master.socket", "/run/rulesyncd/master.sock", ValueKind::Path, "where the master answers `status`"),
    set(
        "worker.socket",
        "/run/rulesyncd/events.sock",
        ValueKind::Path,
        "where the stream is served, unless systemd passes a socket",
    )
    .short("RULESYNCD_SOCKET"),
    set("worker.socket_mode", "0660", ValueKind::Mode, "permission bits of that socket"),
    unset("worker.socket_group", ValueKind::Text, "group of that socket; the service's own where unset"),
    unset(
        "worker.allow_uids",
        ValueKind::Counts,
        "users who may connect; whoever may open the socket where empty",
    ),
    set(
        "worker.poll_interval",
        "1s",
        ValueKind::Duration,
        "the longest that a change can wait; jittered by a tenth",
    ),
    set("worker.overlap", "5s", ValueKind::Duration, "how far below the watermark a row may still appear"),
    set("worker.full_scan_interval", "60s", ValueKind::Duration, "how often everything is compared"),
    set("worker.journal_length", "65536", ValueKind::Count, "changes kept for resuming"),
    set(
        "worker.max_delete",
        "20%",
        ValueKind::Percent,
        "the share of the known rules whose deletion is followed at once, above 5",
    ),
    set(
        "worker.max_delete_hold",
        "1h",
        ValueKind::Duration,
        "how long a larger deletion is held back where nobody allows it",
    ),
    set(
        "worker.heartbeat_interval",
        "15s",
        ValueKind::Duration,
        "how often a quiet subscriber hears a heartbeat",
    ),
    set("worker.max_subscribers", "1024", ValueKind::Count, "connections served at once"),
    set("worker.max_subscribers_per_uid", "512", ValueKind::Count, "connections of one user served at once"),
    set(
        "worker.subscriber_queue",
        "4096",
        ValueKind::Count,
        "changes a subscriber may be behind before a snapshot replaces them",
    ),
    set(
        "worker.cache",
        "/var/lib/rulesyncd/catalogue.ndjson",
        ValueKind::Path,
        "where the last known rules are kept",
    ),
    unset("worker.bus_socket", ValueKind::Path, "the host's message bus"),
    set(
        "telemetry.log",
        "info",
        ValueKind::Text,
        "what is logged: a level, or directives such as `info,sqlx=debug`",
    )
    .short("RULESYNCD_LOG"),
    set(
        "telemetry.log_format",
        "auto",
        ValueKind::Text,
        "`auto` (journald under systemd, else text), `journald`, `text` or `json`",
    ),
    unset(
        "telemetry.otlp",
        ValueKind::Text,
        "an OTLP/HTTP endpoint; the standard OTEL_EXPORTER_OTLP_* variables where unset",
    ),
];

/// The JSON Schema of a configuration file.
pub fn config_schema() -> Value {
    let sections = SECTIONS.map(|section| {
        let keys = SETTINGS.iter().filter(|setting| setting.section() == section);
        let properties: Map<String, Value> =
            keys.map(|setting| (setting.name().to_owned(), setting.schema())).collect();
        let schema =
            json!({ "type": ["object", "null"], "additionalProperties": false, "properties": properties });
        (section.to_owned(), schema)
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The configuration of rulesyncd",
        "type": "object",
        "additionalProperties": false,
        "properties": Map::from_iter(sections),
    })
}

impl Setting {
    fn schema(&self) -> Value {
        let mut schema = match self.kind {
            ValueKind::Text | ValueKind::Path => json!({ "type": "string" }),
            ValueKind::Duration => json!({ "type": "string", "examples": ["250ms", "1s", "5m"] }),
            ValueKind::Size => json!({ "type": ["string", "integer"], "examples": ["256KiB"] }),
            ValueKind::Percent => json!({ "type": ["string", "number"], "examples": ["20%"] }),
            ValueKind::Mode => json!({ "type": ["string", "integer"], "examples": ["0660"] }),
            ValueKind::Count => json!({ "type": "integer", "minimum": 1 }),
            ValueKind::Flag => json!({ "type": "boolean" }),
            ValueKind::Paths => json!({ "type": "array", "items": { "type": "string", "minLength": 1 } }),
            ValueKind::Counts => json!({ "type": "array", "items": { "type": "integer", "minimum": 0 } }),
        };
        schema["description"] = json!(self.about);
        if let Some(default) = self.default {
            schema["default"] = json!(default);
        }
        schema
    }
}

/// The setting of `key`; `None` when there is no such key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The candidate that `found` was most likely meant to be; `None` when none is near.
pub(crate) fn nearest<'a>(found: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (edits(found, candidate), candidate))
        .min()
        .filter(|&(edits, candidate)| edits <= candidate.len() / 2)
        .map(|(_, candidate)| candidate)
}

/// The Levenshtein distance, by bytes: keys are ASCII.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.bytes().enumerate() {
            let cheapest = (diagonal + usize::from(a != b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cheapest);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_finds_its_neighbour() {
        let names = || SETTINGS.iter().map(Setting::name);
        assert_eq!(nearest("pol_intervall", names()), Some("poll_interval"));
        assert_eq!(nearest("zzzzzzzz", names()), None);
    }

    #[test]
    fn every_key_stands_once_in_a_section_that_is_shown() {
        for setting in SETTINGS {
            assert!(SECTIONS.contains(&setting.section()), "{}", setting.key);
            assert_eq!(
                SETTINGS.iter().filter(|other| other.key == setting.key).count(),
                1,
                "{}",
                setting.key
            );
        }
    }
}
