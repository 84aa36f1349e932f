//! JUnit XML: one test for each file, which fails if the file has an error.

use std::fmt::Write as _;

use super::checked::CheckedFile;
use super::report::Totals;
use crate::command::print::escape_xml as escape;
use crate::rule::{Diagnostic, Severity};

/// One suite. Warnings are the output of a successful test.
pub(super) fn report(checked: &[CheckedFile], summary: &Totals) -> String {
    let (tests, failures, errors) = (checked.len(), summary.refused, summary.unreadable);
    let counts = format!(r#"tests="{tests}" failures="{failures}" errors="{errors}""#);
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"rulesyncd check\" {counts}>\n  \
         <testsuite name=\"rulesyncd check\" {counts} skipped=\"0\">\n"
    );
    for checked in checked {
        let path = escape(&checked.path.to_string_lossy());
        let _ = writeln!(out, r#"    <testcase name="{path}" classname="rulesyncd.check" file="{path}">"#);
        if let Some(reason) = &checked.unreadable {
            let _ = writeln!(out, r#"      <error message="{}" type="unreadable"/>"#, escape(reason));
        }
        let of = |severity| checked.findings.iter().filter(move |finding| finding.severity == severity);
        if let Some(first) = of(Severity::Error).next() {
            let (message, code) = (escape(&first.title()), first.code);
            let _ = writeln!(out, r#"      <failure message="{message}" type="{code}">"#);
            of(Severity::Error).for_each(|finding| line(&mut out, &path, finding));
            out += "      </failure>\n";
        }
        if of(Severity::Warning).next().is_some() {
            out += "      <system-out>\n";
            of(Severity::Warning).for_each(|finding| line(&mut out, &path, finding));
            out += "      </system-out>\n";
        }
        out += "    </testcase>\n";
    }
    out + "  </testsuite>\n</testsuites>\n"
}

fn line(out: &mut String, path: &str, finding: &Diagnostic) {
    let _ = writeln!(out, "{path}:{}", escape(&finding.to_string()));
}
