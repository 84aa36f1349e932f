//! Whatever is written into the tables, what is served is one whole signed release, and never an older one.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::*;
use super::sshsig::SoftKey;
use super::{NOW, policy, time};
use crate::clock::Timestamp;
use crate::rule::{
    Catalogue, CatalogueDigest, ContentDigest, FoundManifest, KnownRule, QuarantinedRow, RowFingerprint,
    RuleHeader, RuleId, RuleState, StateKind, TableDelta,
};

mod attacks;

fn known(id: &str, version: i32, text: &str) -> Arc<KnownRule> {
    let header = RuleHeader {
        rule_id: RuleId::new(id).unwrap(),
        rule_version: version.into(),
        source_path: format!("{id}.yaml").into(),
        content_sha256: ContentDigest::of(text),
        updated_at: Timestamp::MIN,
        updated_by: "filesystem".into(),
    };
    Arc::new(KnownRule { header, definition_json: "{}".into() })
}

/// A release: its rules, and its manifest with a signature.
pub(crate) struct Signed {
    pub(crate) rules: Vec<Arc<KnownRule>>,
    pub(crate) list: String,
    pub(crate) body: Vec<u8>,
    pub(crate) signatures: String,
    digest: CatalogueDigest,
}

pub(crate) fn release(key: &SoftKey, second: u32, rules: &[(&str, i32)], states: &str) -> Signed {
    let rules: Vec<_> =
        rules.iter().map(|(id, version)| known(id, *version, &format!("{id} {version}"))).collect();
    let listed = rules.iter().map(|rule| ListedRule {
        rule_id: rule.header.rule_id.clone(),
        rule_version: i32::try_from(rule.header.rule_version).unwrap(),
        content_sha256: rule.header.content_sha256,
        source_path: rule.header.source_path.clone(),
    });
    let list = RuleList::new(listed.collect()).unwrap().to_text();
    let manifest = Manifest {
        realm: "honeypots".parse().unwrap(),
        version: format!("2026-11-27T07:00:{second:02}Z").parse().unwrap(),
        expires: "2099-01-01T00:00:00Z".parse().unwrap(),
        states: Bound::parse(states).unwrap(),
        list: ListDigest::of(list.as_bytes()),
    };
    let body = manifest.to_string().into_bytes();
    let signatures = key.sign(&body);
    let mut digest = CatalogueDigest::default();
    rules.iter().for_each(|rule| digest.toggle_rule(&rule.header));
    Signed { rules, list, body, signatures, digest }
}

/// A gate, the tables that it is shown, and what it serves.
struct Worker {
    gate: Gate,
    rows: BTreeMap<String, Arc<KnownRule>>,
    states: BTreeMap<RuleId, RuleState>,
    part_0: FoundManifest,
    list: Option<String>,
    served: Catalogue,
}

impl Worker {
    fn new(gate: Gate) -> Self {
        let part_0 = FoundManifest::Missing("nothing yet".to_owned());
        let (rows, states) = (BTreeMap::new(), BTreeMap::new());
        Self { gate, rows, states, part_0, list: None, served: Catalogue::default() }
    }

    fn publish(&mut self, release: &Signed) {
        self.rows = release.rules.iter().map(|rule| (rule.rule_id().to_string(), Arc::clone(rule))).collect();
        self.offer(release);
    }

    /// The manifest alone.
    fn offer(&mut self, release: &Signed) {
        let (body, signatures) = (release.body.clone(), release.signatures.clone());
        self.part_0 = FoundManifest::Read { body, signatures };
        self.list = Some(release.list.clone());
    }

    fn poll(&mut self) {
        self.poll_at(time(NOW));
    }

    fn poll_at(&mut self, host: Timestamp) {
        let delta = TableDelta {
            now: time(NOW),
            rules: self.rows.values().cloned().map(Ok).collect(),
            states: self.states.iter().map(|(id, state)| Ok((id.clone(), state.clone()))).collect(),
            rule_keys: Some(self.rows.keys().cloned().collect()),
            state_keys: Some(self.states.keys().map(ToString::to_string).collect()),
            manifest: Some(self.part_0.clone()),
            ..TableDelta::default()
        };
        self.gate.poll(delta, &self.served, host);
        if self.gate.wants_list().is_some() {
            self.gate.take_list(self.list.as_ref().map(String::as_bytes), &self.served);
        }
        let delta = self.gate.take_served(&self.served, time(NOW));
        self.served.apply(delta);
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.gate.reasons(time(NOW)).iter().map(|reason| reason.as_str()).collect()
    }
}

