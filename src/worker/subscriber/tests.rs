use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::*;
use crate::clock::SystemClock;

struct Silent;

impl Service for Silent {
    fn status(&self) -> WorkerStatus {
        unreachable!()
    }

    fn allow_mass_delete(&self, _: u32, _: Option<i32>) -> Result<usize, String> {
        unreachable!()
    }
}

/// All others, the polls and the watchdog are other tasks of the same thread.
#[tokio::test]
async fn others_have_their_turn_after_each_request_of_one_peer() {
    const REQUESTS: usize = 2_000;
    let broker = Arc::new(Broker::new(Arc::new(SystemClock), 10, 10));
    let (stream, mut client) = UnixStream::pair().unwrap();
    // Without an answer, so that nothing but their number holds them back; all are there before the first is read.
    let requests = "{\"op\":\"ack\",\"seq\":0}\n".repeat(REQUESTS) + "{\"op\":\"ack\",\"seq\":0,\"id\":7}\n";
    client.write_all(requests.as_bytes()).await.unwrap();
    let peer = Arc::new(Peer {
        number: 1,
        uid: 0,
        pid: None,
        connected_at: Timestamp::from_micros(0),
        subscribed: AtomicBool::new(false),
        cursor: AtomicU64::new(0),
        acked: AtomicU64::new(0),
    });
    let (every, shutdown) = (Duration::from_secs(60), CancellationToken::new());
    let turns = Arc::new(AtomicU64::new(0));
    let other = tokio::spawn({
        let turns = Arc::clone(&turns);
        async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    let serving = tokio::spawn(serve(broker, stream, peer, Arc::new(Silent), every, shutdown));
    let mut answers = BufReader::new(client).lines();
    while !answers.next_line().await.unwrap().unwrap().contains("\"id\":7") {}
    let turns = turns.load(Ordering::Relaxed);
    assert!(turns >= REQUESTS as u64, "{turns} turns during {REQUESTS} requests");
    other.abort();
    serving.abort();
}
