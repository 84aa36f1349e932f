use super::*;
use crate::clock::ManualClock;
use crate::rule::StateKind;
use crate::testing::Mutate;

fn rows() -> Rows {
    let rule = |key: &str| {
        let definition = format!(
            r#"{{"rule_id":"{key}","rule_version":3,"name":"né","description":"a\nb","applies_to":["command"],"match_spec":{{"n":1.50}},"emits":[{{"technique_id":"T1083","sub_technique_id":null,"tactic":"TA0007","confidence":0.85}}],"evidence_fields":[]}}"#
        );
        Arc::new(KnownRule {
            rule_id: RuleId::new(key).unwrap(),
            rule_version: 3,
            source_path: "a \"b\".yaml".into(),
            updated_at: Timestamp::from_micros(1_777_620_309_123_456),
            updated_by: "filesystem".into(),
            content_sha256: ContentDigest::of(key),
            definition_json: definition.into(),
        })
    };
    let state = RuleState {
        state: StateKind::Clipped,
        confidence_max: Some(0.85),
        reason: Some("\u{7f}\"".to_owned()),
        ..RuleState::default()
    };
    Rows { rules: vec![rule("R1"), rule("r-2")], states: vec![(RuleId::new("R9").unwrap(), state)] }
}

fn file() -> Vec<u8> {
    render(&rows(), "sqlite:///rules.db", Timestamp::from_micros(5))
}

#[test]
fn what_was_written_is_read() {
    let cached = parse(&file()).unwrap();
    let rules: Vec<_> = cached.look.rules.into_iter().map(Result::unwrap).collect();
    let states: Vec<_> = cached.look.states.into_iter().map(Result::unwrap).collect();
    assert_eq!((rules, states), (rows().rules, rows().states));
    assert_eq!((&*cached.header.origin, cached.header.fresh_at.as_micros()), ("sqlite:///rules.db", 5));
}

#[test]
fn a_file_is_replaced_and_never_written_into() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalogue.ndjson");
    write(&path, b"old").unwrap();
    let mut old = File::open(&path).unwrap();
    write(&path, b"newer").unwrap();
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
    assert!(write(&path, b"x").unwrap_err().to_string().contains("a directory"));
    assert!(matches!(read(&path), Err(Unusable::Io(_))));
    std::fs::remove_dir(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(beside(&path, "new")).status().unwrap().success());
    write(&path, b"x").unwrap_err();
    assert!(!path.exists());
}

#[test]
fn what_is_served_again_is_as_old_as_it_was_and_the_time_since() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalogue.ndjson");
    std::fs::write(&path, file()).unwrap();
    let hour = Duration::from_secs(3_600);
    let clock = ManualClock::at(Timestamp::from_micros(5).after(hour));
    let hub = Hub::new(Arc::new(clock), 10, 10);
    restore(&path, "sqlite:///rules.db", &hub);
    assert!(hub.standing().stale_for >= hour, "{:?}", hub.standing());
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
    for (from, to) in [
        ("rulesyncd catalogue", "another catalogue"),
        ("\"version\":1", "\"version\":2"),
        ("\"rules\":2", "\"rules\":1"),
        ("\"rules\":2", "\"rules\":18446744073709551615"),
        ("\"states\":1", "\"states\":0"),
        ("\"definition\":{\"rule_id\":\"R1\"", "\"definition\":{\"rule_id\":\"R3\""),
        ("\"confidence\":0.85", "\"confidence\":\"high\""),
        ("\"state\":\"clipped\"", "\"state\":\"cut\""),
    ] {
        assert!(body.contains(from), "{from}");
        let refused = parse(&sealed(body.replacen(from, to, 1).as_bytes()));
        assert!(matches!(refused, Err(Unusable::Content(_))), "{to}");
    }
    assert!(parse(&sealed(body.as_bytes())).is_ok());
}

/// The file with this body and the checksum that belongs to it.
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    encode::line(&mut bytes, &Trailer { sha256: ContentDigest::of(body) });
    bytes
}

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
            assert_eq!(cached.look.rules.len() + cached.look.states.len() + 1, lines);
            for rule in cached.look.rules {
                let rule = rule.unwrap();
                assert_eq!(rule.definition().unwrap().rule_id, rule.rule_id);
            }
        }
    }
    assert!(taken > count / 1_000, "only {taken} of {count} were taken: this tests too little");
}
