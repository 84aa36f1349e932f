//! Journal records about rules, states and locks, which an operator searches by their fields.

use std::fs;

use serde_json::Value;

use crate::support::mounts::Mount;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Daemon, Swarm, text, wait_for};

fn logging_json(swarm: &Swarm, mode: &str) -> Daemon {
    swarm.daemon(mode, |command| {
        command.env("RULESYNCD_TELEMETRY_LOG_FORMAT", "json");
        command.env("RULESYNCD_MASTER_RESCAN_INTERVAL", "200ms");
    })
}

fn records(daemon: &Daemon) -> Vec<Value> {
    daemon.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits for a record whose message contains `message`.
fn record(daemon: &Daemon, message: &str) -> Value {
    let is_wanted = |record: &Value| record["message"].as_str().unwrap_or_default().contains(message);
    wait_for(message, || records(daemon).into_iter().find(is_wanted))
}

#[test]
fn the_record_of_a_broken_file_names_the_rule_wherever_its_id_is_to_be_had() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.save("b.yaml", rule_text("B", 1));
    let master = logging_json(&swarm, "master");
    record(&master, "B added from b.yaml");

    swarm.save("new.yaml", rule_text("NEW", 1).replace("0.85", "high"));
    let new = record(&master, "new.yaml:");
    assert_eq!((&new["rule_id"], &new["code"]), (&"NEW".into(), &"wrong-type".into()), "{new}");
    assert!(new["message"].as_str().unwrap().contains("no rule of it is in the table"), "{new}");

    // Not YAML, and so without an id: the record has the previous one.
    swarm.save("a.yaml", "rule_id: 'A\n");
    let known = record(&master, "a.yaml:");
    assert_eq!(known["rule_id"], "A", "{known}");
    assert!(known["message"].as_str().unwrap().contains("its last good version stays"), "{known}");

    // Another master does not know the id, but the table does.
    drop(master);
    let master = logging_json(&swarm, "master");
    let again = record(&master, "a.yaml:");
    assert_eq!(again["rule_id"], "A", "{again}");
    assert!(again["message"].as_str().unwrap().contains("its last good version stays"), "{again}");

    swarm.remove("new.yaml");
    assert_eq!(record(&master, "new.yaml, which was invalid, was removed")["rule_id"], "NEW");
    swarm.save("a.yaml", rule_text("A", 2));
    assert_eq!(record(&master, "a.yaml is valid again")["rule_id"], "A");
}

#[test]
fn a_conflict_has_a_record_when_it_begins_and_when_it_ends() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.save("z.yaml", rule_text("Z", 1));
    let master = logging_json(&swarm, "master");
    record(&master, "A added from a.yaml");
    swarm.save("b.yaml", rule_text("A", 2));
    let begun = record(&master, "b.yaml and a.yaml both hold A");
    swarm.remove("b.yaml");
    let ended = record(&master, "b.yaml and a.yaml no longer both hold A");
    assert_eq!(
        (&ended["rule_id"], &ended["message_id"]),
        (&begun["rule_id"], &begun["message_id"]),
        "{begun} {ended}"
    );
    assert_eq!((&begun["level"], &ended["level"]), (&"ERROR".into(), &"INFO".into()));
}

#[test]
fn thousands_of_broken_files_and_rows_share_a_record() {
    const MANY: usize = 3_000;
    let swarm = Swarm::on_sqlite();
    swarm.save("good.yaml", rule_text("GOOD", 1));
    for number in 0..MANY {
        swarm.save(&format!("broken{number}.yaml"), "rule_id: {{ name }}\n");
    }
    let (master, worker) = (logging_json(&swarm, "master"), logging_json(&swarm, "worker"));
    record(&master, "GOOD added");
    let summary = record(&master, &format!("{MANY} files are invalid: broken0.yaml, "));
    assert_eq!((&summary["files"], &summary["level"]), (&MANY.into(), &"ERROR".into()));
    assert!(master.log().lines().count() < 20, "{}", master.log());
    record(&worker, " loaded");
    swarm.sql(&format!(
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < {MANY}) insert into ttp_rule \
         select 'ROW' || i, 1, 'r' || i || '.yaml', 'no rule', strftime('%Y-%m-%d %H:%M:%f', 'now'), 'admin' from n"
    ));
    record(&worker, &format!("{MANY} rows are quarantined"));
    swarm.sql("delete from ttp_rule where rule_id like 'ROW%'");
    record(&worker, &format!("{MANY} rows are no longer quarantined"));
    assert!(worker.log().lines().count() < 20, "{}", worker.log());
}

