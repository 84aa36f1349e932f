use std::time::Duration;

use super::wait::Wait;
use super::*;
use crate::clock::Timestamp;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_750_000_000_000_000 + seconds * 1_000_000)
}

/// A worker that started at 0 and last reported at `reported`.
fn worker(id: &str, reported: i64, applied: Option<u64>, digest: &str) -> ReportedWorker {
    let report = WorkerReport {
        epoch: format!("{id}-1"),
        worker_id: id.into(),
        host: format!("host-{id}"),
        interval_ms: 30_000,
        applied,
        digest: Some(digest.into()),
        rules: 59,
        ..WorkerReport::default()
    };
    ReportedWorker { report, started_at: at(0), reported_at: at(reported) }
}

fn expected(digest: &str) -> Expected {
    Expected { digest: digest.to_owned(), rules: 59, quarantined: 0 }
}

fn look(now: i64, version: Option<u64>, digest: &str, workers: Vec<ReportedWorker>) -> Look {
    let expected = Some(expected(digest));
    Look {
        now: at(now),
        version,
        changed_at: None,
        leader: None,
        no_master_since: None,
        expected,
        release: None,
        workers,
    }
}

/// The state of the only host at the second look.
fn state(first: &Look, now: &Look) -> HostState {
    let hosts = hosts(&now.workers, now.now);
    assert_eq!(hosts.len(), 1);
    state_of(&hosts[0], first, now)
}

#[test]
fn every_state_has_its_reason() {
    let still = |worker: ReportedWorker| {
        let look = look(100, Some(7), "d", vec![worker]);
        state(&look, &look)
    };
    assert_eq!(still(worker("a", 99, Some(7), "d")), HostState::InSync);
    assert_eq!(still(worker("a", 99, Some(5), "d")), HostState::Behind { changes: 2 });
    assert_eq!(still(worker("a", 99, Some(7), "x")), HostState::Differs { reason: None });
    assert_eq!(still(worker("a", 99, None, "x")), HostState::Unknown);
    assert_eq!(still(worker("a", 99, None, "d")), HostState::InSync);
    assert_eq!(still(worker("a", 10, Some(7), "d")), HostState::InSync);
    assert_eq!(still(worker("a", 9, Some(7), "d")), HostState::Silent { since_ms: Some(91_000) });
    let with = |change: fn(&mut WorkerReport)| {
        let mut worker = worker("a", 99, Some(7), "x");
        change(&mut worker.report);
        still(worker)
    };
    assert_eq!(with(|report| report.stale_ms = 5), HostState::Stale { stale_ms: 5 });
    let differs = |reason: &str| HostState::Differs { reason: Some(reason.into()) };
    let quarantines = |report: &mut WorkerReport| {
        (report.quarantined, report.quarantined_ids) = (3, "R1 R2".into());
    };
    assert_eq!(with(quarantines), differs("quarantined R1 R2 and 1 more"));
    assert_eq!(with(|report| report.rules = 61), differs("withheld 2 deletions"));
    assert_eq!(with(|report| report.rules = 3), differs("serves 3 of 59 rules"));
    // A row that nobody can serve any more is no deletion.
    let mut look = look(100, Some(7), "d", vec![worker("a", 99, Some(7), "x")]);
    look.workers[0].report.rules = 60;
    look.expected = Some(Expected { quarantined: 1, ..expected("d") });
    assert_eq!(state(&look, &look), differs("serves 60 of 59 rules"));
}

#[test]
fn a_worker_with_trust_is_compared_with_the_release_and_the_others_with_the_rows() {
    let of = |trust: Option<&str>, digest: &str, release: Option<Option<&str>>| {
        let mut worker = worker("a", 99, Some(7), digest);
        worker.report.trust = trust.map(str::to_owned);
        let release =
            release.map(|served| ExpectedRelease { served: served.map(expected), not_verified: None });
        let look = Look { release, ..look(100, Some(7), "rows", vec![worker]) };
        state(&look, &look)
    };
    let differs = |reason: Option<&str>| HostState::Differs { reason: reason.map(str::to_owned) };
    assert_eq!(of(Some("ok"), "signed", Some(Some("signed"))), HostState::InSync);
    assert_eq!(of(Some("ok"), "rows", Some(Some("signed"))), differs(None));
    assert_eq!(of(None, "rows", Some(Some("signed"))), HostState::InSync);
    assert_eq!(of(None, "signed", Some(Some("signed"))), differs(None));
    // Without a release that verifies no host is shown to serve what it should; where nobody compares, no host differs.
    assert_eq!(of(Some("none missing"), "", Some(None)), differs(Some("untrusted: none missing")));
    assert_eq!(
        of(Some("ok"), "signed", Some(None)),
        differs(Some("no release verifies here to compare it with"))
    );
    assert_eq!(of(Some("ok"), "signed", None), HostState::InSync);
}

