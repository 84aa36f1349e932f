//! Parses rows into rules, on up to two other threads: parsing takes most of the time of a first poll.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::TextSink;
use super::budget::Budget;
use crate::rule::{
    KnownRule, LONGEST_TEXT, Limits, QuarantinedRow, RowFingerprint, RuleHeader, RuleRow, first_errors, parse,
};

/// The fewest rules that are parsed on another thread.
const WORTH_A_THREAD: usize = 16;

/// How many rules another thread parses at once.
const BATCH: usize = 256;

/// How many bytes of texts another thread parses at once.
const BATCH_BYTES: usize = 1 << 20;

/// Parses one row after the other, and shares what they have in common.
#[derive(Default)]
pub(crate) struct RowReader {
    /// A buffer for definitions, so that each kept definition has exactly its size.
    json: Vec<u8>,
    /// `updated_by` of the last row; usually all rows have the same.
    updated_by: Arc<str>,
    /// Where the texts of valid rows go.
    texts: Option<Arc<dyn TextSink>>,
}

impl RowReader {
    /// Like [`RowReader::read`], but a panic of the parser only quarantines this row.
    fn read_catching_panics(&mut self, row: &RuleRow) -> ParsedRow {
        catch_unwind(AssertUnwindSafe(|| self.read(row))).unwrap_or_else(|_| {
            Err(row.quarantined("the parser fails on its text: please report it".to_owned(), true))
        })
    }

    /// Parses a row's text.
    pub(crate) fn read(&mut self, row: &RuleRow) -> Result<Arc<KnownRule>, Box<QuarantinedRow>> {
        let header = &row.header;
        for (column, text) in [("source_path", &*header.source_path), ("updated_by", &*header.updated_by)] {
            if text.len() > LONGEST_TEXT {
                let length = text.len();
                let reason = format!("{column} has {length} bytes; at most {LONGEST_TEXT} are possible");
                return Err(row.quarantined(reason, false));
            }
        }
        let text = header.content_sha256;
        let parsed = self.texts.as_ref().and_then(|texts| texts.parsed(&header.rule_id, &text));
        if let Some(parsed) = parsed {
            return Ok(self.as_in_row(parsed, row));
        }
        // The master limits the size of a rule: `master.max_rule_size`.
        let limits = Limits { size: Limits::LARGEST, ..Limits::default() };
        let definition = parse(row.yaml_content.as_bytes(), &limits)
            .map_err(|diagnostics| row.quarantined(first_errors(&diagnostics), true))?
            .definition;
        if definition.rule_id.as_str() != header.rule_id {
            let reason = format!(
                "the row's rule_id is `{}`, that in its text is `{}`",
                header.rule_id.chars().take(255).collect::<String>().escape_debug(),
                definition.rule_id
            );
            return Err(row.quarantined(reason, true));
        }
        self.json.clear();
        serde_json::to_writer(&mut self.json, &definition)
            .map_err(|error| row.quarantined(error.to_string(), true))?;
        let definition_json = String::from_utf8_lossy(&self.json).into();
        if let Some(texts) = &self.texts {
            texts.put(text, &row.yaml_content);
        }
        let header = self.shared(header).with_id(definition.rule_id);
        Ok(Arc::new(KnownRule { header, definition_json }))
    }

    /// The rule of a text that was parsed before, with the other fields of the row.
    fn as_in_row(&mut self, parsed: Arc<KnownRule>, row: &RuleRow) -> Arc<KnownRule> {
        if parsed.header.clone().with_id(()) == row.header.clone().with_id(()) {
            return parsed;
        }
        let header = self.shared(&row.header).with_id(parsed.rule_id().clone());
        Arc::new(KnownRule { header, definition_json: parsed.definition_json.clone() })
    }

    /// The same header; rows with one writer share its name.
    fn shared(&mut self, header: &RuleHeader) -> RuleHeader {
        if self.updated_by != header.updated_by {
            self.updated_by = Arc::clone(&header.updated_by);
        }
        RuleHeader { updated_by: Arc::clone(&self.updated_by), ..header.clone() }
    }
}

/// A rule, or a quarantined row.
type ParsedRow = Result<Arc<KnownRule>, Box<QuarantinedRow>>;

/// Rows in parsing, at most two batches at a time.
pub(super) struct RowParser {
    texts: Option<Arc<dyn TextSink>>,
    waiting: Vec<RuleRow>,
    waiting_bytes: usize,
    batches: VecDeque<JoinHandle<Vec<ParsedRow>>>,
    budget: Budget,
    done: ParsedRows,
}

/// Parsed rows.
#[derive(Default)]
pub(super) struct ParsedRows {
    pub(super) rules: Vec<ParsedRow>,
    /// The keys of the rules that did not fit into the budget, with what each needs.
    pub(super) over_budget: Vec<(String, usize)>,
}

impl RowParser {
    /// Parses rows, and passes their texts to `texts`; the rules must fit into `budget`.
    pub(super) fn new(texts: Option<Arc<dyn TextSink>>, budget: Budget) -> Self {
        let (waiting, batches) = (Vec::new(), VecDeque::new());
        Self { texts, waiting, waiting_bytes: 0, batches, budget, done: ParsedRows::default() }
    }

