use std::fs::Permissions;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::*;

/// A directory in which no daemon has its configuration.
const NOWHERE: &str = "/nowhere";

const NO_ENVIRONMENT: fn(&str) -> Option<String> = |_| None;

fn in_memory(name: &str) -> Option<String> {
    (name == "RULESYNCD_DATABASE_URL").then(|| "sqlite::memory:".to_owned())
}

fn raw(environment: impl Fn(&str) -> Option<String>) -> impl Fn(&str) -> Option<OsString> {
    move |name| environment(name).map(OsString::from)
}

fn load(file: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rulesyncd.yaml");
    std::fs::write(&path, file).unwrap();
    Config::load_from(&Flags { config: Some(path), ..Flags::default() }, raw(environment), Path::new(NOWHERE))
}

#[test]
fn a_file_may_have_any_number_of_comments() {
    let comments = "  # explained\n".repeat(1_000);
    let file = format!("worker:\n{comments}  poll_interval: 2s\n{comments}");
    assert_eq!(load(&file, |_| None).unwrap().worker.poll_interval, Duration::from_secs(2));
}

#[test]
fn a_later_layer_wins() {
    let file = "master:\n  rules_dir: /from/file\nworker:\n  poll_interval: 2s\n  socket_mode: 0600\n";
    let environment = |name: &str| match name {
        "RULESYNCD_RULES_DIR" => Some("/from/environment".to_owned()),
        "RULESYNCD_WORKER_POLL_INTERVAL" => Some("3s".to_owned()),
        _ => in_memory(name),
    };
    let config = load(file, environment).unwrap();
    assert_eq!(config.master.rules_dir, Path::new("/from/environment"));
    assert_eq!(config.worker.poll_interval, Duration::from_secs(3));
    assert_eq!(config.worker.socket_mode, 0o600, "a mode is octal, quoted or not");
    assert_eq!(config.master.updated_by, "filesystem");

    let flags = Flags { rules_dir: Some("/from/flag".into()), ..Flags::default() };
    let config = Config::load_from(&flags, raw(environment), Path::new(NOWHERE)).unwrap();
    assert_eq!(config.master.rules_dir, Path::new("/from/flag"));
}

#[test]
fn the_cache_is_in_the_units_state_directory_unless_somebody_says_otherwise() {
    let unit = |name: &str| match name {
        "STATE_DIRECTORY" => Some("/var/lib/rulesyncd-worker".to_owned()),
        _ => in_memory(name),
    };
    let config = load("{}", unit).unwrap();
    assert_eq!(config.worker.cache, Path::new("/var/lib/rulesyncd-worker/catalogue.ndjson"));
    let config = load("worker:\n  cache: /elsewhere\n", unit).unwrap();
    assert_eq!(config.worker.cache, Path::new("/elsewhere"));
}

