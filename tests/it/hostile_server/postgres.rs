//! What a hostile PostgreSQL sends:
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use super::{attack, both_daemons_live_through};
use crate::support::forged::message;
use crate::support::hostile::Act::{Before, Close, Cut, Drip, Forever, Instead, Repeat};
use crate::support::hostile::Attack;
use crate::support::hostile::Step::{Message, Tls};
use crate::support::servers::Kind;

const AUTHENTICATION: u8 = b'R';
const PARAMETER: u8 = b'S';
const KEY: u8 = b'K';
const READY: u8 = b'Z';
const PARSED: u8 = b'1';
const ARGUMENTS: u8 = b't';
const COLUMNS: u8 = b'T';
const ROW: u8 = b'D';
const COMPLETE: u8 = b'C';
const ERROR: u8 = b'E';
const NOTICE: u8 = b'N';
const NOTIFICATION: u8 = b'A';

/// A message that promises another length than it has.
fn promises(kind: u8, length: u32, body: &[u8]) -> Vec<u8> {
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

fn request(kind: u32, rest: &[u8]) -> Vec<u8> {
    message(AUTHENTICATION, &[&kind.to_be_bytes()[..], rest].concat())
}

/// Columns of a row: so many are promised, and one is there.
fn columns(count: u16, name: &[u8], kind: u32) -> Vec<u8> {
    let body = [&count.to_be_bytes()[..], name, &[0; 6], &kind.to_be_bytes(), &[0; 8]].concat();
    message(COLUMNS, &body)
}

fn row(count: u16, length: i32, field: &[u8]) -> Vec<u8> {
    message(ROW, &[&count.to_be_bytes()[..], &length.to_be_bytes(), field].concat())
}

fn error(fields: &[u8]) -> Vec<u8> {
    message(ERROR, fields)
}

fn attacks() -> Vec<Attack> {
    let large = vec![b'x'; 8 << 20];
    let all_is_well = [request(0, b""), message(READY, b"I")].concat();
    vec![
        attack("an error instead of TLS", Tls, Close(error(b"SFATAL\0C08P01\0Mno\0\0"))),
        attack("neither yes nor no to TLS", Tls, Instead(vec![0])),
        attack("no answer to TLS", Tls, Instead(vec![])),
        attack("the end at TLS", Tls, Close(vec![])),
        attack("noise in TLS", Tls, Instead(b"S\x16\x03\x03\xff\xff\x02\xff\xff\xff".to_vec())),
        attack("plaintext after yes to TLS", Tls, Instead([b"S", &all_is_well[..]].concat())),
        attack("plaintext before TLS", Tls, Before(b"Z\0\0\0\x05".to_vec())),
        attack("TLS records without end", Tls, Forever(b"S\x16\x03\x03\x00\x01\x00".to_vec())),
        attack("a request without kind", Message(AUTHENTICATION), Instead(message(AUTHENTICATION, b""))),
        attack("an unknown request", Message(AUTHENTICATION), Instead(request(99, b""))),
        attack("the password, please", Message(AUTHENTICATION), Instead(request(3, b""))),
        attack("half a salt", Message(AUTHENTICATION), Instead(request(5, b"ab"))),
        attack("no mechanism", Message(AUTHENTICATION), Instead(request(10, b"\0"))),
        attack("mechanisms without end", Message(AUTHENTICATION), Instead(request(10, b"SCRAM-SHA-256"))),
        attack(
            "a step out of turn",
            Message(AUTHENTICATION),
            Instead(request(11, b"r=a,s=YQ==,i=4294967295")),
        ),
        attack("a length of 0", Message(AUTHENTICATION), Instead(promises(AUTHENTICATION, 0, b""))),
        attack(
            "a length of 2 GiB",
            Message(AUTHENTICATION),
            Instead(promises(AUTHENTICATION, 0x7fff_ffff, b"")),
        ),
        attack(
            "a length of 4 GiB",
            Message(AUTHENTICATION),
            Forever(promises(AUTHENTICATION, u32::MAX, b"R")),
        ),
        attack("a byte now and then", Message(AUTHENTICATION), Drip(request(0, b""))),
        attack("welcome again and again", Message(AUTHENTICATION), Repeat),
        attack("a parameter without a value", Message(PARAMETER), Instead(message(PARAMETER, b"TimeZone"))),
        attack("parameters without end", Message(PARAMETER), Forever(message(PARAMETER, b"a\0b\0"))),
        attack(
            "a parameter of 1 GiB",
            Message(PARAMETER),
            Forever(promises(PARAMETER, 1 << 30, b"xxxxxxxx")),
        ),
        attack("half a key", Message(KEY), Instead(message(KEY, b"ab"))),
        attack("a greeting that is cut", Message(KEY), Cut(3)),
        attack("ready for what", Message(READY), Instead(message(READY, b""))),
        attack("ready in an unknown state", Message(READY), Instead(message(READY, b"\xff"))),
        attack("ready again and again", Message(READY), Repeat),
        attack("never ready", Message(READY), Instead(vec![])),
        attack("bound before parsed", Message(PARSED), Instead(message(b'2', b""))),
        attack("a copy that nobody asked for", Message(PARSED), Forever(message(b'G', b"\0\0\0"))),
        attack("an unknown message", Message(PARSED), Instead(message(b'?', b""))),
        attack("a statement that is cut", Message(PARSED), Cut(2)),
        attack("too few arguments", Message(ARGUMENTS), Instead(message(ARGUMENTS, b"\xff\xff\0\0\0\x19"))),
        attack(
            "arguments of an unknown type",
            Message(ARGUMENTS),
            Instead(message(ARGUMENTS, b"\0\x01\0\0\x40\x01")),
        ),
        attack("too few columns", Message(COLUMNS), Instead(columns(u16::MAX, b"a\0", 25))),
        attack("a column without a name", Message(COLUMNS), Instead(message(COLUMNS, b"\0\x01abc"))),
        attack("columns of an unknown type", Message(COLUMNS), Instead(columns(1, b"a\0", 16_385))),
        attack(
            "no columns, and rows",
            Message(COLUMNS),
            Instead([message(COLUMNS, b"\0\0"), row(1, 1, b"a")].concat()),
        ),
        attack("columns again and again", Message(COLUMNS), Repeat),
        attack("an error instead of columns", Message(COLUMNS), Close(error(b"SERROR\0"))),
        attack("too few fields", Message(ROW), Instead(row(u16::MAX, 1, b"a"))),
        attack("a field of 2 GiB", Message(ROW), Instead(row(1, i32::MAX, b"a"))),
        attack("a field of less than nothing", Message(ROW), Instead(row(1, -2, b"a"))),
        attack("a row of 2 GiB", Message(ROW), Forever(promises(ROW, 0x7fff_ffff, b"\0\x01aaaa"))),
        attack(
            "a row of 16 MiB that does not come",
            Message(ROW),
            Drip(promises(ROW, (16 << 20) - 2, b"\0\x01")),
        ),
        attack("a row that is no text", Message(ROW), Before(row(1, 4, b"\xff\xfe\xc0\x80"))),
        attack("a row that is cut", Message(ROW), Cut(9)),
        attack("rows without end", Message(ROW), Repeat),
        attack("a row without end", Message(ROW), Drip(row(1, 1 << 20, b"a"))),
        attack("the end without its name", Message(COMPLETE), Instead(message(COMPLETE, b"SELECT 1"))),
        attack("ends without end", Message(COMPLETE), Repeat),
        attack("an error without fields", Message(PARSED), Instead(error(b""))),
        attack("an error without a code", Message(PARSED), Close(error(b"SERROR\0Mno code\0\0"))),
        attack("an error of unknown fields", Message(PARSED), Close(error(b"\xffx\0\x01\0\0"))),
        attack(
            "an error of 8 MiB",
            Message(PARSED),
            Close(error(&[b"SERROR\0C42601\0M", &large[..], b"\0\0"].concat())),
        ),
        attack(
            "an error for the terminal",
            Message(PARSED),
            Close(error(b"SERROR\0C42601\0M\x1b]0;owned\x07\xc2\x9b2J\0\0")),
        ),
        attack("errors without end", Message(PARSED), Forever(error(b"SERROR\0C42601\0Mno\0\0"))),
        attack("a notice without fields", Message(READY), Before(message(NOTICE, b""))),
        attack("a notice that does not end", Message(READY), Before(message(NOTICE, b"SNOTICE"))),
        attack("a notice of 2 GiB", Message(READY), Instead(promises(NOTICE, 0x7fff_ffff, b"S"))),
        attack(
            "notices without end",
            Message(AUTHENTICATION),
            Forever(message(NOTICE, b"SNOTICE\0C00000\0Mlook at me\0\0")),
        ),
        attack("half a notification", Message(READY), Before(message(NOTIFICATION, b"\0\0"))),
        attack(
            "notifications without end",
            Message(READY),
            Forever(message(NOTIFICATION, b"\0\0\0\x01a\0b\0")),
        ),
    ]
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn both_daemons_live_through_a_hostile_postgres() {
    both_daemons_live_through(Kind::Postgres, attacks()).await;
}