fn worker(key: &SoftKey) -> Worker {
    Worker::new(Gate::new(policy(&key.line("owner"), 1), None))
}

const FIRST: &[(&str, i32)] = &[("R1", 1), ("R2", 1)];
const SECOND: &[(&str, i32)] = &[("R1", 2), ("R3", 1)];

#[test]
fn a_release_is_served_as_a_whole_whatever_happens_to_the_rows() {
    let key = SoftKey::ed25519();
    let (first, second) = (release(&key, 1, FIRST, "any"), release(&key, 2, SECOND, "any"));
    let mut worker = worker(&key);
    worker.poll();
    assert!(!worker.gate.is_open());
    assert_eq!(worker.reasons(), ["missing"]);
    worker.publish(&first);
    worker.poll();
    assert_eq!((worker.served.digest(), worker.reasons()), (first.digest, vec![]));

    // Forged, deleted and added rows.
    worker.rows.insert("R1".to_owned(), known("R1", 9, "forged"));
    worker.rows.remove("R2");
    worker.rows.insert("R9".to_owned(), known("R9", 1, "added"));
    worker.poll();
    assert_eq!((worker.served.digest(), worker.reasons()), (first.digest, vec!["altered"]));
    let status = worker.gate.status(time(NOW));
    assert_eq!((status.altered, status.unlisted), (vec!["R1".into(), "R2".into()], vec!["R9".into()]));

    // The next manifest without its texts: the first release is served on, from what is served.
    worker.offer(&second);
    worker.poll();
    assert_eq!((worker.served.digest(), worker.reasons()), (first.digest, vec!["incomplete", "altered"]));
    assert_eq!(worker.gate.status(time(NOW)).missing, ["R1", "R3"]);
    // A part of the list is no list.
    worker.list = Some(second.list[..20].to_owned());
    worker.poll();
    assert_eq!(worker.served.digest(), first.digest);
    worker.publish(&second);
    worker.poll();
    assert_eq!((worker.served.digest(), worker.reasons()), (second.digest, vec![]));

    // Older, another one of the same time, for another swarm, by another key, and none.
    let other_key = SoftKey::p256();
    for (bad, reason) in [
        (&first, "rolled_back"),
        (&release(&key, 2, FIRST, "any"), "conflict"),
        (&release(&other_key, 3, FIRST, "any"), "bad_signature"),
    ] {
        worker.publish(bad);
        worker.poll();
        assert_eq!((worker.served.digest(), worker.reasons()), (second.digest, vec![reason, "altered"]));
    }
    worker.part_0 = FoundManifest::Missing("dropped".to_owned());
    worker.poll();
    assert_eq!((worker.served.digest(), worker.reasons()), (second.digest, vec!["missing", "altered"]));
}

#[test]
fn a_text_that_is_no_rule_is_left_out_alone() {
    let key = SoftKey::ed25519();
    let first = release(&key, 1, FIRST, "any");
    let mut worker = worker(&key);
    worker.publish(&first);
    let broken = worker.rows.remove("R2").unwrap();
    let quarantined = QuarantinedRow {
        key: "R2".to_owned(),
        fingerprint: RowFingerprint::rule(&broken.header),
        reason: "line 1".to_owned(),
        is_text_invalid: true,
    };
    let quarantine = |worker: &mut Worker, is_text_invalid: bool| {
        let delta = TableDelta {
            now: time(NOW),
            rules: vec![Err(Box::new(QuarantinedRow { is_text_invalid, ..quarantined.clone() }))],
            ..TableDelta::default()
        };
        worker.gate.poll(delta, &worker.served, time(NOW));
    };
    // A rule that does not fit into memory is not one that cannot be parsed.
    quarantine(&mut worker, false);
    let delta = TableDelta {
        now: time(NOW),
        rules: worker.rows.values().cloned().map(Ok).collect(),
        manifest: Some(worker.part_0.clone()),
        ..TableDelta::default()
    };
    worker.gate.poll(delta.clone(), &worker.served, time(NOW));
    worker.gate.take_list(Some(first.list.as_bytes()), &worker.served);
    assert_eq!(worker.reasons(), ["incomplete", "altered"]);
    quarantine(&mut worker, true);
    let delta = worker.gate.take_served(&worker.served, time(NOW));
    worker.served.apply(delta);
    assert_eq!((worker.served.rule_count(), worker.reasons()), (1, vec![]));
    // What a cache holds of it is a whole release.
    let (body, signatures, unparsed) = worker.gate.cacheable(&worker.served).unwrap();
    assert_eq!(unparsed.len(), 1);
    let cached = |rules: Vec<Arc<KnownRule>>| TableDelta {
        rules: rules.into_iter().map(Ok).collect(),
        ..TableDelta::default()
    };
    let mut gate = Gate::new(policy(&key.line("owner"), 1), None);
    let forged = known("R1", 1, "forged");
    for bad in [vec![], vec![forged]] {
        assert!(gate.restore(body.as_bytes(), &signatures, &unparsed, &cached(bad)).is_err());
    }
    assert!(!gate.is_open());
    gate.restore(body.as_bytes(), &signatures, &unparsed, &cached(worker.rows.values().cloned().collect()))
        .unwrap();
    assert!(gate.is_open());
}

