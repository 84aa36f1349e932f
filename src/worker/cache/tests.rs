use super::laws::{self, sealed};
use super::*;
use crate::clock::ManualClock;
use crate::rule::{ContentDigest, KnownRule, RuleId, RuleState, StateKind};
use crate::store::{RowReader, TextSink as _};
use crate::testing::{Mutate, replay};

const ORIGIN: &str = "sqlite:///rules.db";

fn text(key: &str) -> String {
    format!(
        "# \"né\"\nrule_id: {key}\nrule_version: 3\nname: né\ndescription: \"a\\nb\"\napplies_to: [command]\n\
         match:\n  n: 1.50\nemits:\n  - tactic: TA0007\n    technique_id: T1083\n    confidence: 0.85\n"
    )
}

fn rows() -> Rows {
    let rule = |key: &str| {
        let row = crate::rule::RuleRow {
            header: crate::rule::RuleHeader {
                rule_id: key.to_owned(),
                rule_version: 3,
                source_path: "a \"b\".yaml".into(),
                content_sha256: ContentDigest::of(text(key)),
                updated_at: Timestamp::from_micros(1_777_620_309_123_456),
                updated_by: "filesystem".into(),
            },
            yaml_content: text(key),
        };
        RowReader::default().read(&row).unwrap()
    };
    let state = RuleState {
        state: StateKind::Clipped,
        confidence_max: Some(0.85),
        reason: Some("\u{7f}\"".to_owned()),
        ..RuleState::default()
    };
    Rows {
        rules: vec![rule("R1"), rule("r-2")],
        states: vec![(RuleId::new("R9").unwrap(), state)],
        manifest: None,
    }
}

/// A text of the two rules.
fn known_text(content: &ContentDigest) -> Option<String> {
    [text("R1"), text("r-2")].into_iter().find(|text| ContentDigest::of(text) == *content)
}

fn file() -> Vec<u8> {
    let mut bytes = Vec::new();
    let of = (ORIGIN, Timestamp::from_micros(5));
    format::write(&mut bytes, &rows(), of, None::<&[u8]>, known_text).unwrap();
    bytes
}

fn parse(bytes: &[u8]) -> Result<Cached, Unusable> {
    format::read(bytes)
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), Unwritten> {
    rulefile::replace(path, |mut out| io::Write::write_all(&mut out, bytes)).map_err(Unwritten::from)
}

fn rules(cached: Cached) -> Vec<Arc<KnownRule>> {
    cached.delta.rules.into_iter().map(Result::unwrap).collect()
}

#[test]
fn what_was_written_is_read() {
    let mut cached = parse(&file()).unwrap();
    assert_eq!((&*cached.header.origin, cached.header.fresh_at.as_micros()), (ORIGIN, 5));
    let states: Vec<_> = cached.delta.states.drain(..).map(Result::unwrap).collect();
    assert_eq!((rules(cached), states), (rows().rules, rows().states));
}

#[test]
fn texts_come_from_the_file_before_or_from_where_they_were_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalogue.ndjson");
    let texts = Texts::new(path.clone());
    let (all, of) = (rows(), (ORIGIN, Timestamp::from_micros(5)));
    let first = || Rows { rules: vec![Arc::clone(&all.rules[0])], states: Vec::new(), manifest: None };
    assert!(matches!(write(&path, &all, of, Some(&texts), 0), Err(Unwritten::Missing(2))));
    texts.put(all.rules[0].header.content_sha256, &text("R1"));
    texts.poll_applied();
    write(&path, &first(), of, Some(&texts), 1).unwrap();
    assert_eq!(texts.get(&all.rules[0].header.content_sha256), None, "it is in the file");
    texts.put(all.rules[1].header.content_sha256, &text("r-2"));
    write(&path, &all, of, Some(&texts), 0).unwrap();
    assert_eq!(rules(read(&path).unwrap().unwrap()), all.rules);
    // It was read by a poll that was not taken in before: the next file may need it.
    assert!(texts.get(&all.rules[1].header.content_sha256).is_some());
    // Nothing else lies there, not even what the texts were kept in.
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);

    // A text that was overtaken by another before it came to the file is forgotten.
    texts.put(ContentDigest::of("overtaken"), "overtaken");
    texts.poll_applied();
    write(&path, &all, of, Some(&texts), texts.polls()).unwrap();
    assert_eq!(texts.get(&ContentDigest::of("overtaken")), None);

    // What was changed there meanwhile is not carried on.
    let changed = String::from_utf8(std::fs::read(&path).unwrap()).unwrap().replacen("T1083", "T1082", 1);
    std::fs::write(&path, changed).unwrap();
    assert!(matches!(write(&path, &all, of, Some(&texts), 0), Err(Unwritten::Missing(1))));
}

