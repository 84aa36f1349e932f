//! Forms, signatures and thresholds; the corpus.

pub(crate) mod gate;
#[path = "../../tests/it/support/sshsig.rs"]
pub(crate) mod sshsig;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use self::sshsig::{Signing, SoftKey};
use super::*;
use crate::clock::Timestamp;
use crate::rule::{ContentDigest, RuleId, RuleState, StateKind};
use crate::testing::replay;

fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

const NOW: &str = "2026-11-27T08:00:00Z";

fn manifest(version: &str) -> String {
    let list = ListDigest::of(b"");
    let (realm, version) = ("honeypots".parse().unwrap(), version.parse().unwrap());
    let expires = "2099-01-01T00:00:00Z".parse().unwrap();
    Manifest { realm, version, expires, states: Bound::Any, list }.to_string()
}

pub(crate) fn policy(lines: &str, threshold: usize) -> Policy {
    let signers = AllowedSigners::parse(lines.as_bytes()).unwrap();
    Policy { signers, realm: "honeypots".parse().unwrap(), threshold, min_version: None }
}

fn verify(policy: &Policy, manifest: &str, signatures: &str) -> Result<Vec<String>, &'static str> {
    let dates = KeyDates::At(time(NOW));
    let verified = policy.verify(manifest.as_bytes(), signatures, dates);
    verified.map(|signed| signed.signers).map_err(|refusal| TrustReason::of(&refusal).as_str())
}

#[test]
fn a_manifest_of_the_corpus_or_a_mutation_of_it_is_its_own_text() {
    replay("manifest", 31, 20_000, laws::manifest);
}

#[test]
fn a_list_of_the_corpus_or_a_mutation_of_it_is_its_own_text() {
    replay("manifest_rules", 32, 20_000, laws::manifest_rules);
}

#[test]
fn a_signature_of_the_corpus_or_a_mutation_of_it_verifies_only_as_it_was_made() {
    for made in laws::SIGNED {
        assert_eq!(Signature::parse(made).unwrap().verify(laws::MESSAGE), Ok(()));
    }
    replay("sshsig", 33, 5_000, laws::sshsig);
}

#[test]
fn allowed_signers_of_the_corpus_or_a_mutation_of_them_are_their_own_text() {
    replay("allowed_signers", 34, 20_000, laws::allowed_signers);
}

#[test]
fn a_release_of_the_corpus_or_a_mutation_of_it_counts_only_as_it_was_signed() {
    replay("release", 35, 5_000, laws::release);
}

#[test]
fn a_key_of_each_kind_signs_a_manifest_and_no_other() {
    let signed = manifest(NOW);
    for key in SoftKey::of_each_kind() {
        let policy = policy(&key.line("release@example.org"), 1);
        for hash in ["sha256", "sha512"] {
            let signature = key.sign_as(signed.as_bytes(), Signing { hash, ..Signing::default() });
            assert_eq!(verify(&policy, &signed, &signature), Ok(vec!["release@example.org".to_owned()]));
            for other in [manifest("2026-11-27T08:00:01Z"), signed.replace("any", "max=0")] {
                assert_eq!(verify(&policy, &other, &signature), Err("bad_signature"), "{}", key.kind());
            }
        }
    }
}

