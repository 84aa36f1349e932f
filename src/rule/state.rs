use std::fmt;

use serde::{Deserialize, Serialize};

use super::ContentDigest;
use crate::clock::Timestamp;

/// The longest text of a column other than a rule's text, in bytes. Some databases have no limit, and another
/// program's text must fit into a line of the stream, a log and a screen.
pub(crate) const LONGEST_TEXT: usize = 4096;

/// What a row that is no state means for its rule, to follow the reason.
pub(crate) const COUNTS_AS_ENABLED: &str = "the rule counts as enabled meanwhile";

/// What an operator can do with a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StateKind {
    /// The rule works as written.
    #[default]
    Enabled,
    /// The rule is disabled.
    Disabled,
    /// The rule works, but its confidence has a ceiling.
    Clipped,
}

impl StateKind {
    /// Every state.
    pub(crate) const ALL: [Self; 3] = [Self::Enabled, Self::Disabled, Self::Clipped];

    /// The word in the tables and the stream.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Clipped => "clipped",
        }
    }
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for StateKind {
    type Err = InvalidState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| InvalidState::Kind(text.chars().take(40).collect()))
    }
}

/// Why a row of `ttp_rule_state` is not a valid state; the message says what was found and expected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidState {
    /// The `state` column holds another word; its beginning.
    #[error("the state is `{0}`; expected `enabled`, `disabled` or `clipped`")]
    Kind(String),
    /// The ceiling is below 0, or not finite.
    #[error("confidence_max is {0}; expected a number of at least 0 (usually at most 1), or none")]
    ConfidenceMax(f64),
    /// No column can store this end.
    #[error(
        "the state would end in the year 10000 or later; expected an earlier end, or none for a state that stays"
    )]
    ExpiresAt,
    /// A text is too long.
    #[error("{column} has {length} bytes; at most {LONGEST_TEXT} are possible")]
    TooLong {
        /// The column.
        column: &'static str,
        /// Its length in bytes.
        length: usize,
    },
}

/// An operator's state of a rule: a row of `ttp_rule_state`, or the default without one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RuleState {
    /// Whether the rule is enabled, disabled or clipped.
    pub state: StateKind,
    /// The ceiling of the rule's confidence, at least 0; `None` is no ceiling. One above 1 limits nothing: other
    /// programs write it, and do not check it.
    pub confidence_max: Option<f64>,
    /// When the state expires; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// The operator's reason.
    pub reason: Option<String>,
    /// Who set it; `None` for the default state.
    pub set_by: Option<String>,
    /// When it was set; `None` for the default state.
    pub set_at: Option<Timestamp>,
}

impl RuleState {
    /// The size of its texts in bytes.
    pub(crate) fn memory(&self) -> usize {
        [&self.reason, &self.set_by].into_iter().flatten().map(String::len).sum()
    }

    /// `disabled until 2026-05-01T07:25:09.000000Z by alice: noisy on mail hosts`, with the parts that it has. Its
    /// texts are an operator's, and are not sanitized.
    pub(crate) fn summary(&self) -> String {
        let parts = [
            self.confidence_max.map(|ceiling| format!(" at most {ceiling}")),
            self.expires_at.map(|end| format!(" until {end}")),
            self.set_by.as_deref().map(|who| format!(" by {who}")),
            self.reason.as_deref().map(|why| format!(": {why}")),
        ];
        self.state.to_string() + &parts.into_iter().flatten().collect::<String>()
    }

    /// Checks a state before it is written: what no column type checks, and whether the columns can store it.
    ///
    /// # Errors
    /// [`InvalidState::ExpiresAt`] if the end was limited to [`Timestamp::MAX`]; also [`InvalidState::ConfidenceMax`]
    /// and [`InvalidState::TooLong`].
    pub(crate) fn validate(&self) -> Result<(), InvalidState> {
        if self.expires_at == Some(Timestamp::MAX) {
            return Err(InvalidState::ExpiresAt);
        }
        self.validate_found()
    }

    /// Checks a state that was found in a row. Other programs write the greatest time for "never".
    ///
    /// # Errors
    /// [`InvalidState::ConfidenceMax`] if the ceiling is below 0 or not finite, [`InvalidState::TooLong`] if a text is
    /// longer than [`LONGEST_TEXT`].
    pub(super) fn validate_found(&self) -> Result<(), InvalidState> {
        for (column, text) in [("reason", &self.reason), ("set_by", &self.set_by)] {
            let length = text.as_ref().map_or(0, String::len);
            if length > LONGEST_TEXT {
                return Err(InvalidState::TooLong { column, length });
            }
        }
        match self.confidence_max {
            Some(ceiling) if !(ceiling >= 0.0 && ceiling.is_finite()) => {
                Err(InvalidState::ConfidenceMax(ceiling))
            }
            _ => Ok(()),
        }
    }

    /// The digest of a state without `set_at`, and with times in whole seconds: the same before a state is written
    /// and after it is read, on every database.
    pub(crate) fn fingerprint(&self) -> ContentDigest {
        let Self { state, confidence_max, expires_at, reason, set_by, set_at: _ } = self;
        let end = expires_at.map(Timestamp::whole_second);
        ContentDigest::of(format!("{state} {confidence_max:?} {end:?} {reason:?} {set_by:?}"))
    }

    /// Whether this state has expired at `now`. At `expires_at` itself it has.
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// The effective state at `now`: this state, or the default once it has expired.
    pub(crate) fn effective(&self, now: Timestamp) -> Self {
        if self.is_expired(now) { Self::default() } else { self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_ends_at_its_expiry_not_after_it() {
        let end = Timestamp::from_micros(1_000);
        let state = RuleState { state: StateKind::Disabled, expires_at: Some(end), ..RuleState::default() };
        assert_eq!(state.effective(Timestamp::from_micros(999)), state);
        assert_eq!(state.effective(end), RuleState::default());
    }

    #[test]
    fn an_end_that_no_column_holds_is_refused() {
        let now = Timestamp::from_micros(1_777_620_309_123_456);
        let state = |years: u64| {
            let end = now.after(std::time::Duration::from_secs(years * 31_557_600));
            RuleState { expires_at: Some(end), ..RuleState::default() }
        };
        assert_eq!(state(7_000).validate(), Ok(()));
        assert_eq!(state(300_000).validate(), Err(InvalidState::ExpiresAt));
    }

    #[test]
    fn a_ceiling_below_0_is_refused_and_one_above_1_is_not() {
        for (ceiling, good) in [
            (0.0, true),
            (0.85, true),
            (1.0, true),
            (1.1, true),
            (-0.1, false),
            (f64::NAN, false),
            (f64::INFINITY, false),
        ] {
            let state = RuleState { confidence_max: Some(ceiling), ..RuleState::default() };
            assert_eq!(state.validate().is_ok(), good, "{ceiling}");
        }
    }
}
