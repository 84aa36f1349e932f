use proptest::collection::vec;
use proptest::prelude::*;

use super::frames::{LONGEST_FRAME, LONGEST_ROW};
use super::laws::{self, packet, passed, query, without_notifications};
use super::mysql::MySql;
use super::postgres::{Postgres, Told};
use crate::testing::replay;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(4 + body.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], body].concat()
}

/// Its answer, with one column and rows of these lengths; without the packets that end a list of columns.
fn result(rows: &[usize]) -> Vec<u8> {
    let definition = b"\x03def\0\0\0\x01a\0\x0c\x2d\0\x04\0\0\0\xfd\0\0\0\0\0";
    let mut bytes = [packet(1, &[1]), packet(2, definition)].concat();
    for length in rows {
        bytes.extend(packet(3, &vec![b'x'; *length]));
    }
    bytes.extend(packet(4, b"\xfe\0\0\x02\0\0\0"));
    bytes
}

/// A description of one column of a type.
fn column(kind: u32) -> Vec<u8> {
    let body = [&b"\0\x01a\0\0\0\0\0\0\0"[..], &kind.to_be_bytes(), &[0; 8]].concat();
    message(b'T', &body)
}

/// A notification may come at any time, also between the frames of an answer.
#[test]
fn a_notification_is_told_and_not_passed_on() {
    let told = std::sync::Arc::<Told>::default();
    let mut notified = told.notified.subscribe();
    let (begin, end) = ([column(25), message(b'D', &[7; 300])].concat(), message(b'Z', b"I"));
    let notification = message(b'A', b"\0\0\0\x01rulesyncd\0\0");
    let bytes = [&begin[..], &notification, &notification, &end].concat();
    for piece in [1, 3, 7, 4_000] {
        let rules = Postgres::new(false).telling(std::sync::Arc::clone(&told));
        assert_eq!(passed(rules, b"", &bytes, &[piece]), ([&begin[..], &end].concat(), None));
        assert!(notified.has_changed().unwrap());
        notified.mark_unchanged();
    }
    let rules = Postgres::new(false).telling(std::sync::Arc::clone(&told));
    passed(rules, b"", &[begin, end].concat(), &[4_000]);
    assert!(!notified.has_changed().unwrap());
}

proptest! {
    #[test]
    fn what_may_pass_passes_as_it_is_in_whatever_pieces_it_comes(
        rows in vec(1_usize..3_000, 0..20),
        pieces in vec(1_usize..5_000, 1..20),
    ) {
        let mut bytes = [column(25), message(b'S', b"TimeZone\0UTC\0")].concat();
        for length in &rows {
            bytes.extend(message(b'D', &vec![7; *length]));
        }
        bytes.extend([message(b'C', b"SELECT\0"), message(b'Z', b"I")].concat());
        prop_assert_eq!(passed(Postgres::new(false), b"", &bytes, &pieces), (bytes, None));
        let bytes = result(&rows);
        prop_assert_eq!(passed(MySql::new(true), &query(), &bytes, &pieces), (bytes, None));
    }

    /// For any bytes, a prefix of what is due passes, the pieces make no difference, and nothing is held that is longer
    /// than an inspected frame.
    #[test]
    fn noise_passes_as_far_as_it_may(
        bytes in vec(any::<u8>(), 0..2_000),
        pieces in vec(1_usize..100, 1..10),
    ) {
        for is_postgres in [true, false] {
            let pass = |pieces: &[usize]| if is_postgres {
                passed(Postgres::new(false), b"", &bytes, pieces)
            } else {
                passed(MySql::new(true), &query(), &bytes, pieces)
            };
            let whole = pass(&[bytes.len().max(1)]);
            let due = if is_postgres { without_notifications(&bytes) } else { bytes.clone() };
            prop_assert!(due.starts_with(&whole.0));
            prop_assert_eq!(pass(&pieces), whole);
        }
    }
}

