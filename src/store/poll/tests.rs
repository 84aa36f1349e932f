//! Runs the algorithm on a model of the two tables, with random commits between the polls.

mod loaded;
mod model;
mod versions;

use proptest::prelude::*;

use self::model::{Follower, Model, expected, named_rule, rule, time};
use super::*;
use crate::rule::{RowFingerprint, StateRow};

/// What happens between two polls.
#[derive(Debug, Clone)]
enum Step {
    /// Writes a rule that was stamped so many microseconds before its commit.
    Write {
        id: u8,
        version: i32,
        behind: i64,
    },
    /// Truncates stamps, as a column of whole seconds does.
    WriteAtWholeSecond {
        id: u8,
        version: i32,
    },
    Delete {
        id: u8,
    },
    Set {
        id: u8,
        disabled: bool,
        behind: i64,
    },
    Clear {
        id: u8,
    },
    Poll {
        full: bool,
        woken: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0_u8..90;
    let behind = 0_i64..5_000_000;
    prop_oneof![
        4 => (id.clone(), 1..4, behind.clone())
            .prop_map(|(id, version, behind)| Step::Write { id, version, behind }),
        1 => (id.clone(), 1..4).prop_map(|(id, version)| Step::WriteAtWholeSecond { id, version }),
        2 => id.clone().prop_map(|id| Step::Delete { id }),
        1 => (id.clone(), any::<bool>(), behind)
            .prop_map(|(id, disabled, behind)| Step::Set { id, disabled, behind }),
        1 => id.prop_map(|id| Step::Clear { id }),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(full, woken)| Step::Poll { full, woken }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    /// If every commit is within the overlap, whatever its stamp, the next poll that reads the windows finds it; so the
    /// version that the follower has read is never above what it has delivered.
    #[test]
    fn after_a_poll_what_is_known_is_what_the_tables_hold(
        steps in proptest::collection::vec((step(), pause(), any::<bool>()), 1..100),
        has_xor in any::<bool>(),
        loaded in prop_oneof![Just(0_u8), Just(90)],
    ) {
        let (mut model, mut follower) = (Model { has_xor, ..Model::default() }, Follower::default());
        // Many rules that are in the window for a while.
        for id in 0..loaded {
            model.rules.insert(format!("R{id}"), rule(id, 1, time(i64::from(id))));
        }
        let mut newest = follower.newest();
        for (step, pause, is_ours) in steps {
            let deletes = matches!(step, Step::Delete { .. } | Step::Clear { .. });
            if is_ours && !matches!(step, Step::Poll { .. }) {
                model.raise(deletes);
            }
            // Time passes between any two steps.
            model.now += pause + 1;
            let now = model.now;
            match step {
                Step::Write { id, version, behind } => {
                    drop(model.rules.insert(format!("R{id}"), rule(id, version, time(now - behind))));
                }
                Step::WriteAtWholeSecond { id, version } => {
                    // Nothing but the text tells two writes of one second apart.
                    let row = named_rule(id, version, time(now).whole_second(), &format!("n{now}"));
                    drop(model.rules.insert(row.header.rule_id.clone(), row));
                }
                Step::Delete { id } => {
                    model.rules.remove(&format!("R{id}"));
                    model.deleted_by_others += usize::from(!is_ours);
                }
                Step::Set { id, disabled, behind } => {
                    let state = if disabled { "disabled" } else { "enabled" };
                    let row = StateRow {
                        rule_id: format!("R{id}"),
                        state: state.to_owned(),
                        confidence_max: None,
                        expires_at: None,
                        reason: None,
                        set_by: None,
                        set_at: Some(time(now - behind)),
                    };
                    model.states.insert(row.rule_id.clone(), row);
                }
                Step::Clear { id } => drop(model.states.remove(&format!("R{id}"))),
                Step::Poll { full, woken } => {
                    let before = follower.version();
                    follower.poll(&mut model, full, woken);
                    if follower.is_behind() {
                        // It has the newest rules, says nothing of the version, and the next poll has the rest.
                        prop_assert_eq!(follower.version(), before);
                        for row in model.rules.values().filter(|row| row.header.updated_at > newest) {
                            let found = follower.catalogue.fingerprint(Table::Rules, &row.header.rule_id);
                            prop_assert_eq!(found, Some(RowFingerprint::rule(&row.header)));
                        }
                        follower.poll(&mut model, false, false);
                    }
                    prop_assert!(!follower.is_behind());
                    prop_assert_eq!(follower.version(), model.version);
                    prop_assert_eq!(follower.catalogue.digest(), expected(&model).digest());
                    newest = follower.newest();
                }
            }
        }
        follower.poll(&mut model, false, false);
        prop_assert_eq!(follower.catalogue.digest(), expected(&model).digest());
        // Once the overlap has passed, a poll of idle tables is one statement.
        model.now += 20_000_000;
        follower.poll(&mut model, false, false);
        model.now += 20_000_000;
        prop_assert_eq!(follower.poll(&mut model, false, false), 1);
    }
}

/// Time passes between any two steps; often so little that they are in one second.
fn pause() -> impl Strategy<Value = i64> {
    prop_oneof![0_i64..3_000_000, 0_i64..100_000]
}
