//! The rules of the simulation, parsed once.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::clock::Timestamp;
use crate::rule::{ContentDigest, KnownRule, RuleHeader, RuleRow, TextSink};
use crate::store::RowReader;

/// How many rules there are, at most.
pub(super) const IDS: u8 = 6;

/// How many texts each has.
pub(super) const VERSIONS: u8 = 3;

/// The rows with all texts, and what the parser makes of them.
pub(super) struct Texts {
    rows: Vec<RuleRow>,
    parsed: HashMap<ContentDigest, Arc<KnownRule>>,
}

impl Texts {
    pub(super) fn get() -> &'static Arc<Self> {
        static TEXTS: OnceLock<Arc<Texts>> = OnceLock::new();
        TEXTS.get_or_init(|| Arc::new(Self::new()))
    }

    fn new() -> Self {
        let rows: Vec<RuleRow> =
            (0..IDS).flat_map(|id| (0..VERSIONS).map(move |version| row(id, version))).collect();
        let mut reader = RowReader::default();
        let parsed = rows.iter().map(|row| (row.header.content_sha256, reader.read(row).unwrap())).collect();
        Self { rows, parsed }
    }

    /// The row of a rule with one of its texts, stamped at `updated_at`.
    pub(super) fn row(&self, id: u8, version: u8, updated_at: Timestamp) -> RuleRow {
        let mut row = self.rows[usize::from(id * VERSIONS + version)].clone();
        row.header.updated_at = updated_at;
        row
    }
}

impl TextSink for Texts {
    fn put(&self, _: ContentDigest, _: &str) {}

    fn parsed(&self, _: &str, content: &ContentDigest) -> Option<Arc<KnownRule>> {
        self.parsed.get(content).cloned()
    }
}

pub(super) fn rule_id(id: u8) -> String {
    format!("R{id}")
}

fn row(id: u8, version: u8) -> RuleRow {
    let rule_id = rule_id(id);
    let yaml_content = format!(
        "rule_id: {rule_id}\nrule_version: 1\nname: text {version}\napplies_to: [command]\nmatch: {{field: x}}\n\
         emits:\n  - {{tactic: TA0007, technique_id: T1083, confidence: 0.5}}\n"
    );
    let header = RuleHeader {
        source_path: format!("{rule_id}.yaml").into(),
        rule_id,
        rule_version: 1,
        content_sha256: ContentDigest::of(&yaml_content),
        updated_at: Timestamp::MIN,
        updated_by: "filesystem".into(),
    };
    RuleRow { header, yaml_content }
}
