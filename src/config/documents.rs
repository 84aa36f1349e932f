//! What is written from all keys together: the JSON Schema, and the commented files.

use serde_json::{Map, Value, json};

use super::keys::{SECTIONS, SETTINGS};
use super::setting::Setting;

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
