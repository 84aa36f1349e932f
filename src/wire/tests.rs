use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::clock::Timestamp;
use crate::rule::{
    self, ContentDigest, Definition, Emit, KnownRule, Limits, RuleChange, RuleHeader, RuleId, RuleState,
    StateKind,
};
use crate::telemetry::trace::Traceparent;
use crate::wire::{Cursor, ErrorCode};

fn rule(name: &str, description: Option<&str>) -> KnownRule {
    let definition = Definition {
        rule_id: RuleId::new("R0010").unwrap(),
        rule_version: 7,
        name: name.to_owned(),
        description: description.map(str::to_owned),
        applies_to: vec!["auth".to_owned(), "command".to_owned()],
        match_spec: serde_json::from_str(r#"{"z":1,"a":[1.50,true,null,{"k":"v"}],"m":"\\b"}"#).unwrap(),
        emits: vec![Emit {
            technique_id: "T1548".to_owned(),
            sub_technique_id: Some("T1548.001".to_owned()),
            tactic: "TA0004".to_owned(),
            confidence: 0.85,
        }],
        evidence_fields: vec!["command_id".to_owned()],
    };
    KnownRule {
        header: RuleHeader {
            rule_id: definition.rule_id.clone(),
            rule_version: 7,
            source_path: "linux/R0010 \"x\".yaml".into(),
            updated_at: Timestamp::from_micros(1_777_620_309_123_456),
            updated_by: "filesystem".into(),
            content_sha256: ContentDigest::of("text"),
        },
        definition_json: serde_json::to_string(&definition).unwrap().into(),
    }
}

fn state(reason: Option<&str>, expires_at: Option<i64>) -> RuleState {
    RuleState {
        state: StateKind::Clipped,
        confidence_max: Some(0.3),
        expires_at: expires_at.map(Timestamp::from_micros),
        reason: reason.map(str::to_owned),
        set_by: Some("ann".to_owned()),
        set_at: Some(Timestamp::from_micros(1)),
    }
}

/// Asserts that `line` equals what serde writes after reading it.
fn as_serde_writes_it(line: &[u8]) -> ServerLine {
    let text = std::str::from_utf8(line).unwrap();
    assert_eq!(text.find('\n'), Some(text.len() - 1), "one LF, at the end");
    let read: ServerLine = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap() + "\n", text);
    read
}

#[test]
fn the_keys_of_a_rule_stand_in_the_order_that_is_promised() {
    let mut line = Vec::new();
    encode::rule_line(&mut line, &rule("suid_search", None), &RuleState::default());
    let line: Value = serde_json::from_slice(&line).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys(&line),
        [
            "type",
            "rule_id",
            "new_value",
            "rule_version",
            "content_sha256",
            "source_path",
            "updated_at",
            "updated_by"
        ]
    );
    assert_eq!(
        keys(&line["new_value"]),
        [
            "rule_id",
            "rule_version",
            "name",
            "description",
            "applies_to",
            "match_spec",
            "emits",
            "evidence_fields",
            "state"
        ]
    );
    assert_eq!(keys(&line["new_value"]["match_spec"]), ["z", "a", "m"], "in the file's order");
    assert_eq!(
        keys(&line["new_value"]["state"]),
        ["state", "confidence_max", "expires_at", "reason", "set_by", "set_at"]
    );
    assert_eq!(line["updated_at"], "2026-05-01T07:25:09.123456Z");
    assert_eq!(line["new_value"]["emits"][0]["confidence"].to_string(), "0.85");
}

