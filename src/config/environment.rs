//! The variables of the environment: this file alone reads them.

use std::ffi::OsString;

use super::keys::SETTINGS;
use super::setting::{Setting, nearest};
use crate::paint::sanitize;

/// What the names of all variables of this program begin with.
const PREFIX: &str = "RULESYNCD_";

/// The variables that set no key of the file.
const OTHERS: [&str; 2] = ["RULESYNCD_CONFIG", "RULESYNCD_PROGRAM"];

/// Names that say nothing about the configuration: those of the tests, and those that Kubernetes gives a container
/// for a service that is called rulesyncd.
const FOREIGN: [&str; 4] = ["RULESYNCD_TEST_", "RULESYNCD_FAULTS_", "_SERVICE_", "_PORT"];

/// The most unknown variables that are named.
const NAMED: usize = 20;

/// A variable of the environment; `None` where it is not set.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub(super) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// A variable of the environment; `None` where it is not set, empty or not text.
pub(crate) fn environment(name: &str) -> Option<String> {
    variable(name)?.into_string().ok().filter(|value| !value.is_empty())
}

/// A sentence for each variable that seems to be meant for this program, and sets nothing. That is no error: several
/// versions of the program may share a file of variables.
pub(crate) fn unknown_variables() -> Vec<String> {
    let set = std::env::vars_os().filter(|(_, value)| !value.is_empty());
    unknown(set.map(|(name, _)| name.to_string_lossy().into_owned()))
}

fn unknown(names: impl Iterator<Item = String>) -> Vec<String> {
    let known: Vec<String> = SETTINGS.iter().flat_map(Setting::variables).collect();
    let known = || known.iter().map(String::as_str).chain(OTHERS);
    let is_unknown = |name: &String| {
        name.starts_with(PREFIX)
            && !FOREIGN.iter().any(|part| name.contains(part))
            && known().all(|known| known != name)
    };
    let mut unknown: Vec<String> = names.filter(is_unknown).collect();
    unknown.sort_unstable();
    unknown.truncate(NAMED);
    let in_words = |name: &String| {
        let advice = nearest(&name[PREFIX.len()..], known().map(|known| &known[PREFIX.len()..]))
            .map_or_else(String::new, |near| format!("; did you mean {PREFIX}{near}?"));
        format!("the environment variable {} is unknown and sets nothing{advice}", sanitize(name))
    };
    unknown.iter().map(in_words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_named_with_the_nearest_one() {
        let found = |names: &[&str]| unknown(names.iter().map(|&name| name.to_owned()));
        assert_eq!(
            found(&["RULESYNCD_DATABSE_URL", "RULESYNCD_WORKER_POLL", "RULESYNCD_\u{1b}[1m"]),
            [
                "the environment variable RULESYNCD_\\u001b[1m is unknown and sets nothing",
                "the environment variable RULESYNCD_DATABSE_URL is unknown and sets nothing; did you mean \
                 RULESYNCD_DATABASE_URL?",
                "the environment variable RULESYNCD_WORKER_POLL is unknown and sets nothing; did you mean \
                 RULESYNCD_WORKER_ID?",
            ]
        );
        assert_eq!(
            found(&[
                "PATH",
                "RULESYNCD",
                "RULESYNCD_CONFIG",
                "RULESYNCD_DATABASE_URL",
                "RULESYNCD_LOG",
                "RULESYNCD_PORT_5432_TCP_ADDR",
                "RULESYNCD_PROGRAM",
                "RULESYNCD_SOCKET",
                "RULESYNCD_TEST_LONG",
                "RULESYNCD_WORKER_SERVICE_HOST",
            ]),
            [""; 0]
        );
        // What the program knows is never foreign.
        let known: Vec<String> = SETTINGS.iter().flat_map(Setting::variables).collect();
        assert!(known.iter().all(|name| !FOREIGN.iter().any(|part| name.contains(part))));
    }
}
