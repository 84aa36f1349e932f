//! MITRE ATT&CK's ids: which exist, which were revoked or deprecated, and the tactics of each technique.
//!
//! The program contains the table of one version, compressed. It is unpacked when it is first used, which daemons
//! never do. `LICENSE.txt` next to the table has ATT&CK's terms of use.

mod shape;
mod stix;
mod table;

use std::collections::BTreeMap;
use std::sync::LazyLock;

pub(super) use shape::{is_sub_technique, is_tactic, is_technique};
pub use stix::InvalidBundle;

/// One of ATT&CK's matrices, which share no tactic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub(crate) enum Domain {
    /// Computers, their networks and clouds.
    Enterprise,
    /// Phones and tablets.
    Mobile,
    /// Industrial control systems.
    Ics,
}

/// The tactics of the three matrices in MITRE's order, which follows an attack and not the ids.
const ORDER: [&str; 40] = [
    "TA0043", "TA0042", "TA0001", "TA0002", "TA0003", "TA0004", "TA0005", "TA0006", "TA0007", "TA0008",
    "TA0009", "TA0011", "TA0010", "TA0040", // Enterprise.
    "TA0027", "TA0041", "TA0028", "TA0029", "TA0030", "TA0031", "TA0032", "TA0033", "TA0035", "TA0037",
    "TA0036", "TA0034", "TA0038", "TA0039", // Mobile.
    "TA0108", "TA0104", "TA0110", "TA0111", "TA0103", "TA0102", "TA0109", "TA0100", "TA0101", "TA0107",
    "TA0106", "TA0105", // Industrial control systems.
];

/// The status of a technique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    /// It is current.
    Current,
    /// Deprecated: MITRE keeps it, and advises against its use.
    Deprecated,
    /// Revoked, and replaced by this one, if any.
    Revoked(Option<String>),
}

/// A technique, or a sub-technique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Technique {
    /// The name; for a sub-technique without its technique's name.
    pub(crate) name: String,
    /// Its matrix.
    pub(crate) domain: Domain,
    /// Its status.
    pub(crate) status: Status,
    /// The ids of its tactics, at least one in every table that MITRE publishes.
    pub(crate) tactics: Vec<String>,
}

/// A tactic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tactic {
    /// The name.
    pub(crate) name: String,
    /// Its matrix.
    pub(crate) domain: Domain,
}

/// The tactics and techniques of one version of ATT&CK.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attack {
    version: String,
    tactics: BTreeMap<String, Tactic>,
    techniques: BTreeMap<String, Technique>,
}

impl Attack {
    /// The built-in table.
    pub fn built_in() -> &'static Self {
        static TABLE: LazyLock<Attack> = LazyLock::new(|| {
            let packed = include_bytes!(concat!(env!("OUT_DIR"), "/attack.tsv.deflate"));
            let text = miniz_oxide::inflate::decompress_to_vec(packed).unwrap_or_default();
            table::read(&String::from_utf8_lossy(&text))
        });
        &TABLE
    }

    /// The version, such as `18.1`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// The tactic with this id; `None` if there is none in this version.
    pub(crate) fn tactic(&self, id: &str) -> Option<&Tactic> {
        self.tactics.get(id)
    }

    /// The technique or sub-technique with this id; `None` if there is none in this version.
    pub(crate) fn technique(&self, id: &str) -> Option<&Technique> {
        self.techniques.get(id)
    }

    /// The tactics of a matrix with their ids, in MITRE's order.
    pub(crate) fn tactics_of(&self, domain: Domain) -> Vec<(&str, &Tactic)> {
        let mut tactics: Vec<_> = self
            .tactics
            .iter()
            .filter(|(_, tactic)| tactic.domain == domain)
            .map(|(id, tactic)| (id.as_str(), tactic))
            .collect();
        tactics
            .sort_by_key(|(id, _)| (ORDER.iter().position(|known| known == id).unwrap_or(ORDER.len()), *id));
        tactics
    }

    /// The current techniques of a tactic with their ids, without sub-techniques, by name.
    pub(crate) fn techniques_of(&self, tactic: &str) -> Vec<(&str, &Technique)> {
        let mut techniques: Vec<_> = self
            .techniques
            .iter()
            .filter(|(id, technique)| {
                !is_sub_technique(id)
                    && technique.status == Status::Current
                    && technique.tactics.iter().any(|of| of == tactic)
            })
            .map(|(id, technique)| (id.as_str(), technique))
            .collect();
        techniques.sort_by_key(|(_, technique)| &technique.name);
        techniques
    }

    /// The current replacement of a revoked technique, with its id, even if replacements were revoked, too; `None` if
    /// there is none.
    pub(crate) fn successor(&self, id: &str) -> Option<(&str, &Technique)> {
        let mut id = id;
        // A chain is short; one without an end would be a circle.
        for _ in 0..8 {
            let Status::Revoked(Some(next)) = &self.techniques.get(id)?.status else { return None };
            let (next, technique) = self.techniques.get_key_value(next)?;
            if technique.status == Status::Current {
                return Some((next, technique));
            }
            id = next;
        }
        None
    }
}

impl Domain {
    /// MITRE's name for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Enterprise => "enterprise",
            Self::Mobile => "mobile",
            Self::Ics => "ics",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Enterprise, Self::Mobile, Self::Ics].into_iter().find(|domain| domain.as_str() == word)
    }
}

#[cfg(test)]
mod tests;
