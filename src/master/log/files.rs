//! Files: invalid ones, conflicts between two, and YAML files that are not read.

use super::NAMED;
use crate::directory::InvalidFile;
use crate::event;
use crate::plural::some_of;
use crate::rule::plan::Conflict;
use crate::rule::{RuleHeader, RuleId};

pub(in crate::master) fn passed_over(source_path: &str) {
    tracing::warn!(
        message_id = event::FILE_IGNORED,
        source_path,
        "{source_path} is not read: rules are the files directly in the directory whose names are letters, digits and \
         `_`, ending in .yaml or .yml"
    );
}

pub(in crate::master) fn no_longer_passed_over(source_path: &str) {
    tracing::info!(message_id = event::FILE_IGNORED, source_path, "{source_path} is gone, or is read now");
}

/// `rule_id` is the id that the file names, or had; `has_row` is whether its last good version is in the table.
pub(in crate::master) fn invalid_file(
    source_path: &str,
    rule_id: Option<&str>,
    has_row: bool,
    why: &InvalidFile,
    trace_id: Option<String>,
) {
    let kept = if has_row { "its last good version stays" } else { "no rule of it is in the table" };
    let (errors, hint) = match why {
        InvalidFile::Invalid(findings) => (Some(findings.len()), ", `rulesyncd check` shows all"),
        _ => (None, ""),
    };
    tracing::error!(
        message_id = event::RULE_REJECTED,
        rule_id,
        source_path,
        code = why.word(),
        trace_id,
        errors,
        "{source_path}: {}; {kept}{hint}",
        why.sentence()
    );
}

/// More invalid files than the budget of records allows. The last good versions of `kept` of them are in the table.
pub(in crate::master) fn many_invalid_files(source_paths: &[String], kept: usize) {
    let files = source_paths.len();
    let stays = match kept {
        0 => "no rule of them is in the table".to_owned(),
        _ if kept == files => "their last good versions stay".to_owned(),
        _ => format!("the last good versions of {kept} of them stay"),
    };
    tracing::error!(
        message_id = event::RULE_REJECTED,
        files,
        "{files} files are invalid: {}; {stays}, `rulesyncd check` shows why",
        some_of(source_paths.iter(), NAMED, ", ")
    );
}

/// Files that hold rules whose patterns Python does not compile, with the places; no pattern is in the record.
pub(in crate::master) fn uncompilable(patterns: &[(String, Box<str>)]) {
    if patterns.is_empty() {
        return;
    }
    let places = patterns.iter().map(|(source_path, place)| format!("{source_path}:{place}"));
    tracing::warn!(
        files = patterns.len(),
        code = "pattern",
        "{}: Python's `re` does not compile the pattern; the rule is written anyway, `rulesyncd check` shows why",
        some_of(places, NAMED, ", ")
    );
}

/// An invalid file was removed.
pub(in crate::master) fn invalid_file_removed(source_path: &str, rule_id: Option<&RuleId>) {
    tracing::info!(
        message_id = event::RULE_VALID_AGAIN,
        rule_id = rule_id.map(RuleId::as_str),
        source_path,
        "{source_path}, which was invalid, was removed"
    );
}

pub(in crate::master) fn valid_again(source_path: &str, rule: &RuleHeader<RuleId>) {
    let rule_id = rule.rule_id.as_str();
    tracing::info!(
        message_id = event::RULE_VALID_AGAIN,
        rule_id,
        source_path,
        "{source_path} is valid again"
    );
}

pub(in crate::master) fn conflict(conflict: &Conflict) {
    let Conflict { rule_id, source_path, held_by } = conflict;
    tracing::error!(
        message_id = event::RULE_CONFLICT,
        rule_id = rule_id.as_str(),
        source_path,
        held_by,
        "{source_path} and {held_by} both hold {rule_id}; {held_by} keeps it: change one id, or remove one file"
    );
}

/// One of the two files was removed or holds another id.
pub(in crate::master) fn conflict_ended(conflict: &Conflict) {
    let Conflict { rule_id, source_path, held_by } = conflict;
    tracing::info!(
        message_id = event::RULE_CONFLICT,
        rule_id = rule_id.as_str(),
        source_path,
        held_by,
        "{source_path} and {held_by} no longer both hold {rule_id}"
    );
}
