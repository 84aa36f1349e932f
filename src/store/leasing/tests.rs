use super::*;

/// The call that fails, how, and whether the session ends with it.
type Fails = (&'static str, fn() -> StoreError, bool);

/// What a session finds, and the calls that it was asked for.
struct Scripted {
    calls: Vec<&'static str>,
    lock: ServerLock,
    row: Option<LeaseRow>,
    fails: Option<Fails>,
    is_lost: bool,
}

impl Scripted {
    fn call(&mut self, call: &'static str) -> Result<(), StoreError> {
        self.calls.push(call);
        match self.fails.filter(|(fails, ..)| *fails == call) {
            Some((_, error, ends)) => {
                self.is_lost = ends;
                Err(error())
            }
            None => Ok(()),
        }
    }
}

impl LeaseSession for Scripted {
    async fn server_lock(&mut self) -> Result<(String, ServerLock), StoreError> {
        self.call("lock").map(|()| ("here".to_owned(), self.lock))
    }

    async fn unmark_lock(&mut self) -> Result<(), StoreError> {
        self.call("unmark")
    }

    async fn lease_row(&mut self) -> Result<Option<LeaseRow>, StoreError> {
        self.call("row").map(|()| self.row.clone())
    }

    async fn insert_lease(&mut self) -> Result<(), StoreError> {
        self.call("insert")?;
        self.row = Some(LeaseRow::default());
        Ok(())
    }

    async fn take_lease(&mut self, _seen: &LeaseRow, _lead: &Lead, _server: &str) -> Result<u64, StoreError> {
        self.call("take").map(|()| 1)
    }

    async fn beat(&mut self, _lead: &Lead) -> Result<u64, StoreError> {
        self.call("beat").map(|()| 1)
    }

    async fn claim_lock(&mut self, _lead: &Lead, _server: &str) -> Result<(), StoreError> {
        self.call("claim")
    }

    async fn release_lease(&mut self, _lead: &Lead) -> Result<(), StoreError> {
        self.call("release")
    }

    fn is_lost(&self) -> bool {
        self.is_lost
    }
}

/// What `me` has got, in short, and the calls for it.
async fn taken(lock: ServerLock, row: Option<LeaseRow>, fails: Option<Fails>) -> (&'static str, String) {
    let mut session = Scripted { calls: Vec::new(), lock, row, fails, is_lost: false };
    let taken = take(&mut session, ("me", Duration::from_secs(15)), &Mutex::default()).await;
    let taken = match taken {
        Ok(Taken::Lease(_)) => "lease",
        Ok(Taken::Lock(_)) => "lock",
        Ok(Taken::Nothing) => "nothing",
        Err(_) => "error",
    };
    (taken, session.calls.join(" "))
}

#[tokio::test]
async fn a_row_that_is_missing_is_inserted_unless_a_master_without_a_lease_is_at_work() {
    for (lock, got) in [
        (ServerLock::Ours, ("lease", "lock row insert row take")),
        (ServerLock::Missing, ("lease", "lock row insert row take")),
        // Its owner may have died before it inserted the row.
        (ServerLock::Leased, ("lease", "lock row insert row take")),
        (ServerLock::Unleased, ("nothing", "lock row")),
    ] {
        assert_eq!(taken(lock, None, None).await, (got.0, got.1.to_owned()), "{lock:?}");
    }
}

#[tokio::test]
async fn a_term_is_taken_once_even_if_a_failover_loses_it_before_it_is_read() {
    let (lock, row) = (ServerLock::Ours, Some(LeaseRow::default()));
    // It shows the same row after a lease was taken.
    let mut session = Scripted { calls: Vec::new(), lock, row, fails: None, is_lost: false };
    let standby = Mutex::default();
    for expected in [1, 2] {
        let taken = take(&mut session, ("me", Duration::from_secs(15)), &standby).await.unwrap();
        let Taken::Lease(lead) = taken else { panic!("{taken:?}") };
        assert_eq!(lead.term, expected);
    }
}

fn conflict() -> StoreError {
    StoreError::Conflict { what: "", detail: String::new() }
}

fn locked() -> StoreError {
    StoreError::RowLocked { what: "", detail: String::new() }
}

fn missing() -> StoreError {
    StoreError::NoTables { what: "", detail: String::new() }
}

fn refused() -> StoreError {
    StoreError::Refused { what: "", detail: String::new(), remedy: String::new() }
}

fn no_answer() -> StoreError {
    StoreError::Unavailable { what: "", detail: String::new() }
}

/// On a cluster two processes may insert the row at once.
#[tokio::test]
async fn who_finds_another_process_at_the_row_waits() {
    for (row, call) in [(None, "insert"), (Some(LeaseRow::default()), "take")] {
        for error in [conflict, locked] {
            let (got, _) = taken(ServerLock::Missing, row.clone(), Some((call, error, false))).await;
            assert_eq!(got, "nothing", "{call}");
        }
        let (got, _) = taken(ServerLock::Missing, row, Some((call, no_answer, true))).await;
        assert_eq!(got, "error", "{call}");
    }
}

#[tokio::test]
async fn without_the_table_the_servers_lock_alone_is_taken_and_its_mark_goes() {
    for error in [missing, refused] {
        for (lock, got) in [
            (ServerLock::Ours, ("lock", "lock row unmark")),
            (ServerLock::Leased, ("nothing", "lock row")),
            (ServerLock::Unleased, ("nothing", "lock row")),
            // Who has neither says why nobody leads.
            (ServerLock::Missing, ("error", "lock row")),
        ] {
            let taken = taken(lock, None, Some(("row", error, false))).await;
            assert_eq!(taken, (got.0, got.1.to_owned()), "{lock:?}");
        }
    }
}