#[test]
fn a_signature_counts_only_if_everything_about_it_is_right() {
    let (signed, [ed25519, p256, sk, _]) = (manifest(NOW), SoftKey::of_each_kind());
    let lines = |options: &str| format!("a {options}{}\n", ed25519.public());
    let good = ed25519.sign(signed.as_bytes());
    for (lines, expected) in [
        (lines(""), true),
        (lines("namespaces=\"file,rulesyncd-*\" "), true),
        (lines("namespaces=\"file\" "), false),
        (lines("namespaces=\"*,!rulesyncd-manifest@v1\" "), false),
        (lines("valid-after=\"20261127080000Z\",valid-before=\"20261127080001Z\" "), true),
        (lines("valid-after=\"20261127080001Z\" "), false),
        (lines("valid-before=\"202611270800Z\" "), true),
        (lines("valid-before=\"20261127Z\" "), false),
        (p256.line("a"), false),
    ] {
        assert_eq!(verify(&policy(&lines, 1), &signed, &good).is_ok(), expected, "{lines}");
    }
    // A key that ran out goes on counting for what was accepted while it was valid.
    let lapsed = policy(&lines("valid-before=\"20261127Z\" "), 1);
    assert!(lapsed.verify(signed.as_bytes(), &good, KeyDates::Ignored).is_ok());

    let all = policy(&[ed25519.line("a"), sk.line("s")].concat(), 1);
    let made = |key: &SoftKey, signing| key.sign_as(signed.as_bytes(), signing);
    for bad in [
        made(&ed25519, Signing { namespace: "file", ..Signing::default() }),
        made(&ed25519, Signing { hash: "md5", ..Signing::default() }),
        made(&sk, Signing { flags: 0, ..Signing::default() }),
        made(&sk, Signing { flags: 4, ..Signing::default() }),
        String::new(),
        "no signature".to_owned(),
    ] {
        assert_eq!(verify(&all, &signed, &bad), Err("bad_signature"), "{bad}");
        // What does not count takes nothing from what does.
        assert!(verify(&all, &signed, &format!("{bad}{good}")).is_ok() || !bad.ends_with('\n'));
        assert!(verify(&all, &signed, &format!("{good}{bad}")).is_ok());
    }
}

#[test]
fn the_threshold_counts_principals_once() {
    let (signed, [a, b, c, _]) = (manifest(NOW), SoftKey::of_each_kind());
    let sign = |keys: &[&SoftKey]| keys.iter().map(|key| key.sign(signed.as_bytes())).collect::<String>();
    let two = policy(&[a.line("alice"), b.line("alice"), c.line("bob")].concat(), 2);
    assert_eq!(two.signers.principals(), 2);
    assert_eq!(verify(&two, &signed, &sign(&[&a])), Err("bad_signature"));
    assert_eq!(verify(&two, &signed, &sign(&[&a, &a])), Err("bad_signature"));
    assert_eq!(verify(&two, &signed, &sign(&[&a, &b])), Err("bad_signature"));
    assert_eq!(verify(&two, &signed, &sign(&[&b, &c])), Ok(vec!["alice".to_owned(), "bob".to_owned()]));
    assert_eq!(verify(&two, &signed, &sign(&[&a; 17])), Err("malformed"));
}

#[test]
fn one_key_stands_on_one_line() {
    let key = SoftKey::ed25519();
    let lines = [key.line("alice"), key.line("bob")].concat();
    let error = AllowedSigners::parse(lines.as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2: the key is that of `alice` on an earlier line; a key has one line only"
    );
    // The same point as a security key's is the same key.
    let plain = key.line("alice");
    let lines = [plain, key.in_a_security_key().line("bob")].concat();
    assert!(AllowedSigners::parse(lines.as_bytes()).is_err());
}

#[test]
fn lines_that_are_passed_over_are_named() {
    let key = SoftKey::ed25519();
    let lines = format!(
        "# comment\n\nca cert-authority {}\nold ssh-rsa AAAA\n{}",
        SoftKey::p256().public(),
        key.line("release")
    );
    let signers = AllowedSigners::parse(lines.as_bytes()).unwrap();
    assert_eq!(signers.principals(), 1);
    let numbers: Vec<_> =
        signers.warnings.iter().map(|warning| warning.split(" is").next().unwrap()).collect();
    assert_eq!(numbers, ["line 3", "line 4"]);
}

