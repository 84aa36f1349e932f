use std::collections::VecDeque;

use super::*;
use crate::store::lease::{LEASE, ServerLock, Standby};

/// A session that notes its calls, and whose next calls with these names fail.
#[derive(Default)]
struct Scripted {
    calls: Vec<String>,
    fails: VecDeque<(&'static str, StoreError)>,
    lead: Option<std::cell::RefCell<Lead>>,
    row: Option<LeaseRow>,
    is_lost: bool,
}

impl Scripted {
    /// One whose lease was taken at `now`.
    fn leading() -> Self {
        let row = LeaseRow { lease: LEASE, ..LeaseRow::default() };
        let lead = Standby::default().look(&row, ("me", LEASE), ("", ServerLock::Missing), NOW).unwrap();
        let row = LeaseRow { owner: "me".to_owned(), term: lead.term, ..row };
        Self { lead: Some(lead.into()), row: Some(row), ..Self::default() }
    }

    fn failing(mut self, call: &'static str, times: usize, error: fn() -> StoreError) -> Self {
        self.fails.extend((0..times).map(|_| (call, error())));
        self
    }

    fn call(&mut self, call: &str) -> Result<(), StoreError> {
        self.calls.push(call.to_owned());
        match self.fails.pop_front_if(|(fails, _)| call.starts_with(*fails)) {
            Some((_, error)) => {
                self.is_lost = matches!(error, StoreError::Unavailable { .. });
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Carries out a transaction that deletes a row, and returns the calls.
    async fn calls(&mut self) -> (Result<(), StoreError>, String) {
        self.calls.clear();
        let done = transact(self, &Deletion).await;
        (done, self.calls.join(" "))
    }
}

const NOW: Duration = Duration::from_secs(100);

impl WriteSession for Scripted {
    async fn begin(&mut self) -> Result<(), StoreError> {
        self.call("begin")
    }

    async fn finish(&mut self, last: &[Last]) -> Result<u64, StoreError> {
        self.call(&format!("finish{last:?}").replace(' ', "")).map(|()| 1)
    }

    async fn commit(&mut self) -> Result<(), StoreError> {
        self.call("commit")
    }

    async fn roll_back(&mut self) {
        self.call("roll_back").ok();
    }

    fn raises(&self) -> bool {
        true
    }

    async fn goes_without_version(&mut self, _error: &StoreError) -> bool {
        false
    }

    fn lead<T>(&self, decide: impl FnOnce(&mut Lead, Duration) -> T) -> Option<T> {
        self.lead.as_ref().map(|lead| decide(&mut lead.borrow_mut(), NOW))
    }

    async fn lease_row(&mut self) -> Result<Option<LeaseRow>, StoreError> {
        self.call("lease").map(|()| self.row.clone())
    }

    fn is_lost(&self) -> bool {
        self.is_lost
    }

    async fn sleep(&mut self, wait: Duration) {
        assert!(wait > Duration::ZERO);
        self.call("sleep").ok();
    }
}

struct Deletion;

impl Transaction<Scripted> for Deletion {
    type Done = ();

    async fn compare(&self, session: &mut Scripted) -> Result<(), StoreError> {
        session.call("compare")
    }

    async fn write(&self, session: &mut Scripted) -> Result<((), Rows), StoreError> {
        session.call("write").map(|()| ((), Rows { changed: 1, deleted: 1 }))
    }
}

const WHOLE: &str = "begin compare write finish[Raise{deletes:true},Notify,Fence] commit";

fn conflict() -> StoreError {
    StoreError::Conflict { what: "", detail: String::new() }
}

fn locked() -> StoreError {
    StoreError::RowLocked { what: "", detail: String::new() }
}

fn no_answer() -> StoreError {
    StoreError::Unavailable { what: "", detail: String::new() }
}

#[tokio::test]
async fn the_fence_is_the_last_statement_and_a_command_has_none() {
    let (done, calls) = Scripted::leading().calls().await;
    assert_eq!((done.is_ok(), &*calls), (true, WHOLE));
    let (done, calls) = Scripted::default().calls().await;
    assert_eq!((done.is_ok(), calls), (true, WHOLE.replace(",Fence", "")));
}

#[tokio::test]
async fn each_transaction_that_another_was_in_the_way_of_is_repeated_as_a_whole() {
    let again = format!("{WHOLE} roll_back sleep lease ");
    let mut session = Scripted::leading().failing("commit", 5, conflict);
    let (done, calls) = session.calls().await;
    assert_eq!((done.is_ok(), calls), (true, format!("{}{WHOLE}", again.repeat(5))));

    let mut session = Scripted::leading().failing("commit", 12, conflict);
    for _ in 0..2 {
        let (done, calls) = session.calls().await;
        assert!(matches!(done, Err(StoreError::Conflict { .. })), "{done:?}");
        assert_eq!(calls, format!("{}{WHOLE} roll_back", again.repeat(5)));
    }
}

#[tokio::test]
async fn a_locked_row_of_the_transaction_is_named_and_one_of_every_transaction_is_waited_for() {
    let (done, calls) = Scripted::leading().failing("write", 1, locked).calls().await;
    assert!(matches!(done, Err(StoreError::RowLocked { .. })), "{done:?}");
    assert_eq!(calls, "begin compare write roll_back");

    let (done, _) = Scripted::leading().failing("finish", 5, locked).calls().await;
    assert!(done.is_ok(), "{done:?}");
    let (done, _) = Scripted::leading().failing("finish", 6, locked).calls().await;
    assert!(matches!(done, Err(StoreError::Unavailable { .. })), "{done:?}");
}

#[tokio::test]
async fn a_transaction_is_not_repeated_under_the_lease_of_another() {
    let mut session = Scripted::leading().failing("commit", 1, conflict);
    session.row.as_mut().unwrap().owner = "other".to_owned();
    let (done, calls) = session.calls().await;
    assert!(matches!(done, Err(StoreError::LockLost { .. })), "{done:?}");
    assert_eq!(calls, format!("{WHOLE} roll_back sleep lease"));
}

#[tokio::test]
async fn a_commit_without_an_answer_loses_the_lease() {
    let mut session = Scripted::leading().failing("commit", 1, no_answer);
    let (done, _) = session.calls().await;
    assert!(matches!(done, Err(StoreError::LockLost { .. })), "{done:?}");
    assert_eq!(session.lead(|lead, _| lead.is_lost()), Some(true));
}