#[test]
fn a_thief_who_signs_the_year_2099_locks_nobody_out_once_the_key_is_removed() {
    let (owner, stolen) = (SoftKey::ed25519(), SoftKey::p256());
    let both = [owner.line("owner"), stolen.line("stolen")].concat();
    let mut worker = Worker::new(Gate::new(policy(&both, 1), None));
    worker.publish(&release(&owner, 1, FIRST, "any"));
    worker.poll();
    let forged = release(&stolen, 50, SECOND, "any");
    worker.publish(&forged);
    worker.poll();
    assert_eq!(worker.served.digest(), forged.digest);
    // Never empty: it is served on, and said to be unverified.
    worker.gate.trust(policy(&owner.line("owner"), 1));
    worker.poll();
    assert_eq!(
        (worker.served.digest(), worker.reasons()),
        (forged.digest, vec!["bad_signature", "unverified"])
    );
    assert!(worker.gate.cacheable(&worker.served).is_none());
    let mended = release(&owner, 2, FIRST, "any");
    worker.publish(&mended);
    worker.poll();
    assert_eq!((worker.served.digest(), worker.reasons()), (mended.digest, vec![]));
}

#[test]
fn a_restart_accepts_nothing_older_and_no_clock_changes_what_is_served() {
    let key = SoftKey::ed25519();
    let (first, second) = (release(&key, 1, FIRST, "any"), release(&key, 2, SECOND, "any"));
    let floor = Some((second.body.as_slice(), second.signatures.as_str()));
    let mut again = Worker::new(Gate::new(policy(&key.line("owner"), 1), floor));
    again.publish(&first);
    again.poll();
    assert_eq!((again.gate.is_open(), again.reasons()), (false, vec!["rolled_back"]));
    // A floor whose signer is not listed any more does not count.
    let other = SoftKey::ed25519();
    let mut again = Worker::new(Gate::new(policy(&other.line("owner"), 1), floor));
    again.publish(&release(&other, 1, FIRST, "any"));
    again.poll();
    assert_eq!(again.served.digest(), first.digest);

    for (host, reason) in [("1970-01-01T00:00:00Z", "clock"), ("2099-06-01T00:00:00Z", "expired")] {
        let mut worker = worker(&key);
        worker.publish(&second);
        worker.poll_at(time(host));
        assert_eq!(worker.served.digest(), second.digest);
        let reasons: Vec<_> = worker.gate.reasons(time(host)).iter().map(|reason| reason.as_str()).collect();
        assert_eq!(reasons, [reason]);
    }
}

#[test]
fn the_release_in_force_is_a_floor_though_the_keys_of_the_saved_one_are_removed() {
    let (old, new) = (SoftKey::ed25519(), SoftKey::ed25519());
    let mut worker = worker(&old);
    let mut second = release(&old, 2, SECOND, "any");
    worker.publish(&second);
    worker.poll();
    // The keys roll over: the new key signs the same manifest, and the old one is removed.
    second.signatures += &new.sign(&second.body);
    let both = [old.line("old"), new.line("new")].concat();
    worker.gate.trust(policy(&both, 1));
    worker.publish(&second);
    worker.poll();
    worker.gate.trust(policy(&new.line("new"), 1));
    worker.publish(&release(&new, 1, FIRST, "any"));
    worker.poll();
    assert_eq!((worker.served.digest(), worker.reasons()), (second.digest, vec!["rolled_back", "altered"]));
}