#[test]
fn a_row_that_another_program_changed_is_not_an_edit_of_its_file() {
    let swarm = Swarm::on_sqlite();
    for id in ["A", "B", "C"] {
        swarm.save(&format!("{id}.yaml"), rule_text(id, 1));
    }
    let master = logging_json(&swarm, "master");
    record(&master, "C added");
    swarm.sql("update ttp_rule set yaml_content = yaml_content || '# by hand' where rule_id = 'A'");
    let changed =
        record(&master, "A was changed in the table by another program (`updated_by` is `filesystem`)");
    swarm.sql("delete from ttp_rule where rule_id = 'B'");
    let deleted = record(&master, "B was deleted from the table by another program");
    for (record, id) in [(&changed, "A"), (&deleted, "B")] {
        assert_eq!((&record["rule_id"], &record["level"]), (&id.into(), &"WARN".into()), "{record}");
    }
    wait_for("both again", || {
        let rows = swarm.rows();
        (rows.len() == 3 && rows.iter().all(|row| row[3] == rule_text(&row[0], 1))).then_some(())
    });
    // An edit is still logged as one.
    swarm.save("A.yaml", rule_text("A", 2));
    record(&master, "A updated from A.yaml");
    assert_eq!(master.count_in_log("by another program"), 2, "{}", master.log());
}

fn states_are_audited(swarm: &Swarm) {
    swarm.save("DIS0002.yaml", rule_text("DIS0002", 1));
    let (master, worker) = (logging_json(swarm, "master"), logging_json(swarm, "worker"));
    record(&master, "DIS0002 added");
    record(&worker, " loaded");
    let end = "2099-05-01T07:25:09Z";
    let order = ["state", "set", "DIS0002", "disabled", "--expires-at", end];
    swarm.succeed(&[&order[..], &["--set-by", "alice", "--reason", "noisy on mail hosts"]].concat());
    for daemon in [&master, &worker] {
        let set = record(
            daemon,
            "DIS0002 disabled until 2099-05-01T07:25:09.000000Z by alice: noisy on mail hosts",
        );
        assert_eq!((&set["rule_id"], &set["set_by"]), (&"DIS0002".into(), &"alice".into()), "{set}");
    }
    swarm.succeed(&["state", "set", "DIS0002", "clipped", "--confidence-max", "0.5"]);
    swarm.succeed(&["state", "clear", "DIS0002"]);
    for daemon in [&master, &worker] {
        record(daemon, "was cleared");
        assert_eq!(daemon.count_in_log("disabled until"), 1, "{}", daemon.log());
    }
}

