use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{RuleId, RuleState};

/// The definition in a rule's file, in the form for subscribers.
///
/// The fields and their order are those of the stream's `CompiledRule`, without `state`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Definition {
    /// The id that the file names.
    pub rule_id: RuleId,
    /// The author's number, at least 0 and at most what an INTEGER column holds.
    pub rule_version: i32,
    /// A short name for people.
    pub name: String,
    /// `None` if the file has none.
    pub description: Option<String>,
    /// Source kinds, sorted, each once, at least one.
    pub applies_to: Vec<String>,
    /// The file's `match`, passed on unchanged: keys in the file's order, never interpreted here.
    pub match_spec: Map<String, Value>,
    /// What a match is evidence of, in the file's order, at least one.
    pub emits: Vec<Emit>,
    /// The names of the fields that are evidence, in the file's order; empty if the file has none.
    pub evidence_fields: Vec<String>,
}

/// One technique that a match of the rule is evidence of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Emit {
    /// An ATT&CK technique, `T1083`.
    pub technique_id: String,
    /// `None`, or a sub-technique that begins with the technique's id, `T1548.001`.
    pub sub_technique_id: Option<String>,
    /// An ATT&CK tactic, `TA0007`.
    pub tactic: String,
    /// Finite, 0 to 1.
    pub confidence: f64,
}

/// A definition together with its effective state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CompiledRule {
    /// The definition in the file.
    #[serde(flatten)]
    pub definition: Definition,
    /// The effective state: the default if none is set, or it has expired.
    pub state: RuleState,
}
