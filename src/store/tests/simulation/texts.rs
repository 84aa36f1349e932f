//! The rules of the simulation, parsed once.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::tables::Cell;
use crate::clock::Timestamp;
use crate::rule::{ContentDigest, KnownRule, RuleHeader, RuleId, RuleRow, TextSink};
use crate::store::RowReader;

/// How many rules steps change one by one, at most: four, and case variants of the first two.
pub(super) const IDS: u8 = 6;

/// The first id that is a case variant.
const VARIANTS: u8 = 4;

/// How many rules there are in a large table: so many that a poll reads headers first.
pub(super) const MANY: u8 = 72;

/// How many texts each has.
pub(super) const VERSIONS: u8 = 3;

/// Who writes what a master or a command of this program wrote.
pub(super) const OURS: &str = "filesystem";

/// The rows with all texts, and what the parser makes of them.
pub(super) struct Texts {
    rows: Vec<RuleRow>,
    files: Vec<RuleHeader<RuleId>>,
    parsed: HashMap<ContentDigest, Arc<KnownRule>>,
    others: Arc<str>,
}

impl Texts {
    pub(super) fn get() -> &'static Arc<Self> {
        static TEXTS: OnceLock<Arc<Texts>> = OnceLock::new();
        TEXTS.get_or_init(|| Arc::new(Self::new()))
    }

    fn new() -> Self {
        let rows: Vec<RuleRow> =
            (0..MANY).flat_map(|id| (0..VERSIONS).map(move |version| row(id, version))).collect();
        let file = |row: &RuleRow| {
            let id = RuleId::new(&row.header.rule_id).unwrap();
            row.header.clone().with_id(id)
        };
        let files = rows.iter().map(file).collect();
        let mut reader = RowReader::default();
        let parsed = rows.iter().map(|row| (row.header.content_sha256, reader.read(row).unwrap())).collect();
        Self { rows, files, parsed, others: "another program".into() }
    }

    /// The row of a rule with one of its texts, stamped at `updated_at`.
    pub(super) fn row(&self, id: u8, version: u8, updated_at: Timestamp) -> RuleRow {
        let mut row = self.rows[usize::from(id * VERSIONS + version)].clone();
        row.header.updated_at = updated_at;
        row
    }

    /// The rule in a file with one of its texts.
    pub(super) fn file(&self, id: u8, version: u8) -> &RuleHeader<RuleId> {
        &self.files[usize::from(id * VERSIONS + version)]
    }

    /// What a master reads of a row.
    pub(super) fn header(&self, id: u8, cell: Cell) -> RuleHeader {
        let mut header = self.rows[usize::from(id * VERSIONS + cell.content)].header.clone();
        header.updated_at = super::tables::time(cell.stamp);
        if !cell.is_ours {
            header.updated_by = Arc::clone(&self.others);
        }
        header
    }

    /// Which text a digest is of, of those of a rule.
    pub(super) fn version_of(&self, id: u8, content: ContentDigest) -> Option<u8> {
        (0..VERSIONS).find(|&version| self.file(id, version).content_sha256 == content)
    }
}

impl TextSink for Texts {
    fn put(&self, _: ContentDigest, _: &str) {}

    fn parsed(&self, _: &str, content: &ContentDigest) -> Option<Arc<KnownRule>> {
        self.parsed.get(content).cloned()
    }
}

pub(super) fn rule_id(id: u8) -> &'static str {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    let name = |id| match id {
        VARIANTS..IDS => format!("r{}", id - VARIANTS),
        _ => format!("R{id}"),
    };
    &NAMES.get_or_init(|| (0..MANY).map(name).collect())[usize::from(id)]
}

/// The number of an id.
pub(super) fn number_of(rule_id: &str) -> u8 {
    let number: u8 = rule_id[1..].parse().unwrap();
    if rule_id.starts_with('r') { number + VARIANTS } else { number }
}

/// The id that differs by case alone; `None` if there is none.
pub(super) fn case_variant(id: u8) -> Option<u8> {
    match id {
        VARIANTS..IDS => Some(id - VARIANTS),
        _ => Some(id + VARIANTS).filter(|variant| (VARIANTS..IDS).contains(variant)),
    }
}

fn row(id: u8, version: u8) -> RuleRow {
    let rule_id = rule_id(id);
    let yaml_content = format!(
        "rule_id: {rule_id}\nrule_version: 1\nname: text {version}\napplies_to: [command]\nmatch: {{field: x}}\n\
         emits:\n  - {{tactic: TA0007, technique_id: T1083, confidence: 0.5}}\n"
    );
    let header = RuleHeader {
        source_path: format!("{rule_id}.yaml").into(),
        rule_id: rule_id.to_owned(),
        rule_version: 1,
        content_sha256: ContentDigest::of(&yaml_content),
        updated_at: Timestamp::MIN,
        updated_by: OURS.into(),
    };
    RuleRow { header, yaml_content }
}
