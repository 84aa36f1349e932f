use std::sync::Mutex;

use super::super::report::Schedule;
use super::*;
use crate::clock::SystemClock;
use crate::fleet::WorkerReport;
use crate::rule::{FoundManifest, MasterSilence, RuleId, RuleState, StateKind};
use crate::store::RowIndex;
use crate::trust::tests::gate::{Signed, release};
use crate::trust::tests::policy;
use crate::trust::tests::sshsig::SoftKey;
use crate::trust::{AllowedSigners, Gate, Policy};

/// A store that answers one of its polls, and wakes the worker without end.
struct Unavailable {
    answers_at: usize,
    polls: Arc<Mutex<Vec<Instant>>>,
}

impl Follow for Unavailable {
    async fn woken(&mut self) {}

    async fn poll<K: RowIndex + Send + Sync + 'static>(
        &mut self,
        _index: &Arc<K>,
    ) -> Result<TableDelta, StoreError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut polls = self.polls.lock().unwrap();
        polls.push(Instant::now());
        if polls.len() == self.answers_at {
            return Ok(TableDelta::default());
        }
        Err(StoreError::Unavailable { what: "polling", detail: "gone".into() })
    }
}

/// The times of all polls within ten minutes.
async fn polls(answers_at: usize) -> Vec<Instant> {
    polls_within(answers_at, Duration::from_secs(600)).await
}

