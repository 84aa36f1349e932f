mod replay;

use super::*;
use crate::rule::{ContentDigest, RowIndex as _, StateKind, StateRow};

fn id(text: &str) -> RuleId {
    RuleId::new(text).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn rule(key: &str, version: i64, stamp: i64) -> Arc<KnownRule> {
    Arc::new(KnownRule {
        header: crate::rule::RuleHeader {
            rule_id: id(key),
            rule_version: version,
            source_path: format!("{key}.yaml").into(),
            updated_at: at(stamp),
            updated_by: "filesystem".into(),
            content_sha256: ContentDigest::of(format!("{key} {version}")),
        },
        definition_json: format!(r#"{{"rule_id":"{key}"}}"#).into(),
    })
}

fn disabled(set_at: i64, expires_at: Option<i64>) -> RuleState {
    RuleState {
        state: StateKind::Disabled,
        expires_at: expires_at.map(at),
        set_by: Some("operator".into()),
        set_at: Some(at(set_at)),
        ..RuleState::default()
    }
}

fn rejected(key: &str) -> Box<QuarantinedRow> {
    let fingerprint = RowFingerprint::other(at(1), ContentDigest::of(key));
    let reason = "emits is missing".to_owned();
    Box::new(QuarantinedRow { key: key.to_owned(), fingerprint, reason, is_text_invalid: true })
}

fn found(now: i64, rules: Vec<Arc<KnownRule>>, states: Vec<(&str, RuleState)>) -> TableDelta {
    TableDelta {
        now: at(now),
        rules: rules.into_iter().map(Ok).collect(),
        states: states.into_iter().map(|(key, state)| Ok((id(key), state))).collect(),
        ..TableDelta::default()
    }
}

/// Changes in a short spelling.
fn in_words(changes: &[RuleChange]) -> Vec<String> {
    let word = |state: &RuleState| state.state.to_string();
    changes
        .iter()
        .map(|change| match change {
            RuleChange::Written { rule, state } => {
                format!("{} v{} {}", rule.header.rule_id, rule.header.rule_version, word(state))
            }
            RuleChange::Deleted { rule_id } => format!("{rule_id} deleted"),
            RuleChange::State { rule_id, state, auto_revert } => {
                format!("{rule_id} {}{}", word(state), if *auto_revert { " by itself" } else { "" })
            }
        })
        .collect()
}

#[test]
fn changes_come_in_the_order_of_their_stamps() {
    let mut catalogue = Catalogue::default();
    catalogue.apply(found(9, vec![rule("R9", 1, 1)], vec![]));
    let delta = TableDelta {
        rule_keys: Some(vec!["R1".into(), "R2".into(), "R3".into()]),
        ..found(
            9,
            vec![rule("R1", 1, 3), rule("R3", 1, 2), rule("R2", 1, 2)],
            vec![("R3", disabled(8, None)), ("R2", disabled(9, None))],
        )
    };
    let expected =
        ["R2 v1 disabled", "R3 v1 disabled", "R1 v1 enabled", "R9 deleted", "R3 disabled", "R2 disabled"];
    assert_eq!(in_words(&catalogue.apply(delta.clone())), expected);
    assert!(catalogue.apply(delta).is_empty(), "the same delta again changes nothing");
}

#[test]
fn a_touched_row_changes_its_stamp_and_nothing_else() {
    let mut catalogue = Catalogue::default();
    catalogue.apply(found(1, vec![rule("R1", 1, 1)], vec![]));
    let digest = catalogue.digest();
    assert!(catalogue.apply(found(2, vec![rule("R1", 1, 2)], vec![])).is_empty());
    assert_eq!(catalogue.fingerprint(Table::Rules, "R1").unwrap().updated_at, at(2));
    assert_eq!(catalogue.digest(), digest);
}

#[test]
fn a_row_that_is_no_rule_is_quarantined_alone_and_returns_when_valid() {
    let mut catalogue = Catalogue::default();
    catalogue.apply(found(1, vec![rule("R1", 1, 1), rule("R2", 1, 1)], vec![]));
    let mut delta =
        TableDelta { rules: vec![Err(rejected("R1")), Err(rejected("no id"))], ..TableDelta::default() };
    delta.rules.push(Ok(rule("R2", 2, 2)));
    assert_eq!(in_words(&catalogue.apply(delta)), ["R2 v2 enabled", "R1 deleted"]);
    let keys: Vec<String> = catalogue.quarantined().map(|row| row.key).collect();
    assert_eq!(keys, ["R1", "no id"]);
    assert_eq!(catalogue.count(Table::Rules), 3);
    assert_eq!(catalogue.fingerprint(Table::Rules, "no id"), Some(rejected("no id").fingerprint));

    assert_eq!(in_words(&catalogue.apply(found(3, vec![rule("R1", 2, 3)], vec![]))), ["R1 v2 enabled"]);
    let gone = TableDelta { rule_keys: Some(vec!["R1".into(), "R2".into()]), ..TableDelta::default() };
    assert!(catalogue.apply(gone).is_empty(), "a row that was no rule goes without a word");
    assert_eq!(catalogue.quarantined().count(), 0);
}

#[test]
fn of_two_ids_that_differ_in_case_the_first_in_the_order_of_bytes_is_taken() {
    let mut catalogue = Catalogue::default();
    assert_eq!(
        in_words(&catalogue.apply(found(1, vec![rule("rule_a", 1, 1)], vec![]))),
        ["rule_a v1 enabled"]
    );
    let changes = catalogue.apply(found(2, vec![rule("Rule_A", 1, 2)], vec![]));
    assert_eq!(in_words(&changes), ["Rule_A v1 enabled", "rule_a deleted"]);
    assert!(catalogue.apply(found(3, vec![rule("rule_a", 2, 3)], vec![])).is_empty());
    let quarantined: Vec<QuarantineEntry> = catalogue.quarantined().collect();
    assert_eq!(quarantined[0].key, "rule_a");
    assert!(quarantined[0].reason.contains("`Rule_A`"), "{quarantined:?}");
    assert!(catalogue.rule("rule_a").is_none());
    assert_eq!((catalogue.rule_count(), catalogue.rules().count(), catalogue.count(Table::Rules)), (1, 1, 2));

    let gone = TableDelta { rule_keys: Some(vec!["rule_a".into()]), ..TableDelta::default() };
    assert_eq!(in_words(&catalogue.apply(gone)), ["rule_a v2 enabled", "Rule_A deleted"]);
}

#[test]
fn a_state_ends_on_time_and_only_once() {
    let mut catalogue = Catalogue::default();
    let changes = catalogue.apply(found(10, vec![], vec![("R1", disabled(10, Some(20)))]));
    assert_eq!(in_words(&changes), ["R1 disabled"]);
    assert_eq!(catalogue.next_expiry(), Some(at(20)));
    assert!(catalogue.expire(at(19)).is_empty());
    assert_eq!(in_words(&catalogue.expire(at(20))), ["R1 enabled by itself"]);
    assert_eq!(catalogue.next_expiry(), None);
    assert!(catalogue.expire(at(21)).is_empty());
    let cleared = TableDelta { state_keys: Some(vec![]), ..found(22, vec![], vec![]) };
    assert!(catalogue.apply(cleared).is_empty(), "the master's removal of an expired row is no change");
}

#[test]
fn a_removal_that_is_seen_before_the_timer_fired_is_an_expiry_too() {
    let mut catalogue = Catalogue::default();
    catalogue.apply(found(10, vec![], vec![("R1", disabled(10, Some(20))), ("R2", disabled(10, Some(99)))]));
    let cleared = TableDelta { state_keys: Some(vec![]), ..found(20, vec![], vec![]) };
    assert_eq!(in_words(&catalogue.apply(cleared)), ["R1 enabled by itself", "R2 enabled"]);
}

#[test]
fn a_state_that_is_written_with_a_past_end_is_one_change_and_is_so_once() {
    let mut catalogue = Catalogue::default();
    let written = || found(30, vec![], vec![("R1", disabled(30, Some(20)))]);
    assert_eq!(in_words(&catalogue.apply(written())), ["R1 enabled by itself"]);
    assert!(catalogue.apply(written()).is_empty());
    assert!(catalogue.expire(at(40)).is_empty());
    let cleared = TableDelta { state_keys: Some(vec![]), ..found(50, vec![], vec![]) };
    assert!(catalogue.apply(cleared).is_empty());
}

#[test]
fn a_newer_state_never_falls_to_an_older_end() {
    let mut catalogue = Catalogue::default();
    catalogue.apply(found(10, vec![], vec![("R1", disabled(10, Some(20)))]));
    // The poll is late: it finds the newer state after the older one's end has come.
    let changes = catalogue.apply(found(25, vec![], vec![("R1", disabled(19, Some(60)))]));
    assert_eq!(in_words(&changes), ["R1 disabled"]);
    assert!(catalogue.expire(at(59)).is_empty());
    let changes = catalogue.apply(found(59, vec![], vec![("R1", disabled(59, None))]));
    assert_eq!(in_words(&changes), ["R1 disabled"]);
    assert!(catalogue.expire(at(1_000)).is_empty());
}

#[test]
fn a_corrected_clock_is_followed_and_a_jittering_one_is_not() {
    let mut catalogue = Catalogue::default();
    catalogue.apply(found(10, vec![], vec![("R1", disabled(10, Some(20)))]));
    assert_eq!(in_words(&catalogue.expire(at(3_600))), ["R1 enabled by itself"]);
    assert_eq!(in_words(&catalogue.apply(found(11, vec![], vec![]))), ["R1 disabled"]);
    assert_eq!(in_words(&catalogue.expire(at(20))), ["R1 enabled by itself"]);
    let trembling = TableDelta { now: Timestamp::from_micros(19_999_000), ..TableDelta::default() };
    assert!(catalogue.apply(trembling).is_empty());
}

#[test]
fn the_digest_is_what_its_documentation_says() {
    let mut catalogue = Catalogue::default();
    assert_eq!(catalogue.digest().to_string(), "0".repeat(64));
    let mut state = disabled(7, None);
    state.confidence_max = Some(0.85);
    catalogue.apply(found(9, vec![rule("R1", 3, 1)], vec![("R1", state)]));
    let content = ContentDigest::of("R1 3").to_string();
    let rule = format!("4:rule,2:R1,1:3,64:{content},7:R1.yaml,");
    let state = "5:state,2:R1,8:disabled,16:3feb333333333333,~~8:operator,27:1970-01-01T00:00:07.000000Z,";
    let (rule, state) = (ContentDigest::of(rule), ContentDigest::of(state));
    let both: Vec<u8> = rule.as_bytes().iter().zip(state.as_bytes()).map(|(a, b)| a ^ b).collect();
    let both = ContentDigest::from_bytes(both.try_into().unwrap());
    assert_eq!(catalogue.digest().to_string(), both.to_string());
}

/// More than two deletions are too many.
fn guarded(catalogue: &mut Catalogue, delta: TableDelta) -> Vec<String> {
    in_words(&catalogue.apply_guarded(delta, |going, _| going > 2).changes)
}

fn keys(keys: &[&str]) -> Option<Vec<String>> {
    Some(keys.iter().map(|&key| key.to_owned()).collect())
}

const MANY: [&str; 5] = ["A", "B", "C", "D", "E"];

#[test]
fn deletions_that_are_too_many_are_held_back_all_together() {
    let mut catalogue = Catalogue::default();
    catalogue.apply(found(1, MANY.iter().map(|key| rule(key, 1, 1)).collect(), vec![]));
    let (all, digest) = (catalogue.rule_count(), catalogue.digest());
    let [kept, broken, ..] = MANY;
    // Gone, and no rule any more, are the same to a subscriber.
    let delta = TableDelta {
        rules: vec![Err(rejected(broken))],
        rule_keys: keys(&[kept, broken]),
        ..found(2, vec![], vec![])
    };
    assert_eq!(guarded(&mut catalogue, delta), [""; 0]);
    assert_eq!((catalogue.rule_count(), catalogue.digest()), (all, digest));
    assert_eq!(catalogue.held_back().len(), MANY.len() - 1);
    // What counts as known is what the table holds, so that no poll reads it again.
    assert_eq!(catalogue.count(Table::Rules), 2);
    assert!(
        catalogue.fingerprint(Table::Rules, kept).is_some()
            && catalogue.fingerprint(Table::Rules, broken).is_some()
    );
    assert_eq!(catalogue.fingerprint(Table::Rules, MANY[2]), None);
    // Other changes go on, and a further deletion waits with the others.
    assert_eq!(
        guarded(&mut catalogue, found(3, vec![rule(kept, 2, 3)], vec![])),
        [format!("{kept} v2 enabled")]
    );
    let delta = TableDelta { rule_keys: keys(&[broken]), ..found(4, vec![], vec![]) };
    assert_eq!(guarded(&mut catalogue, delta), [""; 0]);
    // Whatever comes back is held back no more; once few are missing, these go.
    let back = MANY[2..].iter().map(|key| rule(key, 1, 1)).collect();
    let delta = TableDelta { rule_keys: keys(&MANY[1..]), ..found(5, back, vec![]) };
    let mut gone = guarded(&mut catalogue, delta);
    gone.sort();
    let mut expected = [format!("{kept} deleted"), format!("{broken} deleted")];
    expected.sort();
    assert_eq!(gone, expected);
    assert!(catalogue.held_back().is_empty());
}

#[test]
fn a_catalogue_whose_deletions_were_released_is_as_if_they_had_been_followed() {
    let (mut held, mut free) = (Catalogue::default(), Catalogue::default());
    let all = || found(1, MANY.iter().map(|key| rule(key, 1, 1)).collect(), vec![]);
    let emptied = || TableDelta { rule_keys: keys(&[]), ..found(2, vec![], vec![]) };
    for catalogue in [&mut held, &mut free] {
        catalogue.apply(all());
    }
    assert_eq!(guarded(&mut held, emptied()), [""; 0]);
    assert_eq!(in_words(&held.release()), in_words(&free.apply(emptied())));
    assert_eq!((held.rule_count(), held.digest()), (0, free.digest()));
    assert_eq!(held.release(), []);
}

#[test]
fn versions_that_fall_are_told() {
    let mut catalogue = Catalogue::default();
    catalogue.apply(found(1, vec![rule("R1", 3, 1), rule("R2", 1, 1)], vec![]));
    let delta =
        catalogue.apply_guarded(found(2, vec![rule("R1", 2, 2), rule("R2", 2, 2)], vec![]), |_, _| false);
    assert_eq!(delta.fallen, [(id("R1"), 3, 2)]);
    assert_eq!(delta.changes.len(), 2, "they are followed");
}

#[test]
fn the_effective_rules_of_a_moment_stay_and_are_read_on_from_each() {
    let ids = |rules: &mut dyn Iterator<Item = &Arc<KnownRule>>| -> Vec<String> {
        rules.map(|rule| format!("{} v{}", rule.rule_id(), rule.header.rule_version)).collect()
    };
    let mut catalogue = Catalogue::default();
    let rows = ["a", "A", "b", "c", "C", "d"].map(|key| rule(key, 1, 1));
    catalogue.apply(found(1, rows.to_vec(), vec![]));
    let (then, expected) = (catalogue.effective_rules(), ["A v1", "b v1", "C v1", "d v1"]);
    let gone = TableDelta {
        rule_keys: keys(&["a", "b"]),
        ..found(2, vec![rule("b", 2, 2), rule("e", 1, 2)], vec![])
    };
    catalogue.apply(gone);
    assert_eq!(ids(&mut catalogue.effective_rules().after(None)), ["a v1", "b v2"]);
    assert_eq!(ids(&mut then.after(None)), expected);
    assert_eq!(then.count(), expected.len());
    for (index, key) in ["A", "b", "C", "d"].into_iter().enumerate() {
        assert_eq!(ids(&mut then.after(Some(&id(key)))), expected[index + 1..], "after {key}");
    }
    let contained = ["a", "A", "B", "b", "c", "C", "e"].map(|key| then.contains(key));
    assert_eq!(contained, [false, true, false, true, false, true, false]);
}
