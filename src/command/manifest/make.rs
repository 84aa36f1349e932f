//! `rulesyncd manifest make`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::files::{read_rules, write};
use crate::clock::{Clock as _, SystemClock};
use crate::command::print::{print, print_done};
use crate::command::{Failure, Outcome};
use crate::config::{Config, Percent, duration};
use crate::directory::{MANIFEST, MANIFEST_RULES, signature_names};
use crate::paint::sanitize;
use crate::plural::count;
use crate::rule::RuleId;
use crate::rulefile::{self, LinkPolicy};
use crate::trust::{
    Bound, ListDigest, ListedRule, MAX_LIST, MAX_MANIFEST, Manifest, Realm, ReleaseTime, RuleList,
};

/// How long a release is valid if nobody says otherwise.
const LIFETIME: Duration = Duration::from_hours(30 * 24);

/// Write MANIFEST and MANIFEST.rules for the rules of a directory, and remove the old signatures
///
/// What no flag says is taken from the MANIFEST that is there. Prints what is new, changed and gone: read it before
/// you sign.
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd manifest make rules --realm honeypots --max-disabled 10%")]
pub(super) struct MakeArgs {
    /// The directory that holds the rules
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Which swarm the release is for: 1 to 64 of a-z, 0-9 and `-`
    #[arg(long)]
    realm: Option<Realm>,
    /// How long the release is valid; 30d where no MANIFEST says otherwise
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires_in: Option<Duration>,
    /// How many rules operators may disable or clip: a share of the rules, a number, or `any` for every state; 10%
    /// where no MANIFEST says otherwise
    #[arg(long, value_name = "N")]
    max_disabled: Option<MaxDisabled>,
    /// Rules that no operator may disable or clip
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    protect: Option<Vec<RuleId>>,
}

#[derive(Debug, Clone, Copy)]
enum MaxDisabled {
    Any,
    Number(u32),
    Share(Percent),
}

impl std::str::FromStr for MaxDisabled {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "any" {
            return Ok(Self::Any);
        }
        if text.ends_with('%') {
            return Percent::parse(text).map(Self::Share);
        }
        text.parse()
            .map(Self::Number)
            .map_err(|_| "expected a number, a share such as 10%, or `any`".to_owned())
    }
}

pub(super) fn run(args: &MakeArgs, config: &Config) -> Outcome {
    let directory = &args.directory;
    let rules = read_rules(directory, config)?;
    let (mut listed, mut invalid) = (Vec::new(), String::new());
    for (name, file) in rules.files() {
        match &file.outcome {
            Ok(rule) => listed.push(ListedRule::of(rule)),
            Err(why) => {
                let _ = writeln!(invalid, "! {}  {}", sanitize(name), sanitize(&why.sentence()));
            }
        }
    }
    if !invalid.is_empty() {
        print(&format!("{invalid}nothing was written: a release has no invalid rules\n"))?;
        return Err(Failure::CheckFailed);
    }
    if listed.is_empty() {
        return Err(usage!("there is no rule in {}", directory.display()));
    }
    let list = RuleList::new(listed)?;
    let text = list.to_text();
    if text.len() > MAX_LIST {
        return Err(usage!(
            "the list of the rules has {} bytes; at most {MAX_LIST} are possible",
            text.len()
        ));
    }
    let links = LinkPolicy::new(directory, &config.master.follow_links_to);
    let before = old_manifest(args, &links)?;
    let manifest = manifest(args, before.as_ref(), &list, &text)?;
    let old_list = rulefile::read_within(&directory.join(MANIFEST_RULES), MAX_LIST, &links).ok();
    let old_list = old_list.and_then(|text| RuleList::parse(&text).ok()).unwrap_or_default();
    // Without its signatures the old manifest is no release: nobody sees a mixture of two.
    for name in signature_names(directory)? {
        fs::remove_file(directory.join(name))?;
    }
    write(directory, MANIFEST_RULES, text.as_bytes())?;
    write(directory, MANIFEST, manifest.to_string().as_bytes())?;
    let done = summary(&old_list, &list, &manifest);
    print_done(&done, &done)
}

