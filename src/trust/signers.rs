//! The keys that may sign: ssh-keygen(1), "ALLOWED SIGNERS", a strict subset.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::keys::KINDS;
use super::patterns::matches_list;
use super::{Malformed, NAMESPACE, PublicKey, ascii, shown};
use crate::clock::Timestamp;

/// The longest file of allowed signers, in bytes.
pub(crate) const MAX_ALLOWED_SIGNERS: usize = 256 << 10;

const LONGEST_PRINCIPAL: usize = 255;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signer {
    /// Who signs with the key.
    pub(super) principal: String,
    /// The key.
    pub(super) key: PublicKey,
    /// Patterns of the namespaces that the key may sign for; `None` is all.
    pub(super) namespaces: Option<String>,
    pub(super) valid_after: Option<Timestamp>,
    pub(super) valid_before: Option<Timestamp>,
}

impl Signer {
    /// Whether the line's options let the key sign manifests.
    pub(super) fn may_sign_manifests(&self) -> bool {
        self.namespaces.as_ref().is_none_or(|patterns| matches_list(patterns, NAMESPACE))
    }

    /// Whether `now` is within the key's dates, both of which are inclusive.
    pub(super) fn is_valid_at(&self, now: Timestamp) -> bool {
        let now = now.whole_second();
        self.valid_after.is_none_or(|from| from <= now) && self.valid_before.is_none_or(|to| now <= to)
    }
}

/// The keys that may sign, and who signs with them. No key is on two lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedSigners {
    pub(super) signers: Vec<Signer>,
    /// A sentence for each line that was passed over.
    pub(crate) warnings: Vec<String>,
}

impl AllowedSigners {
    /// Parses a file.
    ///
    /// # Errors
    /// [`Malformed`] for the first line that is, and if no key is left.
    pub fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let text = ascii(text, MAX_ALLOWED_SIGNERS)?;
        let (mut signers, mut warnings) = (Vec::<Signer>::new(), Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            let malformed = |reason: String| Malformed(format!("line {number}: {reason}"));
            let line = line.trim_matches([' ', '\t']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(control) = line.chars().find(|c| c.is_ascii_control() && *c != '\t') {
                return Err(malformed(format!("it has the control character {control:?}")));
            }
            match parse_line(line).map_err(malformed)? {
                Line::Signer(signer) => {
                    let twice = signers.iter().find(|other| other.key.point() == signer.key.point());
                    if let Some(other) = twice {
                        return Err(malformed(format!(
                            "the key is that of `{}` on an earlier line; a key has one line only",
                            other.principal
                        )));
                    }
                    signers.push(signer);
                }
                Line::PassedOver(reason) => warnings.push(format!("line {number} is passed over: {reason}")),
            }
        }
        if signers.is_empty() {
            return Err(Malformed::new(
                "it names no key that may sign; expected lines such as `release@example.org ssh-ed25519 AAAA…`",
            ));
        }
        Ok(Self { signers, warnings })
    }

    /// The line of `key`.
    pub(super) fn of_key(&self, key: &PublicKey) -> Option<&Signer> {
        self.signers.iter().find(|signer| signer.key == *key)
    }

    /// How many distinct principals may sign manifests.
    pub(crate) fn principals(&self) -> usize {
        let signers = self.signers.iter().filter(|signer| signer.may_sign_manifests());
        signers.map(|signer| &signer.principal).collect::<BTreeSet<_>>().len()
    }
}

enum Line {
    Signer(Signer),
    PassedOver(String),
}

#[derive(Default)]
struct Options {
    namespaces: Option<String>,
    valid_after: Option<Timestamp>,
    valid_before: Option<Timestamp>,
    is_authority: bool,
}