    fn reader(&self) -> RowReader {
        RowReader { texts: self.texts.clone(), ..RowReader::default() }
    }

    /// Adds a row that replaces one of `replaced` bytes. Waits while two batches are being parsed.
    pub(super) async fn push(&mut self, row: RuleRow, replaced: usize) {
        self.budget.give_back(replaced);
        self.waiting_bytes += row.yaml_content.len();
        self.waiting.push(row);
        if self.waiting.len() == BATCH || self.waiting_bytes > BATCH_BYTES {
            self.send().await;
        }
    }

    /// Adds a row that is quarantined.
    pub(super) fn quarantine(&mut self, rejected: QuarantinedRow) {
        self.budget.quarantine(rejected.memory());
        self.done.rules.push(Err(Box::new(rejected)));
    }

    /// Adds a row whose text was not read because it did not fit; it is read once it fits.
    pub(super) fn quarantine_for_now(&mut self, rejected: QuarantinedRow, length: usize) {
        self.done.over_budget.push((rejected.key.clone(), length));
        self.quarantine(rejected);
    }

    /// The budget that the rules must fit into.
    pub(super) const fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    async fn send(&mut self) {
        let (batch, mut reader) = (std::mem::take(&mut self.waiting), self.reader());
        let is_large = std::mem::take(&mut self.waiting_bytes) > BATCH_BYTES;
        self.batches.push_back(tokio::task::spawn_blocking(move || {
            batch.iter().map(|row| reader.read_catching_panics(row)).collect()
        }));
        // A large text takes several times its size while it is parsed, so only one batch is parsed at a time.
        let at_once = if is_large { 0 } else { 2 };
        while self.batches.len() > at_once {
            self.receive().await;
        }
    }

    async fn receive(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            // This fails only when the runtime ends, and then no result is needed: panics are caught before.
            self.add(batch.await.unwrap_or_default());
        }
    }

    /// Adds parsed rows, as far as they fit into the budget.
    fn add(&mut self, batch: Vec<ParsedRow>) {
        for read in batch {
            let fitting = read.and_then(|rule| match self.budget.take(rule.memory(), 0) {
                Ok(()) => Ok(rule),
                Err(reason) => {
                    let key = rule.header.rule_id.to_string();
                    self.done.over_budget.push((key.clone(), rule.memory()));
                    let fingerprint = RowFingerprint::rule(&rule.header);
                    Err(Box::new(QuarantinedRow { key, fingerprint, reason, is_text_invalid: false }))
                }
            });
            if let Err(rejected) = &fitting {
                self.budget.quarantine(rejected.memory());
            }
            self.done.rules.push(fitting);
        }
    }

    /// Waits for all rows.
    pub(super) async fn finish(mut self) -> ParsedRows {
        if self.batches.is_empty() && self.waiting.len() < WORTH_A_THREAD {
            let mut reader = self.reader();
            let waiting = std::mem::take(&mut self.waiting);
            self.add(waiting.iter().map(|row| reader.read_catching_panics(row)).collect());
            return self.done;
        }
        self.send().await;
        while !self.batches.is_empty() {
            self.receive().await;
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::rule::ContentDigest;

    /// Panics at one text, as a bug of the parser would.
    struct Faulty;

    impl TextSink for Faulty {
        fn put(&self, _content: ContentDigest, text: &str) {
            assert!(!text.contains("name: faulty"), "a fault of the parser");
        }
    }

    #[tokio::test]
    async fn a_row_on_which_the_parser_panics_is_rejected_alone() {
        for count in [3, 2 * BATCH] {
            let mut reading = RowParser::new(Some(Arc::new(Faulty)), Budget::new(1 << 20, 0, 0));
            for number in 0..count {
                let name = if number == 1 { "faulty" } else { "sound" };
                let rule_id = format!("R{number}");
                let yaml_content = format!(
                    "rule_id: {rule_id}\nrule_version: 1\nname: {name}\napplies_to: [command]\nmatch:\n  field: \
                     command_text\n  pattern: x\nemits:\n  - tactic: TA0007\n    technique_id: T1083\n    \
                     confidence: 0.85\n"
                );
                let header = RuleHeader {
                    source_path: format!("{rule_id}.yaml").into(),
                    rule_id,
                    rule_version: 1,
                    content_sha256: ContentDigest::of(&yaml_content),
                    updated_at: Timestamp::MIN,
                    updated_by: "filesystem".into(),
                };
                reading.push(RuleRow { header, yaml_content }, 0).await;
            }
            let read = reading.finish().await.rules;
            assert_eq!(read.len(), count);
            let rejected: Vec<_> = read.into_iter().filter_map(Result::err).collect();
            assert_eq!(rejected.len(), 1);
            assert_eq!(rejected[0].key, "R1");
            assert!(rejected[0].reason.contains("the parser fails"), "{}", rejected[0].reason);
        }
    }
}
