//! A master's connections in the model. The order of what a master does on them is the code of the product; each of its
//! calls waits until the master carries it out, so that everything can happen before.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::Without;
use super::directory::Writes;
use crate::store::StoreError;
use crate::store::lease::{LEASE, Lead, LeaseRow, ServerLock, Standby};
use crate::store::leasing::{LeaseSession, Taken, keep_beating, take};
use crate::store::transaction::{Last, Rows, Transaction, WriteSession, ensure_held, transact};

/// How often a master without work makes sure that it leads.
const REST: Duration = Duration::from_secs(1);

/// What a master asks of its server, or of its directory.
#[derive(Debug, Clone)]
pub(super) enum Call {
    ServerLock,
    LeaseRow,
    InsertLease,
    /// Takes the lease over if it is still as it was seen.
    TakeLease {
        seen: Arc<LeaseRow>,
        row: Arc<LeaseRow>,
    },
    Beat {
        term: u64,
    },
    ClaimLock {
        term: u64,
        server: String,
    },
    ReleaseLease {
        term: u64,
    },
    /// The writes that make the tables equal to the directory; `again` if the last were not committed.
    Plan {
        again: bool,
    },
    Begin,
    Write(Arc<Writes>),
    Finish(Vec<Last>),
    Commit,
    RollBack,
    Wait(Duration),
}

/// What a call returns.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) lock: Option<(String, ServerLock)>,
    pub(super) lease: Option<LeaseRow>,
    pub(super) writes: Arc<Writes>,
    pub(super) rows: Rows,
    pub(super) matched: u64,
}

/// What the master and the future share.
#[derive(Debug, Default)]
struct Line {
    call: Option<Call>,
    answer: Option<Result<Answer, StoreError>>,
    lead: Option<Arc<Mutex<Lead>>>,
    /// The master's clock.
    now: Duration,
    is_lost: bool,
}

/// What a master does on one connection.
pub(super) struct Task {
    line: Arc<Mutex<Line>>,
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The sessions of the server when this one began; `None` if it is lost.
    pub(super) session: Option<u64>,
    /// When its call is carried out, or tried again.
    pub(super) due: i64,
    /// Since when the call waits for a lock.
    pub(super) waits_since: Option<i64>,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Task({:?})", self.call())
    }
}

impl Task {
    /// On a session that begins.
    fn new<F: Future<Output = ()> + Send + 'static>(
        session: u64,
        lead: Option<Arc<Mutex<Lead>>>,
        work: impl FnOnce(Session) -> F,
    ) -> Self {
        let line = Arc::new(Mutex::new(Line { lead, ..Line::default() }));
        let future = Box::pin(work(Session(Arc::clone(&line))));
        Self { line, future, session: Some(session), due: 0, waits_since: None }
    }

    /// Takes the lease for a process, and confirms it.
    pub(super) fn lead(
        session: u64,
        (me, standby): (Arc<str>, Arc<Mutex<Standby>>),
        without: Without,
    ) -> Self {
        Self::new(session, None, |session| lead(session, me, standby, without))
    }

    /// What the master's loop does while it leads.
    pub(super) fn serve(session: u64, lead: Arc<Mutex<Lead>>) -> Self {
        Self::new(session, Some(lead), serve)
    }

    /// Releases a lease.
    pub(super) fn release(session: u64, lead: Lead) -> Self {
        Self::new(session, None, |mut session| async move {
            session.release_lease(&lead).await.ok();
        })
    }

    /// The call that was made and has no answer.
    pub(super) fn call(&self) -> Option<Call> {
        locked(&self.line).call.clone()
    }

    /// The lease that it has taken, or under which it writes.
    pub(super) fn held(&self) -> Option<Arc<Mutex<Lead>>> {
        locked(&self.line).lead.clone()
    }

    /// Answers the call, and goes on to the next, at a time by the master's clock. Returns whether there is one.
    pub(super) fn go_on(&mut self, answer: Result<Answer, StoreError>, now: Duration, is_lost: bool) -> bool {
        {
            let mut line = locked(&self.line);
            (line.now, line.is_lost) = (now, is_lost);
            if line.call.take().is_some() {
                line.answer = Some(answer);
            }
        }
        self.future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

async fn lead(mut session: Session, me: Arc<str>, standby: Arc<Mutex<Standby>>, without: Without) {
    let Ok(Taken::Lease(mut lead)) = take(&mut session, (&me, LEASE), &standby).await else { return };
    if without == Without::TermOnReconnect
        && let Ok(Answer { lease: Some(row), .. }) = session.ask(Call::LeaseRow).await
    {
        lead.term = row.term;
    }
    let lead = Arc::new(Mutex::new(lead));
    locked(&session.0).lead = Some(Arc::clone(&lead));
    keep_beating(session, Arc::downgrade(&lead), || true).await;
}

async fn serve(mut session: Session) {
    let mut again = false;
    while ensure_held(&mut session).await.is_ok() {
        if let Ok(Answer { writes, .. }) = session.ask(Call::Plan { again }).await
            && !writes.is_empty()
        {
            match transact(&mut session, &Write(writes)).await {
                Err(StoreError::LockLost { .. }) => return,
                done => again = done.is_err(),
            }
        }
        session.ask(Call::Wait(REST)).await.ok();
    }
}

struct Session(Arc<Mutex<Line>>);

impl Session {
    async fn ask(&mut self, call: Call) -> Result<Answer, StoreError> {
        locked(&self.0).call = Some(call);
        let answer = || match locked(&self.0).answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        };
        std::future::poll_fn(|_| answer()).await
    }
}

