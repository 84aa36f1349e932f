//! Reads the rules of a directory, and writes the files of a release.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::command::Failure;
use crate::command::reading::Reading;
use crate::config::Config;
use crate::rule::{self, ContentDigest, Limits, RuleHeader, RuleId};
use crate::rulefile::{self, LinkPolicy, Listing};

/// A rule file's rule, or why it is invalid.
pub(super) type FileRule = Result<RuleHeader<RuleId>, String>;

/// Reads and parses every rule file of a directory, as a master with this configuration does.
///
/// # Errors
/// [`Failure::Environment`] if the directory cannot be read.
pub(super) fn read_rules(directory: &Path, config: &Config) -> Result<BTreeMap<String, FileRule>, Failure> {
    let cannot = |error: io::Error| environment!("{}: {error}", directory.display());
    let listing = Listing::of(directory).map_err(cannot)?;
    let Reading { limits, follow_links_to } = Reading::of(config.master.clone());
    let links = LinkPolicy::new(directory, &follow_links_to);
    let read = |name: String| (name.clone(), read_rule(directory, name, &limits, &links));
    Ok(listing.rules.into_iter().map(read).collect())
}

fn read_rule(directory: &Path, name: String, limits: &Limits, links: &LinkPolicy) -> FileRule {
    let text = rulefile::read_within(&directory.join(&name), limits.size, links);
    let text = text.map_err(|error| error.to_string())?;
    let parsed = rule::parse(&text, limits).map_err(|found| rule::first_errors(&found))?;
    let definition = parsed.definition;
    Ok(RuleHeader {
        rule_version: definition.rule_version.into(),
        rule_id: definition.rule_id,
        source_path: name.into(),
        content_sha256: ContentDigest::of(&text),
        updated_at: crate::clock::Timestamp::MIN,
        updated_by: "".into(),
    })
}

/// Writes a file of a release so that a reader finds the old bytes or the new ones.
///
/// # Errors
/// [`Failure::Environment`].
pub(super) fn write(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    rulefile::publish(directory, name, bytes)
        .map_err(|error| environment!("{} cannot be written: {error}", directory.join(name).display()))
}
