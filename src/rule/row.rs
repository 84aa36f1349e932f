use serde::Serialize;

use super::{InvalidState, QuarantinedRow, RowFingerprint, RuleHeader, RuleId, RuleState};
use crate::clock::Timestamp;

/// A row of `ttp_rule` as any program may have written it: nothing is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRow {
    /// The row without its text; `content_sha256` is the digest of the text.
    pub header: RuleHeader,
    /// The file's unchanged text.
    pub yaml_content: String,
}

impl RuleRow {
    /// The row's key.
    pub(crate) fn rule_id(&self) -> &str {
        &self.header.rule_id
    }

    /// The row in quarantine for this reason, which is in its text or only in another column.
    pub(crate) fn quarantined(&self, reason: String, is_text_invalid: bool) -> Box<QuarantinedRow> {
        let fingerprint = RowFingerprint::rule(&self.header);
        Box::new(QuarantinedRow { key: self.header.rule_id.clone(), fingerprint, reason, is_text_invalid })
    }
}

/// A row of `ttp_rule_state` as any program may have written it: nothing is checked yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StateRow {
    /// The row's key, which may not be a rule id; a rule of this id need not exist.
    pub rule_id: String,
    /// One of the three words, if the writer knew them.
    pub state: String,
    /// The ceiling, as the shortest number that the column reads back as the same.
    pub confidence_max: Option<f64>,
    /// When the state expires; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// The reason.
    pub reason: Option<String>,
    /// Who set it.
    pub set_by: Option<String>,
    /// When it was set, by the writer's clock.
    pub set_at: Option<Timestamp>,
}

/// A row of `ttp_rule_state` by its key, or why it cannot be read.
pub(crate) type FoundStateRow = (String, Result<StateRow, String>);

impl StateRow {
    /// The row for the `state` of `rule_id`.
    pub(crate) fn new(rule_id: &RuleId, state: &RuleState) -> Self {
        Self {
            rule_id: rule_id.to_string(),
            state: state.state.as_str().to_owned(),
            confidence_max: state.confidence_max,
            expires_at: state.expires_at,
            reason: state.reason.clone(),
            set_by: state.set_by.clone(),
            set_at: state.set_at,
        }
    }

    /// The size of its free texts in bytes.
    pub(crate) fn memory(&self) -> usize {
        [&self.reason, &self.set_by].into_iter().flatten().map(String::len).sum()
    }

    /// The state in the row, expired or not.
    ///
    /// # Errors
    /// [`InvalidState`] if the word, the ceiling or a text is not valid for a state.
    pub(crate) fn state(&self) -> Result<RuleState, InvalidState> {
        let state = RuleState {
            state: self.state.parse()?,
            confidence_max: self.confidence_max,
            expires_at: self.expires_at,
            reason: self.reason.clone(),
            set_by: self.set_by.clone(),
            set_at: self.set_at,
        };
        state.validate_found()?;
        Ok(state)
    }
}
