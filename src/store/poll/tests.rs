//! Runs the algorithm on a model of the two tables, with random commits between the polls.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::rule::{Catalogue, ContentDigest, RowFingerprint, RuleHeader, RuleId, RuleRow, StateRow};

/// The second at which the model's time begins.
const BEGIN: i64 = 1_777_620_000_000_000;

/// A model of a database: both tables, and its clock in microseconds.
#[derive(Default)]
struct Model {
    now: i64,
    rules: BTreeMap<String, RuleRow>,
    states: BTreeMap<String, StateRow>,
    /// The row of `rulesyncd_version`.
    version: Option<TablesVersion>,
    /// How many rules other programs have deleted.
    deleted_by_others: usize,
    /// How many statements the current poll has run.
    statements: usize,
    /// How many rows of rules the current poll has read.
    rows_read: usize,
    /// Whether the current poll has counted the rules.
    is_counted: bool,
    /// Whether it sums rows, as PostgreSQL does from version 14.
    has_xor: bool,
}

/// Rows of the model in progress.
enum ModelRows {
    Rules(std::vec::IntoIter<RuleRow>, bool),
    States(std::vec::IntoIter<StateRow>),
    Keys(std::vec::IntoIter<String>),
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(BEGIN + micros)
}

impl Model {
    fn rules(&mut self, which: Which<'_>, thorough: bool) -> ModelRows {
        self.statements += 1;
        let is_wanted = |row: &&RuleRow| match which {
            Which::All => true,
            Which::Above(low) => row.header.updated_at > low,
            Which::Keys(keys) => keys.contains(&row.header.rule_id),
        };
        let rows: Vec<_> = self.rules.values().filter(is_wanted).cloned().collect();
        self.rows_read += rows.len();
        ModelRows::Rules(rows.into_iter(), thorough)
    }

    /// Sums what tells whether a row differs from the index.
    fn sums(&self, table: Table, window: Window) -> WindowSums {
        let hash = |value: String| {
            let digest = ContentDigest::of(value).to_string();
            u64::from_str_radix(&digest[..16], 16).unwrap().cast_signed()
        };
        let rule = |row: &RuleRow| {
            let RuleHeader { rule_id, rule_version, source_path, updated_at, .. } = &row.header;
            let is_whole_second = *updated_at == updated_at.whole_second();
            let text = is_whole_second.then_some(&row.yaml_content);
            (*updated_at, hash(format!("{rule_id} {rule_version} {source_path} {updated_at} {text:?}")))
        };
        let rows: Vec<(Timestamp, i64)> = match table {
            Table::Rules => self.rules.values().map(rule).collect(),
            Table::States => {
                let state = |row: &StateRow| (row.set_at.unwrap(), hash(format!("{row:?}")));
                self.states.values().map(state).collect()
            }
        };
        let above = |mark| {
            let rows = rows.iter().filter(|row| row.0 > mark);
            rows.fold(WindowSum::default(), |sum, row| WindowSum {
                rows: sum.rows + 1,
                hash: sum.hash ^ row.1,
            })
        };
        WindowSums { low: above(window.low), last: above(window.last) }
    }

    /// Raises the version, as a transaction of this program does.
    fn raise(&mut self, deletes: bool) {
        let before = self.version.map_or(0, |version| version.version);
        let deleted = self.version.map_or(0, |version| version.deleted);
        let version = before + 1;
        self.version = Some(TablesVersion { version, deleted: if deletes { version } else { deleted } });
    }

    fn is_above(low: Timestamp) -> impl Fn(&&StateRow) -> bool {
        move |row| row.set_at.unwrap_or(Timestamp::MIN) > low
    }
}

impl TableReader for Model {
    type Rows<'r> = ModelRows;

    fn believed_for(&self) -> Duration {
        Duration::ZERO
    }

    fn has_digests(&self) -> bool {
        true
    }

