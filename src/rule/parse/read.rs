//! Reads the fields of a rule from the tree.

mod emits;
mod samples;
mod values;

use std::ops::Range;

use super::findings::Findings;
use super::tree::{NodeId, NodeKind, Tree};
use crate::python_re;
use crate::python_re::backtracking::{self, Finding};
use crate::rule::attack::Attack;
use crate::rule::{Code, Definition, RuleId};
pub(super) use samples::samples;
use values::{Expected, Values};

const NEEDED: [&str; 6] = ["rule_id", "rule_version", "name", "applies_to", "match", "emits"];
const OPTIONAL: [&str; 2] = ["description", "evidence_fields"];

/// Reads the document as a rule, with the positions of id and version; `None` if a field is invalid. Adds all
/// findings; compares ids with `attack` if it is given.
pub(super) fn definition(
    tree: &Tree<'_>,
    attack: Option<&Attack>,
    findings: &mut Findings,
) -> Option<(Definition, [Range<usize>; 2])> {
    let mut values = Values::new(tree, findings);
    let root = tree.root();
    if !matches!(tree.node(root).kind, NodeKind::Mapping(_)) {
        // The value is not shown: the file may be another program's, and contain a secret.
        let found = match tree.node(root).kind {
            NodeKind::List(_) => "a list",
            _ => "a single value",
        };
        values.add(Code::NotAMapping, root, format!("expected a mapping (`rule_id: …`), found {found}"));
        return None;
    }
    if let Some(format) = foreign(tree, root) {
        let message = format!("this looks like a rule of {format}; this program has a format of its own");
        let help = "see `rulesyncd check --explain foreign-format`";
        values.advise(Code::ForeignFormat, root, message, help);
        return None;
    }
    let fields = values.fields(root, &NEEDED, &OPTIONAL);
    // Each field is read even if others are invalid, so that all errors are reported at once.
    let rule_id = values.field(&fields, "rule_id", rule_id);
    let rule_version = values.field(&fields, "rule_version", rule_version);
    let name = values.field(&fields, "name", Values::text);
    let description = values.field(&fields, "description", Values::text_or_null);
    let applies_to = values.field(&fields, "applies_to", |values, node| values.texts(node, true));
    let match_spec =
        values.field(&fields, "match", |values, node| match_spec(values, node, attack.is_some()));
    let emits = values.field(&fields, "emits", |values, node| emits::read(values, node, attack));
    let evidence_fields = values.field(&fields, "evidence_fields", |values, node| values.texts(node, false));

    let mut applies_to = applies_to?;
    applies_to.sort_unstable();
    applies_to.dedup();
    let span = |name| {
        let &(_, node) = fields.iter().find(|&&(key, _)| key == name)?;
        Some(tree.node(node).span.clone())
    };
    let places = [span("rule_id")?, span("rule_version")?];
    let definition = Definition {
        rule_id: rule_id?,
        rule_version: rule_version?,
        name: name?,
        description: description.flatten(),
        applies_to,
        match_spec: match_spec?,
        emits: emits?,
        evidence_fields: evidence_fields.unwrap_or_default(),
    };
    Some((definition, places))
}

/// The id in a document, which may be invalid otherwise.
pub(super) fn rule_id_of(tree: &Tree<'_>) -> Option<RuleId> {
    let mut findings = Findings::default();
    let mut values = Values::new(tree, &mut findings);
    let root = tree.root();
    if !matches!(tree.node(root).kind, NodeKind::Mapping(_)) {
        return None;
    }
    let fields = values.fields(root, &NEEDED, &OPTIONAL);
    values.field(&fields, "rule_id", rule_id)
}

/// The program that uses such keys, if none of them is ours; `None` for any other mapping.
fn foreign(tree: &Tree<'_>, root: NodeId) -> Option<&'static str> {
    const FORMATS: [(&str, &[&str]); 2] =
        [("Sigma", &["logsource", "detection"]), ("Splunk", &["search", "how_to_implement"])];
    let NodeKind::Mapping(pairs) = &tree.node(root).kind else { return None };
    let has = |name: &str| {
        pairs.iter().any(|&(key, _)| matches!(&tree.node(key).kind, NodeKind::Plain(key) if key == name))
    };
    let format = FORMATS.iter().find(|(_, keys)| keys.iter().all(|key| has(key)));
    format.map(|&(name, _)| name).filter(|_| !has("rule_id"))
}

fn rule_id(values: &mut Values<'_, '_>, node: NodeId) -> Option<RuleId> {
    let text = values.text(node)?;
    match RuleId::new(&text) {
        Ok(id) => Some(id),
        Err(error) => {
            let trimmed = RuleId::new(text.trim()).ok().map(|id| id.to_string());
            values.add_id(node, error.to_string(), &text, trimmed);
            None
        }
    }
}

fn rule_version(values: &mut Values<'_, '_>, node: NodeId) -> Option<i32> {
    let number = values.integer(node)?;
    let version = i32::try_from(number).ok().filter(|&version| version >= 0);
    if version.is_none() {
        values.add(Code::OutOfRange, node, format!("expected a whole number from 0 to {}", i32::MAX));
    }
    version
}

/// Reads the part that is passed on. Checks its patterns against Python's grammar, and if `thorough` also their
/// running time and suspicious spellings.
fn match_spec(
    values: &mut Values<'_, '_>,
    node: NodeId,
    thorough: bool,
) -> Option<serde_json::Map<String, serde_json::Value>> {
    if !matches!(values.node(node).kind, NodeKind::Mapping(_)) {
        return values.wrong_type(node, Expected::Mapping);
    }
    values.mapping(node, &move |values, key, node| {
        if key != "pattern" {
            return;
        }
        let (NodeKind::Plain(text) | NodeKind::Text(text)) = &values.node(node).kind else { return };
        if thorough {
            suspicious(values, node, text);
        }
        if let Err(reason) = python_re::validate(text) {
            values.add(Code::Pattern, node, format!("not a regular expression of Python's: {reason}"));
        } else if thorough {
            backtracking(values, node, text);
        }
    })
}

/// Adds a finding for a pattern that is slow, or for the first one that is not checked.
fn backtracking(values: &mut Values<'_, '_>, node: NodeId, text: &str) {
    let (message, help) = match backtracking::find(text, values.budget()) {
        None => return,
        Some(Finding::Slow(found)) => (
            found.to_string(),
            "let repetitions that follow each other take different characters, or bound them, as `{1,99}` does",
        ),
        Some(Finding::NotChecked) => (
            "the running time of this pattern, and of those after it, was not checked: those before it took the two \
             seconds that a file has"
                .to_owned(),
            "split the file, or simplify the patterns before",
        ),
    };
    values.advise(Code::Backtracking, node, message, help);
}

/// Adds a finding for a pattern that does not mean what it seems to mean.
fn suspicious(values: &mut Values<'_, '_>, node: NodeId, text: &str) {
    if values.node(node).ends_at_comment {
        let message = "the pattern ends here: the `#` after the blank begins a comment";
        let help = "put the pattern into single quotes, with what belongs to it";
        values.advise(Code::SuspiciousPattern, node, message, help);
    }
    for python_re::Suspicion { message, help } in python_re::suspicions(text) {
        values.advise(Code::SuspiciousPattern, node, message, help);
    }
}
