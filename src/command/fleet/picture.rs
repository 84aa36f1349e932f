//! The facts for the page of the fleet, and its file.

use std::collections::BTreeMap;
use std::path::Path;

use super::page::{Facts, Host, page};
use super::{Shown, render};
use crate::clock::Timestamp;
use crate::command::Outcome;
use crate::command::history;
use crate::config::Config;
use crate::fleet::HostState;
use crate::rule::CompiledRule;
use crate::rule::attack::Attack;

/// Writes the page of this fleet and these rules.
///
/// # Errors
/// [`Failure::Environment`] if the file cannot be written.
pub(super) fn write(path: &Path, shown: &Shown, rules: &[CompiledRule], config: &Config) -> Outcome {
    let hosts = shown.hosts.iter().map(|(host, state)| Host {
        name: host.name.clone(),
        state: state.clone(),
        state_in_words: render::in_words(host, state),
        rules: (!matches!(state, HostState::Silent { .. })).then_some(host.worker.report.rules),
        program: host.worker.report.program.clone(),
        reported_at: Some(host.worker.reported_at).filter(|at| *at != Timestamp::MIN),
    });
    let changes = changes_by_day(config);
    let not_verified = render::not_verified(shown);
    let facts = Facts { taken_at: shown.look.now, hosts: hosts.collect(), not_verified, rules, changes };
    std::fs::write(path, page(&facts, Attack::built_in()))
        .map_err(|error| environment!("{} cannot be written: {error}", path.display()))
}

/// The changes of definitions and of states that this host's worker received, by day; `None` if there is no history, or
/// this user may not read it.
fn changes_by_day(config: &Config) -> Option<BTreeMap<String, [u64; 2]>> {
    history::places(config).iter().find_map(|path| history::changes_by_day(path).ok())
}
