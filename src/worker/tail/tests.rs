use std::sync::Mutex;

use super::*;
use crate::clock::SystemClock;
use crate::store::Known;

/// A store that answers at one look of its life, and hints without end.
struct Away {
    answers_at: usize,
    looks: Arc<Mutex<Vec<Instant>>>,
}

impl Follow for Away {
    async fn hint(&mut self) {}

    async fn look<K: Known + Send + Sync + 'static>(&mut self, _known: &Arc<K>) -> Result<Look, StoreError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut looks = self.looks.lock().unwrap();
        looks.push(Instant::now());
        if looks.len() == self.answers_at {
            return Ok(Look::default());
        }
        Err(StoreError::Unavailable { what: "looking", detail: "gone".into() })
    }
}

/// When it looked in ten minutes.
async fn looks(answers_at: usize) -> Vec<Instant> {
    let looks = Arc::<Mutex<Vec<Instant>>>::default();
    let follow = || Away { answers_at, looks: Arc::clone(&looks) };
    let hub = Arc::new(Hub::new(Arc::new(SystemClock), 10, 10));
    let restored = CancellationToken::new();
    restored.cancel();
    let looked = CancellationToken::new();
    let tail = Tail::new(follow, hub, Duration::from_millis(1), "away".into(), looked, restored);
    let (pulse, shutdown) = (Pulse::default(), CancellationToken::new());
    tokio::time::timeout(Duration::from_secs(600), tail.run(&pulse, &shutdown)).await.unwrap_err();
    Arc::try_unwrap(looks).unwrap().into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_is_asked_ever_more_rarely_whatever_hints() {
    let count = looks(usize::MAX).await.len();
    assert!((60..150).contains(&count), "{count} looks in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn a_database_that_goes_away_again_is_asked_again_at_once() {
    let looks = looks(20).await;
    let again = looks[21].duration_since(looks[20]);
    assert!(again < Duration::from_millis(200), "{again:?}");
}