#[test]
fn a_manifest_is_not_older_than_the_floor_and_min_version() {
    let parse = |version: &str| Manifest::parse(manifest(version).as_bytes()).unwrap();
    let (old, floor, new) =
        (parse("2026-11-26T08:00:00Z"), parse("2026-11-27T08:00:00Z"), parse("2026-11-28T08:00:00Z"));
    let mut policy = policy(&SoftKey::ed25519().line("a"), 1);
    let admit = |policy: &Policy, manifest, floor| {
        policy.admit(manifest, floor).map_err(|error| TrustReason::of(&error).as_str())
    };
    assert_eq!(admit(&policy, &old, None), Ok(()));
    assert_eq!(admit(&policy, &old, Some(&floor)), Err("rolled_back"));
    assert_eq!(admit(&policy, &floor, Some(&floor)), Ok(()));
    assert_eq!(admit(&policy, &new, Some(&floor)), Ok(()));
    let other = Manifest { states: Bound::parse("max=3").unwrap(), ..floor.clone() };
    assert_eq!(admit(&policy, &other, Some(&floor)), Err("conflict"));
    policy.min_version = Some("2026-11-28T08:00:00Z".parse().unwrap());
    assert_eq!(admit(&policy, &floor, Some(&floor)), Err("rolled_back"));
    assert_eq!(admit(&policy, &new, None), Ok(()));
    let other_realm = manifest(NOW).replace("honeypots", "test");
    assert_eq!(verify(&policy, &other_realm, ""), Err("wrong_realm"));
}

#[test]
fn a_list_is_the_one_that_the_manifest_names() {
    let rule = |id: &str| ListedRule {
        rule_id: RuleId::new(id).unwrap(),
        rule_version: 1,
        content_sha256: ContentDigest::of(id),
        source_path: format!("{id}.yaml").into(),
    };
    let list = RuleList::new(vec![rule("R2"), rule("R1")]).unwrap();
    let text = list.to_text();
    let mut manifest = Manifest::parse(manifest(NOW).as_bytes()).unwrap();
    manifest.list = ListDigest::of(text.as_bytes());
    assert_eq!(manifest.parse_list(text.as_bytes()), Ok(list));
    assert!(manifest.parse_list(text.replace("R2", "R3").as_bytes()).is_err());
    assert!(manifest.parse_list(format!("{text}R3").as_bytes()).is_err());
    manifest.states = Bound::parse("max=1 protected=R2").unwrap();
    assert!(manifest.parse_list(text.as_bytes()).is_ok());
    manifest.states = Bound::parse("max=1 protected=R2,R3").unwrap();
    assert_eq!(
        manifest.parse_list(text.as_bytes()).unwrap_err().to_string(),
        "MANIFEST protects R3, which MANIFEST.rules does not list"
    );
    assert!(RuleList::new(vec![rule("r1"), rule("R1")]).is_err());
    assert!(
        RuleList::new(vec![rule("R1"), ListedRule { source_path: "R1.yaml".into(), ..rule("R2") }]).is_err()
    );
}

/// Rows of a state table: an id of a few, a word, a ceiling, and when the state was set and ends.
fn rows() -> impl Strategy<Value = Vec<(RuleId, RuleState)>> {
    let kind = prop_oneof![Just(StateKind::Enabled), Just(StateKind::Disabled), Just(StateKind::Clipped)];
    let row = (0..12_u8, kind, any::<bool>(), proptest::option::of(0..4_i64), proptest::option::of(0..9_i64));
    proptest::collection::vec(row, 0..20).prop_map(|rows| {
        let rows = rows.into_iter().map(|(id, state, has_ceiling, set_at, expires_at)| {
            let state = RuleState {
                state,
                confidence_max: has_ceiling.then_some(0.5),
                set_at: set_at.map(Timestamp::from_micros),
                expires_at: expires_at.map(Timestamp::from_micros),
                ..RuleState::default()
            };
            (RuleId::new(&format!("R{id}")).unwrap(), state)
        });
        // One row for each id, as in the table.
        rows.collect::<BTreeMap<_, _>>().into_iter().collect()
    })
}