async fn polls_within(answers_at: usize, time: Duration) -> Vec<Instant> {
    let polls = Arc::<Mutex<Vec<Instant>>>::default();
    let follow = || Unavailable { answers_at, polls: Arc::clone(&polls) };
    let broker = Arc::new(Broker::new(Arc::new(SystemClock), 10, 10));
    let restored = CancellationToken::new();
    restored.cancel();
    let polled = CancellationToken::new();
    let tail = Tail::new(follow, broker, Duration::from_millis(1), "away".into(), polled, restored, None);
    let (liveness, shutdown) = (Liveness::default(), CancellationToken::new());
    tokio::time::timeout(time, tail.run(&liveness, &shutdown)).await.unwrap_err();
    Arc::try_unwrap(polls).unwrap().into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_database_is_polled_ever_more_rarely_whatever_wakes_the_worker() {
    let count = polls(usize::MAX).await.len();
    assert!((60..150).contains(&count), "{count} polls in ten minutes");
}

/// Collects the messages of records at `error`.
#[derive(Clone, Default)]
struct Errors(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Errors {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Message<'a>(&'a mut Vec<String>);
        impl tracing::field::Visit for Message<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0.push(format!("{value:?}"));
                }
            }
        }
        if *event.metadata().level() == tracing::Level::ERROR {
            event.record(&mut Message(&mut self.0.lock().unwrap()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_logged_when_it_begins_and_each_hour() {
    use tracing_subscriber::layer::SubscriberExt as _;
    let errors = Errors::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(errors.clone()));
    polls_within(usize::MAX, Duration::from_secs(3 * 3_600 + 60)).await;
    let errors = errors.0.lock().unwrap();
    let begins: Vec<&str> = errors.iter().map(|error| error.split(": ").next().unwrap()).collect();
    assert_eq!(begins.len(), 4, "{errors:?}");
    assert_eq!(begins[0], "the database does not answer");
    for (hour, begin) in begins.iter().enumerate().skip(1) {
        assert!(begin.starts_with(&format!("the database has been unavailable for {hour}h")), "{errors:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_database_that_goes_away_again_is_asked_again_at_once() {
    let polls = polls(20).await;
    let again = polls[21].duration_since(polls[20]);
    assert!(again < Duration::from_millis(200), "{again:?}");
}

/// A store with a state that ends in two seconds, to which reports never arrive.
struct Mute;

impl Follow for Mute {
    async fn woken(&mut self) {
        std::future::pending().await
    }

    async fn poll<K: RowIndex + Send + Sync + 'static>(
        &mut self,
        _index: &Arc<K>,
    ) -> Result<TableDelta, StoreError> {
        let now = Timestamp::from_micros(0);
        let disabled = RuleState {
            state: StateKind::Disabled,
            expires_at: Some(now.after(Duration::from_secs(2))),
            ..RuleState::default()
        };
        let states = vec![Ok((RuleId::new("R1").unwrap(), disabled))];
        Ok(TableDelta { now, states, ..TableDelta::default() })
    }

    fn takes_reports(&self) -> bool {
        true
    }

    async fn report(&mut self, _report: WorkerReport) -> Result<(), String> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_ends_on_time_while_a_report_does_not_arrive() {
    let broker = Arc::new(Broker::new(Arc::new(SystemClock), 10, 10));
    let second = Duration::from_secs(1);
    let schedule = Schedule::new(Duration::from_millis(1), HOUR, Instant::now());
    let tail = tail(|| Mute, &broker).reporting(schedule, WorkerReport::default);
    let (liveness, shutdown) = (Liveness::default(), CancellationToken::new());
    let state = || broker.get_state("R1").map(|state| state.state);
    let runs = tail.run(&liveness, &shutdown);
    tokio::pin!(runs);
    tokio::time::timeout(second, &mut runs).await.unwrap_err();
    assert_eq!(state(), Some(StateKind::Disabled));
    tokio::time::timeout(2 * second, &mut runs).await.unwrap_err();
    assert_eq!(state(), Some(StateKind::Enabled));
}

/// Two releases, of which the second needs a list that comes after five seconds, and a state that ends after two.
struct SlowList {
    releases: Arc<[Signed; 2]>,
    begun: Instant,
    polls: usize,
}

impl Follow for SlowList {
    async fn woken(&mut self) {
        std::future::pending().await
    }

    async fn poll<K: RowIndex + Send + Sync + 'static>(
        &mut self,
        _index: &Arc<K>,
    ) -> Result<TableDelta, StoreError> {
        let is_first = self.polls == 0;
        let Signed { rules, body, signatures, .. } = &self.releases[self.polls];
        self.polls += 1;
        let begun = Timestamp::from_micros(0);
        let manifest = FoundManifest::Read { body: body.clone(), signatures: signatures.clone() };
        let delta = TableDelta {
            now: begun.after(self.begun.elapsed()),
            manifest: Some(manifest),
            ..TableDelta::default()
        };
        if !is_first {
            return Ok(delta);
        }
        let disabled = RuleState {
            state: StateKind::Disabled,
            expires_at: Some(begun.after(Duration::from_secs(2))),
            ..RuleState::default()
        };
        let states = vec![Ok((RuleId::new("R1").unwrap(), disabled))];
        Ok(TableDelta { rules: rules.iter().cloned().map(Ok).collect(), states, ..delta })
    }

    async fn release_list(&mut self, _bytes: usize) -> Result<Option<Vec<u8>>, StoreError> {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(Some(self.releases[1].list.clone().into_bytes()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_ends_once_and_on_time_while_a_signed_list_is_read() {
    let key = SoftKey::ed25519();
    let releases = [1, 2]
        .map(|version| release(&key, version, &[("R1", 1), ("R2", i32::try_from(version).unwrap())], "any"));
    let releases = Arc::new(releases);
    let gate = Gate::new(policy(&key.line("owner"), 1), None);
    let broker = Arc::new(Broker::new(Arc::new(SystemClock), 10, 10).behind(gate));
    let begun = Instant::now();
    let mut tail = tail(|| SlowList { releases: Arc::clone(&releases), begun, polls: 0 }, &broker);
    let state = || broker.get_state("R1").map(|state| state.state);
    tail.poll().await;
    assert_eq!(state(), Some(StateKind::Disabled));
    let meanwhile = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        state()
    };
    let ((), during) = tokio::join!(tail.poll(), meanwhile);
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    assert_eq!((during, state()), (Some(StateKind::Enabled), Some(StateKind::Enabled)));
    assert_eq!(broker.head_status().seq, 1, "the end of the state alone");
}

/// A replica whose tables are an hour old, below a master that is silent.
struct Behind;

const HOUR: Duration = Duration::from_secs(3_600);

const KEY: &[u8] = b"a ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFK2LtS9InHSchPS0gpbH+F2KaVPAnsYRAdGlWh6ANjT";

impl Follow for Behind {
    async fn woken(&mut self) {
        std::future::pending().await
    }

    async fn poll<K: RowIndex + Send + Sync + 'static>(
        &mut self,
        _index: &Arc<K>,
    ) -> Result<TableDelta, StoreError> {
        let master_silent = MasterSilence { lasts: 2 * HOUR, released_at: None };
        Ok(TableDelta { behind: HOUR, master_silent, rolled_back: true, ..TableDelta::default() })
    }
}

fn tail<F: Follow, N: Fn() -> F>(follow: N, broker: &Arc<Broker>) -> Tail<F, N> {
    let (polled, restored) = (CancellationToken::new(), CancellationToken::new());
    restored.cancel();
    Tail::new(follow, Arc::clone(broker), HOUR, "test".into(), polled, restored, None)
}

#[tokio::test(start_paused = true)]
async fn tables_that_are_old_are_said_to_be_old_under_trust_too() {
    let signers = AllowedSigners::parse(KEY).unwrap();
    let policy = Policy { signers, realm: "honeypots".parse().unwrap(), threshold: 1, min_version: None };
    let broker = Broker::new(Arc::new(SystemClock), 10, 10);
    let broker = Arc::new(broker.behind(Gate::new(policy, None)));
    let mut tail = tail(|| Behind, &broker);
    let delta = Behind.poll(&broker).await.unwrap();
    assert!(tail.judge(delta).await.rolled_back);
    tail.poll().await;
    assert!(broker.head_status().stale_for >= HOUR, "{:?}", broker.head_status());
    let silent = broker.inspect(|_, _, database| database.master_silent);
    assert_eq!(silent.lasts, 2 * HOUR);
}

/// A watchdog waits half a minute, and the database may be asked more rarely than that.
#[tokio::test(start_paused = true)]
async fn a_worker_that_waits_for_its_next_poll_does_not_hang() {
    let broker = Arc::new(Broker::new(Arc::new(SystemClock), 10, 10));
    for reports in [false, true] {
        let mut tail = tail(|| Mute, &broker);
        if reports {
            let schedule = Schedule::new(Duration::ZERO, HOUR, Instant::now());
            tail = tail.reporting(schedule, WorkerReport::default);
        }
        let (liveness, shutdown) = (Liveness::default(), CancellationToken::new());
        let mut beats = liveness.count();
        let runs = tail.run(&liveness, &shutdown);
        tokio::pin!(runs);
        for _ in 0..10 {
            tokio::time::timeout(Duration::from_secs(7), &mut runs).await.unwrap_err();
            assert!(liveness.count() > std::mem::replace(&mut beats, liveness.count()), "it hangs");
        }
    }
}
