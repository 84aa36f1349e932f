//! Which hosts a master tells of: those that became silent or stay behind, and those that are back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{HostState, Look, hosts, judge};
use crate::clock::Timestamp;

/// A host that lacks changes for less than this is not told of: changes travel.
const BEHIND_FOR: Duration = Duration::from_secs(60);

/// Compares each look with the ones before.
#[derive(Debug, Default)]
pub struct FleetWatch {
    before: Option<Look>,
    /// Since when hosts are behind, by name and the server's clock.
    behind: BTreeMap<String, Timestamp>,
    /// The hosts that were told of, by name.
    told: BTreeSet<String>,
}

/// What is to be told after a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FleetNews {
    /// Hosts that are silent, or have been behind for a minute, by name.
    pub lost: Vec<(String, HostState)>,
    /// Hosts of earlier news that are neither, by name.
    pub back: Vec<String>,
}

impl FleetWatch {
    /// Takes a look. Looks should be further apart than a worker's reports after changes: a host lacks a change only if
    /// it lacked it at the look before.
    pub fn see(&mut self, look: Look) -> FleetNews {
        let mut news = FleetNews::default();
        let mut names = BTreeSet::new();
        let first = self.before.as_ref().unwrap_or(&look);
        for host in hosts(&look.workers, look.now) {
            let state = judge(&host, first, &look);
            let is_lost = match state {
                HostState::Silent { .. } => true,
                HostState::Behind { .. } => {
                    let since = *self.behind.entry(host.name.clone()).or_insert(look.now);
                    look.now.since(since) >= BEHIND_FOR
                }
                _ => false,
            };
            if !matches!(state, HostState::Behind { .. }) {
                self.behind.remove(&host.name);
            }
            names.insert(host.name.clone());
            match (is_lost, self.told.contains(&host.name)) {
                (true, false) => {
                    self.told.insert(host.name.clone());
                    news.lost.push((host.name, state));
                }
                // One that was silent may still be behind.
                (false, true) if !matches!(state, HostState::Behind { .. }) => {
                    self.told.remove(&host.name);
                    news.back.push(host.name);
                }
                _ => {}
            }
        }
        // Those that were forgotten are no news.
        self.told.retain(|name| names.contains(name));
        self.behind.retain(|name, _| names.contains(name));
        self.before = Some(Look { workers: Vec::new(), ..look });
        news
    }
}
