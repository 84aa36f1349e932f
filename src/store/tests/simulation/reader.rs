//! Lets a poll read the model.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use super::Without;
use super::history::Step;
use super::tables::{Cell, Key, Tables, time};
use super::texts::{Texts, case_variant, rule_id};
use super::world::World;
use crate::clock::Timestamp;
use crate::rule::{RuleHeader, RuleRow, StateRow, Table};
use crate::store::StoreError;
use crate::store::poll::{
    Beat, CountQuestion, Counted, Counts, Header, HeaderRow, RowContent, Rows, StateFound, TableReader,
    Which, WholeRow, Window, WindowSum, WindowSums,
};

/// A session at a server. Each call first lets the next of `meanwhile` happen.
pub(super) struct Reader<'w> {
    pub(super) world: &'w mut World,
    pub(super) server: usize,
    /// What happens between the calls, the first first.
    pub(super) meanwhile: Vec<Step>,
    /// Which call fails, from 0.
    pub(super) fails_at: Option<usize>,
    /// Whether the poll compares every row.
    is_full: bool,
    /// How many calls were made.
    pub(super) calls: usize,
    /// The snapshot that has begun, and the server's clock when it did.
    snapshot: Option<(Arc<Tables>, Timestamp)>,
    /// What the last count saw.
    pub(super) read: Arc<Tables>,
    /// The server's clock at the last count.
    pub(super) now: Timestamp,
    /// How old the oldest commit was that the last snapshot did not show.
    pub(super) lag: Duration,
}

impl<'w> Reader<'w> {
    pub(super) fn new(world: &'w mut World, server: usize, is_full: bool) -> Self {
        Self {
            world,
            server,
            meanwhile: Vec::new(),
            fails_at: None,
            is_full,
            calls: 0,
            snapshot: None,
            read: Arc::default(),
            now: Timestamp::MIN,
            lag: Duration::ZERO,
        }
    }

    fn call(&mut self) -> Result<(), StoreError> {
        if !self.meanwhile.is_empty() {
            self.meanwhile.remove(0).happen(self.world);
            // No two events are at the same time: two writes of one row would have the same stamp.
            self.world.advance(0);
        }
        self.calls += 1;
        match self.fails_at {
            Some(call) if call < self.calls => {
                Err(StoreError::Unavailable { what: "reading", detail: "the session is lost".into() })
            }
            _ => Ok(()),
        }
    }

    fn tables(&self) -> &Arc<Tables> {
        self.snapshot.as_ref().map_or_else(|| self.world.tables(self.server), |(tables, _)| tables)
    }

    /// Whether this server alone takes the writes.
    pub(super) fn takes_writes(&self) -> bool {
        self.world.takes_all_writes(self.server)
    }

    fn cells(&self, which: Which<'_>, table: Table) -> Vec<(u8, Cell)> {
        let of_table = |(key, cell): (&Key, &Cell)| match (*key, table) {
            (Key::Rule(id), Table::Rules) | (Key::State(id), Table::States) => Some((id, *cell)),
            _ => None,
        };
        let is_wanted = |(id, cell): &(u8, Cell)| match which {
            Which::All => true,
            Which::Above(low) => time(cell.stamp) > low,
            Which::Keys(keys) => {
                let names = [Some(*id), case_variant(*id).filter(|_| self.world.options.folds)];
                names.into_iter().flatten().any(|id| keys.iter().any(|key| key == rule_id(id)))
            }
        };
        self.tables().rows.iter().filter_map(of_table).filter(is_wanted).collect()
    }

    fn rules(&mut self, which: Which<'_>, thorough: bool) -> ModelRows {
        let called = self.call();
        let rows = self.cells(which, Table::Rules).into_iter();
        let texts = Texts::get();
        let rows = rows.map(|(id, cell)| texts.row(id, cell.content, time(cell.stamp)));
        ModelRows { called: Some(called), rules: rows.collect(), thorough, ..ModelRows::default() }
    }
}

/// Rows in progress, the last first.
#[derive(Default)]
pub(super) struct ModelRows {
    /// The error of the call, until it is returned.
    called: Option<Result<(), StoreError>>,
    rules: Vec<RuleRow>,
    thorough: bool,
    states: Vec<StateRow>,
    keys: Vec<String>,
}

