//! Transactions of the model: locks on rows, and in a cluster the first committer wins.
//!
//! A transaction locks the rows that it changes on its server until it ends. A node of a cluster knows nothing of the locks
//! at the others: there a commit fails if a row that it *changes* was changed by a commit which its node has not applied
//! yet, and a transaction fails if its node applies a change of a row that it has locked.

use super::Without;
use super::tables::{Cell, Change, Commit, Holder, Key, Lease, Locked};
use super::world::{LEASE_MICROS, World};
use crate::store::lease::LeaseRow;
use crate::store::transaction::Last;

/// Why a statement, or a commit, was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// Another transaction has locked a row.
    Locked,
    /// Another transaction was in the way, and this one is rolled back.
    Conflict,
}

/// A transaction that is not committed.
#[derive(Debug)]
pub(super) struct Transaction {
    id: u64,
    pub(super) server: usize,
    commit: Commit,
    locks: Vec<Locked>,
    /// When its client last spoke.
    used: i64,
    /// When its fence was carried out.
    fenced: Option<i64>,
    client: Client,
}

/// Who ends a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Client {
    /// A master, while it has its session.
    Master,
    /// A step lets it carry out its last statements and commit: that of an operator, that of another program, which has
    /// none, or that of a master who has lost the session, while the end of the transaction is on its way.
    Step { last: Vec<Last> },
    /// Nobody any more. The server rolls it back when it notices.
    Gone,
}

impl Transaction {
    /// Whether the applying of a commit rolls it back.
    pub(super) fn is_in_the_way(&self, server: usize, commit: &Commit, folds: bool) -> bool {
        self.server == server && self.locks.iter().any(|&locked| commit.changes(locked, folds))
    }
}

impl World {
    fn transaction(&mut self, id: u64) -> Result<&mut Transaction, Failed> {
        let now = self.now;
        let found = self.open.iter_mut().find(|open| open.id == id).ok_or(Failed::Conflict)?;
        found.used = now;
        Ok(found)
    }

    /// Begins a transaction of a master.
    pub(super) fn begin(&mut self, server: usize, by: Holder) -> u64 {
        let id = self.number();
        let commit = Commit { by: Some(by), ..Commit::default() };
        let (used, client) = (self.now, Client::Master);
        self.open.push(Transaction { id, server, commit, locks: Vec::new(), used, fenced: None, client });
        id
    }

    /// Locks something for a transaction.
    fn lock_for(&mut self, id: u64, locked: Locked) -> Result<&mut Transaction, Failed> {
        let (server, folds) = (self.transaction(id)?.server, self.options.folds);
        let is_same = |other: &Locked| match (*other, locked) {
            (Locked::Row(other), Locked::Row(key)) => {
                other == key || (folds && other.case_variant() == Some(key))
            }
            (other, locked) => other == locked,
        };
        let is_free =
            |open: &Transaction| open.id == id || open.server != server || !open.locks.iter().any(is_same);
        if !self.open.iter().all(is_free) {
            return Err(Failed::Locked);
        }
        let transaction = self.transaction(id)?;
        if locked != Locked::Lease && transaction.locks.contains(&Locked::Lease) {
            self.note_broken(|| format!("fence: is not the last statement, after it is {locked:?}"));
        }
        let transaction = self.transaction(id)?;
        transaction.locks.push(locked);
        Ok(transaction)
    }

    /// Writes or deletes a row. Returns how many rows that changes.
    pub(super) fn write(
        &mut self,
        id: u64,
        key: Key,
        content: Option<u8>,
        is_ours: bool,
    ) -> Result<u64, Failed> {
        let server = self.transaction(id)?.server;
        let stamp = self.stamp(server);
        let cell = content.map(|content| Cell { content, stamp, is_ours, is_late: false });
        self.lock_for(id, Locked::Row(key))?.commit.changes.push((key, cell));
        Ok(u64::from(cell.is_some() || self.tables(server).rows.contains_key(&key)))
    }