#[test]
fn what_differs_only_while_something_travels_is_no_finding() {
    let of = |applied, digest| vec![worker("a", 99, Some(applied), digest)];
    // A state expired between the looks, and a change came between them.
    for (first, second) in [
        (look(97, Some(7), "d", of(7, "d")), look(100, Some(7), "e", of(7, "d"))),
        (look(97, Some(7), "d", of(7, "d")), look(100, Some(8), "e", of(8, "d"))),
        (look(97, Some(7), "d", of(7, "d")), look(100, Some(9), "e", of(8, "x"))),
        (look(97, Some(7), "d", of(6, "c")), look(100, Some(9), "e", of(7, "d"))),
    ] {
        assert_eq!(state(&first, &second), HostState::InSync, "{second:?}");
    }
    // But what the first look showed must have arrived at the second.
    let (first, second) = (look(97, Some(7), "d", of(6, "c")), look(100, Some(9), "e", of(6, "c")));
    assert_eq!(state(&first, &second), HostState::Behind { changes: 3 });
}

#[test]
fn a_predecessor_is_left_out_and_clones_are_named() {
    let mut after = worker("a", 99, Some(7), "d");
    (after.report.epoch, after.started_at) = ("a-2".into(), at(50));
    let rows = [worker("a", 49, Some(6), "c"), after.clone(), worker("b", 99, Some(7), "d")];
    let found = hosts(&rows, at(100));
    let found: Vec<_> = found.iter().map(|host| (&*host.worker.report.epoch, &host.same_id_as)).collect();
    assert_eq!(found, [("a-2", &None), ("b-1", &None)]);
    // Both go on reporting.
    after.report.host = "copy".into();
    let found = hosts(&[worker("a", 98, Some(6), "c"), after.clone()], at(100));
    let found: Vec<_> = found.iter().map(|host| (&*host.name, host.same_id_as.as_deref())).collect();
    assert_eq!(found, [("copy", Some("host-a")), ("host-a", Some("copy"))]);
    // A start in the future hides nobody.
    after.started_at = at(200);
    assert_eq!(hosts(&[worker("a", 98, Some(6), "c"), after], at(100)).len(), 2);
}

#[test]
fn a_look_is_as_before_while_version_and_digests_are() {
    let before = look(100, Some(7), "d", vec![worker("a", 99, Some(7), "d"), worker("b", 98, Some(7), "d")]);
    let later = |version, workers| look(110, Some(version), "other", workers).is_as_before(&before);
    // A report alone is no change, and the order of rows neither.
    assert!(later(7, vec![worker("b", 109, Some(7), "d"), worker("a", 108, Some(7), "d")]));
    assert!(!later(8, before.workers.clone()));
    assert!(!later(7, vec![worker("a", 99, Some(7), "d"), worker("b", 109, Some(7), "e")]));
    assert!(!later(7, vec![worker("a", 99, Some(7), "d")]));
}

#[test]
fn hosts_of_one_name_are_told_apart_by_their_ids() {
    let mut other = worker("b", 99, Some(7), "d");
    other.report.host = "host-a".into();
    let found = hosts(&[worker("a", 99, Some(7), "d"), other], at(100));
    assert_eq!(found.iter().map(|host| &*host.name).collect::<Vec<_>>(), ["host-a/a", "host-a/b"]);
}

