use super::*;

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

fn row(text: &str) -> Row {
    Row {
        rule_version: 1,
        source_path: "a.yaml".into(),
        content_sha256: ContentDigest::of(text),
        updated_at: NOW,
        updated_by: "filesystem".into(),
    }
}

fn state(kind: &str, expires_at: Option<Timestamp>) -> StateOfRow {
    let (confidence_max, reason, set_by, set_at) = (None, None, Some("me".to_owned()), Some(NOW));
    let (rule_id, state) = ("R".to_owned(), kind.to_owned());
    StateRow { rule_id, state, confidence_max, expires_at, reason, set_by, set_at }.into()
}

fn held(text: &str) -> Held {
    let subscribers = Vec::new();
    let (rejected, database) = (Vec::new(), Health::Up);
    let (rule, state) = (Some(row(text)), RuleState::default());
    Held { rule, state, rejected, loaded: true, database, stale_for_ms: 0, seq: 7, subscribers }
}

/// A rule that is everywhere the same.
fn story() -> Story {
    Story {
        unanswered: Vec::new(),
        rule_id: RuleId::new("R").unwrap(),
        files: vec![file("a.yaml", "one")],
        files_unknown: None,
        owner: "filesystem".into(),
        table: Ok(Table {
            now: NOW,
            row: Some(row("one")),
            case_variants: Vec::new(),
            state: None,
            did_you_mean: String::new(),
        }),
        master: None,
        worker: Ok(held("one")),
    }
}

fn wrong(change: impl FnOnce(&mut Story)) -> String {
    let mut story = story();
    change(&mut story);
    story.wrong().join("\n")
}

fn table(story: &mut Story) -> &mut Table {
    story.table.as_mut().unwrap()
}

fn worker(story: &mut Story) -> &mut Held {
    story.worker.as_mut().unwrap()
}

fn peer(acked: Option<u64>) -> SubscriberStatus {
    let (id, pid, uid, connected_at) = (3, Some(42), 0, NOW);
    SubscriberStatus { id, pid, uid, connected_at, subscribed: true, seq: 7, lag: 0, acked }
}

#[test]
fn what_is_the_same_everywhere_is_not_wrong() {
    assert_eq!(wrong(|_| {}), "");
    // A host that has no directory, and a rule that an operator wrote by hand.
    assert_eq!(wrong(|story| (story.files, story.files_unknown) = (vec![], Some("away".into()))), "");
    let by_hand = |story: &mut Story| {
        story.files.clear();
        table(story).row.as_mut().unwrap().updated_by = "git".into();
    };
    assert_eq!(wrong(by_hand), "");
    assert_eq!(wrong(|story| table(story).state = Some(state("disabled", Some(NOW)))), "");
    assert_eq!(wrong(|story| worker(story).subscribers = vec![peer(None), peer(Some(7))]), "");
}

#[test]
fn each_place_that_differs_is_named() {
    for (change, said) in [
        (
            (|story| story.files[0] = file("a.yaml", "two")) as fn(&mut Story),
            "a.yaml is not yet in the table: the row has another text: no master answers on this host",
        ),
        (|story| table(story).row.as_mut().unwrap().updated_by = "git".into(), "the row is of `git`"),
        (|story| story.files.clear(), "a.yaml is gone, and its row still stands: no master answers"),
        (
            |story| story.files.push(file("b.yaml", "one")),
            "b.yaml hold the same id and are passed over: a.yaml keeps",
        ),
        (
            |story| story.files[0].error = Some("line 1, column 2: no".into()),
            "a.yaml: line 1, column 2: no; its last good version stays",
        ),
        (|story| table(story).case_variants.push("r".into()), "a row `r` differs only in case"),
        (|story| worker(story).rule = None, "the row is not with the worker"),
        (|story| table(story).row = None, "a.yaml is not in the table: no master answers on this host"),
        (|story| *worker(story) = held("old"), "the worker has version 1 of"),
        (|story| worker(story).rejected = vec!["ttp_rule: no".into()], "rejects the row of ttp_rule: no"),
        (|story| worker(story).loaded = false, "the worker has not loaded any rule yet"),
        (
            |story| table(story).state = Some(state("disabled", None)),
            "the worker has the state `enabled`, the table `disabled`",
        ),
        (
            |story| worker(story).subscribers.push(peer(Some(6))),
            "subscriber 3 (process 42) has taken in change 6 of 7",
        ),
    ] {
        let wrong = wrong(change);
        assert!(wrong.contains(said), "no `{said}` in `{wrong}`");
    }
}

#[test]
fn a_rule_that_is_nowhere_is_told_so() {
    let nowhere = |story: &mut Story| {
        story.files.clear();
        table(story).row = None;
        worker(story).rule = None;
    };
    assert_eq!(wrong(nowhere), "no file, no row and no worker here knows R");
}
