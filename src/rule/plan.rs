//! Plans the writes that make the table equal to the directory. Pure: files and rows in, plan out.
//!
//! Two laws hold and are tested. Planning again after a plan was carried out gives an empty plan. Without invalid
//! files and conflicts, going from one directory to another in two steps gives the same table as in one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{ContentDigest, RuleHeader, RuleId};

/// A file of the rules directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// The path, relative to the rules directory.
    pub path: String,
    /// The rule in it; `None` if the file is invalid and keeps its last valid row.
    pub rule: Option<FileRule>,
}

/// The rule that a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRule {
    /// The id in the file.
    pub rule_id: RuleId,
    /// The author's number.
    pub rule_version: i32,
    /// The digest of the file's text.
    pub content_sha256: ContentDigest,
}

/// The writes that make the table equal to the directory. Deletions come before writes, so that an id that moves to
/// another file or changes its case is free when it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Owned rows whose file is missing.
    pub deletes: Vec<Delete>,
    /// Files whose row is missing or differs.
    pub writes: Vec<Write>,
    /// Files whose id another file holds.
    pub conflicts: Vec<Conflict>,
    /// How many files have an equal row.
    pub unchanged: usize,
}

/// A row to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// The row's key.
    pub rule_id: String,
    /// The file that it came from.
    pub source_path: String,
}

/// A row to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The file.
    pub path: String,
    /// The rule in it.
    pub rule: FileRule,
    /// The row that it replaces; `None` is an insert.
    pub replaces: Option<Replaced>,
    /// Rows of other writers that are case variants of the rule's id. They are deleted.
    pub case_variants: Vec<Replaced>,
}

impl Write {
    /// The row of a writer other than `owner` that it replaces.
    pub fn takes_over(&self, owner: &str) -> Option<&Replaced> {
        self.replaces.iter().chain(&self.case_variants).find(|replaced| replaced.updated_by != owner)
    }
}

/// A row that a write replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The row's key: the rule's id, or a case variant of it.
    pub rule_id: String,
    /// The row's writer.
    pub updated_by: String,
    /// The author's number that it had.
    pub rule_version: i64,
}

/// Two files with one id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The id in both files.
    pub rule_id: RuleId,
    /// The file that does not get the id.
    pub path: String,
    /// The file that keeps the id.
    pub held_by: String,
}

impl Plan {
    /// Whether the plan neither writes nor deletes.
    pub const fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.writes.is_empty()
    }
}

/// Plans the writes that make `rows` equal to `files`, for the rows that `owner` wrote.
///
/// `rows` must have the rows of every id and every path in `files`, and every owned row whose file may be missing. Other
/// rows are not touched.
pub fn plan(files: &[PlannedFile], rows: &[RuleHeader], owner: &str) -> Plan {
    let table = RowLookup::new(rows, owner);
    let mut claims: BTreeMap<String, Vec<(&str, &FileRule)>> = BTreeMap::new();
    for file in files {
        if let Some(rule) = &file.rule {
            claims.entry(rule.rule_id.folded()).or_default().push((&file.path, rule));
        }
    }
    let broken: BTreeSet<&str> =
        files.iter().filter(|file| file.rule.is_none()).map(|file| file.path.as_str()).collect();

    let mut plan = Plan::default();
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for (folded, mut claimants) in claims {
        claimants.sort_unstable_by_key(|&(path, _)| path);
        let row = table.holding(&folded, claimants[0].1.rule_id.as_str());
        let holder = row.filter(|row| row.is_owned_by(owner)).map(|row| &*row.source_path);
        let winner = match holder {
            Some(path) if broken.contains(path) => None,
            _ => Some(claimants.iter().position(|&(path, _)| Some(path) == holder).unwrap_or(0)),
        };
        let held_by = winner.map_or(holder.unwrap_or_default(), |winner| claimants[winner].0).to_owned();
        for (position, &(path, rule)) in claimants.iter().enumerate() {
            if Some(position) != winner {
                let (rule_id, path, held_by) = (rule.rule_id.clone(), path.to_owned(), held_by.clone());
                plan.conflicts.push(Conflict { rule_id, path, held_by });
                continue;
            }
            let row = table.holding(&folded, rule.rule_id.as_str());
            kept.extend(row.map(|row| row.rule_id.as_str()));
            let case_variants = table.case_variants(&folded, row, owner);
            if case_variants.is_empty() && row.is_some_and(|row| is_current(row, path, rule, owner)) {
                plan.unchanged += 1;
            } else {
                plan.writes.push(Write {
                    path: path.to_owned(),
                    rule: rule.clone(),
                    replaces: row.map(Replaced::from),
                    case_variants,
                });
            }
        }
    }
    plan.deletes = rows
        .iter()
        .filter(|row| row.is_owned_by(owner))
        .filter(|row| !kept.contains(row.rule_id.as_str()) && !broken.contains(&*row.source_path))
        .map(|row| Delete { rule_id: row.rule_id.clone(), source_path: row.source_path.to_string() })
        .collect();
    plan.deletes.sort_unstable_by(|a, b| a.rule_id.cmp(&b.rule_id));
    plan
}

impl From<&RuleHeader> for Replaced {
    fn from(row: &RuleHeader) -> Self {
        Self {
            rule_id: row.rule_id.clone(),
            updated_by: row.updated_by.to_string(),
            rule_version: row.rule_version,
        }
    }
}

fn is_current(row: &RuleHeader, path: &str, rule: &FileRule, owner: &str) -> bool {
    row.rule_id == rule.rule_id.as_str()
        && row.rule_version == i64::from(rule.rule_version)
        && *row.source_path == *path
        && row.is_owned_by(owner)
        && row.content_sha256 == rule.content_sha256
}

/// The rows by id, and by id without case.
struct RowLookup<'a> {
    exact: HashMap<&'a str, &'a RuleHeader>,
    /// A case-sensitive table may hold several; owned ones come last.
    folded: HashMap<String, Vec<&'a RuleHeader>>,
}

impl<'a> RowLookup<'a> {
    fn new(rows: &'a [RuleHeader], owner: &str) -> Self {
        let mut folded: HashMap<String, Vec<&RuleHeader>> = HashMap::with_capacity(rows.len());
        let (owned, foreign): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.is_owned_by(owner));
        for row in foreign.into_iter().chain(owned) {
            folded.entry(row.rule_id.to_ascii_lowercase()).or_default().push(row);
        }
        Self { exact: rows.iter().map(|row| (row.rule_id.as_str(), row)).collect(), folded }
    }

    /// The row of an id.
    fn holding(&self, folded: &str, exact: &str) -> Option<&'a RuleHeader> {
        let exact = self.exact.get(exact).copied();
        exact.or_else(|| self.folded.get(folded)?.last().copied())
    }

    /// The rows of other writers that are case variants of an id.
    fn case_variants(&self, folded: &str, holding: Option<&RuleHeader>, owner: &str) -> Vec<Replaced> {
        let all = self.folded.get(folded).into_iter().flatten();
        all.filter(|row| !row.is_owned_by(owner) && Some(&row.rule_id) != holding.map(|row| &row.rule_id))
            .map(|row| Replaced::from(*row))
            .collect()
    }
}

#[cfg(test)]
mod tests;
