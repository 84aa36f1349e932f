//! A master's connection in the model. The order of what a leading master does is the code of the product; each of its
//! calls waits until the master carries it out, so that everything can happen before.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::directory::Writes;
use crate::store::StoreError;
use crate::store::lease::{Lead, LeaseRow};
use crate::store::transaction::{Last, Rows, Transaction, WriteSession, ensure_held, transact};

/// What a master asks of its server, or of its directory.
#[derive(Debug, Clone)]
pub(super) enum Call {
    /// The writes that make the tables equal to the directory; `again` if the last were not committed.
    Plan {
        again: bool,
    },
    LeaseRow,
    Begin,
    Write(Arc<Writes>),
    Finish(Vec<Last>),
    Commit,
    RollBack,
    /// Nothing, until the next look.
    Rest,
    /// Nothing, before a repetition.
    Sleep,
}

/// What a call returns.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) writes: Arc<Writes>,
    pub(super) lease: Option<LeaseRow>,
    pub(super) rows: Rows,
    pub(super) matched: u64,
}

/// What the master and the future share.
#[derive(Debug)]
struct Line {
    call: Option<Call>,
    answer: Option<Result<Answer, StoreError>>,
    lead: Arc<Mutex<Lead>>,
    /// The master's clock.
    now: Duration,
    is_lost: bool,
}

/// A master that leads, until it has lost the lease or the session.
pub(super) struct Serving {
    line: Arc<Mutex<Line>>,
    future: Pin<Box<dyn Future<Output = StoreError> + Send>>,
    /// The transaction that is open.
    pub(super) transaction: Option<u64>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Serving({:?})", self.transaction)
    }
}

impl Serving {
    pub(super) fn new(lead: Arc<Mutex<Lead>>) -> Self {
        let (now, is_lost) = (Duration::ZERO, false);
        let line = Arc::new(Mutex::new(Line { call: None, answer: None, lead, now, is_lost }));
        let future = Box::pin(serve(Session(Arc::clone(&line))));
        Self { line, future, transaction: None }
    }

    /// The call that was made and has no answer.
    pub(super) fn call(&self) -> Option<Call> {
        locked(&self.line).call.clone()
    }

    /// Answers the call, and goes on to the next, at a time by the master's clock. Returns whether it still serves.
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

/// What the master's loop does while it leads.
async fn serve(mut session: Session) -> StoreError {
    let mut again = false;
    loop {
        if let Err(error) = ensure_held(&mut session).await {
            return error;
        }
        if let Ok(Answer { writes, .. }) = session.ask(Call::Plan { again }).await
            && !writes.is_empty()
        {
            match transact(&mut session, &Rules(writes)).await {
                Err(error @ StoreError::LockLost { .. }) => return error,
                done => again = done.is_err(),
            }
        }
        session.ask(Call::Rest).await.ok();
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

struct Rules(Arc<Writes>);

impl Transaction<Session> for Rules {
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
            (line.now, Arc::clone(&line.lead))
        };
        let decided = decide(&mut locked(&lead), now);
        Some(decided)
    }

    async fn lease_row(&mut self) -> Result<Option<LeaseRow>, StoreError> {
        Ok(self.ask(Call::LeaseRow).await?.lease)
    }

    async fn ensure_locked(&mut self) -> Result<(), StoreError> {
        match self.is_lost() {
            true => Err(StoreError::LockLost { detail: "its connection has ended".to_owned() }),
            false => Ok(()),
        }
    }

    fn is_lost(&self) -> bool {
        locked(&self.0).is_lost
    }

    /// The wait is random, and a history is not.
    async fn sleep(&mut self, _wait: Duration) {
        self.ask(Call::Sleep).await.ok();
    }
}
