//! `MANIFEST`: the six lines that are signed.

use std::fmt;

use super::states::Bound;
use super::{Malformed, ReleaseTime, RuleList, ascii, decimal, digest, list, shown};
use crate::rule::ContentDigest;

/// The longest manifest, in bytes.
pub(crate) const MAX_MANIFEST: usize = 32 << 10;

const FIRST_LINE: &str = "rulesyncd-manifest 1";

/// Which swarm a release is for: `[a-z0-9-]{1,64}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Realm(String);

impl Realm {
    /// The realm as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Realm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        match (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "{} is no realm; expected 1 to 64 of the characters a-z, 0-9 and `-`",
                shown(text)
            )),
        }
    }
}

/// What a manifest says of its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListDigest {
    /// How many rules it has.
    pub rules: usize,
    /// Its length in bytes.
    pub bytes: usize,
    /// The digest of its bytes.
    pub sha256: ContentDigest,
}

impl ListDigest {
    /// The digest of a list's bytes.
    pub fn of(list: &[u8]) -> Self {
        let rules = list.iter().filter(|byte| **byte == b'\n').count();
        Self { rules, bytes: list.len(), sha256: ContentDigest::of(list) }
    }
}

/// A parsed manifest. The Update Framework has it in several files; section 4.2.1 has the common part: type, version
/// and expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Which swarm it is for.
    pub realm: Realm,
    /// When it was made. Of two manifests, the later is the newer.
    pub version: ReleaseTime,
    /// When it expires.
    pub expires: ReleaseTime,
    /// What operators' states may do.
    pub states: Bound,
    /// The list of its rules.
    pub list: ListDigest,
}

impl Manifest {
    /// Parses the bytes of `MANIFEST`. Only the form that [`fmt::Display`] writes is accepted.
    ///
    /// # Errors
    /// [`Malformed`], with the line.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let text = ascii(bytes, MAX_MANIFEST)?;
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let lines: [&str; 6] = lines
            .try_into()
            .map_err(|lines: Vec<_>| Malformed::new(format!("it has {} lines; expected 6", lines.len())))?;
        let [first, realm, version, expires, states, rules] = lines;
        if first.strip_suffix('\n') != Some(FIRST_LINE) {
            return Err(Malformed::new(format!("line 1: expected `{FIRST_LINE}`")));
        }
        let realm =
            value(2, "realm", realm)?.parse().map_err(|error| Malformed(format!("line 2: {error}")))?;
        let version = time(3, "version", version)?;
        let expires = time(4, "expires", expires)?;
        if expires <= version {
            return Err(Malformed::new("line 4: it expires before it was made"));
        }
        let states = Bound::parse(value(5, "states", states)?)
            .map_err(|error| Malformed(format!("line 5: {error}")))?;
        let list = list_digest(value(6, "rules", rules)?)?;
        Ok(Self { realm, version, expires, states, list })
    }

    /// Parses the list, which must be the one that this manifest names.
    ///
    /// # Errors
    /// [`Malformed`]: the bytes have another digest, are no list, or lack a rule that the manifest protects.
    pub fn parse_list(&self, bytes: &[u8]) -> Result<RuleList, Malformed> {
        let found = ListDigest::of(bytes);
        if found != self.list {
            let listed = self.list;
            return Err(Malformed::new(format!(
                "MANIFEST.rules is not what MANIFEST lists: found {} rules and {} bytes with the digest {}, expected {} \
                 rules and {} bytes with the digest {}",
                found.rules, found.bytes, found.sha256, listed.rules, listed.bytes, listed.sha256
            )));
        }
        let list = RuleList::parse(bytes).map_err(|error| Malformed(format!("MANIFEST.rules: {error}")))?;
        match self.states.protected().find(|id| list.get(id.as_str()).is_none()) {
            Some(id) => {
                Err(Malformed::new(format!("MANIFEST protects {id}, which MANIFEST.rules does not list")))
            }
            None => Ok(list),
        }
    }
}

/// The exact bytes of the file.
impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { realm, version, expires, states, list } = self;
        let ListDigest { rules, bytes, sha256 } = list;
        write!(
            f,
            "{FIRST_LINE}\nrealm: {realm}\nversion: {version}\nexpires: {expires}\nstates: {states}\nrules: {rules} \
             {bytes} {sha256}\n"
        )
    }
}

/// What follows `name: ` on a line.
fn value<'l>(number: usize, name: &str, line: &'l str) -> Result<&'l str, Malformed> {
    let value = line.strip_suffix('\n').and_then(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.ok_or_else(|| Malformed::new(format!("line {number}: expected `{name}: …` and a line end")))
}

fn time(number: usize, name: &str, line: &str) -> Result<ReleaseTime, Malformed> {
    let text = value(number, name, line)?;
    text.parse().map_err(|error| Malformed(format!("line {number}: found {}; {error}", shown(text))))
}

fn list_digest(text: &str) -> Result<ListDigest, Malformed> {
    let parse = || {
        let mut words = text.split(' ');
        let (rules, bytes) = (decimal::<usize>(words.next()?)?, decimal::<usize>(words.next()?)?);
        let sha256 = digest(words.next()?)?;
        (words.next().is_none() && bytes <= list::MAX_LIST).then_some(ListDigest { rules, bytes, sha256 })
    };
    parse().ok_or_else(|| {
        Malformed::new(format!(
            "line 6: found {}; expected the number of rules, the bytes of MANIFEST.rules (at most {}), and their SHA-256 \
             in lower-case hexadecimal digits",
            shown(text),
            list::MAX_LIST
        ))
    })
}