/// The manifest that is there; `None` if there is none.
fn old_manifest(args: &MakeArgs, links: &LinkPolicy) -> Result<Option<Manifest>, Failure> {
    let path = args.directory.join(MANIFEST);
    let bytes = match rulefile::read_within(&path, MAX_MANIFEST, links) {
        Ok(bytes) => bytes,
        Err(rulefile::ReadError::Absent) => return Ok(None),
        Err(error) => return Err(environment!("{}: {error}", path.display())),
    };
    match Manifest::parse(&bytes) {
        Ok(manifest) => Ok(Some(manifest)),
        // A merge that went wrong, for example. All that is taken from it has a flag.
        Err(_) if args.realm.is_some() => Ok(None),
        Err(error) => Err(usage!(
            "{}: {error}; give --realm to make it anew, and --expires-in, --max-disabled and --protect as they were",
            path.display()
        )),
    }
}

fn manifest(
    args: &MakeArgs,
    before: Option<&Manifest>,
    list: &RuleList,
    text: &str,
) -> Result<Manifest, Failure> {
    let realm = args.realm.clone().or_else(|| before.map(|before| before.realm.clone()));
    let realm = realm.ok_or_else(|| {
        usage!("there is no MANIFEST yet: name the swarm that the release is for with --realm")
    })?;
    let now = ReleaseTime::from_timestamp(SystemClock.now());
    let version = before.map_or(now, |before| now.max(before.version.after(Duration::from_secs(1))));
    let lifetime = args.expires_in.unwrap_or_else(|| {
        before.map_or(LIFETIME, |before| before.expires.timestamp().since(before.version.timestamp()))
    });
    let expires = version.after(lifetime);
    if expires <= version {
        return Err(usage!("--expires-in is too short; expected at least 1s"));
    }
    let states = bound(args, before, list.rules().len())?;
    if let Some(id) = states.protected().find(|id| list.get(id.as_str()).is_none()) {
        return Err(usage!("no rule has the protected id {id}; name the protected rules with --protect"));
    }
    let manifest = Manifest { realm, version, expires, states, list: ListDigest::of(text.as_bytes()) };
    match manifest.to_string().len() {
        length if length > MAX_MANIFEST => Err(usage!(
            "the manifest would have {length} bytes; at most {MAX_MANIFEST} are possible: protect fewer rules"
        )),
        _ => Ok(manifest),
    }
}

fn bound(args: &MakeArgs, before: Option<&Manifest>, rules: usize) -> Result<Bound, Failure> {
    let before = before.map(|before| &before.states);
    let wanted = args.max_disabled.or(match before {
        None => Some(MaxDisabled::Share(Percent::parse("10%").map_err(|why| usage!(why))?)),
        Some(_) => None,
    });
    let max = match (wanted, before) {
        (Some(MaxDisabled::Any), _) | (None, Some(Bound::Any) | None) => {
            return match args.protect {
                Some(_) => {
                    Err(usage!("--protect has no effect while every state has one: give --max-disabled"))
                }
                None => Ok(Bound::Any),
            };
        }
        (Some(MaxDisabled::Number(max)), _) => max,
        (Some(MaxDisabled::Share(share)), _) => share.of(rules),
        (None, Some(Bound::Max { max, .. })) => *max,
    };
    let protected: BTreeSet<RuleId> = match (&args.protect, before) {
        (Some(ids), _) => ids.iter().cloned().collect(),
        (None, Some(before)) => before.protected().cloned().collect(),
        (None, None) => BTreeSet::new(),
    };
    Ok(Bound::Max { max, protected })
}

/// What is new, changed and gone, and what the manifest says.
fn summary(old: &RuleList, new: &RuleList, manifest: &Manifest) -> String {
    let mut text = String::new();
    let (mut added, mut changed, mut gone) = (0, 0, 0);
    for rule in new.rules() {
        let (id, version, path) = (&rule.rule_id, rule.rule_version, &rule.source_path);
        match old.get(id.as_str()) {
            Some(before) if before == rule => {}
            Some(before) => {
                changed += 1;
                let _ =
                    writeln!(text, "~ {id}  version {} becomes {version} from {path}", before.rule_version);
            }
            None => {
                added += 1;
                let _ = writeln!(text, "+ {id}  version {version} from {path}");
            }
        }
    }
    for rule in old.rules().iter().filter(|rule| new.get(rule.rule_id.as_str()).is_none()) {
        gone += 1;
        let _ = writeln!(text, "- {}  {} is gone", rule.rule_id, rule.source_path);
    }
    let Manifest { realm, version, expires, states, list } = manifest;
    let rules = count(list.rules, "rule");
    let _ = writeln!(
        text,
        "{added} new, {changed} changed, {gone} gone; {rules} for {realm}, version {version}, expires {expires}, states \
         {states}\nnot signed yet: `rulesyncd manifest sign`"
    );
    text
}