    /// Carries out the last statements of a transaction. Returns how many rows the last of them matched.
    pub(super) fn carry_out(&mut self, id: u64, last: &[Last]) -> Result<u64, Failed> {
        let (mut matched, without) = (1, self.options.without);
        for last in last {
            match last {
                Last::Raise { deletes } => {
                    let commit = &mut self.lock_for(id, Locked::Version)?.commit;
                    (commit.raises, commit.deletes) = (true, *deletes);
                }
                Last::Notify => {}
                Last::Fence if without == Without::Fence => {}
                Last::Fence => matched = self.fence(id, without != Without::FenceThatChanges)?,
            }
        }
        Ok(matched)
    }

    /// The fence: a beat as the last statement. Returns how many rows it matched. One that changes no value only locks.
    fn fence(&mut self, id: u64, changes_value: bool) -> Result<u64, Failed> {
        let fenced = self.now;
        let transaction = self.lock_for(id, Locked::Lease)?;
        transaction.fenced = Some(fenced);
        let (server, by) = (transaction.server, transaction.commit.by.clone());
        if !self.is_alone(server) {
            return Ok(0);
        }
        let (now, lease) = (self.clock(server), self.tables(server).lease.clone());
        let Some((by, lease)) = by.zip(lease).filter(|(by, lease)| is_of(&lease.row, &by.owner, by.term))
        else {
            return Ok(0);
        };
        if changes_value {
            let row = LeaseRow { beat: lease.row.beat + 1, ..(*lease.row).clone() };
            let lease = Lease { row: row.into(), at: now, session: by.session };
            self.transaction(id)?.commit.lease = Some(lease);
        }
        Ok(1)
    }

    pub(super) fn roll_back(&mut self, id: u64) {
        self.open.retain(|open| open.id != id);
    }

    pub(super) fn commit(&mut self, id: u64) -> Result<(), Failed> {
        let place = self.open.iter().position(|open| open.id == id).ok_or(Failed::Conflict)?;
        let Transaction { server, mut commit, fenced, .. } = self.open.remove(place);
        self.ensure_first(server, &commit)?;
        let unleased = self.unleased_since(server).filter(|_| commit.by.is_some());
        if unleased.is_some_and(|since| since <= fenced.unwrap_or(self.now)) {
            self.note_broken(|| format!("fence: beside a master without a lease commits {commit:?}"));
        }
        self.look_at_the_clock();
        let second = if self.options.whole_seconds { 1_000_000 } else { 0 };
        let overlap = i64::try_from(self.options.overlap.as_micros()).unwrap();
        for cell in commit.changes.iter_mut().filter_map(|(_, cell)| cell.as_mut()) {
            cell.is_late = cell.stamp + second + overlap < self.latest;
        }
        let rows = &self.tables(server).rows;
        let deletes = |(key, cell): &Change| cell.is_none() && rows.contains_key(key);
        let deletes_something = commit.changes.iter().any(deletes);
        let changes_something = deletes_something || commit.changes.iter().any(|(_, cell)| cell.is_some());
        if commit.lease.is_some() || changes_something {
            let says = (commit.raises, commit.deletes);
            if commit.by.is_some() && says != (changes_something, deletes_something) {
                self.note_broken(|| format!("early: the version does not count {commit:?}"));
            }
            commit.at = self.now;
            self.push(server, commit);
        }
        Ok(())
    }

    /// In a cluster: no other node has committed a change of the same row that this one has not applied.
    fn ensure_first(&self, server: usize, commit: &Commit) -> Result<(), Failed> {
        let folds = self.options.folds;
        let rows = commit.changes.iter().map(|(key, _)| Locked::Row(*key));
        let changed = rows
            .chain(commit.raises.then_some(Locked::Version))
            .chain(commit.lease.is_some().then_some(Locked::Lease));
        let is_before = |locked| {
            self.log[self.tables(server).commits..].iter().any(|commit| commit.changes(locked, folds))
        };
        if changed.into_iter().any(is_before) { Err(Failed::Conflict) } else { Ok(()) }
    }

