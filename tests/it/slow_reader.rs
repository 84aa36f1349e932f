//! Measures and prints what one subscriber that never reads costs the others.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rulesyncd::config::WorkerConfig;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::support::tables::{Tables, TestWorker, worker_config};

const READERS: u32 = 100;
const WARM_UP: i32 = 20_000;
const ALONE: i32 = 20_000;
const BESIDE: i32 = 100_000;

/// So many changes are written at once; the last one's latency counts.
const BURST: i32 = 10;

/// When each change was written, in nanoseconds since the start.
struct Written {
    start: Instant,
    at: Vec<AtomicU64>,
}

impl Written {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap()
    }
}

#[test]
#[ignore = "a measurement of some minutes; best with --release"]
fn a_subscriber_that_never_reads_delays_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let config = WorkerConfig {
        journal_length: 4_096,
        subscriber_queue: 1_024,
        max_subscribers: 200,
        heartbeat_interval: Duration::from_secs(60),
        ..worker_config(directory.path())
    };
    let tables = Tables::default();
    tables.write((1..=BURST).map(|n| (format!("R{n}"), 1)));
    let stop = CancellationToken::new();
    let worker = {
        let (tables, config, stop) = (tables.clone(), config.clone(), stop.clone());
        std::thread::spawn(move || {
            runtime().block_on(async {
                let worker = TestWorker::start(&tables, &config);
                stop.cancelled().await;
                worker.stop().await.unwrap();
            });
        })
    };
    let total = WARM_UP + ALONE + BESIDE;
    let at = (0..=total).map(|_| AtomicU64::new(0)).collect();
    let written = Arc::new(Written { start: Instant::now(), at });
    let rounds = Arc::new(Semaphore::new(0));
    runtime().block_on(async {
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let (socket, written, rounds) = (config.socket.clone(), written.clone(), rounds.clone());
                tokio::spawn(async move { read(&socket, total, &written, &rounds).await })
            })
            .collect();
        // One burst at a time, each after all subscribers have received the one before.
        let mut seq = 0;
        let mut memory = Vec::new();
        let mut sleeper = None;
        rounds.acquire_many(READERS).await.unwrap().forget();
        for (phase, count) in [WARM_UP, ALONE, BESIDE].into_iter().enumerate() {
            if phase == 2 {
                sleeper = Some(subscribe_and_sleep(&config.socket));
            }
            for _ in 0..count / BURST {
                let burst: Vec<_> = (1..=BURST).map(|n| (format!("R{n}"), seq + n + 1)).collect();
                seq += BURST;
                written.at[usize::try_from(seq).unwrap()].store(written.now(), Ordering::Relaxed);
                tables.write(burst);
                rounds.acquire_many(READERS).await.unwrap().forget();
            }
            memory.push(resident_kib());
        }
        let mut latencies = Vec::new();
        for reader in readers {
            latencies.extend(reader.await.unwrap());
        }
        let phase = |from: i32, to: i32| {
            let mut part: Vec<u64> = latencies
                .iter()
                .filter(|(seq, _)| (from..to).contains(seq))
                .map(|(_, nanos)| *nanos)
                .collect();
            part.sort_unstable();
            (part[part.len() / 2] / 1_000, part[part.len() / 100 * 99] / 1_000)
        };
        let alone = phase(WARM_UP, WARM_UP + ALONE);
        let beside = phase(WARM_UP + ALONE, total + 1);
        let report = format!(
            "{READERS} readers alone, {ALONE} changes: median {} µs, p99 {} µs\n\
             beside one that never reads, {BESIDE} changes: median {} µs, p99 {} µs\n\
             resident: {} KiB warm, {} KiB after, {} KiB beside\n",
            alone.0, alone.1, beside.0, beside.1, memory[0], memory[1], memory[2]
        );
        std::io::stderr().write_all(report.as_bytes()).unwrap();
        assert!(beside.0 <= alone.0 * 3 / 2, "the others' median latency rose");
        assert!(memory[2] <= memory[1] + 8 * 1024, "memory grew by more than 8 MiB");
        drop(sleeper);
    });
    stop.cancel();
    worker.join().unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Reads to the last change; every tenth burst's latency.
async fn read(socket: &Path, last: i32, written: &Written, rounds: &Semaphore) -> Vec<(i32, u64)> {
    let stream = loop {
        match tokio::net::UnixStream::connect(socket).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let mut stream = BufReader::new(stream);
    stream.write_all(b"{\"op\":\"subscribe\"}\n").await.unwrap();
    let mut latencies = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        assert!(stream.read_until(b'\n', &mut line).await.unwrap() > 0);
        let change = line.strip_prefix(b"{\"type\":\"change\",\"seq\":");
        if let Some(change) = change {
            let end = change.iter().position(|&byte| byte == b',').unwrap();
            let seq: i32 = std::str::from_utf8(&change[..end]).unwrap().parse().unwrap();
            if seq % BURST != 0 {
                continue;
            }
            if seq % (10 * BURST) == 0 {
                let at = written.at[usize::try_from(seq).unwrap()].load(Ordering::Relaxed);
                latencies.push((seq, written.now() - at));
            }
            rounds.add_permits(1);
            if seq == last {
                return latencies;
            }
        } else if line.starts_with(b"{\"type\":\"snapshot_end\"") {
            rounds.add_permits(1);
        }
    }
}

fn subscribe_and_sleep(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"{\"op\":\"subscribe\"}\n").unwrap();
    stream
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