fn parse_line(line: &str) -> Result<Line, String> {
    let (principal, rest) = word(line);
    if principal.len() > LONGEST_PRINCIPAL {
        return Err(format!(
            "the principal has {} bytes; at most {LONGEST_PRINCIPAL} are possible",
            principal.len()
        ));
    }
    if let Some(found) = principal.chars().find(|c| ",*?!\"'\\`".contains(*c)) {
        return Err(format!(
            "the principal has the character {found:?}; expected one plain name without patterns"
        ));
    }
    let (first, after) = word(rest);
    let (options, kind, rest) = match is_key_kind(first) {
        true => (Options::default(), first, after),
        false => {
            let (options, rest) = parse_options(rest)?;
            let (kind, rest) = word(rest);
            (options, kind, rest)
        }
    };
    let (base64, _comment) = word(rest);
    if kind.is_empty() || base64.is_empty() {
        return Err("it is incomplete; expected `PRINCIPAL [OPTIONS] KIND KEY`".to_owned());
    }
    if !is_key_kind(kind) {
        return Err(format!("{} is no kind of key", shown(kind)));
    }
    if options.is_authority {
        return Ok(Line::PassedOver("certificates are not supported".to_owned()));
    }
    if !KINDS.contains(&kind) {
        return Ok(Line::PassedOver(format!(
            "keys of the kind {} are not supported; use ssh-ed25519, ecdsa-sha2-nistp256, or one of the `sk-` kinds",
            shown(kind)
        )));
    }
    let key = STANDARD.decode(base64).ok().and_then(|blob| PublicKey::from_blob(&blob));
    let key = key.filter(|key| key.kind() == kind);
    let key = key.ok_or_else(|| format!("the key is not {} in base64", shown(kind)))?;
    let Options { namespaces, valid_after, valid_before, is_authority: _ } = options;
    Ok(Line::Signer(Signer { principal: principal.to_owned(), key, namespaces, valid_after, valid_before }))
}

/// The word at the beginning of `text`, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let end = text.find([' ', '\t']).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start_matches([' ', '\t']))
}

fn is_key_kind(text: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|begin| text.starts_with(begin))
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-@.".contains(c))
}

/// Parses `name[="value"],…` at the beginning of `text`; returns what follows.
fn parse_options(text: &str) -> Result<(Options, &str), String> {
    let mut options = Options::default();
    let mut rest = text;
    loop {
        let end = rest.find(|c: char| !(c.is_ascii_alphabetic() || c == '-')).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let (value, after) = match after.strip_prefix("=\"") {
            None => (None, after),
            Some(quoted) => {
                let (value, after) = quoted
                    .split_once('"')
                    .ok_or_else(|| format!("the value of {} has no closing quote", shown(name)))?;
                if value.contains('\\') {
                    return Err(format!(
                        "the value of {} has a backslash; expected plain characters",
                        shown(name)
                    ));
                }
                (Some(value), after)
            }
        };
        let twice = |set: bool| if set { Err(format!("{} is there twice", shown(name))) } else { Ok(()) };
        match (name.to_ascii_lowercase().as_str(), value) {
            ("cert-authority", None) => options.is_authority = true,
            ("namespaces", Some(patterns)) => {
                twice(options.namespaces.replace(patterns.to_owned()).is_some())?;
            }
            ("valid-after", Some(date)) => twice(options.valid_after.replace(parse_date(date)?).is_some())?,
            ("valid-before", Some(date)) => twice(options.valid_before.replace(parse_date(date)?).is_some())?,
            _ => {
                return Err(format!(
                    "{} is no option; expected `namespaces=\"…\"`, `valid-after=\"…\"` or `valid-before=\"…\"`, \
                     separated by commas",
                    shown(word(rest).0)
                ));
            }
        }
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.starts_with([' ', '\t']) => {
                rest = after.trim_start_matches([' ', '\t']);
                break;
            }
            None => return Err(format!("after {} a comma or a space is expected", shown(name))),
        }
    }
    if let (Some(from), Some(to)) = (options.valid_after, options.valid_before)
        && to <= from
    {
        return Err("valid-before is not later than valid-after".to_owned());
    }
    Ok((options, rest))
}

/// Parses `YYYYMMDD[HHMM[SS]]Z`. Without the `Z`, `ssh-keygen` takes each host's own time zone.
fn parse_date(text: &str) -> Result<Timestamp, String> {
    let invalid = || {
        format!("{} is no date; expected YYYYMMDDZ, YYYYMMDDHHMMZ or YYYYMMDDHHMMSSZ, in UTC", shown(text))
    };
    let digits = text.strip_suffix('Z').ok_or_else(invalid)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || ![8, 12, 14].contains(&digits.len()) {
        return Err(invalid());
    }
    let digits = format!("{digits:0<14}");
    let part = |range: std::ops::Range<usize>| &digits[range];
    let time = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0..4),
        part(4..6),
        part(6..8),
        part(8..10),
        part(10..12),
        part(12..14)
    );
    super::ReleaseTime::parse(&time).map(super::ReleaseTime::timestamp).ok_or_else(invalid)
}