#[test]
fn a_state_is_audited_on_master_and_worker() {
    states_are_audited(&Swarm::on_sqlite());
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_state_is_audited_on_mariadb() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    states_are_audited(&Swarm::on(server.create("rules").await));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_state_is_audited_on_postgresql() {
    let server = Server::start(Kind::Postgres, &[]).await;
    states_are_audited(&Swarm::on(server.create("rules").await));
}

/// A standby logs who holds the lock, and a takeover differs from an ordinary start.
fn the_lock_is_told_of(swarm: &Swarm, holder: impl Fn(&Daemon) -> String) {
    swarm.save("A.yaml", rule_text("A", 1));
    let first = logging_json(swarm, "master");
    record(&first, "this master holds the lock");
    let start = record(&first, "master started");
    let start = start["message"].as_str().unwrap();
    assert!(start.contains(&swarm.rules().display().to_string()), "{start}");
    assert!(start.contains("database ") && start.contains("configured by /dev/null"), "{start}");
    let second = swarm.daemon("master", |command| {
        command.env("RULESYNCD_TELEMETRY_LOG_FORMAT", "json");
        command.env("RULESYNCD_MASTER_SOCKET", swarm.path("second.sock"));
    });
    record(&second, &format!("another master ({}", holder(&first)));
    first.kill();
    let took_over = record(&second, "this master holds the lock: it took over from the other one, after ");
    assert_eq!(took_over["level"], "WARN");
    assert_eq!(second.count_in_log("this master holds the lock"), 1, "{}", second.log());
}

/// What begins the name of a leader with a lease.
fn host_and_since() -> String {
    format!("{}, since 20", fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim())
}

#[test]
fn a_standby_on_sqlite_says_which_process_holds_the_lock() {
    the_lock_is_told_of(&Swarm::on_sqlite(), |master| format!("process {} of this host", master.pid()));
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_standby_on_mariadb_says_who_leads() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    the_lock_is_told_of(&Swarm::on(server.create("rules").await), |_| host_and_since());
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_standby_on_postgresql_says_who_leads() {
    let server = Server::start(Kind::Postgres, &[]).await;
    the_lock_is_told_of(&Swarm::on(server.create("rules").await), |_| host_and_since());
}

#[test]
fn a_database_that_is_another_is_filled_and_nobody_is_blamed() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    // It rescans more often than it checks its lock.
    let master = logging_json(&swarm, "master");
    record(&master, "A added from A.yaml");
    fs::rename(swarm.path("rules.db"), swarm.path("elsewhere.db")).unwrap();
    wait_for("the rule in the new database", || {
        (master.count_in_log("A added from A.yaml") == 2).then_some(())
    });
    assert_eq!(master.count_in_log("by another program"), 0, "{}", master.log());
}

#[test]
fn a_reload_repeats_no_record_and_knows_what_it_wrote() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    swarm.save("b.yaml", rule_text("A", 1));
    swarm.save("broken.yaml", "rule_id: BROKEN\n");
    let master = swarm.daemon("master", |command| {
        command.env("RULESYNCD_TELEMETRY_LOG_FORMAT", "json");
    });
    record(&master, "A added");
    swarm.sql("update ttp_rule set rule_version = 7");
    master.signal("HUP");
    record(&master, "A was changed in the table by another program");
    let told = |what: &str| {
        records(&master).iter().filter(|record| record["message"].as_str().unwrap().contains(what)).count()
    };
    assert_eq!((told("broken.yaml:"), told("both hold A")), (1, 1), "{}", master.log());
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_is_no_news_of_the_lock_as_root() {
    let swarm = Swarm::on_sqlite();
    let disk = swarm.path("disk");
    fs::create_dir(&disk).unwrap();
    let _mount = Mount::tmpfs(&disk, "1m");
    let url = format!("sqlite://{}", disk.join("rules.db").display());
    swarm.save("A.yaml", rule_text("A", 1));
    let master = swarm.daemon("master", |command| {
        command.env("RULESYNCD_DATABASE_URL", &url).env("RULESYNCD_TELEMETRY_LOG_FORMAT", "json");
    });
    record(&master, "A added");
    let filler = disk.join("filler");
    let full = fs::write(&filler, vec![0; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    swarm.save("B.yaml", rule_text("B", 1) + &"# long\n".repeat(20_000));
    record(&master, "retrying until it works");
    // It takes the lock again at the first try after that, and logs so once.
    wait_for("the lock", || (master.count_in_log("holds the lock") == 2).then_some(()));
    let tries = || {
        let metrics = swarm.succeed(&["status", "--format", "prometheus"]);
        metrics.lines().filter(|line| line.contains("_count{")).map(str::to_owned).collect::<Vec<_>>()
    };
    let begun = tries();
    wait_for("more tries", || (tries() != begun).then_some(()));
    assert_eq!(master.count_in_log("holds the lock"), 2, "{}", master.log());
    fs::remove_file(&filler).unwrap();
    record(&master, "the database answers again");
    record(&master, "B added");
    assert_eq!(master.count_in_log("holds the lock"), 2, "{}", master.log());
}

/// What the database rejects stays visible, whatever else is written meanwhile, until it is written or gone.
#[test]
fn a_row_that_the_database_rejects_is_shown_until_its_file_changes() {
    let swarm = Swarm::on_sqlite();
    swarm.save("good.yaml", rule_text("GOOD", 1));
    swarm.save("bad.yaml", rule_text("BAD", 1));
    swarm.succeed(&["sync"]);
    swarm.sql(
        "CREATE TRIGGER no BEFORE UPDATE ON ttp_rule WHEN NEW.rule_id = 'BAD' AND NEW.rule_version = 2
         BEGIN SELECT RAISE(ABORT, 'not that one'); END;
         CREATE TRIGGER stays BEFORE DELETE ON ttp_rule WHEN OLD.rule_id = 'BAD'
         BEGIN SELECT RAISE(ABORT, 'not that one'); END",
    );
    let master = logging_json(&swarm, "master");
    wait_for("the first comparison", || swarm.succeed(&["status"]).contains("compared").then_some(()));
    let rejections = || master.count_in_log("the database rejected BAD");
    let is_shown = || swarm.succeed(&["status"]).contains("rules that the database rejects");
    swarm.save("bad.yaml", rule_text("BAD", 2));
    record(&master, "the database rejected BAD");
    swarm.save("good.yaml", rule_text("GOOD", 2));
    record(&master, "GOOD updated");
    assert!(is_shown(), "{}", swarm.succeed(&["status"]));
    let check = swarm.run(&["status", "--check"]);
    assert_ne!(check.status.code(), Some(0));
    assert!(text(&check.stdout).contains("1 rule rejected by the database"), "{}", text(&check.stdout));
    master.signal("USR1");
    record(&master, "status: 1 rule in sync; 1 rule rejected by the database");

    swarm.save("bad.yaml", rule_text("BAD", 1));
    wait_for("nothing to be rejected", || (!is_shown()).then_some(()));
    assert_eq!(rejections(), 1);
    swarm.save("bad.yaml", rule_text("BAD", 2));
    wait_for("a record again", || (rejections() == 2).then_some(()));
    swarm.remove("bad.yaml");
    record(&master, "the database rejected the deletion of BAD");
    wait_for("the deletion in the status", || is_shown().then_some(()));
    // The files that are left are all in the table.
    master.signal("USR1");
    wait_for("the sentence again", || {
        (master.count_in_log("status: 1 rule in sync; 1 rule rejected by the database") == 2).then_some(())
    });
}
