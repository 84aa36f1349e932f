//! What is to be done so that the table equals the directory. Pure: files and rows in, plan out.
//!
//! Two laws hold, and are tested: a plan that was carried out leaves nothing to do, and where no
//! file is broken and no id is claimed twice, going from one directory to another in two steps
//! ends in the same table as going there in one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::config::Percent;
use crate::rule::{ContentDigest, RuleId};
use crate::store::RowSummary;

/// What is known of one file of the rules directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The path, relative to the rules directory.
    pub path: String,
    /// The rule in it; `None` where it holds none that could be read. It then keeps its last good
    /// row.
    pub rule: Option<FileRule>,
}

/// The rule that a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRule {
    /// The id that the file names.
    pub rule_id: RuleId,
    /// The author's number.
    pub rule_version: i32,
    /// The digest of the file's text.
    pub content: ContentDigest,
}

/// What is to be done. Deletions come before writes, so that an id that changes its case or its
/// file never meets itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Owned rows whose file is gone.
    pub deletes: Vec<Delete>,
    /// Files whose row is missing or another.
    pub writes: Vec<Write>,
    /// Files whose id another file holds.
    pub conflicts: Vec<Conflict>,
    /// How many files stand in the table as they are.
    pub unchanged: usize,
}

/// A row that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// The row's key.
    pub rule_id: String,
    /// The file that it came from.
    pub source_path: String,
}

/// A row that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The file.
    pub path: String,
    /// The rule in it.
    pub rule: FileRule,
    /// What stands in the table now; `None` is an insert.
    pub replaces: Option<Replaced>,
    /// Rows of others beside it whose ids differ from the rule's in case alone: they go.
    pub twins: Vec<Replaced>,
}

impl Write {
    /// The row of another than `owner` in whose place this comes.
    pub fn takes_over(&self, owner: &str) -> Option<&Replaced> {
        self.replaces.iter().chain(&self.twins).find(|replaced| replaced.updated_by != owner)
    }
}

/// What a write finds in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The row's key: the rule's id, or one that differs from it in case alone.
    pub rule_id: String,
    /// Who wrote the row.
    pub updated_by: String,
    /// The author's number that it had.
    pub rule_version: i64,
}

/// Two files that claim one id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The id that is claimed twice.
    pub rule_id: RuleId,
    /// The file that does not get it.
    pub path: String,
    /// The file that keeps it.
    pub held_by: String,
}

impl Plan {
    /// Whether nothing is to be done.
    pub const fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.writes.is_empty()
    }
}

/// Plans what makes `rows` equal to `files`, for the rows that `owner` wrote.
///
/// `rows` are those of every id and every path that stands in `files`, and all owned rows whose
/// file may be gone: a row that is not among them is not touched.
pub fn plan(files: &[File], rows: &[RowSummary], owner: &str) -> Plan {
    let table = Table::new(rows, owner);
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
        let holder = row.filter(|row| row.updated_by == owner).map(|row| row.source_path.as_str());
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
            let twins = table.twins(&folded, row, owner);
            if twins.is_empty() && row.is_some_and(|row| is_current(row, path, rule, owner)) {
                plan.unchanged += 1;
            } else {
                plan.writes.push(Write {
                    path: path.to_owned(),
                    rule: rule.clone(),
                    replaces: row.map(Replaced::from),
                    twins,
                });
            }
        }
    }
    plan.deletes = rows
        .iter()
        .filter(|row| row.updated_by == owner)
        .filter(|row| !kept.contains(row.rule_id.as_str()) && !broken.contains(row.source_path.as_str()))
        .map(|row| Delete { rule_id: row.rule_id.clone(), source_path: row.source_path.clone() })
        .collect();
    plan.deletes.sort_unstable_by(|a, b| a.rule_id.cmp(&b.rule_id));
    plan
}

impl From<&RowSummary> for Replaced {
    fn from(row: &RowSummary) -> Self {
        Self {
            rule_id: row.rule_id.clone(),
            updated_by: row.updated_by.clone(),
            rule_version: row.rule_version,
        }
    }
}

fn is_current(row: &RowSummary, path: &str, rule: &FileRule, owner: &str) -> bool {
    row.rule_id == rule.rule_id.as_str()
        && row.rule_version == i64::from(rule.rule_version)
        && row.source_path == path
        && row.updated_by == owner
        && row.content == rule.content
}

/// The rows by id, and by id without case.
struct Table<'a> {
    exact: HashMap<&'a str, &'a RowSummary>,
    /// Where a case-sensitive table holds several, the owned ones come last.
    folded: HashMap<String, Vec<&'a RowSummary>>,
}

impl<'a> Table<'a> {
    fn new(rows: &'a [RowSummary], owner: &str) -> Self {
        let mut folded: HashMap<String, Vec<&RowSummary>> = HashMap::with_capacity(rows.len());
        let (owned, foreign): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.updated_by == owner);
        for row in foreign.into_iter().chain(owned) {
            folded.entry(row.rule_id.to_ascii_lowercase()).or_default().push(row);
        }
        Self { exact: rows.iter().map(|row| (row.rule_id.as_str(), row)).collect(), folded }
    }

    /// The row that stands for an id.
    fn holding(&self, folded: &str, exact: &str) -> Option<&'a RowSummary> {
        let exact = self.exact.get(exact).copied();
        exact.or_else(|| self.folded.get(folded)?.last().copied())
    }

    /// The others' rows of an id beside the one that stands for it.
    fn twins(&self, folded: &str, holding: Option<&RowSummary>, owner: &str) -> Vec<Replaced> {
        let all = self.folded.get(folded).into_iter().flatten();
        all.filter(|row| row.updated_by != owner && Some(&row.rule_id) != holding.map(|row| &row.rule_id))
            .map(|row| Replaced::from(*row))
            .collect()
    }
}

/// Whether so many deletions may be carried out without an operator's word.
///
/// `recent` are deletions that were carried out a short while ago: a directory that empties file
/// by file is a mass deletion too. `owned` are the rows that the
/// master owned before the plan.
pub fn is_mass_delete(planned: usize, recent: usize, owned: usize, share: Percent, free: usize) -> bool {
    let total = planned + recent;
    planned > 0 && total > free && share.is_exceeded_by(total, owned + recent)
}

/// Whether these deletions would leave none of the rows that were `owned` before the plan: an emptied
/// directory, or one that another was mounted over, whatever the number. A file that stands and holds
/// another id now is neither; `missing` of the planned deletions are of files that are gone.
pub const fn leaves_none(planned: usize, missing: usize, owned: usize) -> bool {
    missing > 0 && planned >= owned
}

#[cfg(test)]
mod tests;
