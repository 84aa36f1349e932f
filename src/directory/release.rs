//! The files of a signed release, which are in the rules directory beside the rules.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::plural::{is_or_are, some_of};
use crate::rule::{RuleHeader, RuleId};
use crate::rulefile::{self, LinkPolicy, ReadError};
use crate::trust::{
    KeyDates, ListedRule, MAX_LIST, MAX_MANIFEST, MAX_SIGNATURE, MAX_SIGNATURES, Policy, RuleList, Signature,
    SignedManifest, join_signatures,
};

/// The name of the manifest.
pub(crate) const MANIFEST: &str = "MANIFEST";
/// The name of the list of rules.
pub(crate) const MANIFEST_RULES: &str = "MANIFEST.rules";
/// The name of the first signature; the others have it with `.` and more at its end.
pub(crate) const MANIFEST_SIG: &str = "MANIFEST.sig";

/// How far a release's version may be ahead of the clock of the host that publishes it.
const MOST_AHEAD: Duration = Duration::from_hours(24);

/// The most names in a reason.
const NAMED: usize = 10;

/// Whether a name is that of a release's file.
pub(crate) fn is_release_file_name(name: &str) -> bool {
    name == MANIFEST || name.strip_prefix(MANIFEST).is_some_and(|rest| rest.starts_with('.'))
}

fn is_signature_name(name: &str) -> bool {
    name.strip_prefix(MANIFEST_SIG).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The files of a release, none of which is checked yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReleaseFiles {
    /// The bytes of `MANIFEST`.
    pub(crate) manifest: Vec<u8>,
    /// The bytes of `MANIFEST.rules`.
    pub(crate) list: Vec<u8>,
    /// The signatures, in the order of their names. A file that is no signature is not among them.
    pub(crate) signatures: BTreeMap<String, String>,
    /// Files with the name of a signature that are none, each with the reason.
    pub(crate) ignored: BTreeMap<String, String>,
}

/// A release of which everything but the rule files is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    /// The manifest and its signatures.
    pub(crate) signed: SignedManifest,
    /// Its rules.
    pub(crate) list: RuleList,
    /// The bytes of `MANIFEST.rules`.
    pub(crate) list_text: String,
}

impl ReleaseFiles {
    /// Reads the files of a directory. A symbolic link may lead to where one among the rules may: into the directory,
    /// and to the places in `follow_links_to`.
    ///
    /// # Errors
    /// A sentence: the file, and why it cannot be read.
    pub(crate) fn read(directory: &Path, follow_links_to: &[PathBuf]) -> Result<Self, String> {
        let links = LinkPolicy::new(directory, follow_links_to);
        let read = |name: &str, most: usize| {
            rulefile::read_within(&directory.join(name), most, &links).map_err(|error| match error {
                ReadError::TooLarge { size, max } => {
                    format!("{name} has {size} bytes; at most {max} are possible")
                }
                ReadError::Absent => format!("there is no {name} in {}", directory.display()),
                error => format!("{name}: {error}"),
            })
        };
        let mut files = Self { manifest: read(MANIFEST, MAX_MANIFEST)?, ..Self::default() };
        files.list = read(MANIFEST_RULES, MAX_LIST)?;
        let names =
            signature_names(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        if names.len() > MAX_SIGNATURES {
            return Err(format!(
                "there are {} files of signatures; at most {MAX_SIGNATURES} are possible",
                names.len()
            ));
        }
        for name in names {
            let text = read(&name, MAX_SIGNATURE).and_then(|text| {
                Signature::parse(&text).map_err(|error| error.to_string())?;
                String::from_utf8(text).map_err(|error| error.to_string())
            });
            match text {
                Ok(text) => drop(files.signatures.insert(name, text)),
                Err(reason) => drop(files.ignored.insert(name, reason)),
            }
        }
        Ok(files)
    }

    /// The signatures one after the other, as the database holds them.
    pub(crate) fn joined_signatures(&self) -> String {
        // There are never too many: `read` refuses them.
        join_signatures(self.signatures.values().map(String::as_str)).unwrap_or_default()
    }

    /// Verifies everything but the rule files, as a publisher does at `now`. `dates` ignores the keys' dates for a release
    /// that was published before.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub(crate) fn verify(&self, policy: &Policy, now: Timestamp, dates: KeyDates) -> Result<Release, String> {
        let signatures = self.joined_signatures();
        let signed = policy
            .verify(&self.manifest, &signatures, dates)
            .and_then(|signed| policy.admit(&signed.manifest, None).map(|()| signed))
            .map_err(|refusal| refusal.to_string())?;
        let version = signed.manifest.version;
        if version.timestamp() > now.after(MOST_AHEAD) {
            return Err(format!(
                "its version {version} is more than a day ahead of this host's clock, which says {now}"
            ));
        }
        let list = signed.manifest.parse_list(&self.list).map_err(|error| error.to_string())?;
        let list_text = list.to_text();
        Ok(Release { signed, list, list_text })
    }
}

impl Release {
    /// Which listed rules the directory does not hold as they are listed. `file` gives the valid rule of a file.
    ///
    /// # Errors
    /// A sentence with up to ten names.
    pub(crate) fn compare<'f>(
        &self,
        file: impl Fn(&str) -> Option<&'f RuleHeader<RuleId>>,
    ) -> Result<(), String> {
        let differs =
            |listed: &&ListedRule| !file(&listed.source_path).is_some_and(|found| holds(listed, found));
        let differing = self.list.rules().iter().filter(differs).map(|listed| &*listed.source_path);
        let differing: Vec<&str> = differing.collect();
        let (number, names) = (differing.len(), some_of(differing.iter(), NAMED, ", "));
        match number {
            0 => Ok(()),
            _ => Err(format!("{names} {} not what it lists", is_or_are(&number))),
        }
    }
}

/// Whether a file's rule is the listed one.
pub(crate) fn holds(listed: &ListedRule, found: &RuleHeader<RuleId>) -> bool {
    found.rule_id == listed.rule_id
        && found.content_sha256 == listed.content_sha256
        && found.rule_version == i64::from(listed.rule_version)
}

/// The names of the files of signatures in a directory, sorted.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn signature_names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string().ok().filter(|name| is_signature_name(name)));
    }
    names.sort();
    Ok(names)
}
