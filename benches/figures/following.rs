//! From the table to the subscribers.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::contest::{Contender, Figure, Goal, Unit};
use crate::host::{Host, Rules, Subscriber, rule_text, waited};
use crate::plain;
use crate::servers::{Databases, Fresh};

/// From a worker's start to a subscriber that is told of all rules.
pub(crate) fn first_load<'a>(
    rules: &'a Rules,
    databases: &'a Databases,
    backend: &'static str,
    count: usize,
) -> Figure<'a> {
    let mut stands: Option<Fresh> = None;
    let name = format!("worker's first load, {count} rules, {backend}");
    let figure = Figure::new(name, Unit::Seconds, move |contender| {
        let directory = rules.directory(count);
        let database = stands.get_or_insert_with(|| {
            let database = databases.fresh(backend);
            databases.block_on(async {
                let mut hand = plain::hand(database.address()).await;
                plain::written(directory.path(), &mut hand).await;
            });
            database
        });
        vec![match contender {
            Contender::Build(build) => {
                Host::on(build, directory.path(), database.address().to_owned()).first_load()
            }
            Contender::Floor => databases.block_on(async {
                let mut hand = plain::hand(database.address()).await;
                plain::selected(&mut hand).await
            }),
        }]
    });
    let figure = if backend == "sqlite" { figure.series("worker's first load", count) } else { figure };
    if count == 100_000 { figure.goal(Goal::Times(2.0)).rounds(3) } else { figure }
}

/// A worker that follows a table of so many rules, in whose journal they all changed once.
fn changed_once(
    build: &std::path::Path,
    rules: &Rules,
    databases: &Databases,
    count: usize,
) -> (Host, String) {
    let directory = rules.directory(count);
    let mut host = Host::on_sqlite(build, directory.path());
    host.run(&["sync"]);
    host.start("worker");
    let mut subscriber = Subscriber::to(&host, r#"{"op":"subscribe"}"#);
    let begin = subscriber.until("snapshot_begin");
    let cursor =
        format!(r#"{{"op":"subscribe","cursor":{{"epoch":{},"seq":{}}}}}"#, begin["epoch"], begin["seq"]);
    databases.block_on(async {
        let mut hand = plain::hand(host.url()).await;
        hand.begin().await;
        for number in 0..count {
            let text = rule_text(number, 2).replace('\'', "''");
            let now = rulesyncd::clock::Clock::now(&rulesyncd::clock::SystemClock).to_sql_text();
            hand.run(&format!(
                "UPDATE ttp_rule SET rule_version = 2, yaml_content = '{text}', updated_at = '{now}' \
                 WHERE rule_id = 'R{number:06}'"
            ))
            .await;
        }
        hand.commit().await;
    });
    for _ in 0..count {
        subscriber.until("change");
    }
    (host, cursor)
}

/// The whole snapshot to one subscriber.
pub(crate) fn snapshot<'a>(rules: &'a Rules, count: usize) -> Figure<'a> {
    const REQUEST: &str = r#"{"op":"subscribe","follow":false}"#;
    let mut hosts: HashMap<Contender, Host> = HashMap::new();
    let mut size = 0;
    Figure::new(format!("snapshot to a subscriber, {count} rules"), Unit::Seconds, move |contender| {
        let directory = rules.directory(count);
        let Contender::Build(build) = contender else {
            if size == 0 {
                return Vec::new();
            }
            let bytes = vec![b'x'; size];
            let start = Instant::now();
            let (mut reader, mut writer) = UnixStream::pair().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    bytes.chunks(1 << 16).for_each(|chunk| writer.write_all(chunk).unwrap());
                    writer.shutdown(std::net::Shutdown::Both).unwrap();
                });
                let mut buffer = vec![0; 1 << 18];
                while reader.read(&mut buffer).unwrap() > 0 {}
            });
            return vec![start.elapsed().as_secs_f64()];
        };
        let host = hosts.entry(contender.clone()).or_insert_with(|| {
            let mut host = Host::on_sqlite(build, directory.path());
            host.run(&["sync"]);
            host.first_load();
            host
        });
        let start = Instant::now();
        size = Subscriber::to(host, REQUEST).drain();
        vec![start.elapsed().as_secs_f64()]
    })
    .rounds(7)
    .series("snapshot to a subscriber", count)
}

