//! The domain, without I/O: rules and their parser, operators' states, the catalogue of all known rules, and changes.

pub mod attack;
mod catalogue;
mod change;
mod compiled;
mod condition;
mod diagnostic;
mod diff;
mod digest;
mod header;
mod id;
mod parse;
pub mod plan;
mod row;
mod row_index;
mod samples;
mod state;

pub use catalogue::{
    Catalogue, CatalogueDigest, FoundManifest, MasterSilence, QuarantineEntry, QuarantinedRow,
    RowFingerprint, Table, TableDelta,
};
pub(crate) use catalogue::{CatalogueDelta, EffectiveRules, MAX_MEMORY_KEY};
pub use change::{ChangeKind, KnownRule, RuleChange};
pub use compiled::{CompiledRule, Definition, Emit};
pub(crate) use condition::Condition;
pub(crate) use diagnostic::first_errors;
pub use diagnostic::{Code, Diagnostic, Severity};
pub(crate) use diff::{Difference, Observation, diff};
pub use digest::ContentDigest;
pub use header::RuleHeader;
pub use id::{InvalidRuleId, RuleId};
#[cfg(any(test, fuzzing))]
pub use parse::laws;
pub use parse::{Limits, ParsedRule, fix, parse};
pub(crate) use parse::{lint, parse_in_steps, rule_id_of, samples};
pub(crate) use row::FoundStateRow;
pub use row::{RuleRow, StateRow};
pub use row_index::{ManifestWish, RowIndex, TextSink};
pub(crate) use samples::{Expectation, FieldPattern, Sample};
pub(crate) use state::{COUNTS_AS_ENABLED, LONGEST_TEXT};
pub use state::{InvalidState, RuleState, StateKind};