impl LeaseSession for Session {
    async fn server_lock(&mut self) -> Result<(String, ServerLock), StoreError> {
        Ok(self.ask(Call::ServerLock).await?.lock.unwrap())
    }

    async fn unmark_lock(&mut self) -> Result<(), StoreError> {
        unreachable!("no table is missing")
    }

    async fn lease_row(&mut self) -> Result<Option<LeaseRow>, StoreError> {
        Ok(self.ask(Call::LeaseRow).await?.lease)
    }

    async fn insert_lease(&mut self) -> Result<(), StoreError> {
        self.ask(Call::InsertLease).await.map(drop)
    }

    async fn take_lease(&mut self, seen: &LeaseRow, lead: &Lead, server: &str) -> Result<u64, StoreError> {
        let row = LeaseRow {
            owner: lead.owner.clone(),
            session: server.to_owned(),
            lease: lead.lease,
            term: lead.term,
            beat: seen.beat + 1,
            ..LeaseRow::default()
        };
        Ok(self.ask(Call::TakeLease { seen: seen.clone().into(), row: row.into() }).await?.matched)
    }

    async fn beat(&mut self, lead: &Lead) -> Result<u64, StoreError> {
        Ok(self.ask(Call::Beat { term: lead.term }).await?.matched)
    }

    async fn claim_lock(&mut self, lead: &Lead, server: &str) -> Result<(), StoreError> {
        self.ask(Call::ClaimLock { term: lead.term, server: server.to_owned() }).await.map(drop)
    }

    async fn release_lease(&mut self, lead: &Lead) -> Result<(), StoreError> {
        self.ask(Call::ReleaseLease { term: lead.term }).await.map(drop)
    }

    fn is_lost(&self) -> bool {
        locked(&self.0).is_lost
    }

    fn now(&self) -> Duration {
        locked(&self.0).now
    }

    async fn sleep(&mut self, wait: Duration) {
        self.ask(Call::Wait(wait)).await.ok();
    }
}

struct Write(Arc<Writes>);

impl Transaction<Session> for Write {
    type Done = ();

    async fn write(&self, session: &mut Session) -> Result<((), Rows), StoreError> {
        let answer = session.ask(Call::Write(Arc::clone(&self.0))).await?;
        Ok(((), answer.rows))
    }
}

impl WriteSession for Session {
    async fn begin(&mut self) -> Result<(), StoreError> {
        self.ask(Call::Begin).await.map(drop)
    }

    async fn finish(&mut self, last: &[Last]) -> Result<u64, StoreError> {
        Ok(self.ask(Call::Finish(last.to_vec())).await?.matched)
    }

    async fn commit(&mut self) -> Result<(), StoreError> {
        self.ask(Call::Commit).await.map(drop)
    }

    async fn roll_back(&mut self) {
        self.ask(Call::RollBack).await.ok();
    }

    fn raises(&self) -> bool {
        true
    }

    async fn goes_without_version(&mut self, _error: &StoreError) -> bool {
        false
    }

    fn lead<T>(&self, decide: impl FnOnce(&mut Lead, Duration) -> T) -> Option<T> {
        let (now, lead) = {
            let line = locked(&self.0);
            (line.now, line.lead.clone()?)
        };
        let decided = decide(&mut locked(&lead), now);
        Some(decided)
    }

    async fn lease_row(&mut self) -> Result<Option<LeaseRow>, StoreError> {
        Ok(self.ask(Call::LeaseRow).await?.lease)
    }

    async fn ensure_locked(&mut self) -> Result<(), StoreError> {
        match WriteSession::is_lost(self) {
            true => Err(StoreError::LockLost { detail: "its connection has ended".to_owned() }),
            false => Ok(()),
        }
    }

    fn is_lost(&self) -> bool {
        locked(&self.0).is_lost
    }

    /// The wait is random, and a history is not.
    async fn sleep(&mut self, _wait: Duration) {
        self.ask(Call::Wait(Duration::ZERO)).await.ok();
    }
}