    async fn count(&mut self, question: CountQuestion<'_>) -> Result<Counted, StoreError> {
        self.statements += 1;
        let sign = self.deleted_by_others.to_string();
        let deletions = self.version.map(|version| (sign.as_str(), version.deleted));
        let is_unneeded = deletions.is_some() && question.known.deletions == deletions;
        self.is_counted |= !is_unneeded;
        let counts = |rows: Option<usize>, table, window| {
            let sums = self.sums(table, window);
            let (rows, in_window) = (rows.map(|rows| rows as u64), sums.low.rows);
            Counts { rows, in_window, sums: Some(sums).filter(|_| self.has_xor && window.is_summed) }
        };
        Ok(Counted {
            now: time(self.now),
            takes_writes: true,
            has_beats: false,
            beat: None,
            rules: Some(counts(
                Some(self.rules.len()).filter(|_| !is_unneeded),
                Table::Rules,
                question.rules,
            )),
            states: counts(Some(self.states.len()), Table::States, question.states),
            rules_version: None,
            deletions_sign: Some(sign),
            version: self.version,
            manifest_moved: false,
        })
    }

    async fn begin(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn end(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn headers(&mut self, which: Which<'_>, thorough: bool) -> ModelRows {
        self.rules(which, thorough)
    }

    fn short_rules(&mut self, which: Which<'_>) -> ModelRows {
        self.rules(which, true)
    }

    fn long_rules(&mut self, keys: &[String]) -> ModelRows {
        self.rules(Which::Keys(keys), true)
    }

    fn states(&mut self, which: Which<'_>) -> ModelRows {
        self.statements += 1;
        let low = match which {
            Which::Above(low) => low,
            _ => Timestamp::MIN,
        };
        let is_wanted = |row: &&StateRow| matches!(which, Which::All) || Self::is_above(low)(row);
        ModelRows::States(self.states.values().filter(is_wanted).cloned().collect::<Vec<_>>().into_iter())
    }

    fn keys(&mut self, table: Table) -> ModelRows {
        self.statements += 1;
        ModelRows::Keys(match table {
            Table::Rules => self.rules.keys().cloned().collect::<Vec<_>>().into_iter(),
            Table::States => self.states.keys().cloned().collect::<Vec<_>>().into_iter(),
        })
    }
}

impl ModelRows {
    fn next_rule(&mut self) -> Option<(RuleRow, bool)> {
        let Self::Rules(rows, thorough) = self else { panic!("these are no rules") };
        Some((rows.next()?, *thorough))
    }
}

impl Rows for ModelRows {
    async fn header(&mut self) -> Result<Option<HeaderRow>, StoreError> {
        Ok(self.next_rule().map(|(row, thorough)| {
            let stamp = row.header.updated_at;
            let is_whole_second = stamp == stamp.whole_second();
            let content = (thorough || is_whole_second).then_some(row.header.content_sha256);
            let RuleHeader { rule_id, rule_version, source_path, updated_at, .. } = row.header;
            HeaderRow {
                shown: rule_id.clone(),
                key: Ok(rule_id),
                header: Some(Header { rule_version, source_path: source_path.into(), updated_at, content }),
            }
        }))
    }

    async fn rule(&mut self) -> Result<Option<WholeRow>, StoreError> {
        let row = self.next_rule();
        Ok(row.map(|(row, _)| WholeRow { key: row.header.rule_id.clone(), content: RowContent::Row(row) }))
    }

    async fn state(&mut self) -> Result<Option<StateFound>, StoreError> {
        let Self::States(rows) = self else { panic!("these are no states") };
        Ok(rows.next().map(|row| StateFound { key: row.rule_id.clone(), row: Ok(row) }))
    }

    async fn key(&mut self) -> Result<Option<String>, StoreError> {
        let Self::Keys(keys) = self else { panic!("these are no keys") };
        Ok(keys.next())
    }
}

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

fn rule(id: u8, version: i32, updated_at: Timestamp) -> RuleRow {
    named_rule(id, version, updated_at, "n")
}

fn named_rule(id: u8, version: i32, updated_at: Timestamp, name: &str) -> RuleRow {
    let rule_id = format!("R{id}");
    let yaml_content = format!(
        "rule_id: {rule_id}\nrule_version: {version}\nname: {name}\napplies_to: [command]\nmatch: {{field: x}}\nemits:\n  - \
         {{tactic: TA0007, technique_id: T1083, confidence: 0.5}}\n"
    );
    let header = RuleHeader {
        source_path: format!("{rule_id}.yaml").into(),
        rule_id,
        rule_version: version.into(),
        content_sha256: ContentDigest::of(&yaml_content),
        updated_at,
        updated_by: "filesystem".into(),
    };
    RuleRow { header, yaml_content }
}

/// A follower of the model.
#[derive(Default)]
struct Follower {
    catalogue: Catalogue,
    watermarks: Option<Watermarks>,
    /// How much later than now its polls begin.
    later: Duration,
}

impl Follower {
    /// Polls once, and returns how many statements the poll ran.
    fn poll(&mut self, model: &mut Model, full: bool, woken: bool) -> usize {
        (model.statements, model.rows_read, model.is_counted) = (0, 0, false);
        let (config, at) = (FollowConfig::default(), Instant::now() + self.later);
        let mut poll = Poll::new(model, &config, &self.catalogue, self.watermarks.take(), at);
        (poll.full, poll.woken, poll.hurried) = (full || poll.full, woken, woken);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (delta, watermarks) = runtime.block_on(poll.run()).unwrap();
        self.catalogue.apply(delta);
        self.watermarks = Some(watermarks);
        model.statements
    }

    fn version(&self) -> Option<TablesVersion> {
        self.watermarks.as_ref().and_then(|watermarks| watermarks.version)
    }

    /// The greatest stamp of a rule that is known.
    fn newest(&self) -> Timestamp {
        self.watermarks.as_ref().map_or(Timestamp::MIN, Watermarks::newest_rule)
    }

    /// Whether a poll has left the windows to a later one.
    fn is_behind(&self) -> bool {
        self.watermarks.as_ref().is_some_and(|watermarks| watermarks.window_due().is_some())
    }
}

/// The content of the model's tables.
fn expected(model: &Model) -> Catalogue {
    let mut catalogue = Catalogue::default();
    let mut reader = super::super::RowReader::default();
    catalogue.apply(TableDelta {
        now: time(model.now),
        rules: model.rules.values().map(|row| reader.read(row)).collect(),
        states: model
            .states
            .values()
            .map(|row| Ok((RuleId::new(&row.rule_id).unwrap(), row.state().unwrap())))
            .collect(),
        ..TableDelta::default()
    });
    catalogue
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

/// A model with 90 rules that were loaded at once, with stamps of whole seconds or not, and a follower that has just
/// read them.
fn loaded(has_xor: bool, whole_seconds: bool) -> (Model, Follower) {
    let (mut model, mut follower) = (Model { has_xor, ..Model::default() }, Follower::default());
    follower.poll(&mut model, false, false);
    model.now += 20_000_000;
    for id in 0..90 {
        let stamp = if whole_seconds { time(model.now) } else { time(model.now + 1 + i64::from(id)) };
        model.rules.insert(format!("R{id}"), rule(id, 1, stamp));
    }
    model.raise(false);
    model.now += 1_000;
    follower.poll(&mut model, false, false);
    model.now += 1_000;
    follower.poll(&mut model, false, false);
    (model, follower)
}

#[test]
fn an_idle_poll_after_a_load_reads_none_of_its_rows() {
    for whole_seconds in [false, true] {
        let (mut model, mut follower) = loaded(true, whole_seconds);
        for _ in 0..8 {
            model.now += 1_000_000;
            assert_eq!(follower.poll(&mut model, false, false), 1);
            assert_eq!(model.rows_read, 0);
        }
        // A database that does not sum them has them read.
        let (mut model, mut follower) = loaded(false, whole_seconds);
        model.now += 1_000_000;
        follower.poll(&mut model, false, false);
        assert_eq!(model.rows_read, 90);
    }
}

#[test]
fn a_poll_after_an_edit_reads_the_edit_once() {
    let (mut model, mut follower) = known();
    model.has_xor = true;
    follower.poll(&mut model, false, false);
    model.now += 100_000;
    model.rules.insert("R1".to_owned(), rule(1, 2, time(model.now)));
    model.raise(false);
    follower.poll(&mut model, false, true);
    assert_eq!(model.rows_read, 1);
    // The low mark rises from the old stamps to the overlap before the edit.
    for _ in 0..8 {
        model.now += 1_000_000;
        assert_eq!(follower.poll(&mut model, false, false), 1);
        assert_eq!(model.rows_read, 0);
    }
}

#[test]
fn a_change_among_many_rules_that_were_just_loaded_is_found() {
    type Change = fn(&mut Model);
    let changes: [Change; 4] = [
        // The second write of a second.
        |model| {
            let stamp = model.rules["R7"].header.updated_at;
            model.rules.insert("R7".to_owned(), named_rule(7, 1, stamp.whole_second(), "another"));
        },
        // Two rows exchange their texts and paths.
        |model| {
            let stamp = model.rules["R7"].header.updated_at;
            let (mut one, mut other) = (rule(7, 2, stamp), rule(8, 1, stamp));
            std::mem::swap(&mut one.header.source_path, &mut other.header.source_path);
            model.rules.extend([("R7".to_owned(), one), ("R8".to_owned(), other)]);
        },
        // A row replaces another.
        |model| {
            let stamp = model.rules.remove("R7").unwrap().header.updated_at;
            model.rules.insert("R99".to_owned(), rule(99, 1, stamp));
            model.deleted_by_others += 1;
        },
        |model| {
            model.rules.remove("R7");
            model.deleted_by_others += 1;
        },
    ];
    for change in changes {
        for has_xor in [false, true] {
            let (mut model, mut follower) = loaded(has_xor, true);
            model.now += 1_000_000;
            follower.poll(&mut model, false, false);
            change(&mut model);
            model.now += 1_000_000;
            follower.poll(&mut model, false, false);
            assert_eq!(follower.catalogue.digest(), expected(&model).digest());
        }
    }
}

#[test]
fn a_wake_up_for_an_edit_reads_none_of_the_rules_that_were_just_loaded() {
    let (mut model, mut follower) = loaded(true, false);
    for version in 2..5 {
        model.now += 100_000;
        model.rules.insert("R7".to_owned(), rule(7, version, time(model.now)));
        model.raise(false);
        follower.poll(&mut model, false, true);
        assert_eq!(model.rows_read, 1);
        assert_eq!(follower.catalogue.digest(), expected(&model).digest());
        assert!(follower.is_behind());
    }
    // A wake-up for a late commit alone reads the window; the version was explained.
    let late = model.rules["R8"].header.updated_at;
    model.rules.insert("R8".to_owned(), rule(8, 2, late));
    follower.poll(&mut model, false, true);
    assert_eq!(follower.catalogue.digest(), expected(&model).digest());
    assert!(!follower.is_behind());
    assert_eq!(follower.version(), model.version);
}

#[test]
fn the_poll_after_one_that_read_only_newer_rules_is_no_full_one() {
    let (mut model, mut follower) = loaded(true, false);
    // Long before the window.
    model.rules.insert("R91".to_owned(), rule(91, 1, time(-90_000_000)));
    model.now += 100_000;
    follower.poll(&mut model, true, false);
    model.now += 100_000;
    model.rules.insert("R7".to_owned(), rule(7, 2, time(model.now)));
    model.raise(false);
    follower.poll(&mut model, false, true);
    model.now += 1_000_000;
    follower.poll(&mut model, false, false);
    assert_eq!(model.rows_read, 90, "the window, and not all 91");
    assert_eq!(follower.version(), model.version);
}

/// A model with two rules that a follower knows, long enough ago that no window reads them.
fn known() -> (Model, Follower) {
    let (mut model, mut follower) = (Model::default(), Follower::default());
    for id in 1..=2 {
        model.rules.insert(format!("R{id}"), rule(id, 1, time(0)));
    }
    model.raise(false);
    for _ in 0..3 {
        model.now += 20_000_000;
        follower.poll(&mut model, false, false);
    }
    (model, follower)
}

#[test]
fn a_version_that_rose_without_an_explanation_makes_the_same_poll_a_full_one() {
    for (is_ours, woken) in [(true, false), (true, true), (false, false), (false, true)] {
        let (mut model, mut follower) = known();
        // The stamp is older than the overlap.
        model.rules.insert("R1".to_owned(), rule(1, 2, time(0)));
        if is_ours {
            model.raise(false);
        }
        follower.poll(&mut model, false, woken);
        assert_eq!(follower.catalogue.digest() == expected(&model).digest(), is_ours, "woken: {woken}");
        // The same version has been explained, and once the overlap has passed, a poll is one statement.
        model.now += 20_000_000;
        follower.poll(&mut model, false, false);
        model.now += 20_000_000;
        assert_eq!(follower.poll(&mut model, false, false), 1);
    }
}

#[test]
fn a_version_that_is_explained_makes_no_poll_a_full_one() {
    let (mut model, mut follower) = known();
    let before = model.version;
    // Another program's change, which no window reads, and one that explains the version.
    model.rules.insert("R1".to_owned(), rule(1, 2, time(0)));
    model.rules.insert("R2".to_owned(), rule(2, 2, time(model.now)));
    model.raise(false);
    follower.poll(&mut model, false, false);
    assert_ne!(follower.catalogue.digest(), expected(&model).digest());
    assert_ne!(follower.watermarks.as_ref().unwrap().version, before);
}

#[test]
fn a_version_that_fell_makes_the_poll_a_full_one() {
    let (mut model, mut follower) = known();
    // A backup was restored, and rows were written since.
    model.rules.insert("R1".to_owned(), rule(1, 0, time(-1)));
    model.rules.insert("R2".to_owned(), rule(2, 7, time(model.now)));
    model.version = Some(TablesVersion { version: 0, deleted: 0 });
    follower.poll(&mut model, false, false);
    assert_eq!(follower.catalogue.digest(), expected(&model).digest());
}

#[test]
fn a_version_that_cannot_be_read_for_a_while_is_compared_with_the_last_one() {
    let (mut model, mut follower) = known();
    let version = model.version.take();
    assert_eq!(follower.poll(&mut model, false, false), 1);
    model.version = version;
    assert_eq!(follower.poll(&mut model, false, false), 1);
    model.version = Some(TablesVersion { version: 0, deleted: 0 });
    assert!(follower.poll(&mut model, false, false) > 1);
}

#[test]
fn whatever_wakes_a_poll_it_counts_the_rules_only_after_a_deletion_and_once_in_five_seconds() {
    let (mut model, mut follower) = known();
    let mut version = 1;
    let mut is_counted = |model: &mut Model, follower: &mut Follower, woken| {
        version += 1;
        model.now += 100_000;
        model.rules.insert("R1".to_owned(), rule(1, version, time(model.now)));
        model.raise(false);
        follower.poll(model, false, woken);
        assert_eq!(follower.catalogue.digest(), expected(model).digest());
        model.is_counted
    };
    for woken in [false, true, true, false] {
        assert!(!is_counted(&mut model, &mut follower, woken), "an edit, woken: {woken}");
    }
    for woken in [true, false] {
        model.rules.insert("R2".to_owned(), rule(2, 1, time(model.now)));
        assert!(!is_counted(&mut model, &mut follower, woken), "a new rule, woken: {woken}");
        model.rules.remove("R2");
        model.raise(true);
        assert!(is_counted(&mut model, &mut follower, woken), "a deletion, woken: {woken}");
        assert!(!is_counted(&mut model, &mut follower, woken), "the edit after a deletion, woken: {woken}");
    }
    follower.later = watermarks::COUNT_INTERVAL;
    assert!(is_counted(&mut model, &mut follower, true), "five seconds later");
    assert!(!is_counted(&mut model, &mut follower, true));
}
