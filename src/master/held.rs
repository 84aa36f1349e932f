//! Deletions that are held back, and who allows them.

use std::collections::BTreeSet;

use tokio_util::sync::CancellationToken;

use crate::rule::RuleHeader;
use crate::rule::plan::Plan;

/// Who lifts the guard against mass deletion, for as long as they wait for the answer.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The user's number, as the kernel gives it.
    pub(crate) uid: u32,
    /// The process; `None` where the kernel does not say.
    pub(crate) pid: Option<i32>,
    /// Cancelled once they wait no more: what has not begun is not carried out.
    pub(crate) gone: CancellationToken,
}

impl Operator {
    /// The user and id of this process.
    pub(crate) fn this_process() -> Self {
        let pid = i32::try_from(std::process::id()).ok();
        Self { uid: rustix::process::geteuid().as_raw(), pid, gone: CancellationToken::new() }
    }
}

/// Deletions that are held back until an operator allows them.
#[derive(Debug, Clone)]
pub struct HeldDeletes {
    /// The ids of the rows.
    pub rule_ids: Vec<String>,
    /// The files that the rows came from.
    pub source_paths: BTreeSet<String>,
    /// How many rows the master owned before.
    pub owned: usize,
    /// How many were deleted shortly before, each time without an operator: they count as well.
    pub recent: usize,
}

impl HeldDeletes {
    /// Takes the deletions out of a plan; `owned` is the number of owned rows before it, `recent` that of deletions that
    /// count with them.
    pub(super) fn take(plan: &mut Plan, owned: usize, recent: usize) -> Self {
        let deletes = std::mem::take(&mut plan.deletes).into_iter();
        let (rule_ids, source_paths) = deletes
            .map(|RuleHeader { rule_id, source_path, .. }| (rule_id, source_path.into_string()))
            .unzip();
        Self { rule_ids, source_paths, owned, recent }
    }

    /// Whether the other one is of the same rows.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.rule_ids, &self.source_paths, self.owned)
            == (&other.rule_ids, &other.source_paths, other.owned)
    }
}
