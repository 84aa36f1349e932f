//! A key of the configuration as data.

use serde_json::Value;

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
    /// Whether a daemon that reads its configuration again applies it; otherwise it waits for a restart.
    pub(super) applies_at_reload: bool,
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

    /// The values that one text gives this key: those of a list are separated by commas.
    pub(super) fn values(&self, text: String) -> Vec<String> {
        match self.spelling {
            Spelling::Plain | Spelling::Quoted => vec![text],
            Spelling::List { .. } => text.split(',').map(|value| value.trim().to_owned()).collect(),
        }
    }

    /// These values as a file writes them.
    pub(super) fn spell(&self, values: &[String]) -> String {
        match self.spelling {
            Spelling::Plain => values.concat(),
            Spelling::Quoted => Value::from(values.concat()).to_string(),
            Spelling::List { is_quoted: false } => format!("[{}]", values.join(", ")),
            Spelling::List { is_quoted: true } => Value::from(values).to_string(),
        }
    }
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
        let names = ["report_interval", "poll_interval", "cache"];
        assert_eq!(nearest("pol_intervall", names.into_iter()), Some("poll_interval"));
        assert_eq!(nearest("zzzzzzzz", names.into_iter()), None);
    }
}
