//! What must be true of any text of a rule.

use super::{Definition, Limits, parse};
use crate::rule::Severity;

/// A rule file: an accepted one keeps its meaning as JSON, and a refused one has an error with its place in the text.
pub fn rule(bytes: &[u8]) -> bool {
    let limits = Limits::default();
    let read = parse(bytes, &limits);
    assert_eq!(parse(bytes, &limits), read);
    let findings = match read {
        Ok(rule) => {
            assert!(bytes.len() <= limits.size);
            let json = serde_json::to_string(&rule.definition).unwrap_or_default();
            let again = serde_json::from_str::<Definition>(&json).map(|again| serde_json::to_string(&again));
            assert_eq!(again.ok().and_then(Result::ok).as_deref(), Some(&*json));
            let text = std::str::from_utf8(bytes).unwrap_or_default();
            assert!(text.get(rule.id_span).is_some_and(|id| !id.is_empty()));
            return true;
        }
        Err(findings) => findings,
    };
    assert!(findings.iter().any(|found| found.severity == Severity::Error));
    assert!(findings.is_sorted_by_key(|found| found.span.start));
    for found in &findings {
        assert!(found.span.start <= found.span.end && found.span.end <= bytes.len());
        assert!(found.line >= 1 && found.column >= 1);
        if let Ok(text) = std::str::from_utf8(bytes) {
            assert!(text.get(found.span.clone()).is_some(), "{:?} cuts a character", found.span);
        }
        assert!(!found.message.is_empty() && found.message.len() < 1_024, "{}", found.message);
        assert!(found.help.as_ref().is_none_or(|help| help.len() < 1_024), "{:?}", found.help);
    }
    false
}
