use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::clock::ManualClock;
use crate::config::Percent;
use crate::rule::{
    ChangeKind, ContentDigest, KnownRule, QuarantinedRow, RowFingerprint, RuleId, RuleState, StateKind,
};
use crate::wire::{Cursor, NewValue, ServerLine, SnapshotReason};
use crate::worker::snapshot::{Filter, SnapshotReader};

/// A journal and a queue that are soon too short, but for one poll: it can bring a definition and a
/// state for each key, and a journal that does not hold these leaves everyone behind.
const JOURNAL: usize = 2 * KEYS.len();
const QUEUE: usize = 4;

const KEYS: [&str; 4] = ["R1", "R2", "r2", "R3"];

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn rule(key: &str, version: i64) -> Arc<KnownRule> {
    let definition = format!(
        r#"{{"rule_id":"{key}","rule_version":{version},"name":"n","description":null,"applies_to":["a"],"match_spec":{{}},"emits":[],"evidence_fields":[]}}"#
    );
    Arc::new(KnownRule {
        header: crate::rule::RuleHeader {
            rule_id: RuleId::new(key).unwrap(),
            rule_version: version,
            source_path: "f.yaml".into(),
            updated_at: at(1),
            updated_by: "filesystem".into(),
            content_sha256: ContentDigest::of(version.to_string()),
        },
        definition_json: definition.into(),
    })
}

/// The rules' versions and the states other than the default.
type Model = (BTreeMap<String, i64>, BTreeMap<String, RuleState>);

/// A subscriber: its position in the broker, what it keeps, and what it heard.
#[derive(Default)]
struct Reader {
    feed: Option<Feed>,
    cursor: Option<Cursor>,
    model: Model,
    /// Every change, in the order in which it came, across connections.
    heard: Vec<u64>,
    snapshots: Vec<SnapshotReason>,
}

enum Feed {
    Snapshot(SnapshotReader),
    Live(Position),
}

impl Reader {
    /// Takes what a connection would write next, at most `room` bytes of a snapshot or `count`
    /// changes; connects first where it is not. `false` when there is nothing more.
    fn read(&mut self, broker: &Broker, room: usize, count: usize) -> bool {
        let filter = Filter::new(&crate::wire::Subscribe::default());
        let feed = self.feed.take().unwrap_or_else(|| match broker.start(self.cursor.as_ref(), false) {
            Some(Start::Resume(position)) => Feed::Live(position),
            Some(Start::Snapshot(snapshot, reason)) => Feed::Snapshot(SnapshotReader::new(snapshot, reason)),
            None => panic!("nothing is loaded"),
        });
        match feed {
            Feed::Snapshot(mut reader) => {
                let (mut lines, seq) = (Vec::new(), reader.seq());
                let ended = reader.write(&mut lines, room, (&broker.epoch, None), &filter);
                lines.split_inclusive(|&byte| byte == b'\n').for_each(|line| self.take_in(line));
                self.feed =
                    Some(if ended { Feed::Live(broker.position_after(seq)) } else { Feed::Snapshot(reader) });
                true
            }
            Feed::Live(mut position) => match broker.next(&mut position, &filter, count, usize::MAX) {
                Next::Changes(changes) => {
                    changes.iter().for_each(|change| self.take_in(change.line.bytes()));
                    self.feed = Some(Feed::Live(position));
                    true
                }
                Next::Lagged => {
                    self.feed =
                        Some(Feed::Snapshot(SnapshotReader::new(broker.snapshot(), SnapshotReason::Lagged)));
                    true
                }
                Next::CaughtUp => {
                    self.feed = Some(Feed::Live(position));
                    false
                }
            },
        }
    }

