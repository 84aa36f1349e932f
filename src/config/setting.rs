//! A key of the configuration as data, and what is made of all of them.

use serde_json::{Map, Value, json};

use super::keys::{SECTIONS, SETTINGS};
use super::kind::Spelling;

/// One key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// `section.name`, as in the file.
    pub key: &'static str,
    /// The value that applies when nobody sets the key; `None` is no value.
    pub default: Option<&'static str>,
    /// A value for the commented file: the default, or an example; `None` for an empty list.
    pub(super) example: Option<&'static str>,
    /// The lines of its help.
    pub(super) help: &'static [&'static str],
    /// A short variable of the environment that sets the key too.
    pub(super) short_variable: Option<&'static str>,
    pub(super) spelling: Spelling,
    pub(super) schema: fn() -> Value,
}

impl Setting {
    /// The part of the key before the dot.
    pub(crate) fn section(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(section, _)| section)
    }

    /// The part of the key after the dot.
    pub fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// The variables that set this key, a later one wins: `RULESYNCD_WORKER_POLL_INTERVAL`.
    pub(crate) fn variables(&self) -> impl Iterator<Item = String> {
        let long = format!("RULESYNCD_{}", self.key.replace('.', "_").to_uppercase());
        self.short_variable.map(str::to_owned).into_iter().chain([long])
    }

    /// What the key means, in sentences of one line.
    pub(crate) fn help(&self) -> String {
        self.help.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// These values as a file writes them.
    pub(super) fn spell(&self, values: &[String]) -> String {
        match self.spelling {
            Spelling::Plain => values.concat(),
            Spelling::Quoted => Value::from(values.concat()).to_string(),
            Spelling::List => format!("[{}]", values.join(", ")),
        }
    }
}

/// The JSON Schema of a configuration file.
pub(crate) fn config_schema() -> Value {
    let sections = SECTIONS.iter().map(|&section| {
        let keys = SETTINGS.iter().filter(|setting| setting.section() == section);
        let properties: Map<String, Value> =
            keys.map(|setting| (setting.name().to_owned(), described(setting))).collect();
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

fn described(setting: &Setting) -> Value {
    let mut schema = (setting.schema)();
    schema["description"] = json!(setting.help());
    if let Some(default) = setting.default {
        schema["default"] = json!(default);
    }
    schema
}

/// The commented configuration file of a daemon: every key of `section`, and of what both daemons share.
pub fn commented_file(section: &str) -> String {
    let mut lines = vec![
        format!(
            "# The {section}'s configuration. Each line shows the default, or an example of a key without one;\n# remove the `#` to set it."
        ),
        "#".to_owned(),
        "# A later one wins: the default, this file, the environment, flags. Each key has a variable,"
            .to_owned(),
        format!(
            "# RULESYNCD_<SECTION>_<KEY>; `rulesyncd config {section}` prints the values in effect and their origins."
        ),
        "# Durations are written 250ms, 1s, 5m; sizes 256KiB.".to_owned(),
    ];
    for section in ["database", section, "trust", "telemetry"] {
        lines.push(format!("\n{section}:"));
        let settings = SETTINGS.iter().filter(|setting| setting.section() == section);
        let keys = settings.map(|setting| {
            let help = setting.help.iter().map(|line| format!("  #{line}\n")).collect::<String>();
            format!("{help}  #{}: {}", setting.name(), setting.example.unwrap_or("[]"))
        });
        lines.push(keys.collect::<Vec<_>>().join("\n\n"));
    }
    lines.join("\n") + "\n"
}

/// The setting of `key`; `None` when there is no such key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The candidate that `found` was most likely meant to be; `None` when none is near.
pub(crate) fn nearest<'a>(found: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::levenshtein(found, candidate), candidate))
        .min()
        .filter(|&(edits, candidate)| edits <= candidate.len() / 2)
        .map(|(_, candidate)| candidate)
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
}
