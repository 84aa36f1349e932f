use super::*;
use crate::clock::SystemClock;
use crate::rule::{RuleId, StateKind, TableDelta};

async fn eventually(mut holds: impl FnMut() -> bool) {
    let waits = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), waits).await.expect("in time");
}

fn write(broker: &Broker, number: i64) {
    let disabled = RuleState {
        state: StateKind::Disabled,
        set_at: Some(Timestamp::from_micros(number)),
        ..RuleState::default()
    };
    let states = vec![Ok((RuleId::new("R1").unwrap(), disabled))];
    broker.apply(TableDelta { states, ..TableDelta::default() }, |_, _| Vec::new());
}

/// It had everything when the bus went away.
#[tokio::test]
async fn a_bus_that_comes_back_gets_no_more_changes_than_the_queue_has() {
    const QUEUE: usize = 10;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let broker = Arc::new(Broker::new(Arc::new(SystemClock), 1_000, QUEUE));
    write(&broker, 0);
    let bus = Arc::new(Bus::new(path.clone(), Timestamp::from_micros(0)));
    let publishing = {
        let (bus, broker) = (Arc::clone(&bus), Arc::clone(&broker));
        tokio::spawn(async move { bus.publish(broker, CancellationToken::new()).await })
    };
    let listen = || tokio::net::UnixListener::bind(&path).unwrap();
    let listener = listen();
    let (stream, _) = listener.accept().await.unwrap();
    write(&broker, 1);
    eventually(|| bus.status().published == 1).await;
    drop((stream, listener));
    eventually(|| bus.status().state == Health::Down).await;
    let skipped = 4 * QUEUE as u64;
    for number in 0..skipped {
        write(&broker, 2 + i64::try_from(number).unwrap());
    }
    std::fs::remove_file(&path).unwrap();
    let listener = listen();
    let (_stream, _) = listener.accept().await.unwrap();
    eventually(|| bus.status().published + bus.status().missed == 1 + skipped).await;
    assert_eq!(bus.status().missed, skipped, "{:?}", bus.status());
    publishing.abort();
}

#[tokio::test]
async fn a_bus_that_closes_each_connection_at_once_is_tried_ever_more_rarely() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let broker = Arc::new(Broker::new(Arc::new(SystemClock), 10, 10));
    let bus = Bus::new(path, Timestamp::from_micros(0));
    let mut connections = 0;
    let closing = async {
        loop {
            drop(listener.accept().await.unwrap());
            connections += 1;
        }
    };
    tokio::select! {
        () = bus.publish(broker, CancellationToken::new()) => {}
        () = closing => {}
        () = sleep(Duration::from_secs(3)) => {}
    }
    assert!((1..12).contains(&connections), "{connections} connections in three seconds");
}
