//! Writes the lines of the cache, and verifies them when it reads.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::MAX_SIZE;
use crate::clock::Timestamp;
use crate::plural::count;
use crate::rule::{ContentDigest, KnownRule, RuleHeader, RuleId, RuleRow, RuleState, StateRow, TableDelta};
use crate::store::RowReader;
use crate::wire::encode;
use crate::worker::cached::{CachedManifest, Rows};

const FORMAT: &str = "rulesyncd catalogue";
const VERSION: u32 = 2;

/// The longest line, in bytes: a text of the largest size, with each of its bytes escaped as six.
const MAX_LINE: u64 = 6 * crate::rule::Limits::LARGEST as u64 + (1 << 20);

/// How much of an error about a line is kept, in characters.
const LONGEST_ERROR: usize = 250;

/// What the header of every version has.
#[derive(Debug, Deserialize)]
struct Kind {
    format: String,
    version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    format: String,
    version: u32,
    /// The store of the rules.
    pub(super) origin: String,
    /// When the rules were last current.
    pub(super) fresh_at: Timestamp,
    pub(super) rules: usize,
    pub(super) states: usize,
    /// The signed release that the rules are; `None` without trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<CachedManifest>,
}

/// A row of `ttp_rule`.
#[derive(Debug, Serialize, Deserialize)]
struct RuleRecord<'a> {
    #[serde(borrow)]
    rule_id: Cow<'a, str>,
    rule_version: i64,
    #[serde(borrow)]
    source_path: Cow<'a, str>,
    updated_at: Timestamp,
    #[serde(borrow)]
    updated_by: Cow<'a, str>,
    content_sha256: ContentDigest,
    #[serde(borrow)]
    yaml_content: Cow<'a, str>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StateRecord {
    rule_id: RuleId,
    state: RuleState,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Trailer {
    pub(super) sha256: ContentDigest,
}

/// The content of a file.
#[derive(Debug)]
pub(super) struct Cached {
    pub(super) header: Header,
    pub(super) delta: TableDelta,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is damaged, or not a cache: {0}")]
    Content(String),
    #[error("another version of the program wrote it")]
    Version,
}

/// Reads lines of a bounded length, and hashes them.
struct Lines<R> {
    read: BufReader<R>,
    line: Vec<u8>,
    hash: Sha256,
}

impl<R: Read> Lines<R> {
    /// The next whole line; the digest is that of all lines before it.
    fn next(&mut self) -> Result<&[u8], Unusable> {
        self.hash.update(&self.line);
        self.line.clear();
        self.read.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.line)?;
        match self.line.last() {
            Some(b'\n') => Ok(&self.line),
            Some(_) if self.line.len() as u64 == MAX_LINE => Err(content("it has a line that is too long")),
            Some(_) => Err(content("it does not end with a whole line")),
            None => Err(content("it ends before it is complete")),
        }
    }
}

fn content(why: &str) -> Unusable {
    Unusable::Content(why.to_owned())
}

fn record<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Unusable> {
    // The error quotes what was found, and that may be a text of many megabytes.
    serde_json::from_slice(line)
        .map_err(|error| Unusable::Content(error.to_string().chars().take(LONGEST_ERROR).collect()))
}

/// Reads a file, and hashes and parses each text again.
pub(super) fn read(file: impl Read) -> Result<Cached, Unusable> {
    let mut lines = Lines { read: BufReader::new(file), line: Vec::new(), hash: Sha256::new() };
    let line = lines.next()?;
    // Before all else: the header of another version may have other fields.
    let Kind { format, version } = record(line)?;
    if format != FORMAT {
        return Err(content("it is of another format"));
    }
    if version != VERSION {
        return Err(Unusable::Version);
    }
    let header: Header = record(line)?;
    let mut delta = TableDelta::default();
    let mut reader = RowReader::default();
    for _ in 0..header.rules {
        let record: RuleRecord<'_> = record(lines.next()?)?;
        if ContentDigest::of(&*record.yaml_content) != record.content_sha256 {
            let rule_id = record.rule_id.chars().take(255).collect::<String>();
            return Err(Unusable::Content(format!(
                "the text of {} has another digest",
                rule_id.escape_debug()
            )));
        }
        delta.rules.push(reader.read(&record.into()));
    }
    for _ in 0..header.states {
        let StateRecord { rule_id, state } = record(lines.next()?)?;
        let state = StateRow::new(&rule_id, &state).state().map_err(|error| content(&error.to_string()))?;
        delta.states.push(Ok((rule_id, state)));
    }
    let trailer: Trailer =
        record(lines.next()?).map_err(|_| content("it has no checksum where it should end"))?;
    if trailer.sha256.as_bytes() != <[u8; 32]>::from(lines.hash.clone().finalize()).as_slice() {
        return Err(content("the checksum is another"));
    }
    match lines.read.fill_buf()? {
        [] => Ok(Cached { header, delta }),
        _ => Err(content("it goes on after its end")),
    }
}