    fn take_in(&mut self, line: &[u8]) {
        let (rules, states) = &mut self.model;
        let mut set = |rule_id: RuleId, state: RuleState| {
            if state == RuleState::default() {
                states.remove(rule_id.as_str());
            } else {
                states.insert(rule_id.to_string(), state);
            }
        };
        match serde_json::from_slice(line).unwrap() {
            ServerLine::SnapshotBegin { reason, .. } => {
                self.snapshots.push(reason);
                self.cursor = None;
                self.model = Model::default();
            }
            ServerLine::Rule(rule) => {
                rules.insert(rule.rule_id.to_string(), rule.rule_version);
                set(rule.rule_id, rule.new_value.state);
            }
            ServerLine::State { rule_id, new_value } => set(rule_id, new_value),
            ServerLine::SnapshotEnd { epoch, seq, .. } => self.cursor = Some(Cursor { epoch, seq }),
            ServerLine::Change(change) => {
                let cursor = self.cursor.as_mut().expect("changes come after a whole snapshot");
                assert_eq!(change.seq, cursor.seq + 1, "no gap, no repeat, no step back");
                cursor.seq = change.seq;
                self.heard.push(change.seq);
                match (change.change_kind, change.new_value) {
                    (ChangeKind::Definition, Some(NewValue::Rule(_))) => {
                        rules.insert(change.rule_id.to_string(), change.rule_version.unwrap());
                    }
                    (ChangeKind::Definition, None) => {
                        rules.remove(change.rule_id.as_str()).expect("what is deleted was there");
                    }
                    (ChangeKind::State, Some(NewValue::State(state))) => set(change.rule_id, state),
                    (kind, value) => panic!("{kind:?} with {value:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Some rows are written or deleted and states set or cleared; then one poll.
    Poll(Vec<(usize, Option<i64>)>, Vec<(usize, Option<i64>)>),
    Expire(i64),
    /// The one with so many bytes or changes at a time.
    Read(usize, usize),
    /// The connection is cut.
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    let rows = |values| proptest::collection::vec((0..KEYS.len(), proptest::option::of(values)), 0..4);
    prop_oneof![
        4 => (rows(0..5_i64), rows(0..30_i64)).prop_map(|(rules, states)| Step::Poll(rules, states)),
        1 => (1..20_i64).prop_map(Step::Expire),
        4 => (1..600_usize, 1..4_usize).prop_map(|(room, count)| Step::Read(room, count)),
        1 => Just(Step::Cut),
    ]
}

proptest! {
    /// Wherever a subscriber is cut off or left behind, journal and snapshot together come to
    /// what an uninterrupted subscriber has, which is what stands in the catalogue; and what it
    /// hears between two snapshots is what the other heard.
    #[test]
    fn journal_and_snapshot_at_any_cut_equal_the_uninterrupted_stream(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let broker = Broker::new(Arc::new(ManualClock::at(at(1_777_000_000))), JOURNAL, QUEUE);
        let (mut rules, mut states) = (BTreeMap::new(), BTreeMap::new());
        let mut now = 100;
        let delta = |rules: &BTreeMap<usize, i64>, states: &BTreeMap<usize, RuleState>, now| TableDelta {
            now: at(now),
            rules: rules.iter().map(|(&key, &version)| Ok(rule(KEYS[key], version))).collect(),
            states: states
                .iter()
                .map(|(&key, state): (_, &RuleState)| Ok((RuleId::new(KEYS[key]).unwrap(), state.clone())))
                .collect(),
            rule_keys: Some(rules.keys().map(|&key| KEYS[key].to_owned()).collect()),
            state_keys: Some(states.keys().map(|&key| KEYS[key].to_owned()).collect()),
            ..TableDelta::default()
        };
        broker.apply(delta(&rules, &states, now), |_, _| Vec::new());
        let (mut steady, mut cut) = (Reader::default(), Reader::default());
        while steady.read(&broker, usize::MAX, usize::MAX) {}
        for (stamp, step) in steps.into_iter().enumerate() {
            match step {
                Step::Poll(rows, set) => {
                    for (key, version) in rows {
                        match version {
                            Some(version) => rules.insert(key, version),
                            None => rules.remove(&key),
                        };
                    }
                    for (key, end) in set {
                        let state = end.map(|end| RuleState {
                            state: StateKind::Disabled,
                            expires_at: (end > 0).then(|| at(now + end)),
                            set_at: Some(at(1_000 + i64::try_from(stamp).unwrap())),
                            ..RuleState::default()
                        });
                        match state {
                            Some(state) => states.insert(key, state),
                            None => states.remove(&key),
                        };
                    }
                    broker.apply(delta(&rules, &states, now), |_, _| Vec::new());
                }
                Step::Expire(seconds) => {
                    now += seconds;
                    broker.expire(at(now));
                }
                Step::Read(room, count) => { cut.read(&broker, room, count); }
                Step::Cut => cut.feed = None,
            }
            while steady.read(&broker, usize::MAX, usize::MAX) {}
        }
        while cut.read(&broker, 100, 1) {}

        let catalogue: Model = broker.inspect(|catalogue, _, _| {
            let rules = catalogue.rules().map(|(rule, _)| (rule.header.rule_id.to_string(), rule.header.rule_version));
            let states = catalogue.states().map(|(id, state)| (id.to_string(), RuleState::clone(state)));
            (rules.collect(), states.collect())
        });
        prop_assert_eq!(&steady.model, &catalogue);
        prop_assert_eq!(&cut.model, &catalogue);
        prop_assert_eq!(&steady.cursor, &cut.cursor);
        prop_assert_eq!(&steady.snapshots, &[SnapshotReason::Initial], "who reads at once is never behind");
        let all: Vec<u64> = (1..=broker.head_status().seq).collect();
        prop_assert_eq!(&steady.heard, &all);
        prop_assert!(cut.heard.is_sorted());
    }
}

fn busy_broker() -> Broker {
    let broker = Broker::new(Arc::new(ManualClock::at(at(1))), 1_000, 100);
    broker.apply(TableDelta { rules: vec![Ok(rule("R1", 0))], ..TableDelta::default() }, |_, _| Vec::new());
    broker
}

fn write(broker: &Broker, version: i64) {
    broker.apply(TableDelta { rules: vec![Ok(rule("R1", version))], ..TableDelta::default() }, |_, _| {
        Vec::new()
    });
}

#[test]
fn followers_that_come_one_after_the_other_share_a_snapshot() {
    let broker = busy_broker();
    let first = broker.snapshot();
    write(&broker, 1);
    assert!(Arc::ptr_eq(&first, &broker.snapshot()));
    let Some(Start::Snapshot(exact, _)) = broker.start(None, true) else { panic!("no snapshot") };
    assert_eq!(exact.seq, 1, "who wants the snapshot alone gets the newest");
    for version in 2..40 {
        write(&broker, version);
    }
    assert!(!Arc::ptr_eq(&exact, &broker.snapshot()), "an old one is not given out");
}

#[test]
fn snapshots_that_nobody_reads_on_in_are_taken_back() {
    let broker = busy_broker();
    let (old, progress) = (broker.snapshot(), 0);
    for version in 1..=100 {
        write(&broker, version);
    }
    assert!(broker.snapshot_holds(old.seq, progress));
    write(&broker, 101);
    assert!(!broker.snapshot_holds(old.seq, progress), "stuck for more changes than the queue has");
    assert!(broker.snapshot_holds(old.seq, 50), "slow, but getting on");
    for version in 102..=1_002 {
        write(&broker, version);
    }
    assert!(!broker.snapshot_holds(old.seq, 1_000), "the journal does not reach back to it");
}

#[test]
fn no_more_than_a_few_snapshots_are_read_at_once() {
    let broker = busy_broker();
    let read: Vec<_> = (1..=40)
        .map(|version| {
            write(&broker, version);
            broker.start(None, true)
        })
        .collect();
    let held = read.iter().filter(|start| match start {
        Some(Start::Snapshot(snapshot, _)) => broker.snapshot_holds(snapshot.seq, 40),
        _ => panic!("no snapshot"),
    });
    assert_eq!(held.count(), SNAPSHOTS);
}

#[test]
fn stale_rules_are_never_zero_milliseconds_old() {
    let mut status = Broker::new(Arc::new(ManualClock::at(at(1))), 1_000, 100).head_status();
    for (stale_for, shown) in [(0, 0), (1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2)] {
        status.stale_for = Duration::from_nanos(stale_for);
        assert_eq!(status.stale_for_ms(), shown);
    }
}

/// A replica is as old as the master's last sign of life, which may be some seconds old, so a poll may take as long there.
#[tokio::test(start_paused = true)]
async fn rules_of_a_replica_count_as_current_until_the_last_sign_of_life_is_old() {
    let second = Duration::from_secs(1);
    for (current_for, lasts) in [(Duration::ZERO, 1_600), (4 * second, 4_000), (second, 1_600)] {
        let clock = Arc::new(ManualClock::at(at(1)));
        let broker = Broker::new(clock, 1_000, 100).polled_every(second);
        broker.database(Ok(()));
        broker.apply(TableDelta { current_for, ..TableDelta::default() }, |_, _| Vec::new());
        let lasts = Duration::from_millis(lasts);
        tokio::time::advance(lasts).await;
        assert_eq!(broker.head_status().stale_for, Duration::ZERO, "{current_for:?}");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(broker.head_status().stale_for > lasts, "{current_for:?}");
    }
}

/// Each deletion is held back for the whole time, from when it became known.
#[tokio::test(start_paused = true)]
async fn deletions_that_join_those_held_back_begin_the_hold_anew() {
    let hold = Duration::from_secs(30);
    let broker = Broker::new(Arc::new(ManualClock::at(at(1))), 1_000, 100);
    let broker = broker.guarded(Percent::parse("20%").unwrap(), hold);
    let ids: Vec<String> = (0..40).map(|number| format!("R{number}")).collect();
    let apply = |rules, left: Option<&[String]>| {
        let rule_keys = left.map(<[_]>::to_vec);
        broker.apply(TableDelta { rules, rule_keys, ..TableDelta::default() }, |_, _| Vec::new()).held_back
    };
    let all = || ids.iter().map(|id| Ok(rule(id, 1))).collect();
    assert_eq!(apply(all(), Some(&ids)), None);
    assert_eq!(apply(Vec::new(), Some(&ids[10..])), Some(10));
    let first = broker.release_at().unwrap();
    tokio::time::advance(Duration::from_secs(24)).await;
    assert_eq!(apply(Vec::new(), Some(&ids[10..])), None, "the same ones are no news");
    assert_eq!(broker.release_at(), Some(first));
    assert_eq!(apply(Vec::new(), Some(&[])), Some(40), "more of them are");
    assert_eq!(broker.release_at(), Some(Instant::now() + hold));
    let (named, count, since) = broker.held_back(15);
    assert_eq!((named.len(), count, since), (15, 40, Some(at(1))), "an answer names the first");
    // As many as before, but others.
    tokio::time::advance(Duration::from_secs(24)).await;
    let back = ids[..20].iter().map(|id| Ok(rule(id, 1))).collect();
    assert_eq!(apply(back, Some(&ids[..20])), None, "fewer are no news");
    let back = ids[20..].iter().map(|id| Ok(rule(id, 1))).collect();
    assert_eq!(apply(back, Some(&ids[20..])), Some(20));
    assert_eq!(broker.release_at(), Some(Instant::now() + hold));
}

#[test]
fn an_answer_names_the_first_quarantined_rows_and_counts_all() {
    let broker = Broker::new(Arc::new(ManualClock::at(at(1))), 1_000, 100);
    let fingerprint = RowFingerprint::other(at(1), ContentDigest::of("x"));
    let row = |number| {
        let (key, reason) = (format!("Q{number}"), "emits is missing".to_owned());
        Err(Box::new(QuarantinedRow { key, fingerprint, reason, is_text_invalid: false }))
    };
    let rules = (0..30).map(row).collect();
    broker.apply(TableDelta { rules, ..TableDelta::default() }, |_, _| Vec::new());
    for (most, named) in [(20, 20), (30, 30), (40, 30)] {
        let (rows, count) = broker.some_quarantined(most);
        assert_eq!((rows.len(), count), (named, 30));
    }
}