#[test]
fn the_corpus_and_mutations_of_it_pass_as_far_as_they_may() {
    replay("postgresql", 3, 10_000, laws::postgresql);
    replay("mysql", 4, 10_000, laws::mysql);
}

/// The violation is found at the header, since the driver would allocate what it promises.
#[test]
fn a_frame_that_is_too_long_is_refused_by_its_header() {
    for (kind, longest) in [(b'D', LONGEST_ROW), (b'N', LONGEST_FRAME), (b'R', LONGEST_FRAME)] {
        for length in [longest + 1, usize::from(u16::MAX) << 15, (1 << 31) - 1, 3, 0] {
            let header = [&[kind][..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
            let (passed, violation) = passed(Postgres::new(false), b"", &header, &[100]);
            assert!(passed.is_empty(), "{length}");
            assert!(violation.unwrap().0.contains(&format!("{length} bytes")), "{length}");
        }
    }
    let first = packet(1, &[1]);
    let header = b"\xff\xff\xff\x02\x03";
    let (let_through, violation) = passed(MySql::new(true), &query(), &[&first[..], header].concat(), &[100]);
    assert_eq!(let_through, first);
    assert!(violation.unwrap().0.contains("16777215 bytes"));
    let beginning = result(&[]);
    let beginning = &beginning[..beginning.len() - packet(4, b"\xfe\0\0\x02\0\0\0").len()];
    let (let_through, violation) = passed(MySql::new(true), &query(), &[beginning, header].concat(), &[100]);
    assert_eq!(let_through, beginning);
    assert!(violation.unwrap().0.contains("16777215 bytes"));
}

#[test]
fn what_was_not_asked_for_does_not_pass() {
    for bytes in [
        message(b'G', b"\0\0\0"),
        message(b'x', b""),
        column(16_385),
        message(b't', &[&b"\0\x01"[..], &16_385_u32.to_be_bytes()].concat()),
        message(b'T', b"\0\x02a\0"),
        message(b'R', &3_u32.to_be_bytes()),
    ] {
        let (passed, violation) = passed(Postgres::new(false), b"", &bytes, &[100]);
        assert!(passed.is_empty() && violation.is_some(), "{bytes:?}");
    }
    let request = message(b'R', &3_u32.to_be_bytes());
    assert_eq!(passed(Postgres::new(true), b"", &request, &[100]), (request, None));
    for payload in [
        // A further result; a request for a file; columns without a number; an empty packet.
        &b"\0\0\0\x0a\0\0\0"[..],
        b"\xfb/etc/passwd",
        b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xfb",
        b"\0",
    ] {
        let (passed, violation) = passed(MySql::new(true), &query(), &packet(1, payload), &[100]);
        assert!(passed.is_empty() && violation.is_some(), "{payload:?}");
    }
    let (passed, violation) = passed(MySql::new(true), b"", &packet(0, b"\0\0\0\x02\0\0\0"), &[100]);
    assert!(passed.is_empty() && violation.is_some(), "nobody asked");
}

/// The driver keeps parameters, and reads them until something else arrives.
#[test]
fn messages_without_end_come_to_an_end() {
    for kind in [b'N', b'A', b'S', b'1', b'2', b'C', b'Z'] {
        let bytes = message(kind, &[b'a'; 40]).repeat(100_000);
        let (passed, violation) = passed(Postgres::new(false), b"", &bytes, &[8_192]);
        assert!(violation.is_some() && passed.len() <= 1 << 20, "{kind}: {}", passed.len());
    }
}

/// A configured root certificate replaces the built-in ones.
#[test]
fn a_named_root_is_the_only_one() {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ed25519",
            "-nodes",
            "-subj",
            "/CN=ours",
            "-keyout",
            "/dev/null",
            "-out",
        ])
        .arg(&file)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ours = super::tls::roots(Some(&file)).unwrap();
    let mut alone = rustls::RootCertStore::empty();
    alone.add(CertificateDer::from_pem_file(&file).unwrap()).unwrap();
    assert_eq!(ours.roots, alone.roots);
    assert!(super::tls::roots(None).unwrap().len() > 50);
}
