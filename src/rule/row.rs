use super::{InvalidState, RuleId, RuleState};
use crate::clock::Timestamp;

/// A row of `ttp_rule` as anyone may have written it: nothing in it is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRow {
    /// The row's key; not yet known to be a rule id.
    pub rule_id: String,
    /// The author's number.
    pub rule_version: i64,
    /// Path of the file, relative to the rules directory.
    pub source_path: String,
    /// The file's text, verbatim.
    pub yaml_content: String,
    /// When it was written, by the writer's clock.
    pub updated_at: Timestamp,
    /// Who wrote it.
    pub updated_by: String,
}

/// A row of `ttp_rule_state` as anyone may have written it: nothing in it is checked yet.
#[derive(Debug, Clone, PartialEq)]
pub struct StateRow {
    /// The row's key; not yet known to be a rule id, and a rule of that id need not exist.
    pub rule_id: String,
    /// One of the three words, if the writer kept to them.
    pub state: String,
    /// The ceiling, as the shortest number that the column's width reads back as the same.
    pub confidence_max: Option<f64>,
    /// When the state ends by itself; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// Why.
    pub reason: Option<String>,
    /// Who set it.
    pub set_by: Option<String>,
    /// When it was set, by the writer's clock.
    pub set_at: Option<Timestamp>,
}

impl StateRow {
    /// The row of `rule_id` that says `state`.
    pub fn new(rule_id: &RuleId, state: &RuleState) -> Self {
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

    /// The bytes of its free texts.
    pub fn memory(&self) -> usize {
        [&self.reason, &self.set_by].into_iter().flatten().map(String::len).sum()
    }

    /// The state that the row says, expired or not.
    ///
    /// # Errors
    /// [`InvalidState`] when the word, the ceiling or a text is not one that a state can have.
    pub fn state(&self) -> Result<RuleState, InvalidState> {
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