impl From<RuleRecord<'_>> for RuleRow {
    fn from(record: RuleRecord<'_>) -> Self {
        let header = RuleHeader {
            rule_id: record.rule_id.into_owned(),
            rule_version: record.rule_version,
            source_path: record.source_path.into(),
            content_sha256: record.content_sha256,
            updated_at: record.updated_at,
            updated_by: record.updated_by.into(),
        };
        Self { header, yaml_content: record.yaml_content.into_owned() }
    }
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unwritten {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the rules take more than the {} MiB that it may have", MAX_SIZE >> 20)]
    TooLarge,
    #[error("the texts of {} are missing", count(*.0, "rule"))]
    Missing(usize),
}

/// Writes lines, and hashes them.
struct Sealed<W> {
    write: W,
    line: Vec<u8>,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Sealed<W> {
    fn line(&mut self, line: &impl Serialize) -> Result<(), Unwritten> {
        self.line.clear();
        encode::line(&mut self.line, line);
        self.size += self.line.len() as u64;
        if self.size > MAX_SIZE {
            return Err(Unwritten::TooLarge);
        }
        self.hash.update(&self.line);
        Ok(self.write.write_all(&self.line)?)
    }

    fn rule(&mut self, rule: &KnownRule, text: &str) -> Result<(), Unwritten> {
        self.line(&RuleRecord {
            rule_id: rule.header.rule_id.as_str().into(),
            rule_version: rule.header.rule_version,
            source_path: (&*rule.header.source_path).into(),
            updated_at: rule.header.updated_at,
            updated_by: (&*rule.header.updated_by).into(),
            content_sha256: rule.header.content_sha256,
            yaml_content: text.into(),
        })
    }
}

/// Writes a file. The texts come from the file `before` it, or else from `text`.
pub(super) fn write(
    out: impl Write,
    rows: &Rows,
    (origin, fresh_at): (&str, Timestamp),
    before: Option<impl Read>,
    text: impl Fn(&ContentDigest) -> Option<String>,
) -> Result<(), Unwritten> {
    let mut out = Sealed { write: out, line: Vec::new(), hash: Sha256::new(), size: 0 };
    out.line(&Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        origin: origin.to_owned(),
        fresh_at,
        rules: rows.rules.len(),
        states: rows.states.len(),
        manifest: rows.manifest.clone(),
    })?;
    let mut wanted: HashMap<ContentDigest, &Arc<KnownRule>> =
        rows.rules.iter().map(|rule| (rule.header.content_sha256, rule)).collect();
    if let Some(before) = before {
        let mut lines = Lines { read: BufReader::new(before), line: Vec::new(), hash: Sha256::new() };
        // This ends with an error, at the latest after the last line. `text` may have what this file lacks.
        while let Ok(line) = lines.next() {
            let Ok(record) = record::<RuleRecord<'_>>(line) else { continue };
            // A program that may write the directory may have changed the file since it was verified.
            if ContentDigest::of(&*record.yaml_content) == record.content_sha256
                && let Some(rule) = wanted.remove(&record.content_sha256)
            {
                out.rule(rule, &record.yaml_content)?;
            }
        }
    }
    let mut missing = 0;
    for rule in &rows.rules {
        if wanted.remove(&rule.header.content_sha256).is_some() {
            match text(&rule.header.content_sha256) {
                Some(text) => out.rule(rule, &text)?,
                None => missing += 1,
            }
        }
    }
    if missing > 0 {
        return Err(Unwritten::Missing(missing));
    }
    for (rule_id, state) in &rows.states {
        out.line(&StateRecord { rule_id: rule_id.clone(), state: state.clone() })?;
    }
    let sha256 = ContentDigest::from_bytes(out.hash.clone().finalize().into());
    out.line(&Trailer { sha256 })?;
    Ok(out.write.flush()?)
}
