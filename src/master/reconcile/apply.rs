//! Carries a plan out in one transaction, and logs what was done.

use std::collections::BTreeMap;
use std::time::Instant;

use super::super::held::Operator;
use super::super::log;
use super::super::trace::{Ingest, Transaction};
use super::{Reconciler, RefusedWrite, Report};
use crate::directory::ScannedFile;
use crate::rule::plan::{Plan, Write};
use crate::rule::{ChangeKind, ContentDigest, RuleHeader, RuleRow};
use crate::store::{Applied, ManifestWrite, MasterSession, RowsAsRead, RuleWrite, StoreError};
use crate::telemetry::metrics::{self, Stage};
use crate::telemetry::trace;

/// How many texts are read before others have their turn: beats of the lease, signs of life, requests.
const READ_TOGETHER: usize = 64;

impl Reconciler {
    /// Writes the plan, and logs what was written. With `read`, only if these rows are still as they were; with
    /// an operator who allows all deletions, only while that one waits.
    pub(super) async fn carry_out(
        &mut self,
        session: &mut MasterSession,
        report: &mut Report,
        read: Option<RowsAsRead>,
        allowed_by: Option<Operator>,
    ) -> Result<(), StoreError> {
        let kind = match (read, allowed_by) {
            (Some(read), _) => Kind::IfAsRead(read),
            (None, Some(operator)) => Kind::WhileAsked(operator),
            (None, None) => Kind::RowByRow,
        };
        self.write(session, report, kind).await
    }

    /// As [`Reconciler::carry_out`], but all or nothing, together with the manifest if there is one.
    pub(super) async fn carry_out_release(
        &mut self,
        session: &mut MasterSession,
        report: &mut Report,
        manifest: Option<ManifestWrite>,
    ) -> Result<(), StoreError> {
        self.write(session, report, Kind::Release(manifest)).await
    }

    async fn write(
        &mut self,
        session: &mut MasterSession,
        report: &mut Report,
        kind: Kind,
    ) -> Result<(), StoreError> {
        let is_release = matches!(kind, Kind::Release(_));
        let is_allowed = matches!(kind, Kind::WhileAsked(_));
        let plan = &mut report.plan;
        let mut writes: Vec<RuleWrite> = Vec::with_capacity(plan.deletes.len() + plan.writes.len());
        writes.extend(plan.deletes.iter().map(deletion));
        let mut planned = std::mem::take(&mut plan.writes).into_iter();
        while planned.len() > 0 {
            tokio::task::yield_now().await;
            let some: Vec<Write> = planned.by_ref().take(READ_TOGETHER).collect();
            let paths: Vec<&str> = some.iter().map(|write| &*write.rule.source_path).collect();
            let texts = self.scanner.texts(&paths).await;
            for (write, text) in some.into_iter().zip(texts) {
                let Some(text) = text else {
                    report.changing.push(write.rule.source_path.to_string());
                    continue;
                };
                // The deletion of case variants of the id makes room for it.
                let replaced = write.replaces.iter().chain(&write.case_variants);
                let variants = replaced.filter(|row| row.rule_id != write.rule.rule_id.as_str());
                writes.extend(variants.map(deletion));
                let header = write.rule.unchecked();
                writes.push(RuleWrite::Upsert(RuleRow { header, yaml_content: text.into() }));
                plan.writes.push(write);
            }
        }
        if is_release {
            let unfinished = plan.writes.iter().map(|write| &*write.rule.source_path);
            report
                .changing
                .extend(unfinished.filter(|path| self.unfinished.contains(path)).map(str::to_owned));
            if let Some(path) = report.changing.first() {
                report.why_not_published = Some(format!("{path} is being written"));
                *plan = Plan::default();
                return Ok(());
            }
        }
        if writes.is_empty() && !matches!(kind, Kind::Release(Some(_))) {
            return Ok(());
        }
        let count = writes.len();
        let ingests = self.ingests(plan);
        let written = plan.writes.iter().zip(&ingests[plan.deletes.len()..]);
        let contexts = written.filter_map(|(write, ingest)| ingest.trace_context(write)).collect();
        session.write_trace_contexts(contexts).await;
        let begun = trace::now();
        let applied = match metrics::timed("write_rules", write(session, writes, kind)).await {
            Ok(applied) => applied,
            Err(error @ (StoreError::RowsChanged { .. } | StoreError::Withdrawn { .. })) => {
                return Err(error);
            }
            // Others go on being in the way: the lease is kept, and everything is compared again.
            Err(error @ StoreError::Conflict { .. }) => {
                log::in_the_way(count, &error);
                let transaction = Transaction { begun, written: None, ended: trace::now() };
                ingests.into_iter().for_each(|ingest| ingest.failed("failed", transaction));
                (report.refused, report.retry, *plan) = (count, true, Plan::default());
                return Ok(());
            }
            Err(error) => {
                let transaction = Transaction { begun, written: None, ended: trace::now() };
                ingests.into_iter().for_each(|ingest| ingest.failed("failed", transaction));
                return Err(error);
            }
        };
        let transaction = Transaction { begun, written: applied.written, ended: trace::now() };
        report.refused = applied.rejected.len();
        let refused: BTreeMap<String, StoreError> = applied.rejected.into_iter().collect();
        report.retry = refused.values().any(StoreError::is_transient);
        if is_release && !refused.is_empty() {
            let named: Vec<String> =
                refused.iter().map(|(rule_id, why)| format!("{rule_id}: {why}")).collect();
            report.why_not_published = Some(named.join("; "));
            report.retry = true;
            *plan = Plan::default();
            ingests.into_iter().for_each(|ingest| ingest.failed("refused", transaction));
            return Ok(());
        }
        let deleted = plan.deletes.iter().filter(|delete| !refused.contains_key(&delete.rule_id)).count();
        if deleted > 0 && !is_allowed {
            self.recent.push_back((Instant::now(), deleted));
        }
        let each_is_logged = self.file_log.records.take(count, Instant::now());
        let (mut restored, mut written) = (0, Vec::new());
        let mut ingests = ingests.into_iter();
        for (delete, ingest) in plan.deletes.iter().zip(&mut ingests) {
            if let Some(why) = refused.get(&delete.rule_id) {
                if is_new_refusal(&mut self.refused, &delete.rule_id, &delete.source_path, None, why) {
                    log::not_deleted(delete, why, ingest.trace_id());
                }
                ingest.failed("refused", transaction);
                continue;
            }
            self.missing.forget(&delete.source_path);
            self.refused.remove(&delete.rule_id);
            if each_is_logged {
                log::deleted(delete, ingest.trace_id());
            }
            ingest.done("deleted", transaction);
        }
        for (write, ingest) in plan.writes.iter().zip(ingests) {
            let path = &*write.rule.source_path;
            let rule_id = write.rule.rule_id.as_str();
            match refused.get(rule_id) {
                None => {
                    self.refused.remove(rule_id);
                    written.push(path);
                    let is_restored = self.scanner.file(path).is_some_and(ScannedFile::is_written);
                    restored += usize::from(is_restored);
                    if each_is_logged && is_restored {
                        log::restored(write, ingest.trace_id());
                    } else if each_is_logged || write.takes_over().is_some() {
                        log::written(write, ingest.trace_id());
                    }
                    ingest.done(if write.replaces.is_some() { "updated" } else { "inserted" }, transaction);
                    if let Some(saved_at) = self.scanner.file(path).and_then(ScannedFile::saved_at) {
                        let took = self.clock.now().since(saved_at);
                        metrics::propagated(Stage::SaveToWrite, ChangeKind::Definition, took);
                    }
                }
                Some(why) => {
                    let text = Some(write.rule.content_sha256);
                    if is_new_refusal(&mut self.refused, rule_id, path, text, why) {
                        log::rejected(write, why, ingest.trace_id());
                        metrics::rejected("refused");
                    }
                    ingest.failed("refused", transaction);
                }
            }
        }
        self.scanner.mark_written(written.into_iter());
        plan.deletes.retain(|delete| !refused.contains_key(&delete.rule_id));
        plan.writes.retain(|write| !refused.contains_key(write.rule.rule_id.as_str()));
        if !each_is_logged {
            log::many_written(plan, restored);
        }
        Ok(())
    }

