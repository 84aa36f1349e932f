//! Plans the writes that make the table equal to the directory. Pure: files and rows in, plan out.
//!
//! Three laws hold and are tested. Planning again after a plan was carried out gives an empty plan. An invalid file keeps
//! its last valid row. Without invalid files and conflicts, going from one directory to another in two steps gives the
//! same table as in one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::{RuleHeader, RuleId};

/// The writes that make the table equal to the directory. Deletions come before writes, so that an id that moves to
/// another file or changes its case is free when it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Owned rows whose file is missing.
    pub deletes: Vec<RuleHeader>,
    /// Files whose row is missing or differs.
    pub writes: Vec<Write>,
    /// Files whose id another file holds.
    pub conflicts: Vec<Conflict>,
    /// How many files have an equal row.
    pub unchanged: usize,
}

/// A row to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The rule in the file; the store sets another `updated_at`.
    pub(crate) rule: RuleHeader<RuleId>,
    /// The row that it replaces, whose id may be a case variant; `None` is an insert.
    pub(crate) replaces: Option<RuleHeader>,
    /// Rows of other writers that are case variants of the rule's id. They are deleted.
    pub(crate) case_variants: Vec<RuleHeader>,
}

impl Write {
    /// The row of another writer that it replaces.
    pub(crate) fn takes_over(&self) -> Option<&RuleHeader> {
        let mut replaced = self.replaces.iter().chain(&self.case_variants);
        replaced.find(|row| row.updated_by != self.rule.updated_by)
    }
}

/// Two files with one id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conflict {
    /// The id in both files.
    pub rule_id: RuleId,
    /// The file that does not get the id.
    pub source_path: String,
    /// The file that keeps the id.
    pub held_by: String,
}

impl Plan {
    /// Whether the plan neither writes nor deletes.
    pub const fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.writes.is_empty()
    }
}

/// The rule in a file, or the id that an invalid file names, if that is known.
pub(crate) type FileRule<'f> = Result<&'f RuleHeader<RuleId>, Option<&'f RuleId>>;

/// Plans the writes that make `rows` equal to `files`, for the rows that `owner` wrote.
///
/// `files` are paths with the rules in them. `Err` is an invalid file, with the id that it names, if that is known: it keeps
/// its last valid row, and a row of that id, which may be its own under an earlier name. `rows` must have the rows of every
/// id and every path in `files`, and every owned row whose file may be missing. Other rows are not touched.
pub(crate) fn plan<'f>(
    files: impl IntoIterator<Item = (&'f str, FileRule<'f>)>,
    rows: &[RuleHeader],
    owner: &str,
) -> Plan {
    let table = RowLookup::new(rows, owner);
    let mut claims: BTreeMap<String, Vec<&RuleHeader<RuleId>>> = BTreeMap::new();
    let mut invalid: BTreeSet<&str> = BTreeSet::new();
    let mut named: BTreeSet<String> = BTreeSet::new();
    for (path, rule) in files {
        match rule {
            Ok(rule) => claims.entry(rule.rule_id.folded()).or_default().push(rule),
            Err(id) => {
                invalid.insert(path);
                named.extend(id.map(RuleId::folded));
            }
        }
    }

    // Whoever holds an id validly has its row.
    named.retain(|folded| !claims.contains_key(folded));

    let mut plan = Plan::default();
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for (folded, mut claimants) in claims {
        claimants.sort_unstable_by_key(|rule| &rule.source_path);
        // A case-sensitive table may have several rows of ours for one id: a valid file that has one of them comes before
        // an invalid one, and an invalid one before any other. But nobody gets the row in which an invalid file keeps its
        // last valid rule.
        let is_last_valid = |row: &RuleHeader| row.is_owned_by(owner) && invalid.contains(&*row.source_path);
        let is_free = |id: &RuleId| table.exact.get(id.as_str()).is_none_or(|row| !is_last_valid(row));
        let has_row = |path: &str| table.owned(&folded, owner).any(|row| *row.source_path == *path);
        let keeps = |rule: &&RuleHeader<RuleId>| has_row(&rule.source_path) && is_free(&rule.rule_id);
        let last_valid = table.owned(&folded, owner).find(|row| is_last_valid(row));
        let (winner, held_by) = match claimants.iter().position(keeps) {
            Some(winner) => (Some(winner), &claimants[winner].source_path),
            None => last_valid.map_or((Some(0), &claimants[0].source_path), |row| (None, &row.source_path)),
        };
        for (position, &rule) in claimants.iter().enumerate() {
            if Some(position) != winner {
                plan.conflicts.push(Conflict {
                    rule_id: rule.rule_id.clone(),
                    source_path: rule.source_path.to_string(),
                    held_by: held_by.to_string(),
                });
                continue;
            }
            let row = table.holding(&folded, rule, owner);
            kept.extend(row.map(|row| row.rule_id.as_str()));
            let case_variants = table.case_variants(&folded, row, owner);
            if case_variants.is_empty() && row.is_some_and(|row| is_current(row, rule)) {
                plan.unchanged += 1;
            } else {
                plan.writes.push(Write { rule: rule.clone(), replaces: row.cloned(), case_variants });
            }
        }
    }
    let is_gone = |row: &&RuleHeader| {
        row.is_owned_by(owner)
            && !kept.contains(row.rule_id.as_str())
            && !invalid.contains(&*row.source_path)
            && !named.contains(&row.rule_id.to_ascii_lowercase())
    };
    plan.deletes = rows.iter().filter(is_gone).cloned().collect();
    plan.deletes.sort_unstable_by(|a, b| a.rule_id.cmp(&b.rule_id));
    plan
}

fn is_current(row: &RuleHeader, rule: &RuleHeader<RuleId>) -> bool {
    row.rule_id == rule.rule_id.as_str() && row.same_content(rule) && row.updated_by == rule.updated_by
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

    /// The rows of the owner that are case variants of an id.
    fn owned(&self, folded: &str, owner: &str) -> impl Iterator<Item = &'a RuleHeader> {
        self.folded.get(folded).into_iter().flatten().copied().filter(move |row| row.is_owned_by(owner))
    }

    /// The row that a rule replaces: that of its id, or else the one of its file, or any case variant.
    fn holding(&self, folded: &str, rule: &RuleHeader<RuleId>, owner: &str) -> Option<&'a RuleHeader> {
        let exact = self.exact.get(rule.rule_id.as_str()).copied();
        let of_its_file = || self.owned(folded, owner).find(|row| row.source_path == rule.source_path);
        exact.or_else(of_its_file).or_else(|| self.folded.get(folded)?.last().copied())
    }

    /// The rows of other writers that are case variants of an id.
    fn case_variants(&self, folded: &str, holding: Option<&RuleHeader>, owner: &str) -> Vec<RuleHeader> {
        let all = self.folded.get(folded).into_iter().flatten();
        all.filter(|row| !row.is_owned_by(owner) && Some(&row.rule_id) != holding.map(|row| &row.rule_id))
            .map(|&row| row.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests;
