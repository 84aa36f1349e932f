//! Which files a scan reads.

use std::collections::BTreeSet;

/// Which files a scan reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanScope {
    /// The whole directory, without files whose trusted stamp is unchanged.
    All,
    /// Every file of the directory.
    Reread,
    /// The files of these names. A name that no rule file can have, as a row may name it, counts as missing.
    Names(BTreeSet<String>),
}

impl ScanScope {
    /// Whether it covers the whole directory.
    pub(crate) const fn is_all(&self) -> bool {
        matches!(self, Self::All | Self::Reread)
    }

    /// One scan in place of this and `other`.
    #[must_use]
    pub(crate) fn and(self, other: Option<Self>) -> Self {
        match (self, other) {
            (scope, None) => scope,
            (Self::Names(mut names), Some(Self::Names(more))) => {
                names.extend(more);
                Self::Names(names)
            }
            (Self::Reread, _) | (_, Some(Self::Reread)) => Self::Reread,
            _ => Self::All,
        }
    }
}
