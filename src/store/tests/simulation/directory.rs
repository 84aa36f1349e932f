//! A master's directory, and the writes that make the tables equal to it.

use super::tables::{Key, Tables};
use super::texts::{IDS, OURS, Texts, case_variant, number_of};
use crate::rule::RuleHeader;
use crate::rule::plan::plan;

/// The content that each row gets; `None` deletes it.
pub(super) type Writes = Vec<(Key, Option<u8>)>;

#[derive(Debug)]
pub(super) struct Directory {
    /// Which text it has of each id.
    pub(super) files: [Option<u8>; IDS as usize],
    /// Whether it has to be compared.
    pub(super) has_edit: bool,
}

impl Directory {
    pub(super) const fn new() -> Self {
        Self { files: [Some(0), Some(0), None, None, None, None], has_edit: true }
    }

    /// A file is written, or removed. No directory has two files whose ids differ by case alone.
    pub(super) fn edit(&mut self, id: u8, content: Option<u8>) {
        self.files[usize::from(id)] = content;
        if let Some(variant) = case_variant(id).filter(|_| content.is_some()) {
            self.files[usize::from(variant)] = None;
        }
        self.has_edit = true;
    }

    /// The writes that make the tables equal to the directory.
    pub(super) fn planned(&self, tables: &Tables) -> Writes {
        let texts = Texts::get();
        let rules = tables.rows.iter().filter_map(|(key, cell)| match key {
            Key::Rule(id) => Some(texts.header(*id, *cell)),
            Key::State(_) => None,
        });
        let rules: Vec<RuleHeader> = rules.collect();
        let files = (0..IDS).zip(self.files).filter_map(|(id, version)| Some(texts.file(id, version?)));
        let plan = plan(files.map(|file| (&*file.source_path, Ok(file))), &rules, OURS);
        let delete = |row: &RuleHeader| (Key::Rule(number_of(&row.rule_id)), None);
        let mut writes: Writes = plan.deletes.iter().map(delete).collect();
        for write in &plan.writes {
            let id = write.rule.rule_id.as_str();
            let replaced = write.replaces.iter().chain(&write.case_variants);
            writes.extend(replaced.filter(|row| row.rule_id != id).map(delete));
            let id = number_of(id);
            writes.push((Key::Rule(id), texts.version_of(id, write.rule.content_sha256)));
        }
        writes
    }
}