/// The thread of the stream counts polls while another thread waits for the disk.
#[test]
fn polls_are_counted_while_texts_wait_for_the_disk() {
    let texts = Texts::new("/nowhere/catalogue.ndjson".into());
    let waiting = texts.lock();
    texts.remember(rows().rules.iter());
    texts.poll_applied();
    assert_eq!(texts.polls(), 1);
    drop(waiting);
}

#[test]
fn a_file_is_replaced_and_never_written_into() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalogue.ndjson");
    put(&path, b"old").unwrap();
    let mut old = File::open(&path).unwrap();
    put(&path, b"newer").unwrap();
    let mut found = Vec::new();
    old.read_to_end(&mut found).unwrap();
    assert_eq!((&*found, &*std::fs::read(&path).unwrap()), (&b"old"[..], &b"newer"[..]));
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn what_is_no_file_is_neither_waited_for_nor_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalogue.ndjson");
    std::fs::create_dir(&path).unwrap();
    assert!(put(&path, b"x").unwrap_err().to_string().contains("a directory"));
    assert!(matches!(read(&path), Err(Unusable::Io(_))));
    std::fs::remove_dir(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(with_suffix(&path, "new")).status().unwrap().success());
    put(&path, b"x").unwrap_err();
    assert!(!path.exists());
}

const HOUR: Duration = Duration::from_secs(3_600);

/// A broker at `now` that was given this file.
async fn restored(bytes: &[u8], now: Timestamp) -> (Broker, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalogue.ndjson");
    std::fs::write(&path, bytes).unwrap();
    let broker = Broker::new(Arc::new(ManualClock::at(now)), 10, 10);
    restore(path, ORIGIN, &broker, &CancellationToken::new()).await;
    (broker, directory)
}

#[tokio::test]
async fn what_is_served_again_is_as_old_as_it_was_and_the_time_since() {
    let (broker, _directory) = restored(&file(), Timestamp::from_micros(5).after(HOUR)).await;
    assert!(broker.head_status().stale_for >= HOUR, "{:?}", broker.head_status());
}

#[tokio::test]
async fn what_is_of_a_time_to_come_is_stale() {
    let (broker, _directory) = restored(&file(), Timestamp::from_micros(5).before(HOUR)).await;
    assert!(broker.head_status().stale_for >= HOUR, "{:?}", broker.head_status());
}

#[tokio::test]
async fn nothing_of_it_counts_as_known_until_the_database_was_read() {
    use crate::rule::{Table, TableDelta};
    use crate::store::RowIndex as _;
    let (broker, _directory) = restored(&file(), Timestamp::from_micros(5)).await;
    assert_eq!(broker.inspect(|catalogue, _, _| catalogue.rule_count()), 2);
    assert_eq!((broker.count(Table::Rules), broker.fingerprint(Table::Rules, "R1")), (0, None));
    assert_eq!((broker.count(Table::States), broker.fingerprint(Table::States, "R9")), (0, None));
    // The first poll finds one of the rules, with another text; it has no keys, since the index was empty.
    let mut rule = KnownRule::clone(&rows().rules[0]);
    rule.header.content_sha256 = ContentDigest::of("another");
    let delta = TableDelta { rules: vec![Ok(Arc::new(rule))], full: true, ..TableDelta::default() };
    let heard = broker.apply(delta, |_, _| Vec::new());
    let heard: Vec<_> = heard.changes.iter().map(|change| change.rule_id().as_str()).collect();
    assert_eq!(heard, ["R1", "r-2", "R9"], "one is another, one is gone, and so is the state");
    assert_eq!((broker.count(Table::Rules), broker.count(Table::States)), (1, 0));
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalogue.ndjson");
    let unit = include_str!("../../../systemd/rulesyncd-worker.service");
    assert!(unit.contains("MemoryMax=1G") && MAX_SIZE * 4 <= 1 << 30);
    // Sparse: it takes no room on the disk, and would take it in memory.
    File::create(&path).unwrap().set_len(MAX_SIZE + 1).unwrap();
    assert!(matches!(read(&path), Err(Unusable::Content(why)) if why.contains("bytes")));
    File::create(&path).unwrap().set_len(MAX_SIZE).unwrap();
    assert!(matches!(read(&path), Err(Unusable::Content(why)) if why.contains("too long")));
}

#[test]
fn any_other_byte_anywhere_and_any_end_is_refused() {
    let whole = file();
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x20;
        // The case of the checksum's digits is nobody's content.
        let same = bytes[place].is_ascii_hexdigit() && place > whole.len() - 70;
        assert!(parse(&bytes).is_err() || same, "byte {place}");
        assert!(parse(&whole[..place]).is_err(), "{place} bytes");
    }
}

