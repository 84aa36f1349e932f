//! The domain, without I/O: rules and their parser, operators' states, the catalogue of all known rules, and changes.

pub mod attack;
mod catalogue;
mod change;
mod compiled;
mod diagnostic;
mod digest;
mod header;
mod id;
mod parse;
pub(crate) mod plan;
mod row;
mod row_index;
mod samples;
mod state;

pub use catalogue::{Catalogue, QuarantinedRow, RowFingerprint, Table, TableDelta};
pub(crate) use catalogue::{CatalogueDelta, CatalogueDigest, QuarantineEntry};
pub(crate) use change::ChangeKind;
pub use change::{KnownRule, RuleChange};
pub use compiled::{CompiledRule, Definition, Emit};
pub use diagnostic::Code;
pub(crate) use diagnostic::{Diagnostic, Severity, first_errors};
pub use digest::ContentDigest;
pub use header::RuleHeader;
pub(crate) use id::InvalidRuleId;
pub use id::RuleId;
pub use parse::{Limits, fix, parse, spell_for_fancy_regex};
pub(crate) use parse::{ParsedRule, lint, parse_in_steps, pattern_fault, rule_id_of, samples};
pub use row::RuleRow;
pub(crate) use row::StateRow;
pub use row_index::RowIndex;
pub(crate) use row_index::TextSink;
pub(crate) use samples::{Expectation, FieldPattern, Sample};
pub(crate) use state::{InvalidState, LONGEST_TEXT};
pub use state::{RuleState, StateKind};
