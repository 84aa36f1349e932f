mod random;

use super::*;

fn shown(text: &str) -> String {
    text.parse::<Address>().map_or_else(|error| format!("error: {error}"), |address| address.to_string())
}

#[test]
fn sqlite_is_read_in_both_spellings() {
    for (text, expected) in [
        ("sqlite:///var/lib/rules.db", "sqlite:///var/lib/rules.db"),
        ("sqlite:////var/lib/rules.db", "sqlite:///var/lib/rules.db"),
        ("sqlite+aiosqlite:////var/lib/rules.db", "sqlite:///var/lib/rules.db"),
        ("sqlite+aiosqlite:///rules.db", "sqlite:rules.db"),
        ("sqlite:rules.db?mode=rwc", "sqlite:rules.db"),
        ("sqlite://dir/rules%20x.db", "sqlite:dir/rules x.db"),
        ("sqlite::memory:", "sqlite::memory:"),
        ("sqlite:///:memory:", "sqlite::memory:"),
        ("sqlite+pysqlite://", "sqlite::memory:"),
        ("sqlite:///dir/x%2541%3F.db", "sqlite:///dir/x%2541%3F.db"),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
    assert!(shown("sqlite://").starts_with("error"));
}

#[test]
fn a_percent_of_sqlalchemy_means_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let read = |name: &str| format!("sqlite+aiosqlite:///{}", at(name).display()).parse::<Address>();
    let is = |name: &str| Ok(Address::SqliteFile(at(name)));
    // No two digits follow it: no version decodes it.
    assert_eq!(read("100%.db"), is("100%.db"));
    let undecided = read("x%41.db").unwrap_err();
    assert!(undecided.to_string().contains("write the address as `sqlite:///FILE`"), "{undecided}");
    assert!(read("my%20rules/a.db").is_err(), "neither directory is there");
    std::fs::create_dir(at("my rules")).unwrap();
    assert_eq!(read("my%20rules/a.db"), is("my rules/a.db"), "it can be made there");
    std::fs::write(at("x%41.db"), "").unwrap();
    assert_eq!(read("x%41.db"), is("x%41.db"));
    std::fs::write(at("xA.db"), "").unwrap();
    assert!(read("x%41.db").is_err(), "both are there");
    std::fs::remove_file(at("x%41.db")).unwrap();
    assert_eq!(read("x%41.db"), is("xA.db"));
}

#[test]
fn servers_are_read_in_both_spellings_and_shown_without_the_password() {
    for (text, expected) in [
        ("mysql+asyncmy://u:s3cret@db/rules?charset=utf8mb4", "mysql://u:***@db:3306/rules"),
        ("mariadb+pymysql://u@h:33/r?unix_socket=/run/my.sock", "mysql://u@/r?unix_socket=/run/my.sock"),
        ("mysql://u@h/r?ssl-mode=VERIFY_IDENTITY", "mysql://u@h:3306/r?sslmode=verify-full"),
        ("postgres://u:p%40ss@[::1]:5433/r", "postgresql://u:***@[::1]:5433/r"),
        ("postgresql+asyncpg:///r?host=/run/postgresql", "postgresql:///r?unix_socket=/run/postgresql"),
        (
            "postgresql+psycopg://u:p@/r?host=/run/postgresql",
            "postgresql://u:***@/r?unix_socket=/run/postgresql",
        ),
        (
            "postgresql://u@localhost/r?host=/run/postgresql&port=5433",
            "postgresql://u@/r?unix_socket=/run/postgresql/.s.PGSQL.5433",
        ),
        ("postgresql://u@%2Frun%2Fpg/r", "postgresql://u@/r?unix_socket=/run/pg"),
        (
            "postgresql://u@h/r?sslmode=verify-full&sslrootcert=/ca.pem",
            "postgresql://u@h:5432/r?sslmode=verify-full&sslrootcert=/ca.pem",
        ),
        (
            "mysql://u@h/r?ssl-ca=/ca.pem&ssl-cert=/me.pem&ssl-key=/me.key",
            "mysql://u@h:3306/r?sslrootcert=/ca.pem&sslcert=/me.pem&sslkey=/me.key",
        ),
        (
            "postgresql:///r?host=/run/postgresql&requirepeer=postgres",
            "postgresql:///r?unix_socket=/run/postgresql&requirepeer=postgres",
        ),
    ] {
        assert_eq!(shown(text), expected, "{text}");
        assert_eq!(shown(expected), expected, "read back");
    }
    for (text, word) in [
        ("mysql://h/r", "no user"),
        ("mysql://u@h", "no database"),
        ("postgresql://u@h/r?sslmod=verify-full", "`sslmod`"),
        ("postgresql://u@h/r?sslmode=on", "verify-full"),
        ("postgresql://u@h/r?sslcert=/me.pem", "`sslkey`"),
        ("mysql://u@h/r?ssl-key=/me.key", "`sslcert`"),
        ("postgresql://u@h/r?requirepeer=postgres", "names no socket"),
        ("oracle://u@h/r", "no known database"),
    ] {
        assert!(shown(text).contains(word), "{text}: {}", shown(text));
    }
}

