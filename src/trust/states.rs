//! Which operators' states have an effect under a manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::{Malformed, decimal, shown};
use crate::clock::Timestamp;
use crate::rule::{RuleId, RuleState, StateKind};

/// The most rules that states may suppress, and the rules that they may not: the line `states` of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// Every state has its effect.
    Any,
    /// At most so many rules are suppressed.
    Max {
        /// How many.
        max: u32,
        /// The rules that no state suppresses.
        protected: BTreeSet<RuleId>,
    },
}

/// Why a state has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoEffect {
    /// The release does not list the rule.
    Unlisted,
    /// The manifest protects the rule.
    Protected,
    /// These rules are suppressed already, and the manifest allows no more. All such states share one list: there may
    /// be a state for each rule.
    BeyondMax(Arc<[RuleId]>),
}

impl fmt::Display for NoEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlisted => f.write_str("the signed release does not list the rule"),
            Self::Protected => f.write_str("the signed release protects the rule"),
            Self::BeyondMax(ids) if ids.is_empty() => {
                f.write_str("the signed release lets operators suppress no rule")
            }
            Self::BeyondMax(ids) => {
                const NAMED: usize = 10;
                let named: Vec<&str> = ids.iter().take(NAMED).map(RuleId::as_str).collect();
                let more = if ids.len() > NAMED { ", …" } else { "" };
                write!(
                    f,
                    "the signed release lets operators suppress at most {}, and these are: {}{more}",
                    ids.len(),
                    named.join(", ")
                )
            }
        }
    }
}

/// Which states have an effect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Effects {
    /// The rules that are suppressed, in the order in which they count.
    pub(crate) suppressed: Arc<[RuleId]>,
    /// The states without an effect, by id.
    pub(crate) without_effect: BTreeMap<RuleId, NoEffect>,
}

impl Bound {
    /// Parses the value of the line: `any`, or `max=N` and perhaps ` protected=ID,ID`, sorted.
    ///
    /// # Errors
    /// [`Malformed`]: what was found and expected.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            if text == "any" {
                return Some(Self::Any);
            }
            let text = text.strip_prefix("max=")?;
            let (max, protected) = match text.split_once(" protected=") {
                None => (text, BTreeSet::new()),
                Some((max, ids)) => {
                    let ids: Vec<RuleId> = ids.split(',').map(RuleId::new).collect::<Result<_, _>>().ok()?;
                    if !ids.is_sorted_by(|a, b| a < b) {
                        return None;
                    }
                    (max, ids.into_iter().collect())
                }
            };
            Some(Self::Max { max: decimal(max)?, protected })
        };
        parse().ok_or_else(|| {
            Malformed::new(format!(
                "found {}; expected `any`, or `max=N` and perhaps ` protected=ID,ID` with sorted ids",
                shown(text)
            ))
        })
    }

    /// The rules that no state suppresses, by id.
    pub(crate) fn protected(&self) -> impl Iterator<Item = &RuleId> {
        let protected = match self {
            Self::Any => None,
            Self::Max { protected, .. } => Some(protected),
        };
        protected.into_iter().flatten()
    }

    /// Judges the valid rows of the state table at `now`, by the database's clock. `is_listed` says whether the
    /// release lists a rule.
    ///
    /// It depends on nothing else, so that every worker, and every command, comes to the same result.
    pub(crate) fn effects<'r>(
        &self,
        rows: impl Iterator<Item = (&'r RuleId, &'r RuleState)>,
        is_listed: impl Fn(&RuleId) -> bool,
        now: Timestamp,
    ) -> Effects {
        let mut judged = Effects::default();
        let mut suppressing = Vec::new();
        for (rule_id, row) in rows.filter(|(_, row)| !row.is_expired(now)) {
            let Self::Max { protected, .. } = self else {
                if suppresses(row) {
                    suppressing.push((row.set_at, rule_id));
                }
                continue;
            };
            if !is_listed(rule_id) {
                judged.without_effect.insert(rule_id.clone(), NoEffect::Unlisted);
            } else if suppresses(row) {
                match protected.contains(rule_id) {
                    true => drop(judged.without_effect.insert(rule_id.clone(), NoEffect::Protected)),
                    false => suppressing.push((row.set_at, rule_id)),
                }
            }
        }
        suppressing.sort();
        let most = match self {
            Self::Any => usize::MAX,
            Self::Max { max, .. } => usize::try_from(*max).unwrap_or(usize::MAX),
        };
        let beyond = suppressing.split_off(most.min(suppressing.len()));
        judged.suppressed = suppressing.into_iter().map(|(_, id)| id.clone()).collect();
        for (_, rule_id) in beyond {
            let reason = NoEffect::BeyondMax(Arc::clone(&judged.suppressed));
            judged.without_effect.insert(rule_id.clone(), reason);
        }
        judged
    }
}

/// Whether a state makes a rule detect less: it disables it, clips it, or has a ceiling, whatever its word.
fn suppresses(state: &RuleState) -> bool {
    state.state != StateKind::Enabled || state.confidence_max.is_some()
}

/// As in a manifest.
impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Max { max, protected } => {
                write!(f, "max={max}")?;
                let ids: Vec<&str> = protected.iter().map(RuleId::as_str).collect();
                if ids.is_empty() { Ok(()) } else { write!(f, " protected={}", ids.join(",")) }
            }
        }
    }
}
