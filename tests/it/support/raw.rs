//! A client that shares no code with the crate: it reads and writes the socket's lines.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// How long a test waits for a line that must come.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Raw {
    pub(crate) read: BufReader<OwnedReadHalf>,
    pub(crate) write: OwnedWriteHalf,
}

impl Raw {
    /// Connects, as soon as something listens.
    pub(crate) async fn connect(socket: &Path) -> Self {
        let connected = timeout(TIME_LIMIT, async {
            loop {
                match UnixStream::connect(socket).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
        let (read, write) = connected.await.expect("nothing listens").into_split();
        Self { read: BufReader::new(read), write }
    }

    /// Connects, takes the `hello` and subscribes with these fields beside `op`.
    pub(crate) async fn subscribe(socket: &Path, fields: Value) -> Self {
        let mut raw = Self::connect(socket).await;
        assert_eq!(raw.next().await["type"], "hello");
        let mut request = serde_json::json!({ "op": "subscribe" });
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        raw.send(&request).await;
        raw
    }

    pub(crate) async fn send(&mut self, line: &Value) {
        self.write.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The next line as text with its LF; `None` at the end.
    pub(crate) async fn text(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(TIME_LIMIT, self.read.read_line(&mut line)).await.expect("no line came");
        // A connection that is closed with requests unread ends with a reset.
        (read.unwrap_or(0) > 0).then_some(line)
    }

    /// The next line.
    pub(crate) async fn next(&mut self) -> Value {
        let line = self.text().await.expect("the connection was closed");
        serde_json::from_str(&line).expect(&line)
    }

    /// The next line that is no heartbeat.
    pub(crate) async fn event(&mut self) -> Value {
        self.find(|line| line["type"] != "heartbeat").await
    }

    /// The next heartbeat for which `wanted` holds.
    pub(crate) async fn heartbeat(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.find(|line| line["type"] == "heartbeat" && wanted(line)).await
    }

    async fn find(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = timeout(TIME_LIMIT, async {
            loop {
                let line = self.next().await;
                if wanted(&line) {
                    return line;
                }
            }
        });
        found.await.expect("no such line came")
    }

    /// A whole snapshot: its `snapshot_begin`, the ids of its lines, its `snapshot_end`.
    pub(crate) async fn snapshot(&mut self) -> (Value, Vec<String>, Value) {
        let begin = self.event().await;
        assert_eq!(begin["type"], "snapshot_begin", "{begin}");
        let mut ids = Vec::new();
        loop {
            let line = self.event().await;
            match line["type"].as_str() {
                Some("snapshot_end") => return (begin, ids, line),
                Some("rule" | "state") => ids.push(line["rule_id"].as_str().unwrap().to_owned()),
                _ => panic!("{line} inside of a snapshot"),
            }
        }
    }

    /// Expects the server to close after its remaining lines.
    pub(crate) async fn closed(&mut self) {
        while self.text().await.is_some() {}
    }
}