    /// The spans of the plan: deletions, then writes.
    fn ingests(&self, plan: &Plan) -> Vec<Ingest> {
        let deletes = plan.deletes.iter().map(Ingest::of_delete);
        let writes = plan.writes.iter();
        let writes = writes.map(|write| Ingest::of_write(write, self.scanner.file(&write.rule.source_path)));
        deletes.chain(writes).collect()
    }
}

/// Remembers what the database rejected; whether that was not known of this text, or of the deletion.
fn is_new_refusal(
    known: &mut BTreeMap<String, RefusedWrite>,
    rule_id: &str,
    source_path: &str,
    content_sha256: Option<ContentDigest>,
    why: &StoreError,
) -> bool {
    let refused =
        RefusedWrite { source_path: source_path.to_owned(), content_sha256, reason: why.to_string() };
    let before = known.insert(rule_id.to_owned(), refused);
    before.is_none_or(|before| (&*before.source_path, before.content_sha256) != (source_path, content_sha256))
}

fn deletion(row: &RuleHeader) -> RuleWrite {
    RuleWrite::Delete { rule_id: row.rule_id.clone(), updated_by: row.updated_by.to_string() }
}

/// How rows are written.
enum Kind {
    /// Each that the database takes.
    RowByRow,
    /// The same, only while these rows are as they were read.
    IfAsRead(RowsAsRead),
    /// The same, only while this operator waits for it.
    WhileAsked(Operator),
    /// All or none, with the manifest if there is a new one.
    Release(Option<ManifestWrite>),
}

async fn write(
    session: &mut MasterSession,
    writes: Vec<RuleWrite>,
    kind: Kind,
) -> Result<Applied, StoreError> {
    match kind {
        Kind::RowByRow => session.apply(writes).await,
        Kind::IfAsRead(read) => session.apply_if_as_read(writes, read).await,
        Kind::WhileAsked(operator) => session.apply_unless(writes, operator.gone).await,
        Kind::Release(manifest) => session.publish(writes, manifest).await,
    }
}
