//! SARIF 2.1.0, for code scanners.

use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::{Value, json};

use super::checked::CheckedFile;
use crate::rule::{Code, Diagnostic};

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// The bytes of a path that a URI need not escape.
const PATH: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One run, with a rule for each code.
pub(super) fn report(checked: &[CheckedFile]) -> String {
    let results: Vec<Value> = checked
        .iter()
        .flat_map(|checked| checked.findings.iter().map(move |finding| result(checked, finding)))
        .collect();
    let unreadable = checked.iter().filter_map(|checked| {
        let reason = checked.unreadable.as_ref()?;
        Some(json!({
            "level": "error",
            "message": { "text": reason },
            "locations": [{ "physicalLocation": { "artifactLocation": { "uri": uri(&checked.path) } } }],
        }))
    });
    let unreadable: Vec<Value> = unreadable.collect();
    let report = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "rulesyncd check",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": Code::ALL.iter().map(|&code| rule(code)).collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "invocations": [{
                "executionSuccessful": unreadable.is_empty(),
                "toolExecutionNotifications": unreadable,
            }],
            "results": results,
        }],
    });
    format!("{report}\n")
}

/// A code, with its page.
fn rule(code: Code) -> Value {
    let page = code.explanation();
    let text = page.lines().skip(1).find(|line| !line.trim().is_empty()).unwrap_or_default();
    json!({
        "id": code.as_str(),
        "shortDescription": { "text": text },
        "help": { "text": page, "markdown": page },
        "defaultConfiguration": { "level": code.severity().as_str() },
    })
}

fn result(checked: &CheckedFile, finding: &Diagnostic) -> Value {
    let help = finding.help.as_ref().map(|help| format!("\n{help}")).unwrap_or_default();
    let artifact = json!({ "uri": uri(&checked.path) });
    let region = region(checked, finding);
    let mut result = json!({
        "ruleId": finding.code.as_str(),
        "ruleIndex": Code::ALL.iter().position(|&code| code == finding.code),
        "level": finding.severity.as_str(),
        "message": { "text": format!("{}{help}", finding.title()) },
        "locations": [{ "physicalLocation": { "artifactLocation": artifact, "region": region } }],
    });
    if let Some(replacement) = &finding.replacement {
        result["fixes"] = json!([{
            "description": { "text": "what `rulesyncd check --fix` writes" },
            "artifactChanges": [{
                "artifactLocation": artifact,
                "replacements": [{ "deletedRegion": region, "insertedContent": { "text": replacement } }],
            }],
        }]);
    }
    result
}

fn region(checked: &CheckedFile, finding: &Diagnostic) -> Value {
    let (end_line, end_column) = finding.end(&checked.text);
    json!({
        "startLine": finding.line,
        "startColumn": finding.column,
        "endLine": end_line,
        "endColumn": end_column,
    })
}

/// A reference relative to the working directory, or an absolute one.
fn uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let path = path.strip_prefix(".").unwrap_or(path);
    let scheme = if path.is_absolute() { "file://" } else { "" };
    format!("{scheme}{}", percent_encode(path.as_os_str().as_bytes(), &PATH))
}
