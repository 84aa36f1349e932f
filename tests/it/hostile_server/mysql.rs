//! What a hostile MySQL sends:
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html>

use super::{attack, both_daemons_live_through};
use crate::support::hostile::Act::{Before, Close, Cut, Drip, Forever, Instead, Repeat};
use crate::support::hostile::Attack;
use crate::support::hostile::Step::{Answer, Definition, End, Greeting, Login, Prepared, Row, Tls};
use crate::support::impostor::{greeting, packet};
use crate::support::servers::Kind;

/// A packet that promises another length than it has.
fn promises(length: u32, payload: &[u8]) -> Vec<u8> {
    let length = length.to_le_bytes();
    [&length[..3], &[1], payload].concat()
}

fn attacks() -> Vec<Attack> {
    let well = greeting("mysql_native_password", false);
    let mut nothing = well.clone();
    nothing[21..23].fill(0);
    let mut nonce = well.clone();
    nonce[28] = 255;
    let ok = packet(2, b"\0\0\0\x02\0\0\0");
    let error = |rest: &[u8]| packet(1, &[b"\xff", rest].concat());
    let definition = |rest: &[u8]| packet(2, &[b"\x03def\0\0\0\x01a\0", rest].concat());
    vec![
        attack("a packet of nothing", Greeting, Instead(packet(0, b""))),
        attack("a greeting of version 9", Greeting, Instead(packet(0, b"\x09old\0\0\0\0\0"))),
        attack("half a greeting", Greeting, Instead(packet(0, &well[..12]))),
        attack("a greeting that is cut", Greeting, Cut(30)),
        attack("a version without end", Greeting, Instead(packet(0, b"\x0a8.0.36"))),
        attack("a greeting of 16 MiB", Greeting, Forever(promises(0x00ff_ffff, b"\x0a8"))),
        attack("a greeting that does not come", Greeting, Instead(vec![])),
        attack("a greeting now and then", Greeting, Drip(packet(0, &well))),
        attack("greetings without end", Greeting, Repeat),
        attack("a server that can do nothing", Greeting, Instead(packet(0, &nothing))),
        attack("a nonce that is not there", Greeting, Instead(packet(0, &nonce))),
        attack("an unknown plugin", Greeting, Instead(packet(0, &greeting("evil_plugin", false)))),
        attack(
            "the password, please",
            Greeting,
            Instead(packet(0, &greeting("mysql_clear_password", false))),
        ),
        attack("an error without a number", Greeting, Instead(error(b""))),
        attack("an error for the terminal", Greeting, Close(error(b"\x10\x04\x1b]0;owned\x07\xc2\x9b2J"))),
        attack("noise in TLS", Tls, Instead(b"\x16\x03\x03\xff\xff\x02\xff\xff\xff".to_vec())),
        attack("plaintext instead of TLS", Tls, Instead(ok.clone())),
        attack("the end at TLS", Tls, Close(vec![])),
        attack("no answer to TLS", Tls, Instead(vec![])),
        attack("TLS records without end", Tls, Forever(b"\x16\x03\x03\x00\x01\x00".to_vec())),
        attack("a switch to nothing", Login, Instead(packet(2, b"\xfe"))),
        attack("a switch to an unknown plugin", Login, Instead(packet(2, b"\xfeevil_plugin\0nonce\0"))),
        attack("a switch without a nonce", Login, Instead(packet(2, b"\xfemysql_native_password\0"))),
        attack("a switch to the clear password", Login, Instead(packet(2, b"\xfemysql_clear_password\0"))),
        attack(
            "switches without end",
            Login,
            Forever(packet(2, b"\xfemysql_native_password\0nnnnnnnnnnnnnnnnnnnn\0")),
        ),
        attack("more of nothing", Login, Instead(packet(2, b"\x01"))),
        attack("the digest is not known", Login, Instead(packet(2, b"\x01\x04"))),
        attack("an unknown step", Login, Instead(packet(2, b"\x01\x09"))),
        attack("half a welcome", Login, Instead(packet(2, b"\0"))),
        attack("a welcome of 16 MiB", Login, Forever(promises(0x00ff_ffff, b"\0\0"))),
        attack("a welcome that does not come", Login, Instead(vec![])),
        attack("welcome again and again", Login, Repeat),
        attack("an error without a state", Login, Close(error(b"\x15"))),
        attack("an error that is no text", Login, Close(error(b"\xff\xff#HY000\xff\xfe\xc0"))),
        attack("half a statement", Prepared, Instead(packet(1, b"\0\x01\0"))),
        attack(
            "a statement of 65535 columns",
            Prepared,
            Instead(packet(1, b"\0\x01\0\0\0\xff\xff\0\0\0\0\0")),
        ),
        attack(
            "a statement of 65535 arguments",
            Prepared,
            Instead(packet(1, b"\0\x01\0\0\0\0\0\xff\xff\0\0\0")),
        ),
        attack("no statement", Prepared, Instead(packet(1, b"\xfb"))),
        attack("statements without end", Prepared, Repeat),
        attack(
            "a result of 2^64 columns",
            Answer,
            Instead(packet(1, &[0xfe, 255, 255, 255, 255, 255, 255, 255, 255])),
        ),
        attack("a file, please", Answer, Instead(packet(1, b"\xfb/etc/passwd"))),
        attack("results without end", Answer, Forever(packet(1, b"\0\0\0\x0a\0\0\0"))),
        attack("a column that does not come", Answer, Instead(packet(1, &[1]))),
        attack("half an error", Answer, Instead(error(b"\x10"))),
        attack("an answer of nothing", Answer, Instead(packet(1, b""))),
        attack("half a definition", Definition, Instead(packet(2, b"\x03def\0"))),
        attack(
            "a definition longer than it is",
            Definition,
            Instead(packet(2, b"\x03def\xfe\xff\xff\xff\xff\xff\xff\xff\x7f")),
        ),
        attack(
            "a column of an unknown type",
            Definition,
            Instead(definition(b"\x0c\x2d\0\x04\0\0\0\xee\0\0\0\0\0")),
        ),
        attack(
            "a definition of 64 KiB",
            Definition,
            Instead(packet(2, &[b"\x03def", &[0; 65_000][..]].concat())),
        ),
        attack("definitions without end", Definition, Repeat),
        attack("a row of nothing", Row, Instead(packet(3, b""))),
        attack("half a row", Row, Instead(packet(3, b"\0"))),
        attack(
            "a field of 2^63 bytes",
            Row,
            Instead(packet(3, b"\0\0\xfe\xff\xff\xff\xff\xff\xff\xff\x7fa")),
        ),
        attack("a row of packets without end", Row, Forever(packet(3, &vec![0; 0x00ff_ffff]))),
        attack("a row of nearly 16 MiB that does not come", Row, Drip(promises(0x00ff_fffe, b"\0\0"))),
        attack("a row that is cut", Row, Cut(6)),
        attack("a row that is no text", Row, Before(packet(3, b"\0\0\x04\xff\xfe\xc0\x80"))),
        attack("rows without end", Row, Repeat),
        attack("half an end", End, Instead(packet(4, b"\xfe"))),
        attack("another result", End, Instead(packet(4, b"\xfe\0\0\x0a\0\0\0"))),
        attack("warnings that nobody asked for", End, Instead(packet(4, b"\xfe\0\0\x02\0\xff\xff"))),
        attack("ends without end", End, Repeat),
    ]
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn both_daemons_live_through_a_hostile_mariadb() {
    both_daemons_live_through(Kind::MariaDb, attacks()).await;
}
