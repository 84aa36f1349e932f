//! What the tables hold: the fold of a prefix of the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::texts::case_variant;
use crate::clock::Timestamp;
use crate::store::lease::LeaseRow;
use crate::store::poll::{Beat, TablesVersion};

/// A row: its content, and its stamp in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cell {
    /// Which text a rule has, or whether a state disables its rule.
    pub(super) content: u8,
    pub(super) stamp: i64,
    /// Whether a master or a command of this program wrote it.
    pub(super) is_ours: bool,
    /// Whether it was committed so long after its stamp that a poll may miss it.
    pub(super) is_late: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Rule(u8),
    State(u8),
}

impl Key {
    /// The key that a table which ignores case takes for the same.
    pub(super) fn case_variant(self) -> Option<Self> {
        match self {
            Self::Rule(id) => case_variant(id).map(Self::Rule),
            Self::State(id) => case_variant(id).map(Self::State),
        }
    }
}

/// A change of one row; `None` deletes it.
pub(super) type Change = (Key, Option<Cell>);

/// The row of `rulesyncd_lease`.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) row: Arc<LeaseRow>,
    /// `beat_at`.
    pub(super) at: Timestamp,
    /// Which session took it; no two have the same number.
    pub(super) session: u64,
}

/// A master's session: what its commits carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) owner: Arc<str>,
    pub(super) term: u64,
    pub(super) session: u64,
}

/// What a row's lock is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Locked {
    Row(Key),
    Version,
    Lease,
}

/// What a transaction changed.
#[derive(Debug, Clone, Default)]
pub(super) struct Commit {
    pub(super) changes: Vec<Change>,
    /// Whether it raises the version.
    pub(super) raises: bool,
    /// Whether it says that it deleted rows.
    pub(super) deletes: bool,
    pub(super) lease: Option<Lease>,
    /// The master's session that wrote under its lease; `None` for the taking of a lease, and for all others.
    pub(super) by: Option<Holder>,
    /// The true time, in microseconds.
    pub(super) at: i64,
}

impl Commit {
    /// Whether it changes what `locked` is about, in tables that ignore case or do not.
    pub(super) fn changes(&self, locked: Locked, folds: bool) -> bool {
        match locked {
            Locked::Row(key) => {
                let is_same =
                    |(other, _): &Change| *other == key || (folds && other.case_variant() == Some(key));
                self.changes.iter().any(is_same)
            }
            Locked::Version => self.raises,
            Locked::Lease => self.lease.is_some(),
        }
    }
}

/// What a server shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    pub(super) rows: BTreeMap<Key, Cell>,
    pub(super) version: u64,
    pub(super) deleted: u64,
    /// `None` before the row is inserted.
    pub(super) lease: Option<Lease>,
    /// How many commits of the log it shows.
    pub(super) commits: usize,
}

impl Tables {
    /// Applies the next commit of the log. In tables that ignore case, a row replaces the case variant of its key.
    pub(super) fn apply(&mut self, commit: &Commit, folds: bool) {
        self.commits += 1;
        self.version += u64::from(commit.raises);
        if commit.deletes {
            self.deleted = self.version;
        }
        if let Some(lease) = &commit.lease {
            self.lease = Some(lease.clone());
        }
        for &(key, cell) in &commit.changes {
            match cell {
                Some(cell) => {
                    if let Some(variant) = key.case_variant().filter(|_| folds) {
                        self.rows.remove(&variant);
                    }
                    self.rows.insert(key, cell);
                }
                None => drop(self.rows.remove(&key)),
            }
        }
    }

    pub(super) fn tables_version(&self) -> TablesVersion {
        TablesVersion { version: self.version, deleted: self.deleted }
    }

    /// What a poll reads of the lease.
    pub(super) fn beat(&self) -> Option<Beat> {
        let Lease { row, at, .. } = self.lease.as_ref()?;
        Some(Beat { term: row.term, count: row.beat, at: *at, is_released: row.owner.is_empty() })
    }
}

pub(super) fn time(stamp: i64) -> Timestamp {
    Timestamp::from_micros(stamp)
}
