use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The name of one run of a worker: sequence numbers are only comparable within one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// A new epoch (a UUIDv7) that begins at `now`.
    pub fn starting(now: Timestamp) -> Self {
        let micros = u64::try_from(now.as_micros()).unwrap_or(0);
        let nanos = u32::try_from(micros % 1_000_000).unwrap_or(0) * 1_000;
        let stamp = uuid::Timestamp::from_unix(uuid::NoContext, micros / 1_000_000, nanos);
        Self(uuid::Uuid::new_v7(stamp).to_string().into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The last change that a subscriber has applied. Written `EPOCH:SEQ` on a command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The run of the worker that numbered the change.
    pub epoch: Epoch,
    /// The number of the change.
    pub seq: u64,
}

/// Why a text is not a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a cursor; expected EPOCH:SEQ, as `rulesyncd watch` prints it")]
pub struct InvalidCursor(String);

impl std::str::FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidCursor(text.to_owned());
        let (epoch, seq) =
            text.rsplit_once(':').filter(|(epoch, _)| !epoch.is_empty()).ok_or_else(invalid)?;
        Ok(Self { epoch: Epoch(epoch.into()), seq: seq.parse().map_err(|_| invalid())? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}
