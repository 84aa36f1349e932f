//! `rulesyncd manifest verify`: what a master would say of a release.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::files::read_rules;
use crate::clock::{Clock as _, SystemClock};
use crate::command::print::print;
use crate::command::{Failure, Outcome};
use crate::config::Config;
use crate::directory::{Release, ReleaseFiles};
use crate::paint::sanitize;
use crate::plural::{count, is_or_are};
use crate::trust::{KeyDates, Manifest};

/// Verify the release in a directory, as a master does before it publishes it
///
/// The keys and the realm are those of the section `trust` of the configuration.
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd manifest verify rules --config /etc/rulesyncd/worker.yaml")]
pub(super) struct VerifyArgs {
    /// The directory that holds the rules
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn run(args: &VerifyArgs, config: &Config) -> Outcome {
    let trust = config
        .trust
        .load()?
        .ok_or_else(|| usage!("trust.allowed_signers is not set: name the file of the keys that may sign"))?;
    let rules = read_rules(&args.directory, config)?;
    let now = SystemClock.now();
    let checked = ReleaseFiles::read(&args.directory, &config.master.follow_links_to).and_then(|files| {
        let release = files.verify(&trust.policy, now, KeyDates::At(now))?;
        release.compare(|path| rules.file(path)?.rule())?;
        Ok((files, release))
    });
    let (files, Release { signed, list, .. }) = match checked {
        Ok(checked) => checked,
        Err(why) => {
            print(&format!("the release cannot be published: {}\n", sanitize(&why)))?;
            return Err(Failure::CheckFailed);
        }
    };
    let mut text = String::new();
    for warning in &trust.warnings {
        let _ = writeln!(text, "warning: {}", sanitize(warning));
    }
    for (name, why) in &files.ignored {
        let _ = writeln!(text, "warning: {} does not count: {}", sanitize(name), sanitize(why));
    }
    let listed: BTreeSet<&str> = list.rules().iter().map(|rule| &*rule.source_path).collect();
    for (name, _) in rules.files().filter(|(name, _)| !listed.contains(name)) {
        let _ = writeln!(
            text,
            "warning: {} is not in the release: `rulesyncd manifest make` adds it",
            sanitize(name)
        );
    }
    let Manifest { realm, version, expires, states, .. } = &signed.manifest;
    if expires.timestamp() <= now {
        let _ = writeln!(text, "warning: the release expired at {expires}");
    }
    let number = list.rules().len();
    let _ = writeln!(
        text,
        "{} {} signed by {} for {realm}: version {version}, expires {expires}, states {states}",
        count(number, "rule"),
        is_or_are(&number),
        signed.signers.join(", ")
    );
    print(&text)
}