#[test]
fn no_form_of_an_address_has_the_password_in_it() {
    let address: Address = "postgresql://u:p%40ssw0rd@h/r".parse().unwrap();
    let Address::Postgres(server) = &address else { panic!("{address}") };
    assert_eq!(server.password.as_deref(), Some("p@ssw0rd"));
    for shown in [format!("{address:?}"), format!("{server:?}"), address.redact("bad p@ssw0rd!")] {
        assert!(!shown.contains("ssw0rd"), "{shown}");
    }
}

#[test]
fn a_password_that_ends_the_address_too_soon_is_refused_and_not_shown() {
    for scheme in ["postgresql", "mysql"] {
        for end in ["/", "?", "#"] {
            let said = shown(&format!("{scheme}://rules:12{end}s3cret@host/db?dbname=x"));
            assert!(said.starts_with("error: the address has an `@`"), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
    }
    assert_eq!(shown("mysql://u:12%2Fs3cret@h/r"), "mysql://u:***@h:3306/r");
    for without_host in ["mysql://u:s3cret/db", "mysql://u:s3:cret/db", "mysql://u:s3cret,[s3cret/db"] {
        let said = shown(without_host);
        assert!(said.starts_with("error: ") && !said.contains("s3") && !said.contains("cret"), "{said}");
    }
}

#[test]
fn a_database_is_the_same_whoever_enters_it_and_whatever_its_server_is_called_here() {
    let same = |one: &str, other: &str| {
        let (one, other): (Address, Address) = (one.parse().unwrap(), other.parse().unwrap());
        assert_eq!(one.is_same_database(&other), other.is_same_database(&one), "{one} {other}");
        one.is_same_database(&other)
    };
    for (one, other) in [
        (
            "postgres://a:x@db.example.org/rules",
            "postgresql://b@DB.example.org:5432/rules?sslmode=verify-full",
        ),
        ("mysql://a@localhost/rules", "mysql://b@127.0.0.1/rules"),
        ("postgres://a@localhost/rules", "postgres:///rules?host=/run/postgresql"),
    ] {
        assert!(same(one, other), "{one} {other}");
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("sqlite://{}/{name}", directory.path().display());
    std::fs::write(directory.path().join("rules.db"), "").unwrap();
    std::os::unix::fs::symlink("rules.db", directory.path().join("link.db")).unwrap();
    assert!(same(&at("rules.db"), &at("link.db")));
    for (one, other) in [
        ("postgres://a@db.example.org/rules", "postgres://a@db.example.org/other"),
        ("postgres://a@db.example.org/rules", "postgres://a@db2.example.org/rules"),
        ("postgres://a@db.example.org/rules", "postgres://a@db.example.org:5433/rules"),
        ("postgres://a@db.example.org/rules", "postgres://a@localhost/rules"),
        ("postgres://a@localhost/rules", "mysql://a@localhost/rules"),
        ("sqlite:///a.db", "sqlite:///b.db"),
    ] {
        assert!(!same(one, other), "{one} {other}");
    }
}

#[test]
fn a_place_names_no_user_and_no_secret() {
    let place = |address: &str| address.parse::<Address>().unwrap().place();
    assert_eq!(
        place("postgres://ada:secret@db.example.org/honeypots?sslmode=verify-full"),
        "postgresql://db.example.org:5432/honeypots"
    );
    assert_eq!(place("mysql://ada:secret@[::1]:3307/r"), "mysql://[::1]:3307/r");
    assert_eq!(place("sqlite:///var/lib/rulesyncd/rules.db"), "sqlite:///var/lib/rulesyncd/rules.db");
}

#[test]
fn a_directory_is_an_address_without_a_server() {
    let address = |text: &str| text.parse::<Address>();
    assert_eq!(address("dir:///etc/rules").unwrap(), Address::Directory("/etc/rules".into()));
    assert_eq!(address("dir:///etc/rules").unwrap().to_string(), "dir:///etc/rules");
    assert_eq!(address("dir:rules").unwrap(), Address::Directory("rules".into()));
    assert!(address("dir:rules").unwrap().absolute().to_string().starts_with("dir:///"));
    for wrong in ["dir:", "dir://", "dir"] {
        assert!(address(wrong).unwrap_err().0.contains("names no directory"), "{wrong}");
    }
    assert!(address("dir+git:///x").is_err());
}

#[test]
fn several_hosts_are_read_in_order_each_with_its_port() {
    for (text, expected) in [
        (
            "postgresql://u@a,b:5433/r?target_session_attrs=read-write",
            "postgresql://u@a:5432,b:5433/r?target_session_attrs=read-write",
        ),
        ("mysql://u:p,w@a:3307,[::1],[fe80::1]:33/r", "mysql://u:***@a:3307,[::1]:3306,[fe80::1]:33/r"),
        ("postgresql://u@%2Frun%2Fpg:5433,b/r", "postgresql://u@%2Frun%2Fpg%2F.s.PGSQL.5433,b:5432/r"),
        ("mysql://u@%2Frun%2Fmy.sock,b/r", "mysql://u@%2Frun%2Fmy.sock,b:3306/r"),
        ("postgresql://u@/r?host=a,b&port=1,2", "postgresql://u@a:1,b:2/r"),
        ("postgresql://u@/r?host=a,/run/pg&port=5433", "postgresql://u@a:5433,%2Frun%2Fpg%2F.s.PGSQL.5433/r"),
        // As SQLAlchemy has it.
        ("postgresql+psycopg://u@/r?host=a:1&host=b:2&host=c", "postgresql://u@a:1,b:2,c:5432/r"),
        (
            "mysql://u@a,b/r?target-session-attrs=prefer-standby&ssl-mode=required",
            "mysql://u@a:3306,b:3306/r?target_session_attrs=prefer-standby&sslmode=require",
        ),
    ] {
        assert_eq!(shown(text), expected, "{text}");
        assert_eq!(shown(expected), expected, "read back");
    }
    for (text, words) in [
        ("postgresql://u@a,b/r?target_session_attrs=master", "`master` is no target_session_attrs"),
        ("postgresql://u@a,b,c/r?port=1,2", "2 ports for 3 hosts"),
        ("postgresql://u@a,b:99999/r", "no number from 1 to 65535"),
        ("postgresql://u@a,::1/r", "in brackets"),
        ("postgresql://u@[::1]x,a/r", "after its `]`"),
        ("postgresql://u@[a],b/r", "no IPv6 address"),
        ("postgresql://u@[::1,b/r", "has no `]`"),
        ("postgresql://u@a b,c/r", "the character ` `"),
        ("postgresql://u@%2Frun,b/r?requirepeer=postgres", "no socket for every host"),
    ] {
        assert!(shown(text).contains(words), "{text}: {}", shown(text));
    }
}

#[test]
fn what_writes_uses_the_host_that_takes_writes_and_nothing_else() {
    let for_writing = |text: &str| {
        let address = text.parse::<Address>().unwrap().for_writing();
        address.map_or_else(|error| format!("error: {error}"), |address| address.to_string())
    };
    assert!(for_writing("postgresql://u@a,b/r").ends_with("?target_session_attrs=read-write"));
    assert_eq!(for_writing("postgresql://u@a/r"), "postgresql://u@a:5432/r");
    assert!(for_writing("mysql://u@a,b/r?target_session_attrs=read-write").starts_with("mysql"));
    for other in ["any", "read-only", "primary", "standby", "prefer-standby"] {
        let said = for_writing(&format!("mysql://u@a/r?target_session_attrs={other}"));
        assert!(said.starts_with("error") && said.contains(other), "{said}");
    }
    assert_eq!(for_writing("sqlite:///r.db"), "sqlite:///r.db");
}

#[test]
fn a_place_has_the_hosts_as_they_are_written() {
    let place = |address: &str| address.parse::<Address>().unwrap().place();
    let one = place("postgresql://worker:x@b,a:5433/r?target_session_attrs=any");
    assert_eq!(one, "postgresql://b:5432,a:5433/r");
    assert_eq!(place("postgresql://master@b,a:5433/r?target_session_attrs=read-write"), one);
}

#[test]
fn an_address_of_the_corpus_or_a_mutation_of_it_is_shown_without_its_password() {
    crate::testing::replay("address", 8, 20_000, laws::address);
}

/// Such a password has `?` and `=` in it, and begins with digits, which were taken for a port.
#[test]
fn a_password_that_is_not_encoded_is_not_shown_as_a_parameter() {
    for query in ["s3cret=x", "sslmode=s3cret", "port=s3cret", "target_session_attrs=s3cret", "x=1&s3cret=2"]
    {
        let said = shown(&format!("postgresql://u:12?{query}@host/rules"));
        assert!(said.contains("write `/` in it as `%2F`") && !said.contains("s3cret"), "{query}: {said}");
    }
    let said = shown("postgresql://host/rules?user=me%40host&sslmode=wrong");
    assert!(said.contains("`wrong` is no TLS mode"), "{said}");
}
