//! How much a poll may read: memory, and rows.

use super::READING;
use super::StoreError;
use crate::rule::{MAX_MEMORY_KEY, Table};

/// How much more memory rules and states may take.
#[derive(Debug)]
pub(super) struct Budget {
    most: usize,
    used: usize,
    quarantined: usize,
}

impl Budget {
    /// A budget of `most` bytes, of which rules and states take `used`, and quarantined rows, which have a part of
    /// their own, `quarantined`.
    pub(super) const fn new(most: usize, used: usize, quarantined: usize) -> Self {
        Self { most, used, quarantined }
    }

    /// Counts quarantined rows of so many bytes. This never fails; see [`Budget::ensure_room`].
    pub(super) const fn quarantine(&mut self, size: usize) {
        self.quarantined += size;
    }

    /// Checks that the ids of a table, and all quarantined rows, take at most a quarter of the budget.
    ///
    /// # Errors
    /// [`StoreError::Refused`].
    pub(super) fn ensure_room(&self, table: Table, ids: usize) -> Result<(), StoreError> {
        let quarter = self.most / 4;
        if self.quarantined + ids <= quarter {
            return Ok(());
        }
        Err(StoreError::Refused {
            what: READING,
            detail: format!(
                "the ids of {} and all quarantined rows take more than {quarter} bytes, a quarter of \
                 `worker.max_memory`",
                table.name()
            ),
            remedy: "what was read before stays served: delete rows that are no rules, or raise \
                     `worker.max_memory` and the memory that the unit allows"
                .into(),
        })
    }

    pub(super) const fn free(&self) -> usize {
        self.most.saturating_sub(self.used)
    }

    /// Takes `size` bytes, and gives back the `replaced` bytes of the row before.
    ///
    /// # Errors
    /// The size does not fit, and what to do.
    pub(super) fn take(&mut self, size: usize, replaced: usize) -> Result<(), String> {
        self.give_back(replaced);
        if size > self.free() {
            return Err(self.too_much(size));
        }
        self.used += size;
        Ok(())
    }

    /// Gives back the bytes of a row that is replaced.
    pub(super) const fn give_back(&mut self, replaced: usize) {
        self.used = self.used.saturating_sub(replaced);
    }

    /// Why a rule of `size` bytes is quarantined, and what to do.
    pub(super) fn too_much(&self, size: usize) -> String {
        format!(
            "it has {size} bytes, and all rules and states together may have {}, long ones half of it \
             ({MAX_MEMORY_KEY}): shorten or delete some, or raise {MAX_MEMORY_KEY} and the memory that the unit allows",
            self.most
        )
    }
}

/// Refuses a table with more than `most` rows, and an answer with more rows than the server counted.
pub(super) fn ensure_few(most: usize, table: Table, rows: u64) -> Result<(), StoreError> {
    if rows <= most as u64 {
        return Ok(());
    }
    Err(StoreError::Refused {
        what: READING,
        detail: format!("{} has {rows} rows; at most {most} are read (`worker.max_rules`)", table.name()),
        remedy:
            "what was read before stays served: delete rows that nobody needs, or raise `worker.max_rules`, \
                 and the memory that the unit allows"
                .into(),
    })
}