#[test]
fn clones_of_one_name_are_told_apart_by_their_runs_and_each_can_be_named() {
    let mut other = worker("b", 99, Some(7), "d");
    other.report.host = "host-a".into();
    let mut clone = worker("a", 99, Some(7), "d");
    clone.report.epoch = "01a2226f-f8e0-7300-abed-25cdffa24396".into();
    let mut predecessor = worker("a", -5, Some(7), "d");
    (predecessor.report.epoch, predecessor.started_at) = ("a-0".into(), at(-9));
    let rows = [predecessor, worker("a", 99, Some(7), "d"), clone, other];
    let names: Vec<String> = hosts(&rows, at(100)).into_iter().map(|host| host.name).collect();
    assert_eq!(names, ["host-a/a/a24396", "host-a/a/a-1", "host-a/b"]);
    let same: Vec<_> = hosts(&rows, at(100)).into_iter().filter_map(|host| host.same_id_as).collect();
    assert_eq!(same, ["host-a/a/a-1", "host-a/a/a24396"]);
    let named = |name| named(&rows, at(100), name);
    assert_eq!(named("host-a/a/a-1"), ["a-1"]);
    assert_eq!(named("host-a/a"), ["a-0", "a-1", "01a2226f-f8e0-7300-abed-25cdffa24396"]);
    assert_eq!(named("b"), ["b-1"]);
    assert_eq!(named("host-a").len(), 4);
    assert_eq!(named("host"), [""; 0]);
}

#[test]
fn the_master_forgets_what_counts_for_nothing() {
    let mut successor = worker("a", 9_000, Some(7), "d");
    (successor.report.epoch, successor.started_at) = ("a-2".into(), at(5_000));
    let mut fresh_successor = worker("b", 9_000, Some(7), "d");
    (fresh_successor.report.epoch, fresh_successor.started_at) = ("b-2".into(), at(8_000));
    let rows = [
        worker("a", 4_000, None, "c"),
        successor,
        worker("b", 7_000, None, "c"),
        fresh_successor,
        worker("gone", 1_000, None, "c"),
        worker("future", 9_100, None, "c"),
    ];
    assert_eq!(to_forget(&rows, at(9_000), Duration::from_secs(7_000)), ["a-1", "gone-1", "future-1"]);
}

#[test]
fn a_wait_is_for_those_that_were_not_silent_and_those_that_come_later() {
    let start = look(
        100,
        Some(7),
        "d",
        vec![worker("a", 99, Some(6), "c"), worker("silent", 1, Some(3), "c"), worker("old", 99, None, "c")],
    );
    let waiting = Waiting::new(7, &start, false, false);
    let missing = |wait: &Wait| wait.missing.iter().map(|host| host.host.clone()).collect::<Vec<_>>();
    let wait = waiting.check(&start);
    assert_eq!((missing(&wait), wait.counted, wait.passed_over.len()), (vec!["host-a".to_owned()], 1, 2));
    assert_eq!(Waiting::new(7, &start, false, true).check(&start).missing.len(), 3);

    let mut restarted = worker("a", 105, Some(6), "c");
    (restarted.report.epoch, restarted.started_at) = ("a-2".into(), at(104));
    let mut rows = vec![worker("a", 99, Some(6), "c"), restarted, worker("new", 105, Some(6), "c")];
    rows.push(worker("silent", 105, Some(3), "c"));
    let wait = waiting.check(&look(106, Some(8), "e", rows.clone()));
    assert_eq!(missing(&wait), ["host-a", "host-new", "host-silent"]);
    rows.iter_mut().for_each(|row| row.report.applied = Some(8));
    let now = look(106, Some(8), "e", rows.clone());
    assert!(waiting.check(&now).is_done());
    // One that falls silent meanwhile still counts.
    rows[2].report.applied = Some(6);
    assert_eq!(missing(&waiting.check(&look(900, Some(8), "e", rows.clone()))), ["host-new"]);

    rows[2].report.applied = Some(7);
    (rows[2].report.acknowledging, rows[2].report.acknowledged) = (3, 2);
    let now = look(106, Some(8), "e", rows);
    assert!(waiting.check(&now).is_done());
    assert_eq!(missing(&Waiting::new(7, &start, true, false).check(&now)), ["host-new"]);
}