/// Who writes into the state table could otherwise take the memory of every worker: each state beyond the bound would
/// hold its own copy of all ids that are suppressed.
#[test]
fn states_beyond_the_bound_share_the_list_of_those_that_count() {
    let disabled = RuleState { state: StateKind::Disabled, ..RuleState::default() };
    let ids = (0..2_000).map(|number| RuleId::new(&format!("R{number}")).unwrap());
    let states: BTreeMap<RuleId, RuleState> = ids.map(|id| (id, disabled.clone())).collect();
    let bound = Bound::parse("max=1000").unwrap();
    let judged = bound.effects(states.iter(), |_| true, Timestamp::from_micros(5_000));
    assert_eq!((judged.suppressed.len(), judged.without_effect.len()), (1_000, 1_000));
    for reason in judged.without_effect.values() {
        assert!(matches!(reason, NoEffect::BeyondMax(ids) if Arc::ptr_eq(ids, &judged.suppressed)));
    }
}

proptest! {
    #[test]
    fn no_states_suppress_more_than_the_manifest_allows(
        rows in rows(), max in 0..5_u32, now in 0..10_i64, seed in any::<u64>(),
    ) {
        let now = Timestamp::from_micros(now);
        let id = |number: u8| RuleId::new(&format!("R{number}")).unwrap();
        let bound = Bound::Max { max, protected: BTreeSet::from([id(1), id(2)]) };
        let is_listed = |rule_id: &RuleId| *rule_id != id(3) && *rule_id != id(4);
        let judge = |rows: &[(RuleId, RuleState)]| {
            bound.effects(rows.iter().map(|(id, state)| (id, state)), is_listed, now)
        };
        let judged = judge(&rows);
        prop_assert!(judged.suppressed.len() <= max as usize);
        for (rule_id, state) in &rows {
            let suppresses = state.state != StateKind::Enabled || state.confidence_max.is_some();
            let is_effective = !state.is_expired(now) && !judged.without_effect.contains_key(rule_id);
            // A state that suppresses counts, has no effect, or has ended.
            prop_assert_eq!(is_effective && suppresses, judged.suppressed.contains(rule_id));
            prop_assert!(!is_effective || is_listed(rule_id));
            prop_assert!(!(is_effective && suppresses && [id(1), id(2)].contains(rule_id)));
        }
        // What has no effect only for the number of others comes after all of them.
        let key = |rule_id: &RuleId| {
            let (id, state) = rows.iter().find(|(id, _)| id == rule_id).unwrap();
            (state.set_at, id.clone())
        };
        for (rule_id, reason) in &judged.without_effect {
            if let NoEffect::BeyondMax(before) = reason {
                prop_assert_eq!(before.len(), max as usize);
                prop_assert!(before.iter().all(|other| key(other) < key(rule_id)));
            }
        }
        // The order in which the rows are read makes no difference.
        let mut shuffled = rows.clone();
        let length = shuffled.len().max(1);
        shuffled.rotate_left(usize::try_from(seed % length as u64).unwrap());
        shuffled.reverse();
        prop_assert_eq!(judge(&shuffled), judged);
        let any = Bound::Any.effects(rows.iter().map(|(id, state)| (id, state)), is_listed, now);
        prop_assert!(any.without_effect.is_empty());
    }

    #[test]
    fn a_list_reads_its_own_text(ids in proptest::collection::btree_set("[A-Z][0-9]{1,4}", 0..30)) {
        let rules = ids.iter().map(|id| ListedRule {
            rule_id: RuleId::new(id).unwrap(),
            rule_version: i32::try_from(id.len()).unwrap(),
            content_sha256: ContentDigest::of(id),
            source_path: format!("{id}.yml").into(),
        });
        let list = RuleList::new(rules.collect()).unwrap();
        prop_assert_eq!(RuleList::parse(list.to_text().as_bytes()).unwrap(), list);
    }
}