proptest! {
    /// The encoder splices lines from bytes; they must equal what serde writes.
    #[test]
    fn a_line_is_what_serde_writes(
        name in ".*", description in proptest::option::of(".*"), reason in proptest::option::of(".*"),
        end in proptest::option::of(0..2_000_000_000_000_000_i64), seq in any::<u64>(), auto_revert: bool,
    ) {
        let mut rule = rule(&name, description.as_deref());
        rule.header.source_path = name.as_str().into();
        rule.header.updated_by = description.as_deref().unwrap_or("a \u{1f} b").into();
        let rule = Arc::new(rule);
        let (rule_id, state) = (rule.rule_id().clone(), state(reason.as_deref(), end));
        let now = Timestamp::from_micros(1_777_620_309_000_000);
        let mut line = Vec::new();
        encode::rule_line(&mut line, &rule, &state);
        let ServerLine::Rule(read) = as_serde_writes_it(&line) else { panic!("no rule line") };
        prop_assert_eq!(read.new_value, rule.compiled(state.clone()).unwrap());
        prop_assert_eq!(&*read.source_path, &*rule.header.source_path);
        prop_assert_eq!(&*read.updated_by, &*rule.header.updated_by);
        line.clear();
        encode::rule_line(&mut line, &rule, &RuleState::default());
        let ServerLine::Rule(read) = as_serde_writes_it(&line) else { panic!("no rule line") };
        prop_assert_eq!(read.new_value, rule.compiled(RuleState::default()).unwrap());
        line.clear();
        encode::state_line(&mut line, &rule_id, &state);
        as_serde_writes_it(&line);
        let state = Arc::new(state);
        let kinds = [
            RuleChange::Written { rule, state: Arc::clone(&state) },
            RuleChange::Deleted { rule_id: rule_id.clone() },
            RuleChange::State { rule_id, state, auto_revert },
        ];
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = Traceparent::parse(traceparent);
        for (change, traced) in kinds.iter().zip([None, traced.as_ref(), traced.as_ref()]) {
            let mut line = Vec::new();
            encode::change_line(&mut line, seq, change, now, traced);
            let ServerLine::Change(read) = as_serde_writes_it(&line) else { panic!("no change line") };
            prop_assert_eq!((read.seq, read.change_kind), (seq, change.kind()));
            prop_assert_eq!(read.traceparent.as_deref(), traced.map(|_| traceparent));
        }
    }

    /// The lines of a stream do not depend on how it is cut into reads.
    #[test]
    fn lines_do_not_depend_on_how_the_stream_is_cut(
        lines in proptest::collection::vec("[a-z]{0,20}", 0..20), tail in "[a-z]{0,20}",
        cuts in proptest::collection::vec(1..30_usize, 1..40),
    ) {
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>() + &tail;
        let mut rest = text.as_bytes();
        let (read, mut write) = tokio::io::simplex(1 << 16);
        let mut reader = LineReader::new(read, 20);
        let mut heard = Vec::new();
        let mut cuts = cuts.iter().cycle();
        let mut context = Context::from_waker(Waker::noop());
        loop {
            // Every poll that finds no whole line is dropped, and loses nothing.
            match pin!(reader.next()).poll(&mut context) {
                Poll::Ready(Ok(Some(line))) => heard.push(String::from_utf8(line.to_vec()).unwrap()),
                Poll::Ready(Ok(None)) => break,
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => {
                    let (piece, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                    rest = later;
                    let sent = async {
                        if piece.is_empty() { write.shutdown().await } else { write.write_all(piece).await }
                    };
                    prop_assert!(matches!(pin!(sent).poll(&mut context), Poll::Ready(Ok(()))));
                }
            }
        }
        prop_assert_eq!(heard, lines, "half a line at the end is none");
    }
}

#[tokio::test]
async fn a_line_may_have_the_limit_and_not_a_byte_more() {
    let mut reader = LineReader::new(&b"1234\n12345\n"[..], 4);
    assert_eq!(reader.next().await.unwrap(), Some(&b"1234"[..]));
    assert!(matches!(reader.next().await, Err(FrameError::TooLong(4))));
    let endless = tokio::io::repeat(b'x');
    let mut reader = LineReader::new(endless, MAX_REQUEST);
    assert!(matches!(reader.next().await, Err(FrameError::TooLong(MAX_REQUEST))));
}

#[test]
fn a_request_is_exactly_one_of_the_protocols() {
    let parse = |value: Value| Request::parse(value.to_string().as_bytes());
    let op = |value: Value| parse(value).unwrap().op;
    let all = Subscribe { follow: true, ..Subscribe::default() };
    assert_eq!(op(json!({"op": "subscribe"})), Op::Subscribe(all.clone()));
    let cursor: Cursor = "e:41".parse().unwrap();
    assert_eq!(
        op(json!({"op": "subscribe", "cursor": {"epoch": "e", "seq": 41}})),
        Op::Subscribe(Subscribe { cursor: Some(cursor), ..all })
    );
    assert_eq!(op(json!({"op": "get_state", "rule_id": "?"})), Op::GetState { rule_id: "?".into() });
    assert_eq!(parse(json!({"op": "status", "id": 8})).unwrap().id, Some(RequestId::Number(8)));
    assert_eq!(parse(json!({"op": "ack", "seq": 3, "id": "x"})).unwrap().op, Op::Ack { seq: 3 });

    for (bad, code, says) in [
        (r#"{"op":"subscribe""#, ErrorCode::BadJson, "not one JSON object"),
        ("[]", ErrorCode::BadJson, "not one JSON object"),
        ("", ErrorCode::BadJson, "not one JSON object"),
        ("{}{}", ErrorCode::BadJson, "not one JSON object"),
        ("{}", ErrorCode::UnknownOp, "`op` is nothing"),
        (r#"{"op":"drop"}"#, ErrorCode::UnknownOp, "subscribe, get_state, status, ack"),
        (r#"{"op":7}"#, ErrorCode::UnknownOp, "`op` is 7"),
        (r#"{"op":"get_state"}"#, ErrorCode::BadRequest, "rule_id"),
        (r#"{"op":"subscribe","kind":["state"]}"#, ErrorCode::BadRequest, "kind"),
        (r#"{"op":"subscribe","kinds":["states"]}"#, ErrorCode::BadRequest, "states"),
        (r#"{"op":"subscribe","rule_ids":["R 1"]}"#, ErrorCode::BadRequest, "R 1"),
        (r#"{"op":"subscribe","cursor":{"epoch":"e"}}"#, ErrorCode::BadRequest, "seq"),
        (r#"{"op":"subscribe","cursor":{"epoch":"e","seq":-1}}"#, ErrorCode::BadRequest, "-1"),
        (r#"{"op":"ack","seq":1.5}"#, ErrorCode::BadRequest, "1.5"),
        (r#"{"op":"status","id":[]}"#, ErrorCode::BadRequest, "`id`"),
    ] {
        let error = Request::parse(bad.as_bytes()).unwrap_err();
        assert_eq!(error.code, code, "{bad}");
        assert!(error.message.contains(says), "{bad}: {}", error.message);
    }
    let named = Request::parse(br#"{"op":"drop","id":7}"#).unwrap_err();
    assert_eq!(named.id, Some(RequestId::Number(7)), "an error names the request where it can");
    assert!(Request::parse("[".repeat(60_000).as_bytes()).is_err());
}

#[test]
fn what_a_client_writes_is_read_back() {
    let subscribe = Subscribe { kinds: Some(vec![]), rule_ids: None, cursor: None, follow: false };
    for op in
        [Op::Subscribe(subscribe), Op::Status {}, Op::Ack { seq: 9 }, Op::GetState { rule_id: "R1".into() }]
    {
        let mut line = Vec::new();
        encode::line(&mut line, &Request { op: op.clone(), id: Some(RequestId::Number(1)) });
        assert_eq!(
            Request::parse(line.trim_ascii_end()).unwrap(),
            Request { op, id: Some(RequestId::Number(1)) }
        );
    }
}

#[test]
fn junk_is_refused_in_bounded_words() {
    junk(50_000);
}

#[test]
#[ignore = "a million inputs take a while"]
fn a_million_pieces_of_junk_are_refused_in_bounded_words() {
    junk(1_000_000);
}

/// Requests with bytes changed, cut, doubled and spliced.
fn junk(count: u64) {
    let seeds = [
        r#"{"op":"subscribe","cursor":{"epoch":"0198c0de","seq":41},"kinds":["state","definition"],"follow":false}"#,
        r#"{"op":"subscribe","rule_ids":["R0010","R0011"],"id":"\u00e9\ud83d\ude00"}"#,
        r#"{"op":"get_state","id":18446744073709551615,"rule_id":"R0010"}"#,
        r#"{"op":"status","id":8}"#,
        r#"{"op":"ack","seq":1e3}"#,
    ];
    let mut mutate = crate::testing::Mutate::new(4);
    let mut taken = 0_u64;
    for _ in 0..count {
        let line = mutate.next(&seeds);
        match Request::parse(&line) {
            Ok(request) => {
                taken += 1;
                let mut again = Vec::new();
                encode::line(&mut again, &request);
                assert_eq!(Request::parse(again.trim_ascii_end()).unwrap(), request);
            }
            Err(error) => assert!(error.message.len() < line.len() + 400, "{}", error.message),
        }
    }
    assert!(taken > count / 1_000, "only {taken} of {count} were requests: this tests too little");
}

#[test]
fn the_schema_names_every_line_and_field() {
    let schema = event_schema().as_value().to_string();
    for word in [
        "hello",
        "snapshot_begin",
        "rule",
        "state",
        "snapshot_end",
        "change",
        "heartbeat",
        "response",
        "error",
    ] {
        assert!(schema.contains(&format!("\"const\":\"{word}\"")), "{word}");
    }
    for field in ["auto_revert", "content_sha256", "stale_for_ms", "digest", "match_spec", "confidence_max"] {
        assert!(schema.contains(&format!("\"{field}\":")), "{field}");
    }
}

#[test]
fn the_largest_rule_fits_into_a_line_whatever_is_in_it() {
    let size = Limits::LARGEST;
    // What grows most on its way into JSON: two bytes of text are one of a value, are six.
    let head = "rule_id: R1\nrule_version: 1\nname: n\napplies_to: [a]\n\
        emits: [{tactic: TA0001, technique_id: T1000, confidence: 1}]\n";
    let fits =
        |escapes: usize| format!("{head}match: {{a: &a \"{}\", b: [*a, *a]}}\n", r"\e".repeat(escapes));
    let text = fits((size - fits(0).len()) / 2);
    assert!(size - text.len() < 2, "{}", text.len());
    let limits = Limits { size, ..Limits::default() };
    let definition = rule::parse(text.as_bytes(), &limits).unwrap().definition;
    let definition_json = serde_json::to_string(&definition).unwrap();
    assert!(definition_json.len() > 4 * size, "{}", definition_json.len());
    let known = KnownRule { definition_json: definition_json.into(), ..rule("n", None) };
    let mut line = Vec::new();
    encode::rule_line(&mut line, &known, &state(None, None));
    assert!(line.len() < MAX_LINE - size, "{}", line.len());
}

#[test]
fn each_request_refuses_an_unknown_field() {
    for line in [
        r#"{"op":"subscribe","x":1}"#,
        r#"{"op":"get_state","rule_id":"R1","x":1}"#,
        r#"{"op":"status","x":1}"#,
        r#"{"op":"ack","seq":1,"x":1}"#,
        r#"{"op":"allow_mass_delete","x":1}"#,
        r#"{"op":"reconcile","x":1}"#,
    ] {
        let bad = Request::parse(line.as_bytes()).unwrap_err();
        assert_eq!(bad.code, ErrorCode::BadRequest, "{line}");
        assert!(bad.message.contains("unknown field `x`"), "{line}: {bad}");
    }
    Request::parse(br#"{"op":"status","id":8}"#).unwrap();
}

#[test]
fn the_corpus_and_mutations_of_it_are_requests_or_refused_in_bounded_words() {
    crate::testing::replay("request", 7, 20_000, laws::request);
}