#[test]
fn a_rule_that_may_be_quarantined_is_not_said_to_have_arrived() {
    let ids: Vec<String> = (0..100).map(|number| format!("R{number:04}")).collect();
    let joined = WorkerReport::join_ids(ids.iter().map(String::as_str));
    assert!(joined.len() <= WorkerReport::LONGEST_IDS && joined.starts_with("R0000 R0001 "));
    let report = WorkerReport { quarantined: 2, quarantined_ids: "R1 R2".into(), ..WorkerReport::default() };
    assert!(report.may_quarantine("r2") && !report.may_quarantine("R3"));
    let report = WorkerReport { quarantined: 100, quarantined_ids: joined, ..WorkerReport::default() };
    assert!(report.may_quarantine("R0099"));
    assert!(!WorkerReport::default().may_quarantine("R1"));
}

#[test]
fn the_arrival_of_a_change_at_the_last_worker_is_measured_once() {
    let mut watch = FleetWatch::default();
    let mut see = |now, version, workers: &[(&str, i64, Option<u64>)]| {
        let workers =
            workers.iter().map(|&(id, reported, applied)| worker(id, reported, applied, "d")).collect();
        let look =
            Look { changed_at: Some(at(105)), expected: None, ..look(now, Some(version), "d", workers) };
        let news = watch.update(look);
        (news.arrived_after.map(|took| took.as_secs()), news.oldest_report.map(|age| age.as_secs()))
    };
    // What was everywhere at the first look arrived before it.
    assert_eq!(see(100, 7, &[("a", 99, Some(7)), ("b", 98, Some(7))]), (None, Some(2)));
    assert_eq!(see(110, 8, &[("a", 106, Some(8)), ("b", 98, Some(7))]), (None, Some(12)));
    assert_eq!(see(120, 8, &[("a", 106, Some(8)), ("b", 112, Some(8))]), (Some(7), Some(14)));
    assert_eq!(see(130, 8, &[("a", 129, Some(8)), ("b", 129, Some(8))]), (None, Some(1)));
    // Who is silent, or cannot read the version, is not waited for.
    let others = [("a", 131, Some(9)), ("silent", 1, Some(3)), ("blind", 139, None)];
    assert_eq!(see(140, 9, &others), (Some(26), Some(139)));
    assert_eq!(see(150, 9, &[]), (None, None));
}

#[test]
fn a_master_logs_once_which_hosts_are_silent_or_stay_behind_and_which_are_back() {
    let mut watch = FleetWatch::default();
    let mut see = |now, version, workers: &[(&str, i64, u64)]| {
        let workers = workers.iter().map(|&(id, at, applied)| worker(id, at, Some(applied), "d")).collect();
        let news = watch.update(Look { expected: None, ..look(now, Some(version), "d", workers) });
        let lost: Vec<_> = news.lost.iter().map(|(host, state)| format!("{host} {}", state.word())).collect();
        (lost, news.back)
    };
    let nothing = (Vec::<String>::new(), Vec::<String>::new());
    assert_eq!(see(100, 7, &[("a", 99, 7), ("b", 99, 7)]), nothing);
    // A change travels, and another one follows it.
    assert_eq!(see(110, 8, &[("a", 109, 7), ("b", 109, 8)]), nothing);
    assert_eq!(see(120, 9, &[("a", 119, 8), ("b", 119, 8)]), nothing);
    // b stands still.
    for now in 13..=18 {
        let at = now * 10;
        assert_eq!(see(at, 9, &[("a", at, 9), ("b", at, 8)]), nothing);
    }
    assert_eq!(see(190, 9, &[("a", 189, 9), ("b", 189, 8)]), (vec!["host-b behind".to_owned()], vec![]));
    assert_eq!(see(210, 9, &[("a", 209, 9), ("b", 209, 8)]), nothing);
    assert_eq!(see(220, 9, &[("a", 219, 9), ("b", 219, 9)]), (vec![], vec!["host-b".to_owned()]));
    // a is silent, and then forgotten.
    assert_eq!(see(301, 9, &[("a", 210, 9), ("b", 300, 9)]), (vec!["host-a silent".to_owned()], vec![]));
    assert_eq!(see(311, 9, &[("b", 310, 9)]), nothing);
}