#[test]
fn a_number_is_a_mode_and_a_name_as_it_is_written() {
    for (mode, id) in [("0o660", "1.10"), ("0660", "1e3"), ("660", "0x1f"), ("'0o660'  # all", "'12'")] {
        let file = format!("worker:\n  id: {id}\n  socket_mode: {mode}\n");
        let worker = load(&file, |_| None).unwrap().worker;
        assert_eq!(
            (worker.socket_mode, worker.id.as_deref()),
            (0o660, Some(id.trim_matches('\''))),
            "{file}"
        );
    }
    let flow = load("worker: {socket_mode: 0o600, id: 007,journal_length: 0x10}", |_| None).unwrap().worker;
    assert_eq!((flow.socket_mode, flow.id.as_deref(), flow.journal_length), (0o600, Some("007"), 16));
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_its_neighbour() {
    let error =
        load("worker:\n  poll_interval: 1s\n  pol_intervall: 2s\n", NO_ENVIRONMENT).unwrap_err().to_string();
    assert!(
        error.contains(".yaml:3: unknown key `worker.pol_intervall`; did you mean `poll_interval`?"),
        "{error}"
    );
    let error = load("workers:\n  poll_interval: 1s\n", NO_ENVIRONMENT).unwrap_err().to_string();
    assert!(error.contains("did you mean `worker`?"), "{error}");
}

#[test]
fn a_wrong_value_names_where_it_came_from() {
    let error = load("worker:\n  poll_interval: soon\n", in_memory).unwrap_err().to_string();
    assert!(error.contains(".yaml:2: worker.poll_interval: `soon` is not a duration"), "{error}");
    let environment = |name: &str| {
        (name == "RULESYNCD_MASTER_MAX_DELETE").then(|| "lots".to_owned()).or_else(|| in_memory(name))
    };
    let error = load("", environment).unwrap_err().to_string();
    assert!(error.starts_with("RULESYNCD_MASTER_MAX_DELETE: master.max_delete"), "{error}");
}

#[test]
fn a_value_that_is_no_text_is_refused_and_not_shown() {
    let bytes = || OsString::from_vec(b"/rules/secret\xff".to_vec());
    let environment = |name: &str| (name == "RULESYNCD_RULES_DIR").then(bytes);
    let error =
        Config::load_from(&Flags::default(), environment, Path::new(NOWHERE)).unwrap_err().to_string();
    assert_eq!(
        error,
        "RULESYNCD_RULES_DIR: master.rules_dir: the value is not UTF-8; expected text: a path that is none is \
         reached by a link"
    );
    let flags = Flags { rules_dir: Some(bytes().into()), ..Flags::default() };
    let error = Config::load_from(&flags, raw(in_memory), Path::new(NOWHERE)).unwrap_err().to_string();
    assert!(error.starts_with("--rules-dir: master.rules_dir: the value is not UTF-8"), "{error}");
}

#[test]
fn a_file_that_is_no_yaml_or_not_there_is_named() {
    assert!(load("worker: [", NO_ENVIRONMENT).unwrap_err().to_string().contains("rulesyncd.yaml"));
    assert!(load("worker: 7\n", NO_ENVIRONMENT).unwrap_err().to_string().contains("rulesyncd.yaml"));
    let missing = Flags { config: Some("/nowhere/x.yaml".into()), ..Flags::default() };
    assert!(
        Config::load_from(&missing, raw(NO_ENVIRONMENT), Path::new(NOWHERE))
            .unwrap_err()
            .to_string()
            .contains("/nowhere/x.yaml")
    );
}

#[test]
fn no_mistake_in_a_file_shows_a_value_of_it() {
    let secret = "url: postgres://u:hunter2@db/rules";
    let said = |file: &str| load(file, NO_ENVIRONMENT).unwrap_err().to_string();
    for (file, place) in [
        (format!("database:\n  {secret}\n  {secret}\n"), ".yaml:3:3"),
        (format!("database:\n  {secret}\n   connect_timeout: 5s\n"), ".yaml:"),
        (format!("database:\n  {secret}\n\tconnect_timeout: 5s\n"), ".yaml:"),
        (format!("database:\n  {secret}\nworker: [\n"), ".yaml:"),
        (format!("database:\n  {secret}\nworker: 7\n"), ".yaml:3:"),
        (format!("database:\n  {secret}\nworker: 'open\n"), ".yaml:"),
        (format!("database:\n  {secret}\n---\nworker: {{}}\n"), ".yaml:"),
        ("database: postgres://u:hunter2@db/rules\n".to_owned(), ".yaml:1:"),
        ("database: [postgres://u:hunter2@db/rules]\n".to_owned(), ".yaml:1:"),
        ("database:\n  url: {hunter2: hunter2}\n".to_owned(), ".yaml:2:"),
        ("database:\n  url: *hunter2\n".to_owned(), ".yaml:2:"),
        ("database:\n  url: !hunter2 x\n  url: y\n".to_owned(), ".yaml:"),
        ("database:\n  url: !hunter2!hunter2 x\n".to_owned(), ".yaml:2:"),
        ("database:\n  url: \"hunter2\\q\"\n".to_owned(), ".yaml:2:"),
        ("database:\n  url: |hunter2\n".to_owned(), ".yaml:2:"),
        ("database:\n  url: @hunter2\n".to_owned(), ".yaml:2:"),
        ("postgres://u:hunter2@db/rules: {}\npostgres://u:hunter2@db/rules: {}\n".to_owned(), ".yaml:2:"),
        ("database:\n  postgres://u:hunter2@db/rules:\n".to_owned(), ".yaml:2: expected a key"),
        ("postgres://u:hunter2@db/rules:\n".to_owned(), ".yaml:1: expected a key"),
        ("postgres://u:hunter2@db/rules\n".to_owned(), ".yaml:1:"),
    ] {
        let said = said(&file);
        assert!(said.contains(place) && !said.contains("hunter") && !said.contains("db/"), "{file}{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn the_address_may_stand_in_a_file_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("database_url");
    std::fs::write(&secret, "sqlite::memory:\n").unwrap();
    let file = format!("database:\n  url_file: {}\n", secret.display());
    assert_eq!(load(&file, NO_ENVIRONMENT).unwrap().database.address, "sqlite::memory:".parse().unwrap());
    let both = format!("{file}  url: 'sqlite::memory:'\n");
    assert!(load(&both, NO_ENVIRONMENT).unwrap_err().to_string().contains("set one of them"));
}

#[test]
fn the_password_of_the_place_of_reports_is_not_shown_and_said_to_be_exposed() {
    let dir = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let file = dir.path().join("worker.yaml");
    let load = |address: &str| {
        std::fs::write(&file, format!("worker:\n  report_url: '{address}'\n")).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        Config::load_from(
            &Flags { config: Some(file.clone()), ..Flags::default() },
            raw(in_memory),
            Path::new(NOWHERE),
        )
    };
    let config = load("postgres://w:s3cret@primary.example.org/honeypots").unwrap();
    let shown = config.show(&["worker"]);
    assert!(shown.contains("report_url: \"postgresql://w:***@primary.example.org"), "{shown}");
    assert!(!format!("{shown}{:?}", config.worker).contains("s3cret"), "{shown}");
    assert_eq!(config.exposed_password().map(|exposed| exposed.path), Some(file.canonicalize().unwrap()));
    assert_eq!(load("postgres://w@primary.example.org/honeypots").unwrap().exposed_password(), None);
    let refused = load("dir:///etc/rules").unwrap_err().to_string();
    assert!(refused.contains("worker.report_url") && refused.contains("is no server"), "{refused}");
}

#[test]
fn the_place_of_telemetry_is_shown_without_what_may_be_a_key() {
    for (address, expected) in [
        ("http://localhost:4318", "\"http://localhost:4318\""),
        ("https://u:hunter2@h/x", "\"https://u:***@h/x\""),
        ("https://hunter2@h/x", "\"https://***@h/x\""),
        ("http://h/?api_key=hunter2", "\"http://h/?***\""),
        ("http://u:hunter2@h/x?api_key=hunter2#hunter2", "\"http://u:***@h/x?***\""),
        ("http://h/#hunter2", "\"http://h/#***\""),
        ("http://h/?api_key=hunter2@hunter2", "\"http://***\""),
        ("http://u:hunter2?hunter2@h/", "\"http://***\""),
    ] {
        let shown =
            load(&format!("telemetry:\n  otlp: '{address}'\n"), in_memory).unwrap().show(&["telemetry"]);
        assert!(shown.contains(&format!("otlp: {expected}  #")) && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let empty = |name: &str| in_memory(name).or(Some(String::new()));
    let config = Config::load_from(&Flags::default(), raw(empty), Path::new(NOWHERE)).unwrap();
    let unset = Config::load_from(&Flags::default(), raw(in_memory), Path::new(NOWHERE)).unwrap();
    assert_eq!(config.show(SECTIONS), unset.show(SECTIONS));
}

#[test]
fn a_rule_may_not_be_larger_than_workers_take_in() {
    let size = |text: &str| load(&format!("master:\n  max_rule_size: {text}\n"), in_memory);
    assert_eq!(size("4MiB").unwrap().master.max_rule_size, 4 << 20);
    let refused = size("4097KiB").unwrap_err().to_string();
    assert!(refused.contains("master.max_rule_size") && refused.contains("at most 4MiB"), "{refused}");
}

#[test]
fn a_misspelt_log_level_is_refused_and_does_not_silence_the_log() {
    let log = |text: &str| load(&format!("telemetry:\n  log: '{text}'\n"), |_| None);
    for text in ["inof", "rulesyncd", "rulesyncd=loud", "info, sqlx"] {
        let error = log(text).unwrap_err().to_string();
        assert!(error.contains("telemetry.log") && error.contains("expected a level"), "{text}: {error}");
    }
    for text in ["info", "WARN", "off", "rulesyncd=debug,sqlx=warn", "info, rulesyncd::store=debug"] {
        log(text).unwrap();
    }
}

#[test]
fn what_is_shown_reads_itself_back() {
    let config = load(
        "worker:\n  allow_uids: [0, 1000]\n  socket_mode: 0640\nmaster:\n  max_rule_size: 1MiB\n\
         trust:\n  allowed_signers: /etc/keys\n  realm: a\n  min_version: 2026-11-27T08:00:00Z\n",
        in_memory,
    )
    .unwrap();
    let again = load(&config.show(SECTIONS), NO_ENVIRONMENT).unwrap();
    assert_eq!(
        (again.database, again.master, again.worker, again.trust, again.telemetry),
        (config.database, config.master, config.worker, config.trust, config.telemetry)
    );
}

#[test]
fn a_list_reads_itself_back_whatever_its_values_contain() {
    let file = "master:\n  follow_links_to: ['/srv/a, b', '/srv/c #1', '/srv/\"d\"', \"/srv/e: f\", '0123']\n\
                worker:\n  allow_uids: [0, 1000]\n";
    let config = load(file, in_memory).unwrap();
    let links = ["/srv/a, b", "/srv/c #1", "/srv/\"d\"", "/srv/e: f", "0123"].map(PathBuf::from);
    assert_eq!(config.master.follow_links_to, links);
    let shown = config.show(SECTIONS);
    assert!(shown.contains("allow_uids: [0, 1000]  #"), "{shown}");
    let again = load(&shown, NO_ENVIRONMENT).unwrap();
    assert_eq!((again.master, again.worker), (config.master, config.worker));

    // A variable, which has no lists, and a file may separate them by commas, too.
    let variable = |name: &str| match name {
        "RULESYNCD_MASTER_FOLLOW_LINKS_TO" => Some("/srv/a, /srv/b".to_owned()),
        _ => in_memory(name),
    };
    let config = load("worker:\n  allow_uids: 0, 1000\n", variable).unwrap();
    assert_eq!(config.master.follow_links_to, ["/srv/a", "/srv/b"].map(PathBuf::from));
    assert_eq!(config.worker.allow_uids, [0, 1000]);
    let again = load(&config.show(SECTIONS), NO_ENVIRONMENT).unwrap();
    assert_eq!((again.master, again.worker), (config.master, config.worker));
}

#[test]
fn the_defaults_resolve() {
    let config = Config::load_from(&Flags::default(), raw(in_memory), Path::new(NOWHERE)).unwrap();
    assert_eq!(config.worker.journal_length, 65_536);
    assert_eq!(config.worker.allow_uids, Vec::<u32>::new());
}

/// The file with its settings taken out of the comments.
fn uncommented(file: &str) -> String {
    let line = |line: &str| match line.trim_start().strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => format!("  {setting}\n"),
        _ => format!("{line}\n"),
    };
    file.lines().map(line).collect()
}

#[test]
fn the_shipped_files_say_what_the_declarations_say() {
    for section in ["master", "worker"] {
        let name = format!("{section}.yaml");
        let shipped =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(&name));
        assert_eq!(
            shipped.unwrap(),
            commented_file(section),
            "`cargo run --example configuration_files` writes them anew"
        );

        let mut shown = Layers::default();
        shown.add_file(&PathBuf::from(&name), &uncommented(&commented_file(section))).unwrap();
        let sections = ["database", section, "trust", "telemetry"];
        for setting in SETTINGS.iter().filter(|setting| sections.contains(&setting.section())) {
            let value = shown.get(setting.key).unwrap_or_else(|| panic!("{name} lacks {}", setting.key));
            if let Some(default) = setting.default {
                assert_eq!(value.items, [default], "{name}: {}", setting.key);
            }
        }
    }
}

#[test]
fn a_unit_of_the_corpus_or_a_mutation_of_it_is_read_as_it_is_written() {
    crate::testing::replay("unit", 9, 20_000, laws::unit);
}