    /// Changes the row of the lease in a transaction of its own, if it is as `is_expected` says. Returns how many rows
    /// were changed.
    pub(super) fn change_lease(
        &mut self,
        server: usize,
        is_expected: impl FnOnce(&LeaseRow) -> bool,
        change: impl FnOnce(&mut LeaseRow),
        (by, session): (Option<Holder>, Option<u64>),
    ) -> Result<u64, Failed> {
        let is_locked = |open: &Transaction| open.server == server && open.locks.contains(&Locked::Lease);
        if self.open.iter().any(is_locked) {
            return Err(Failed::Locked);
        }
        let Some(before) = self.tables(server).lease.as_ref().filter(|lease| is_expected(&lease.row)) else {
            return Ok(0);
        };
        let mut row = (*before.row).clone();
        change(&mut row);
        let session = session.unwrap_or(before.session);
        let lease = Lease { row: row.into(), at: self.clock(server), session };
        let commit = Commit { lease: Some(lease), by, at: self.now, ..Commit::default() };
        self.ensure_first(server, &commit)?;
        self.push(server, commit);
        Ok(1)
    }

    /// Inserts a lease that nobody has taken yet, in a transaction of its own, unless there is a row.
    pub(super) fn insert_lease(&mut self, server: usize) -> Result<(), Failed> {
        if self.tables(server).lease.is_some() {
            return Ok(());
        }
        let lease = Lease { row: LeaseRow::default().into(), at: self.clock(server), session: 0 };
        let commit = Commit { lease: Some(lease), at: self.now, ..Commit::default() };
        self.ensure_first(server, &commit)?;
        self.push(server, commit);
        Ok(())
    }

    /// An operator or another program changes rows in a transaction that a later step commits, unless one is locked.
    pub(super) fn begin_other(&mut self, server: usize, writes: &[(Key, Option<u8>)], is_ours: bool) {
        let (id, server) = (self.number(), self.writable(server));
        let deletes = writes.iter().any(|(_, content)| content.is_none());
        let last = if is_ours { vec![Last::Raise { deletes }] } else { Vec::new() };
        let (used, client) = (self.now, Client::Step { last });
        let (commit, locks) = (Commit::default(), Vec::new());
        self.open.push(Transaction { id, server, commit, locks, used, fenced: None, client });
        let mut written = writes.iter().map(|&(key, content)| self.write(id, key, content, is_ours));
        if !written.all(|written| written.is_ok()) {
            self.roll_back(id);
        }
    }

    /// Commits one of the transactions whose COMMIT is a step.
    pub(super) fn finish(&mut self, which: usize) {
        let ready = |open: &Transaction| match &open.client {
            Client::Step { last } => Some((open.id, last.clone())),
            _ => None,
        };
        let ready: Vec<(u64, Vec<Last>)> = self.open.iter().filter_map(ready).collect();
        let Some((id, last)) = ready.get(which % ready.len().max(1)) else { return };
        match self.carry_out(*id, last) {
            Ok(1..) => drop(self.commit(*id)),
            Ok(0) => self.roll_back(*id),
            Err(_) => {}
        }
    }

    /// A master lost its session: the server does not know it yet. The end of its transaction may come later.
    pub(super) fn abandon(&mut self, id: u64, last: Option<Vec<Last>>) {
        if let Ok(transaction) = self.transaction(id) {
            transaction.client = last.map_or(Client::Gone, |last| Client::Step { last });
        }
    }

    /// The servers roll back transactions of masters whose client was silent for as long as a lease lasts.
    pub(super) fn end_idle_transactions(&mut self) {
        let now = self.now;
        self.open.retain(|open| open.commit.by.is_none() || now - open.used < LEASE_MICROS);
    }
}

/// Whether the row is this lease.
pub(super) fn is_of(row: &LeaseRow, owner: &str, term: u64) -> bool {
    row.owner == owner && row.term == term
}
