use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// The longest id, in bytes: the `rule_id` columns hold no longer one.
const MAX_LENGTH: usize = 255;

/// A rule's id: one token of `[A-Za-z0-9_-]`, 1 to 255 bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RuleId(Arc<str>);

/// Why a text is not a rule id; the message says what was found and what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRuleId {
    /// The text is empty.
    #[error("the rule id is empty; expected one token of letters, digits, `_` and `-`")]
    Empty,
    /// The text is longer than a column holds.
    #[error("the rule id has {0} bytes; at most {MAX_LENGTH} are possible")]
    TooLong(usize),
    /// The text has a character that ids may not have.
    #[error("`{id}` has the character {found:?}; a rule id is one token of letters, digits, `_` and `-`")]
    Character {
        /// The whole text.
        id: String,
        /// The first character that is not allowed.
        found: char,
    },
}

impl RuleId {
    /// Parses an id.
    ///
    /// # Errors
    /// [`InvalidRuleId`] if `text` is not one token of 1 to 255 allowed characters.
    pub fn new(text: &str) -> Result<Self, InvalidRuleId> {
        if text.is_empty() {
            return Err(InvalidRuleId::Empty);
        }
        if text.len() > MAX_LENGTH {
            return Err(InvalidRuleId::TooLong(text.len()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        match text.chars().find(|&c| !allowed(c)) {
            Some(found) => Err(InvalidRuleId::Character { id: text.to_owned(), found }),
            None => Ok(Self(text.into())),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id in lower case. Ids with the same folded id conflict: MySQL's default collation compares without case,
    /// so that both cannot have a row.
    pub(crate) fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for RuleId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for RuleId {
    type Err = InvalidRuleId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for RuleId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_token_of_at_most_255_bytes() {
        for good in ["R0001", "a", "_-", &"x".repeat(255)] {
            assert!(RuleId::new(good).is_ok(), "{good}");
        }
        for bad in ["", " R1", "R 1", "R1\n", "R.1", "Ré1", "../R1", &"x".repeat(256)] {
            assert!(RuleId::new(bad).is_err(), "{bad}");
        }
    }
}