#[test]
fn states_beyond_the_bound_have_no_effect_and_the_next_takes_the_place_of_one_that_ends() {
    let key = SoftKey::ed25519();
    let mut worker = worker(&key);
    worker.publish(&release(&key, 1, &[("R1", 1), ("R2", 1), ("R3", 1)], "max=1 protected=R3"));
    let disabled = |set_at: i64| RuleState {
        state: StateKind::Disabled,
        set_at: Some(Timestamp::from_micros(set_at)),
        ..RuleState::default()
    };
    let id = |text: &str| RuleId::new(text).unwrap();
    for (rule_id, set_at) in [("R1", 2), ("R2", 1), ("R3", 0), ("R9", 0)] {
        worker.states.insert(id(rule_id), disabled(set_at));
    }
    worker.poll();
    let effective =
        |worker: &Worker| worker.served.states().map(|(id, _)| id.to_string()).collect::<Vec<_>>();
    assert_eq!(effective(&worker), ["R2"]);
    let status = worker.gate.status(time(NOW));
    assert_eq!(status.without_effect.keys().map(RuleId::as_str).collect::<Vec<_>>(), ["R1", "R3", "R9"]);
    worker.states.remove(&id("R2"));
    worker.poll();
    assert_eq!(effective(&worker), ["R1"]);
}

#[test]
fn a_status_names_the_first_states_without_an_effect_and_counts_all() {
    let key = SoftKey::ed25519();
    let mut worker = worker(&key);
    worker.publish(&release(&key, 1, &[("R1", 1)], "max=0"));
    for number in 0..1_500 {
        let state = RuleState { state: StateKind::Disabled, ..RuleState::default() };
        worker.states.insert(RuleId::new(&format!("X{number:04}")).unwrap(), state);
    }
    worker.poll();
    let status = worker.gate.status(time(NOW));
    assert_eq!((status.without_effect.len(), status.states_without_effect()), (1_000, 1_500));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_served_is_always_one_of_the_owners_releases_and_never_an_older_one(
        steps in proptest::collection::vec((0..9_u8, 0..4_usize, 0..4_u8), 1..40),
    ) {
        let key = SoftKey::ed25519();
        let thief = SoftKey::ed25519();
        let sets: [&[(&str, i32)]; 4] = [FIRST, SECOND, &[("R2", 7), ("R3", 2), ("R4", 1)], &[("R1", 2)]];
        let releases: Vec<Signed> =
            sets.iter().zip(1..).map(|(rules, second)| release(&key, second, rules, "any")).collect();
        let forged = release(&thief, 40, &[("R1", 66)], "any");
        let mut worker = worker(&key);
        let mut newest = None;
        for (step, which, row) in steps {
            let id = format!("R{}", row + 1);
            match step {
                0 | 1 => worker.publish(&releases[which]),
                2 => worker.offer(&releases[which]),
                3 => drop(worker.rows.insert(id.clone(), known(&id, 9, "forged"))),
                4 => drop(worker.rows.remove(&id)),
                5 => worker.publish(&forged),
                6 => worker.list = None,
                7 => {
                    let rule = releases[which].rules.iter().find(|rule| rule.rule_id().as_str() == id);
                    worker.rows.extend(rule.map(|rule| (id.clone(), Arc::clone(rule))));
                }
                _ => worker.part_0 = FoundManifest::Missing("gone".to_owned()),
            }
            let is_whole = step < 2;
            worker.poll();
            let found = releases.iter().position(|release| release.digest == worker.served.digest());
            let version = worker.gate.status(time(NOW)).version;
            let in_force = version.map(|version| version[17..19].parse::<usize>().unwrap() - 1);
            // A worker with nothing in force takes an incomplete release, and adds what is missing when it comes.
            if in_force.is_some() && !worker.reasons().contains(&"incomplete") {
                prop_assert_eq!(found, in_force, "a mixture is served");
            }
            prop_assert!(in_force >= newest, "an older release is served");
            if is_whole && newest.is_none_or(|newest| which >= newest) {
                prop_assert_eq!(found, Some(which));
                prop_assert!(worker.reasons().is_empty());
            }
            newest = newest.max(in_force);
            let forged = worker.served.rules().any(|(rule, _)| [9, 66].contains(&rule.header.rule_version));
            prop_assert!(!forged);
        }
    }
}
