//! Samples that a rule's patterns must or must not match: the content of a `NAME.test.yaml`.

use std::fmt;
use std::ops::Range;

use serde_json::{Map, Value};

/// A pattern in a rule's `match`, and the field that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldPattern {
    /// Its path, such as `match.any[0].pattern`.
    pub(crate) path: String,
    /// The `field` in the same mapping; `None` without one.
    pub(crate) field: Option<String>,
    /// The regular expression.
    pub(crate) pattern: String,
}

impl FieldPattern {
    /// The patterns in `match_spec`, at any depth, in the file's order.
    pub(crate) fn all(match_spec: &Map<String, Value>) -> Vec<Self> {
        let mut patterns = Vec::new();
        collect(match_spec, "match", &mut patterns);
        patterns
    }
}

fn collect(map: &Map<String, Value>, path: &str, patterns: &mut Vec<FieldPattern>) {
    let text = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
    if let Some(pattern) = text("pattern") {
        patterns.push(FieldPattern { path: format!("{path}.pattern"), field: text("field"), pattern });
    }
    for (key, value) in map {
        collect_value(value, &format!("{path}.{key}"), patterns);
    }
}

fn collect_value(value: &Value, path: &str, patterns: &mut Vec<FieldPattern>) {
    match value {
        Value::Object(map) => collect(map, path, patterns),
        Value::Array(list) => {
            for (at, value) in list.iter().enumerate() {
                collect_value(value, &format!("{path}[{at}]"), patterns);
            }
        }
        _ => {}
    }
}

/// What a sample expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expectation {
    /// One of the patterns for its field must match somewhere in it.
    Match,
    /// None of them may match.
    NoMatch,
}

impl Expectation {
    /// The key in a test file for such samples.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Match => "must_match",
            Self::NoMatch => "must_not_match",
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Match => "match",
            Self::NoMatch => "no match",
        })
    }
}

/// One text to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    /// The expected result.
    pub(crate) expected: Expectation,
    /// The index in the list of its kind, from 0.
    pub(crate) index: usize,
    /// The line in the test file, from 1.
    pub(crate) line: usize,
    /// Its bytes in the test file, at most to the end of its first line.
    pub(crate) span: Range<usize>,
    /// The field that the text belongs to; `None` if the rule's patterns have none.
    pub(crate) field: Option<String>,
    /// The text.
    pub(crate) text: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_are_found_at_any_depth_with_their_fields() {
        let spec = json!({
            "any": [{"field": "url", "pattern": "a"}, {"not": {"pattern": "b", "field": 1}}],
            "pattern": "c", "field": "command_text", "other": {"pattern": 3},
        });
        let found = FieldPattern::all(spec.as_object().unwrap());
        let found: Vec<_> =
            found.iter().map(|f| (f.path.as_str(), f.field.as_deref(), f.pattern.as_str())).collect();
        assert_eq!(
            found,
            [
                ("match.pattern", Some("command_text"), "c"),
                ("match.any[0].pattern", Some("url"), "a"),
                ("match.any[1].not.pattern", None, "b"),
            ]
        );
    }
}
