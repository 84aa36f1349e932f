//! A model of the two tables, and a follower of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::*;
use crate::rule::{Catalogue, ContentDigest, RuleHeader, RuleId, RuleRow, StateRow};
use crate::store::RowReader;

/// The second at which the model's time begins.
pub(super) const BEGIN: i64 = 1_777_620_000_000_000;

/// A model of a database: both tables, and its clock in microseconds.
#[derive(Default)]
pub(super) struct Model {
    pub(super) now: i64,
    pub(super) rules: BTreeMap<String, RuleRow>,
    pub(super) states: BTreeMap<String, StateRow>,
    /// The row of `rulesyncd_version`.
    pub(super) version: Option<TablesVersion>,
    /// How many rules other programs have deleted.
    pub(super) deleted_by_others: usize,
    /// How many statements the current poll has run.
    pub(super) statements: usize,
    /// How many rows of rules the current poll has read.
    pub(super) rows_read: usize,
    /// Whether the current poll has counted the rules.
    pub(super) is_counted: bool,
    /// Whether it sums rows, as PostgreSQL does from version 14.
    pub(super) has_xor: bool,
}

/// Rows of the model in progress.
pub(super) enum ModelRows {
    Rules(std::vec::IntoIter<RuleRow>, bool),
    States(std::vec::IntoIter<StateRow>),
    Keys(std::vec::IntoIter<String>),
}

pub(super) fn time(micros: i64) -> Timestamp {
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
    pub(super) fn raise(&mut self, deletes: bool) {
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

pub(super) fn rule(id: u8, version: i32, updated_at: Timestamp) -> RuleRow {
    named_rule(id, version, updated_at, "n")
}

pub(super) fn named_rule(id: u8, version: i32, updated_at: Timestamp, name: &str) -> RuleRow {
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
pub(super) struct Follower {
    pub(super) catalogue: Catalogue,
    pub(super) watermarks: Option<Watermarks>,
    /// How much later than now its polls begin.
    pub(super) later: Duration,
}

impl Follower {
    /// Polls once, and returns how many statements the poll ran.
    pub(super) fn poll(&mut self, model: &mut Model, full: bool, woken: bool) -> usize {
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

    pub(super) fn version(&self) -> Option<TablesVersion> {
        self.watermarks.as_ref().and_then(|watermarks| watermarks.version)
    }

    /// The greatest stamp of a rule that is known.
    pub(super) fn newest(&self) -> Timestamp {
        self.watermarks.as_ref().map_or(Timestamp::MIN, Watermarks::newest_rule)
    }

    /// Whether a poll has left the windows to a later one.
    pub(super) fn is_behind(&self) -> bool {
        self.watermarks.as_ref().is_some_and(|watermarks| watermarks.window_due().is_some())
    }
}

/// The content of the model's tables.
pub(super) fn expected(model: &Model) -> Catalogue {
    let mut catalogue = Catalogue::default();
    let mut reader = RowReader::default();
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

/// A model with two rules that a follower knows, long enough ago that no window reads them.
pub(super) fn known() -> (Model, Follower) {
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