/// Changes a second through the stream to so many subscribers at once.
pub(crate) fn stream<'a>(
    rules: &'a Rules,
    databases: &'a Databases,
    subscribers: usize,
    changes: usize,
) -> Figure<'a> {
    let mut hosts: HashMap<Contender, (Host, String, usize)> = HashMap::new();
    let mut bare = None;
    let mut size = 0;
    let name = format!("{changes} changes to {subscribers} subscribers");
    let figure = Figure::new(name, Unit::Seconds, move |contender| {
        let (path, request) = match contender {
            Contender::Build(build) => {
                let (host, cursor, bytes) = hosts.entry(contender.clone()).or_insert_with(|| {
                    let (host, cursor) = changed_once(build, rules, databases, changes);
                    let bytes = size_of_changes(&host, &cursor, changes);
                    (host, cursor, bytes)
                });
                size = *bytes;
                (host.path("events.sock"), cursor.clone())
            }
            Contender::Floor if size == 0 => return Vec::new(),
            Contender::Floor => {
                let place = bare.get_or_insert_with(|| BareServer::start(size));
                (place.path(), "{}".to_owned())
            }
        };
        vec![databases.block_on(everyone_hears(&path, &request, subscribers, size))]
    });
    if subscribers == 100 { figure.goal(Goal::Times(1.5)) } else { figure }
}

/// How many bytes a subscriber gets that resumes before all changes.
fn size_of_changes(host: &Host, cursor: &str, changes: usize) -> usize {
    let mut subscriber = UnixStream::connect(host.path("events.sock")).unwrap();
    subscriber.write_all(format!("{cursor}\n").as_bytes()).unwrap();
    let (mut total, mut lines, mut buffer) = (0, 0, vec![0; 1 << 18]);
    // The greeting, too.
    while lines < changes + 1 {
        let count = subscriber.read(&mut buffer).unwrap();
        assert!(count > 0);
        total += count;
        lines += buffer[..count].iter().filter(|&&byte| byte == b'\n').count();
    }
    total
}

/// How long it takes until all have read so many bytes.
async fn everyone_hears(path: &std::path::Path, request: &str, subscribers: usize, bytes: usize) -> f64 {
    let mut streams = Vec::new();
    for _ in 0..subscribers {
        streams.push(tokio::net::UnixStream::connect(path).await.unwrap());
    }
    let start = Instant::now();
    let mut hearing = tokio::task::JoinSet::new();
    for mut stream in streams {
        let request = format!("{request}\n");
        hearing.spawn(async move {
            stream.write_all(request.as_bytes()).await.unwrap();
            let (mut total, mut buffer) = (0, vec![0; 1 << 16]);
            while total < bytes {
                let count = stream.read(&mut buffer).await.unwrap();
                assert!(count > 0, "the stream ended");
                total += count;
            }
        });
    }
    while let Some(heard) = hearing.join_next().await {
        heard.unwrap();
    }
    start.elapsed().as_secs_f64()
}

/// A program that writes the same bytes to whoever asks, and does nothing else.
struct BareServer(tempfile::TempDir);

impl BareServer {
    fn start(bytes: usize) -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("bare.sock");
        let line: Arc<[u8]> = vec![b'x'; bytes].into();
        let at = path.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::bind(at).unwrap();
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let bytes = Arc::clone(&line);
                    tokio::spawn(async move {
                        let mut request = [0; 64];
                        if stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                            for chunk in bytes.chunks(1 << 16) {
                                stream.write_all(chunk).await.unwrap();
                            }
                        }
                    });
                }
            });
        });
        waited(|| path.exists().then_some(()));
        Self(place)
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("bare.sock")
    }
}
