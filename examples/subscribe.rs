//! Keeps a copy of the rules of this host's worker and tells what happens to it.
//!
//! ```sh
//! cargo run --example subscribe -- /run/rulesyncd/events.sock
//! ```

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use rulesyncd::client::{Event, Subscriber};
use rulesyncd::rule::{CompiledRule, RuleId, RuleState};
use rulesyncd::wire::{ChangeLine, NewValue, ServerLine, Subscribe};

/// What this program knows: whatever is in here is in force.
#[derive(Default)]
struct Rules {
    by_id: BTreeMap<RuleId, CompiledRule>,
}

impl Rules {
    fn take_in(&mut self, line: ServerLine) -> Option<String> {
        match line {
            // Everything heard before is void; also when it comes inside of a snapshot.
            ServerLine::SnapshotBegin { .. } => self.by_id.clear(),
            ServerLine::Rule(rule) => drop(self.by_id.insert(rule.rule_id, rule.new_value)),
            ServerLine::SnapshotEnd { .. } => return Some(format!("{} rules", self.by_id.len())),
            ServerLine::Change(change) => return Some(self.change(change)),
            _ => {}
        }
        None
    }

    fn change(&mut self, change: ChangeLine) -> String {
        let rule_id = change.rule_id;
        match change.new_value {
            Some(NewValue::Rule(rule)) => {
                let told = format!("{rule_id} is now version {}", rule.definition.rule_version);
                self.by_id.insert(rule_id, *rule);
                told
            }
            Some(NewValue::State(state)) => self.state(&rule_id, state),
            None => {
                self.by_id.remove(&rule_id);
                format!("{rule_id} is gone")
            }
        }
    }

    fn state(&mut self, rule_id: &RuleId, state: RuleState) -> String {
        let told = format!("{rule_id} is {}", state.state);
        if let Some(rule) = self.by_id.get_mut(rule_id) {
            rule.state = state;
        }
        told
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let socket = std::env::args_os().nth(1).context("give the path of the worker's socket")?;
    let subscribe = Subscribe { follow: true, ..Subscribe::default() };
    let mut subscriber = Subscriber::new(PathBuf::from(socket), subscribe);
    let mut rules = Rules::default();
    loop {
        match subscriber.next().await? {
            Event::Line(line) => {
                // A connection that has resumed may have nothing else to show.
                let is_heartbeat = matches!(line.line, ServerLine::Heartbeat { .. });
                let told = rules.take_in(line.line);
                if let Some(told) = &told {
                    writeln!(std::io::stdout(), "{told}")?;
                }
                if is_heartbeat || told.is_some() {
                    // Optional: an operator sees in `rulesyncd status` who has taken in what.
                    subscriber.acknowledge().await;
                }
            }
            // It is made again by the next call, and nothing is lost.
            Event::Disconnected(why) => tracing::warn!("{why}; connecting again"),
        }
    }
}
