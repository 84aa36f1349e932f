use super::*;
use crate::rule::ContentDigest;
use crate::rule::plan::plan;

const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

fn file(path: &str, text: &str) -> RuleFile {
    RuleFile {
        source_path: path.into(),
        content_sha256: Some(ContentDigest::of(text)),
        modified_at: Some(NOW),
        rule_version: Some(1),
        error: None,
    }
}

fn rule_id() -> RuleId {
    RuleId::new("R").unwrap()
}

fn row(text: &str) -> RuleHeader {
    RuleHeader {
        rule_id: "R".into(),
        rule_version: 1,
        source_path: "a.yaml".into(),
        content_sha256: ContentDigest::of(text),
        updated_at: NOW,
        updated_by: "filesystem".into(),
    }
}

fn state(kind: &str, expires_at: Option<Timestamp>) -> Result<StateRow, String> {
    let (confidence_max, reason, set_by, set_at) = (None, None, Some("me".to_owned()), Some(NOW));
    let (rule_id, state) = ("R".to_owned(), kind.to_owned());
    Ok(StateRow { rule_id, state, confidence_max, expires_at, reason, set_by, set_at })
}

fn held(text: &str) -> WorkerView {
    let subscribers = Vec::new();
    let (quarantined, database) = (Vec::new(), Health::Up);
    let (rule, state) = (Some(row(text).with_id(rule_id())), RuleState::default());
    let (loaded, trust, stale_for_ms, seq) = (true, None, 0, 7);
    WorkerView { rule, state, quarantined, loaded, trust, database, stale_for_ms, seq, subscribers }
}

/// A rule that is everywhere the same.
fn report() -> Report {
    Report {
        unanswered: Vec::new(),
        rule_id: rule_id(),
        files: vec![file("a.yaml", "one")],
        files_unknown: None,
        plan: Plan::default(),
        table: Ok(RuleInTables::new(&rule_id(), NOW, vec![row("one")], None, String::new())),
        release: None,
        master: None,
        worker: Ok(held("one")),
    }
}

fn wrong(change: impl FnOnce(&mut Report)) -> String {
    let mut report = report();
    change(&mut report);
    if let (Ok(table), None) = (&report.table, &report.files_unknown) {
        let header = |file: &RuleFile| {
            let content_sha256 = file.content_sha256.unwrap();
            let header = RuleHeader { source_path: (&*file.source_path).into(), content_sha256, ..row("") };
            (
                file.source_path.clone(),
                if file.error.is_none() { Ok(header.with_id(rule_id())) } else { Err(None) },
            )
        };
        let files: Vec<_> = report.files.iter().map(header).collect();
        let rows: Vec<_> = table.row.iter().cloned().collect();
        report.plan = plan(
            files.iter().map(|(path, rule)| (path.as_str(), rule.as_ref().map_err(Option::as_ref))),
            &rows,
            "filesystem",
        );
    }
    report.problems().join("\n")
}

fn table(report: &mut Report) -> &mut RuleInTables {
    report.table.as_mut().unwrap()
}

fn worker(report: &mut Report) -> &mut WorkerView {
    report.worker.as_mut().unwrap()
}

fn peer(acked: Option<u64>) -> SubscriberStatus {
    let (id, pid, uid, connected_at) = (3, Some(42), 0, NOW);
    SubscriberStatus { id, pid, uid, connected_at, subscribed: true, seq: 7, lag: 0, acked }
}

#[test]
fn what_is_the_same_everywhere_is_not_wrong() {
    assert_eq!(wrong(|_| {}), "");
    // A host that has no directory, and a rule that an operator wrote by hand.
    assert_eq!(wrong(|report| (report.files, report.files_unknown) = (vec![], Some("away".into()))), "");
    let by_hand = |report: &mut Report| {
        report.files.clear();
        table(report).row.as_mut().unwrap().updated_by = "git".into();
    };
    assert_eq!(wrong(by_hand), "");
    assert_eq!(wrong(|report| table(report).state = Some(state("disabled", Some(NOW)))), "");
    assert_eq!(wrong(|report| worker(report).subscribers = vec![peer(None), peer(Some(7))]), "");
}

#[test]
fn each_place_that_differs_is_named() {
    for (change, said) in [
        (
            (|report| report.files[0] = file("a.yaml", "two")) as fn(&mut Report),
            "a.yaml and the row by `filesystem` differ: no master answers on this host",
        ),
        (
            |report| table(report).row.as_mut().unwrap().updated_by = "git".into(),
            "a.yaml and the row by `git` differ",
        ),
        (
            |report| report.files.clear(),
            "the table still has the row, and a.yaml no longer holds it: no master answers",
        ),
        (
            |report| report.files.push(file("b.yaml", "one")),
            "b.yaml holds it too, and is passed over for a.yaml",
        ),
        (
            |report| report.files[0].error = Some("line 1, column 2: no".into()),
            "a.yaml: line 1, column 2: no; its last good version stays",
        ),
        (|report| table(report).case_variants.push("r".into()), "a row `r` differs only in case"),
        (|report| worker(report).rule = None, "the worker does not hold it"),
        (
            |report| table(report).row = None,
            "a.yaml holds version 1, and the table has no row: no master answers on this host",
        ),
        (|report| *worker(report) = held("old"), "the worker holds another text or path than the row"),
        (
            |report| worker(report).quarantined = vec!["ttp_rule: no".into()],
            "quarantines the row of ttp_rule: no",
        ),
        (|report| worker(report).loaded = false, "the worker has not loaded any rule yet"),
        (
            |report| table(report).state = Some(state("disabled", None)),
            "the worker says `enabled`, the table `disabled` by me",
        ),
        (
            |report| worker(report).subscribers.push(peer(Some(6))),
            "subscriber 3 (process 42) has taken in change 6 of 7",
        ),
    ] {
        let wrong = wrong(change);
        assert!(wrong.contains(said), "no `{said}` in `{wrong}`");
    }
}

#[test]
fn of_a_file_that_was_never_valid_no_last_version_stays() {
    let wrong = wrong(|report| {
        report.files[0].error = Some("line 1, column 2: no".into());
        table(report).row = None;
        worker(report).rule = None;
    });
    assert_eq!(wrong, "a.yaml: line 1, column 2: no");
}

#[test]
fn a_rule_that_is_nowhere_is_told_so() {
    let nowhere = |report: &mut Report| {
        report.files.clear();
        table(report).row = None;
        worker(report).rule = None;
    };
    assert_eq!(wrong(nowhere), "no file, no row and no worker here knows R");
}
