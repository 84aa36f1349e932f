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
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
    assert!(shown("sqlite://").starts_with("error"));
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
