//! `MANIFEST.rules`: one line for each rule of a release.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};

use super::{Malformed, ascii, decimal, digest, shown};
use crate::rule::{ContentDigest, RuleHeader, RuleId};
use crate::rulefile::is_rule_file_name;

/// The longest list, in bytes.
pub(crate) const MAX_LIST: usize = 16 << 20;

/// The longest path, in bytes: the `source_path` columns hold no longer one.
const LONGEST_PATH: usize = 255;

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRule {
    /// The rule.
    pub rule_id: RuleId,
    /// The author's number.
    pub rule_version: i32,
    /// The digest of its text.
    pub content_sha256: ContentDigest,
    /// The name of its file in the rules directory.
    pub source_path: Box<str>,
}

impl ListedRule {
    /// The line that lists a row. A version that no list can have is listed as -1.
    pub(crate) fn of(header: &RuleHeader<RuleId>) -> Self {
        Self {
            rule_id: header.rule_id.clone(),
            rule_version: i32::try_from(header.rule_version).unwrap_or(-1),
            content_sha256: header.content_sha256,
            source_path: header.source_path.clone(),
        }
    }
}

/// A line of `MANIFEST.rules`, without its end.
impl fmt::Display for ListedRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule_id, rule_version, content_sha256, source_path } = self;
        write!(f, "{rule_id} {rule_version} {content_sha256} {source_path}")
    }
}

/// The rules of a release, sorted by the bytes of their ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleList(Vec<ListedRule>);

impl RuleList {
    /// A list of these rules.
    ///
    /// # Errors
    /// [`Malformed`] if two ids differ at most in case, or two rules have one path.
    pub fn new(mut rules: Vec<ListedRule>) -> Result<Self, Malformed> {
        rules.sort_by(|a, b| a.rule_id.cmp(&b.rule_id));
        let (mut folded, mut paths) =
            (HashSet::with_capacity(rules.len()), HashSet::with_capacity(rules.len()));
        for rule in &rules {
            if !folded.insert(rule.rule_id.folded()) {
                return Err(Malformed::new(format!("{} is listed twice, or in two cases", rule.rule_id)));
            }
            if !paths.insert(&*rule.source_path) {
                return Err(Malformed::new(format!("the file {} is listed twice", rule.source_path)));
            }
        }
        Ok(Self(rules))
    }

    /// Parses the bytes of `MANIFEST.rules`. Only the form that [`RuleList::to_text`] writes is accepted.
    ///
    /// # Errors
    /// [`Malformed`], with the line.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let text = ascii(bytes, MAX_LIST)?;
        let mut rules: Vec<ListedRule> = Vec::new();
        for (number, line) in (1_usize..).zip(text.split_inclusive('\n')) {
            let rule = line.strip_suffix('\n').and_then(parse_line).ok_or_else(|| {
                Malformed::new(format!(
                    "line {number}: found {}; expected `RULE_ID RULE_VERSION SHA256 PATH` and a line end",
                    shown(line)
                ))
            })?;
            if rules.last().is_some_and(|previous| previous.rule_id >= rule.rule_id) {
                return Err(Malformed::new(format!(
                    "line {number}: the ids are not in the order of their bytes"
                )));
            }
            rules.push(rule);
        }
        Self::new(rules)
    }

    /// The exact bytes of the file.
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(self.0.len() * 96);
        for rule in &self.0 {
            let _ = writeln!(text, "{rule}");
        }
        text
    }

    /// The line of a rule.
    pub(crate) fn get(&self, rule_id: &str) -> Option<&ListedRule> {
        let found = self.0.binary_search_by(|rule| rule.rule_id.as_str().cmp(rule_id)).ok()?;
        self.0.get(found)
    }

    /// All lines, by id.
    pub fn rules(&self) -> &[ListedRule] {
        &self.0
    }
}

fn parse_line(line: &str) -> Option<ListedRule> {
    let mut words = line.split(' ');
    let (rule_id, rule_version) = (RuleId::new(words.next()?).ok()?, decimal::<i32>(words.next()?)?);
    let (content_sha256, source_path) = (digest(words.next()?)?, words.next()?);
    let is_path = source_path.len() <= LONGEST_PATH && is_rule_file_name(OsStr::new(source_path));
    (words.next().is_none() && rule_version >= 0 && is_path).then(|| ListedRule {
        rule_id,
        rule_version,
        content_sha256,
        source_path: source_path.into(),
    })
}
