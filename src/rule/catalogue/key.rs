//! The order of the rows: by id without regard to case.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

use super::super::KnownRule;

/// A rule in an order in which case variants are adjacent.
#[derive(Debug, Clone)]
pub(super) struct SortedRule(pub(super) Arc<KnownRule>);

impl SortedRule {
    pub(super) fn is_case_variant(&self, other: &Self) -> bool {
        self.key().eq_ignore_ascii_case(other.key())
    }
}

impl PartialEq for SortedRule {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for SortedRule {}

impl PartialOrd for SortedRule {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SortedRule {
    fn cmp(&self, other: &Self) -> Ordering {
        (self as &dyn Key).cmp(other as &dyn Key)
    }
}

/// A key to look up a [`SortedRule`] without allocating an id.
pub(super) trait Key {
    fn key(&self) -> &str;
}

impl Key for SortedRule {
    fn key(&self) -> &str {
        self.0.header.rule_id.as_str()
    }
}

impl Key for &str {
    fn key(&self) -> &str {
        self
    }
}

impl<'a> Borrow<dyn Key + 'a> for SortedRule {
    fn borrow(&self) -> &(dyn Key + 'a) {
        self
    }
}

impl Ord for dyn Key + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.key(), other.key());
        folded(a).cmp(folded(b)).then_with(|| a.cmp(b))
    }
}

impl PartialOrd for dyn Key + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Key + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for dyn Key + '_ {}

fn folded(id: &str) -> impl Iterator<Item = u8> {
    id.bytes().map(|byte| byte.to_ascii_lowercase())
}
