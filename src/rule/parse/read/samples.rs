//! Reads the samples of a test file from the tree.

use super::values::{Expected, Values};
use super::{Findings, NodeId, NodeKind, Tree};
use crate::rule::Code;
use crate::rule::samples::{Expectation, FieldPattern, Sample};

const KINDS: [Expectation; 2] = [Expectation::Match, Expectation::NoMatch];

/// Reads the document as samples for `patterns`; `None` if there are errors, which are added.
pub(in crate::rule::parse) fn samples(
    tree: &Tree<'_>,
    patterns: &[FieldPattern],
    findings: &mut Findings,
) -> Option<Vec<Sample>> {
    let mut values = Values::new(tree, findings);
    let root = tree.root();
    let expected = "expected a mapping with `must_match`, `must_not_match` or both";
    if !matches!(tree.node(root).kind, NodeKind::Mapping(_)) {
        values.add(Code::NotAMapping, root, format!("{expected}, found {}", values.describe(root)));
        return None;
    }
    let mut samples = Some(Vec::new());
    let mut is_empty = true;
    for (key, at, value) in values.keys(root) {
        let Some(kind) = KINDS.into_iter().find(|kind| kind.key() == key) else {
            values.add(Code::WrongType, at, format!("`{key}` is no key of a test file; {expected}"));
            continue;
        };
        is_empty = false;
        let read = values.field(&vec![(key, value)], kind.key(), |values, node| {
            let mut index = 0;
            let list = values.list(node, true, |values, node| {
                let sample = sample(values, node, patterns).map(|(field, text)| Sample {
                    expected: kind,
                    index,
                    line: values.node(node).line,
                    span: values.node(node).span.clone(),
                    field,
                    text,
                });
                index += 1;
                sample
            })?;
            list.into_iter().collect::<Option<Vec<_>>>()
        });
        samples = samples.zip(read).map(|(samples, read)| [samples, read].concat());
    }
    if is_empty {
        values.add(Code::MissingField, root, expected);
    }
    samples
}

/// The field and the text of one sample: only a text if there is one field, else `{field: text}`.
fn sample(
    values: &mut Values<'_, '_>,
    node: NodeId,
    patterns: &[FieldPattern],
) -> Option<(Option<String>, String)> {
    let mut fields: Vec<Option<&str>> = patterns.iter().map(|pattern| pattern.field.as_deref()).collect();
    fields.sort_unstable();
    fields.dedup();
    let names = fields.iter().flatten().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ");
    if !matches!(values.node(node).kind, NodeKind::Mapping(_)) {
        return match fields[..] {
            [field] => Some((field.map(str::to_owned), values.text(node)?)),
            _ => {
                let message = "expected `{field: text}`, since the rule has patterns for several fields";
                values.advise(
                    Code::WrongType,
                    node,
                    format!("{message}; found {}", values.describe(node)),
                    format!("the fields are {names}"),
                );
                None
            }
        };
    }
    let pairs = values.keys(node);
    let [(field, at, value)] = pairs[..] else {
        let message = format!("expected one field and its text, found {} fields", pairs.len());
        values.add(Code::WrongType, node, message);
        return None;
    };
    if !fields.contains(&Some(field)) {
        let has = if names.is_empty() { "none for a named field".to_owned() } else { names };
        values.advise(
            Code::WrongType,
            at,
            format!("the rule has no pattern for the field `{field}`"),
            format!("it has {has}"),
        );
        return None;
    }
    match values.node(value).kind {
        NodeKind::Plain(_) | NodeKind::Text(_) => Some((Some(field.to_owned()), values.text(value)?)),
        _ => values.wrong_type(value, Expected::Text),
    }
}