#[test]
fn a_file_with_a_right_checksum_and_wrong_content_is_refused() {
    let body = String::from_utf8(file()).unwrap();
    let body = body.strip_suffix('\n').and_then(|body| Some(&body[..=body.rfind('\n')?])).unwrap();
    let digest = |key: &str| ContentDigest::of(text(key)).to_string();
    let (of_first, of_second) = (digest("R1"), digest("r-2"));
    for (from, to) in [
        ("rulesyncd catalogue", "another catalogue"),
        ("\"version\":2", "\"version\":1"),
        ("\"rules\":2", "\"rules\":1"),
        ("\"rules\":2", "\"rules\":18446744073709551615"),
        ("\"states\":1", "\"states\":0"),
        ("confidence: 0.85", "confidence: 0.86"),
        (&of_first, &of_second),
        ("\"state\":\"clipped\"", "\"state\":\"cut\""),
        ("\"confidence_max\":0.85", "\"confidence_max\":-85"),
    ] {
        assert!(body.contains(from), "{from}");
        let refused = parse(&sealed(body.replacen(from, to, 1).as_bytes()));
        assert!(matches!(refused, Err(Unusable::Content(_) | Unusable::Version)), "{to}");
    }
    assert!(parse(&sealed(body.as_bytes())).is_ok());
}

/// A row that is no rule any more, or is another's, is left out alone, as it would be in the table.
#[test]
fn a_row_that_is_no_rule_is_rejected_alone() {
    let body = String::from_utf8(file()).unwrap();
    let body = body.strip_suffix('\n').and_then(|body| Some(&body[..=body.rfind('\n')?])).unwrap();
    let cached =
        parse(&sealed(body.replacen("{\"rule_id\":\"R1\"", "{\"rule_id\":\"R3\"", 1).as_bytes())).unwrap();
    let [Err(rejected), Ok(rule)] = &cached.delta.rules[..] else { panic!("{:?}", cached.delta.rules) };
    assert_eq!((&*rejected.key, rule.header.rule_id.as_str()), ("R3", "r-2"));
}

/// The file with this body and the checksum that belongs to it.
#[test]
fn junk_with_a_right_checksum_does_no_harm() {
    junk(10_000);
}

#[test]
#[ignore = "a million inputs take a while"]
fn a_million_pieces_of_junk_with_a_right_checksum_do_no_harm() {
    junk(1_000_000);
}

fn junk(count: u64) {
    let whole = file();
    let mut mutate = Mutate::new(11);
    let mut taken = 0_u64;
    for _ in 0..count {
        let mut body = mutate.next(&[&whole]);
        // Mostly without the old trailer, so that there is something to be taken.
        if let Some(end) = body.iter().rposition(|&byte| byte == b'{').filter(|_| mutate.below(8) > 0) {
            body.truncate(end);
        }
        if let Ok(cached) = parse(&sealed(&body)) {
            taken += 1;
            let lines = body.iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(cached.delta.rules.len() + cached.delta.states.len() + 1, lines);
            for rule in cached.delta.rules.into_iter().flatten() {
                assert_eq!(rule.definition().unwrap().rule_id, rule.header.rule_id);
            }
        }
    }
    assert!(taken > count / 1_000, "only {taken} of {count} were taken: this tests too little");
}

#[test]
fn of_the_corpus_and_mutations_of_it_only_whole_files_are_read() {
    replay("cache", 2, 20_000, laws::cache);
}

#[test]
fn the_file_of_another_version_is_not_called_damaged() {
    let other = b"{\"format\":\"rulesyncd catalogue\",\"version\":3,\"parts\":[]}\n".as_slice();
    assert!(matches!(parse(other), Err(Unusable::Version)), "{:?}", parse(other));
    let foreign = b"{\"format\":\"notes\",\"version\":3}\n".as_slice();
    assert!(matches!(parse(foreign), Err(Unusable::Content(_))), "{:?}", parse(foreign));
}

fn loaded_broker() -> Arc<Broker> {
    let broker = Arc::new(Broker::new(Arc::new(crate::clock::SystemClock), 10, 10));
    broker.apply(crate::rule::TableDelta::default(), |_, _| Vec::new());
    broker.database(Ok(()));
    broker
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_written_is_tried_again_though_nothing_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("later/cache");
    let keeping = tokio::spawn(keep(path.clone(), ORIGIN.into(), loaded_broker(), CancellationToken::new()));
    sleep(Duration::from_secs(60)).await;
    assert!(!path.exists());
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    sleep(Duration::from_secs(60)).await;
    assert!(path.exists());
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn a_file_says_each_hour_that_its_rules_are_current() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache");
    let broker = loaded_broker();
    let keeping =
        tokio::spawn(keep(path.clone(), ORIGIN.into(), Arc::clone(&broker), CancellationToken::new()));
    sleep(Duration::from_secs(60)).await;
    let first = read(&path).unwrap().unwrap().header.fresh_at;
    sleep(Duration::from_secs(2 * 3_600)).await;
    assert!(read(&path).unwrap().unwrap().header.fresh_at > first);
    keeping.abort();
}
