//! Reading one snapshot.

use super::{ClientError, SocketClient};
use crate::rule::{CatalogueDigest, Observation};
use crate::wire::{Op, ServerLine, Subscribe};

/// The most bytes of a snapshot's lines: a worker keeps its rules in memory, by default in a sixteenth of this.
const MAX_SNAPSHOT: usize = 1 << 30;

impl SocketClient {
    /// Subscribes, and reads the snapshot: the digest of all that the worker serves, and what `subscribe` selects of it.
    ///
    /// # Errors
    /// As [`SocketClient::next_soon`], or the daemon refuses the request, closes the connection, or sends without end.
    pub(crate) async fn snapshot(
        &mut self,
        subscribe: Subscribe,
    ) -> Result<(CatalogueDigest, Observation), ClientError> {
        self.snapshot_within(MAX_SNAPSHOT, subscribe).await
    }

    async fn snapshot_within(
        &mut self,
        most: usize,
        subscribe: Subscribe,
    ) -> Result<(CatalogueDigest, Observation), ClientError> {
        self.send(Op::Subscribe(subscribe)).await?;
        let (mut content, mut bytes) = (Observation::default(), 0);
        while let Some(line) = self.next_soon().await? {
            bytes += line.text.len();
            if bytes > most {
                return Err(ClientError::Protocol(format!("its snapshot has more than {most} bytes")));
            }
            match line.line {
                ServerLine::Rule(rule) => {
                    let state = rule.new_value.state.clone();
                    content.insert(rule.rule_id.clone(), Some(rule.into()), state);
                }
                ServerLine::State { rule_id, new_value } => content.insert(rule_id, None, new_value),
                ServerLine::SnapshotEnd { digest, .. } => return Ok((digest, content)),
                ServerLine::Error { code, message, .. } => {
                    return Err(ClientError::Refused { code, message });
                }
                _ => {}
            }
        }
        Err(ClientError::Closed)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_snapshot_without_end_is_not_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let endless = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            for number in 0_u64.. {
                let state = r#"{"state":"disabled","confidence_max":null,"expires_at":null,"reason":null,"set_by":null,"set_at":null}"#;
                let line =
                    format!("{{\"type\":\"state\",\"rule_id\":\"R{number}\",\"new_value\":{state}}}\n");
                if stream.write_all(line.as_bytes()).await.is_err() {
                    break;
                }
            }
        };
        let read = async {
            let mut client = SocketClient::connect(&path).await.unwrap();
            client.snapshot_within(100_000, Subscribe::default()).await.unwrap_err()
        };
        let (error, ()) = tokio::join!(read, endless);
        assert!(error.to_string().contains("more than 100000 bytes"), "{error}");
    }
}