impl TableReader for Reader<'_> {
    type Rows<'r>
        = ModelRows
    where
        Self: 'r;

    fn believed_for(&self) -> Duration {
        Duration::ZERO
    }

    fn has_digests(&self) -> bool {
        true
    }

    async fn count(&mut self, question: CountQuestion<'_>) -> Result<Counted, StoreError> {
        self.call()?;
        if self.snapshot.is_none() {
            self.lag = self.world.lag(self.server);
        }
        let now = self.snapshot.as_ref().map_or_else(|| self.world.clock(self.server), |(_, begun)| *begun);
        let without = self.world.options.without;
        let tables = Arc::clone(self.tables());
        let count = |is_of: fn(&Key) -> bool, window: Window| {
            let cells = || tables.rows.iter().filter(move |(key, _)| is_of(key));
            let sum = |mark| {
                let cells = cells().filter(|(_, cell)| time(cell.stamp) > mark);
                cells.fold(WindowSum::default(), |sum, row| {
                    let mut hasher = DefaultHasher::new();
                    row.hash(&mut hasher);
                    WindowSum { rows: sum.rows + 1, hash: sum.hash ^ hasher.finish().cast_signed() }
                })
            };
            let sums = WindowSums { low: sum(window.low), last: sum(window.last) };
            let is_counted = self.is_full || without != Without::Count;
            let rows = is_counted.then(|| cells().count() as u64);
            Counts { rows, in_window: sums.low.rows, sums: Some(sums).filter(|_| window.is_summed) }
        };
        let rules = count(|key| matches!(key, Key::Rule(_)), question.rules);
        let states = count(|key| matches!(key, Key::State(_)), question.states);
        let takes_writes = self.takes_writes();
        let version = match without {
            Without::VersionOfTheSnapshot => self.world.tables(self.server).tables_version(),
            _ => tables.tables_version(),
        };
        let beat = tables.beat().map(|beat| match without {
            Without::FallenBeat => Beat { term: 0, count: 0, ..beat },
            _ => beat,
        });
        (self.read, self.now) = (tables, now);
        Ok(Counted {
            now,
            takes_writes: takes_writes || without == Without::BeatAsTheTime,
            has_beats: without != Without::WindowOfEveryRow,
            beat,
            rules: Some(rules),
            states,
            rules_version: None,
            deletions_sign: None,
            version: Some(version),
            manifest_moved: false,
        })
    }

    async fn begin(&mut self) -> Result<(), StoreError> {
        self.call()?;
        self.snapshot = Some((Arc::clone(self.world.tables(self.server)), self.world.clock(self.server)));
        self.lag = self.world.lag(self.server);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), StoreError> {
        self.call()?;
        self.snapshot = None;
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
        let called = self.call();
        let states = self.cells(which, Table::States).into_iter().map(|(id, cell)| state(id, cell)).collect();
        ModelRows { called: Some(called), states, ..ModelRows::default() }
    }

    fn keys(&mut self, table: Table) -> ModelRows {
        let called = self.call();
        let keys = self.cells(Which::All, table).into_iter().map(|(id, _)| rule_id(id).to_owned()).collect();
        ModelRows { called: Some(called), keys, ..ModelRows::default() }
    }
}

pub(super) fn state(id: u8, cell: Cell) -> StateRow {
    StateRow {
        rule_id: rule_id(id).to_owned(),
        state: if cell.content == 0 { "disabled" } else { "enabled" }.to_owned(),
        confidence_max: None,
        expires_at: None,
        reason: Some(cell.content.to_string()),
        set_by: None,
        set_at: Some(time(cell.stamp)),
    }
}

impl ModelRows {
    fn called(&mut self) -> Result<(), StoreError> {
        self.called.take().unwrap_or(Ok(()))
    }
}

impl Rows for ModelRows {
    async fn header(&mut self) -> Result<Option<HeaderRow>, StoreError> {
        self.called()?;
        Ok(self.rules.pop().map(|row| {
            let stamp = row.header.updated_at;
            let has_digest = self.thorough || stamp == stamp.whole_second();
            let content = has_digest.then_some(row.header.content_sha256);
            let RuleHeader { rule_id, rule_version, source_path, updated_at, .. } = row.header;
            let header = Header { rule_version, source_path: source_path.to_string(), updated_at, content };
            HeaderRow { shown: rule_id.clone(), key: Ok(rule_id), header: Some(header) }
        }))
    }

    async fn rule(&mut self) -> Result<Option<WholeRow>, StoreError> {
        self.called()?;
        let row = self.rules.pop();
        Ok(row.map(|row| WholeRow { key: row.header.rule_id.clone(), content: RowContent::Row(row) }))
    }

    async fn state(&mut self) -> Result<Option<StateFound>, StoreError> {
        self.called()?;
        Ok(self.states.pop().map(|row| StateFound { key: row.rule_id.clone(), row: Ok(row) }))
    }

    async fn key(&mut self) -> Result<Option<String>, StoreError> {
        self.called()?;
        Ok(self.keys.pop())
    }
}
