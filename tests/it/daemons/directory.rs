//! Directories that are replaced, emptied, unmounted, or missing.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use crate::support::mounts::Mount;
use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text, wait_for};

fn ids(swarm: &Swarm) -> Vec<String> {
    swarm.rows().into_iter().map(|[id, ..]| id).collect()
}

fn fill(directory: &std::path::Path, version: i32, count: usize) {
    fs::create_dir_all(directory).unwrap();
    for number in 0..count {
        let id = format!("R{number:02}");
        fs::write(directory.join(format!("{id}.yaml")), rule_text(&id, version)).unwrap();
    }
}

fn wait_for_version(swarm: &Swarm, version: &str, count: usize) {
    wait_for(&format!("{count} rows of version {version}"), || {
        let rows = swarm.rows();
        (rows.len() == count && rows.iter().all(|row| row[1] == version)).then_some(())
    });
}

#[test]
fn a_link_that_is_turned_to_another_release_is_followed() {
    let swarm = Swarm::on_sqlite();
    fs::remove_dir(swarm.rules()).unwrap();
    fill(&swarm.path("one"), 1, 10);
    fill(&swarm.path("two"), 2, 10);
    symlink("one", swarm.rules()).unwrap();
    let _master = swarm.master();
    wait_for_version(&swarm, "1", 10);
    symlink("two", swarm.path("next")).unwrap();
    fs::rename(swarm.path("next"), swarm.rules()).unwrap();
    wait_for_version(&swarm, "2", 10);
    fs::write(swarm.path("two/R00.yaml"), rule_text("R00", 3)).unwrap();
    wait_for("an edit in the new release", || (swarm.rows()[0][1] == "3").then_some(()));
}

#[test]
fn a_mounted_configmap_is_followed_without_a_deletion() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules().join("..1"), 1, 10);
    fill(&swarm.rules().join("..2"), 2, 10);
    symlink("..1", swarm.rules().join("..data")).unwrap();
    for number in 0..10 {
        let name = format!("R{number:02}.yaml");
        symlink(format!("..data/{name}"), swarm.rules().join(name)).unwrap();
    }
    let master = swarm.master();
    wait_for_version(&swarm, "1", 10);
    symlink("..2", swarm.rules().join("..data_tmp")).unwrap();
    fs::rename(swarm.rules().join("..data_tmp"), swarm.rules().join("..data")).unwrap();
    wait_for_version(&swarm, "2", 10);
    assert_eq!(master.count_in_log("deleted"), 0);
}

#[test]
fn a_replaced_directory_is_watched_again() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules(), 1, 10);
    let master = swarm.master();
    wait_for_version(&swarm, "1", 10);
    fs::rename(swarm.rules(), swarm.path("old")).unwrap();
    master.wait_for_log("every rule stays as it is");
    fill(&swarm.path("staged"), 2, 10);
    fs::rename(swarm.path("staged"), swarm.rules()).unwrap();
    wait_for_version(&swarm, "2", 10);
    master.wait_for_log("can be read again");
    swarm.save("R00.yaml", rule_text("R00", 3));
    wait_for("an edit in the new directory", || (swarm.rows()[0][1] == "3").then_some(()));
    assert_eq!(master.count_in_log("deleted"), 0);
}

#[test]
fn files_that_come_back_end_the_wait_of_a_mass_deletion() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules(), 1, 20);
    let master = swarm.master();
    wait_for_version(&swarm, "1", 20);
    fs::rename(swarm.rules(), swarm.path("aside")).unwrap();
    fs::create_dir(swarm.rules()).unwrap();
    master.wait_for_log("20 of 20 rules would be deleted");
    fs::remove_dir(swarm.rules()).unwrap();
    fs::rename(swarm.path("aside"), swarm.rules()).unwrap();
    master.wait_for_log("no deletion is held back any more");
    assert_eq!(ids(&swarm).len(), 20);
}

#[test]
fn what_changed_while_no_master_ran_is_made_up_for() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules(), 1, 10);
    let master = swarm.master();
    wait_for_version(&swarm, "1", 10);
    master.kill();
    swarm.remove("R00.yaml");
    swarm.save("R01.yaml", rule_text("R01", 2));
    swarm.save("new.yaml", rule_text("NEW", 1));
    let _master = swarm.master();
    wait_for("the table to be right", || {
        let rows = swarm.rows();
        let right = rows.len() == 10 && rows[0][0] == "NEW" && rows[1][0] == "R01" && rows[1][1] == "2";
        right.then_some(())
    });
}

#[test]
fn rows_of_others_are_left_alone_and_a_file_wins_over_one() {
    let swarm = Swarm::on_sqlite();
    swarm.save("mine.yaml", rule_text("MINE", 1));
    let master = swarm.master();
    wait_for("the first row", || (ids(&swarm) == ["MINE"]).then_some(()));
    swarm.sql(
        "insert into ttp_rule select 'THEIRS', 1, 'x', 'text', updated_at, 'git' from ttp_rule; \
         insert into ttp_rule select 'LATER', 1, 'x', 'text', updated_at, 'git' from ttp_rule limit 1",
    );
    swarm.save("later.yaml", rule_text("LATER", 2));
    master.wait_for_log("LATER was written by `git`; the master overwrites it with later.yaml");
    swarm.remove("mine.yaml");
    wait_for("the deletion", || (ids(&swarm) == ["LATER", "THEIRS"]).then_some(()));
}
#[test]
fn an_emptied_directory_does_not_empty_the_table_until_somebody_says_so() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules(), 1, 20);
    let master = swarm.master();
    wait_for_version(&swarm, "1", 20);
    // One by one, as a careless loop does: recent deletions count.
    for number in 0..20 {
        swarm.remove(&format!("R{number:02}.yaml"));
    }
    master.wait_for_log(
        "nothing is deleted; bring the files back, or run `rulesyncd sync --allow-mass-delete`",
    );
    assert_eq!(ids(&swarm).len(), 20);

    swarm.save("new.yaml", rule_text("NEW", 1));
    wait_for("an insert beside the held deletions", || (ids(&swarm).len() == 21).then_some(()));
    assert_eq!(swarm.run(&["sync"]).status.code(), Some(1), "held deletions are no success");
    swarm.succeed(&["sync", "--allow-mass-delete"]);
    assert_eq!(ids(&swarm), ["NEW"]);
    // One warning says who did that, and what was deleted.
    let log = master.log();
    let lifted: Vec<_> = log.lines().filter(|line| line.contains("lifted the guard")).collect();
    assert_eq!(lifted.len(), 1, "{log}");
    let user = fs::metadata(swarm.rules()).unwrap().uid();
    let (who, what) = (format!("user {user} (process "), "20 rules were deleted: R00, R01, R02, ");
    assert!(lifted[0].contains("WARN") && lifted[0].contains(&who) && lifted[0].contains(what), "{log}");
}

#[test]
fn lifting_the_guard_without_a_master_is_a_warning_too_and_a_few_deletions_are_none() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules(), 1, 20);
    swarm.succeed(&["sync"]);
    let sync = |remove: std::ops::Range<u32>| {
        remove.for_each(|number| swarm.remove(&format!("R{number:02}.yaml")));
        text(&swarm.run(&["sync", "--allow-mass-delete"]).stderr)
    };
    assert_eq!(sync(0..3), "", "the guard lets three go");
    let log = sync(3..20);
    assert_eq!(
        log.matches("lifted the guard against mass deletion; 17 rules were deleted").count(),
        1,
        "{log}"
    );
    assert_eq!(ids(&swarm), [""; 0]);
}

#[test]
fn a_directory_that_is_missing_at_the_start_is_waited_for() {
    let swarm = Swarm::on_sqlite();
    fs::remove_dir(swarm.rules()).unwrap();
    let master = swarm.master();
    master.wait_for_log("every rule stays as it is until the rules directory can be read");
    let status = swarm.succeed(&["status", "--json"]);
    assert!(status.contains(r#""directory_unavailable_since":"2"#), "{status}");
    fill(&swarm.rules(), 1, 3);
    wait_for_version(&swarm, "1", 3);
    master.wait_for_log("can be read again");
    assert_eq!(master.count_in_log("every rule stays as it is"), 1);
}

#[test]
#[ignore = "needs root to mount"]
fn an_empty_file_system_that_is_mounted_over_five_rules_deletes_none_as_root() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules(), 1, 5);
    let master = swarm.master();
    wait_for_version(&swarm, "1", 5);
    let mount = Mount::tmpfs(&swarm.rules(), "1m");
    assert_eq!(swarm.run(&["sync"]).status.code(), Some(1), "deletions that are held back are no success");
    master.wait_for_log("5 of 5 rules would be deleted");
    assert_eq!(ids(&swarm).len(), 5);
    drop(mount);
    swarm.succeed(&["sync"]);
    master.wait_for_log("no deletion is held back any more");
    assert_eq!(master.count_in_log("deleted from"), 0);
}

#[test]
fn a_directory_that_is_swapped_for_one_with_other_rules_deletes_none_of_the_old() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules(), 1, 20);
    let master = swarm.master();
    wait_for_version(&swarm, "1", 20);
    let others = swarm.path("others");
    fs::create_dir(&others).unwrap();
    for number in 0..500 {
        let id = format!("OTHER{number}");
        fs::write(others.join(format!("{id}.yaml")), rule_text(&id, 1)).unwrap();
    }
    fs::rename(swarm.rules(), swarm.path("aside")).unwrap();
    fs::rename(others, swarm.rules()).unwrap();
    master.wait_for_log("20 of 20 rules would be deleted");
    assert_eq!(ids(&swarm).len(), 520);
}

#[test]
fn deletions_that_were_held_back_are_forgotten_as_soon_as_the_files_are_back() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules(), 1, 20);
    let master = swarm.master();
    wait_for_version(&swarm, "1", 20);
    let held = || {
        let status = swarm.succeed(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status.to_string().contains("\"pending_mass_delete\":[\"R")
    };
    fs::create_dir(swarm.path("aside")).unwrap();
    for number in 0..12 {
        let name = format!("R{number:02}.yaml");
        fs::rename(swarm.rules().join(&name), swarm.path("aside").join(&name)).unwrap();
    }
    master.wait_for_log("12 of 20 rules would be deleted");
    wait_for("the status to say so", || held().then_some(()));
    // The rescan, which would find them too, comes a minute later.
    for number in 0..12 {
        let name = format!("R{number:02}.yaml");
        fs::rename(swarm.path("aside").join(&name), swarm.rules().join(&name)).unwrap();
    }
    wait_for("the status to forget them", || (!held()).then_some(()));
    master.wait_for_log("no deletion is held back any more");
}

#[test]
fn a_dry_run_says_what_sync_does() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules(), 1, 20);
    swarm.succeed(&["sync"]);
    let numbers = |args: &[&str]| {
        let run = swarm.run(args);
        let out = String::from_utf8(run.stdout).unwrap();
        let line = out.lines().find(|line| line.contains(" unchanged")).unwrap();
        let words = [("to add", "added"), ("to change", "changed"), ("to delete", "deleted")];
        (
            words.iter().fold(line.to_owned(), |line, (dry, done)| line.replace(dry, done)),
            run.status.code(),
            out,
        )
    };
    // One deletion and two edits of twenty files.
    swarm.remove("R00.yaml");
    for id in ["R01", "R02"] {
        swarm.save(&format!("{id}.yaml"), rule_text(id, 2));
    }
    let dry = numbers(&["sync", "--dry-run"]);
    assert_eq!((&*dry.0, dry.1), ("0 added, 2 changed, 1 deleted, 17 unchanged", Some(0)));
    let done = numbers(&["sync"]);
    assert_eq!((done.0, done.1), (dry.0, dry.1));

    swarm.save("broken.yaml", "rule_id: [\n");
    for number in 3..15 {
        swarm.remove(&format!("R{number:02}.yaml"));
    }
    let dry = numbers(&["sync", "--dry-run"]);
    assert!(dry.2.contains("! broken.yaml  line "), "{}", dry.2);
    assert!(dry.2.contains("! R03  its deletion would be held back"), "{}", dry.2);
    assert_eq!(dry.1, Some(1));
    let done = numbers(&["sync"]);
    assert_eq!((done.0, done.1), (dry.0, dry.1));
    assert_eq!(ids(&swarm).len(), 19);
}

#[test]
fn a_yaml_file_that_is_not_read_is_named_once_and_again_when_that_is_over() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules(), 1, 2);
    fs::create_dir(swarm.rules().join("linux")).unwrap();
    fs::write(swarm.rules().join("linux/R9.yaml"), rule_text("R9", 1)).unwrap();
    swarm.save("my-rule.yaml", rule_text("MINE", 1));
    let master = swarm.master();
    master.wait_for_log("my-rule.yaml is not read");
    master.wait_for_log("linux/R9.yaml is not read");
    wait_for_version(&swarm, "1", 2);
    let status = swarm.succeed(&["status", "--json"]);
    assert!(status.contains(r#""passed_over":["linux/R9.yaml","my-rule.yaml"]"#), "{status}");
    fs::rename(swarm.rules().join("my-rule.yaml"), swarm.rules().join("my_rule.yaml")).unwrap();
    master.wait_for_log("my-rule.yaml is gone, or is read now");
    wait_for("the rule", || (ids(&swarm) == ["MINE", "R00", "R01"]).then_some(()));
    assert_eq!(master.count_in_log("my-rule.yaml is not read"), 1);
}

#[test]
fn a_link_out_of_the_directory_is_not_read_and_nothing_of_its_text_is_said() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules(), 1, 2);
    fs::write(swarm.path("secret"), "canary-of-the-secret\n").unwrap();
    symlink(swarm.path("secret"), swarm.rules().join("S.yaml")).unwrap();
    fs::create_dir(swarm.path("shared")).unwrap();
    fs::write(swarm.path("shared/T.yaml"), rule_text("T", 1)).unwrap();
    symlink(swarm.path("shared/T.yaml"), swarm.rules().join("T.yaml")).unwrap();
    let master = swarm.daemon("master", |command| {
        command.env("RULESYNCD_MASTER_FOLLOW_LINKS_TO", swarm.path("shared"));
    });
    master.wait_for_log("S.yaml: it is a symbolic link out of the rules directory");
    wait_for("the rule that a listed directory holds", || (ids(&swarm) == ["R00", "R01", "T"]).then_some(()));
    // Its text changes in a place without events.
    fs::write(swarm.path("shared/T.yaml"), rule_text("T", 2)).unwrap();
    wait_for("the edit behind the link", || (swarm.rows()[2][1] == "2").then_some(()));
    fs::write(swarm.rules().join("U.yaml"), "canary-of-the-secret\n").unwrap();
    master.wait_for_log("U.yaml: line 1, column 1: ");
    let rules = swarm.rules().display().to_string();
    let said = [
        master.log(),
        swarm.succeed(&["status", "--json"]),
        String::from_utf8(swarm.run(&["check", "--format", "json", &rules]).stdout).unwrap(),
    ];
    assert!(said.iter().all(|said| !said.contains("canary")), "{said:?}");
}

#[test]
fn a_grandparent_that_is_replaced_is_noticed_at_once() {
    let swarm = Swarm::on_sqlite();
    let parent = swarm.path("a/b");
    fill(&parent.join("rules"), 1, 3);
    fill(&swarm.path("next/b/rules"), 2, 3);
    fs::remove_dir(swarm.rules()).unwrap();
    let _master = swarm.daemon("master", |command| {
        command.env("RULESYNCD_RULES_DIR", parent.join("rules"));
    });
    wait_for_version(&swarm, "1", 3);
    fs::rename(swarm.path("a"), swarm.path("aside")).unwrap();
    fs::rename(swarm.path("next"), swarm.path("a")).unwrap();
    wait_for_version(&swarm, "2", 3);
}

#[test]
#[ignore = "needs root to make a user namespace"]
fn a_directory_that_cannot_be_watched_is_said_once_and_once_when_it_is_over_as_root() {
    let swarm = Swarm::on_sqlite();
    fill(&swarm.rules(), 1, 2);
    // The kernel's own limit, in a namespace of this test.
    let master = swarm.daemon("master", |command| {
        let program = command.get_program().to_owned();
        let mut within = std::process::Command::new("unshare");
        within.args(["--user", "--map-root-user", "sh", "-c"]);
        within.arg("echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" master").arg(program);
        within.env_clear();
        for (name, value) in command.get_envs() {
            within.env(name, value.unwrap());
        }
        within.env("RULESYNCD_MASTER_RESCAN_INTERVAL", "200ms").stdout(std::process::Stdio::null());
        *command = within;
    });
    master.wait_for_log("raise fs.inotify.max_user_instances");
    // The rescan finds changes without events.
    wait_for_version(&swarm, "1", 2);
    swarm.save("R00.yaml", rule_text("R00", 2));
    wait_for("an edit", || (swarm.rows()[0][1] == "2").then_some(()));
    assert!(swarm.succeed(&["status"]).contains("not watched"));
    let raised = std::process::Command::new("nsenter")
        .args(["--user", "--preserve-credentials", "--target", &master.pid().to_string()])
        .args(["sh", "-c", "echo 128 > /proc/sys/user/max_inotify_instances"])
        .status();
    assert!(raised.unwrap().success());
    master.wait_for_log("the rules directory is watched again");
    assert!(!swarm.succeed(&["status"]).contains("not watched"));
    assert_eq!(master.count_in_log("max_user_instances"), 1, "one record, not one for each rescan");
}

#[test]
fn a_record_of_many_rules_counts_those_that_the_database_took() {
    let swarm = Swarm::on_sqlite();
    swarm.succeed(&["sync"]);
    swarm.sql(
        "create trigger no before insert on ttp_rule when new.rule_id = 'R05' \
         begin select raise(abort, 'not this one'); end",
    );
    fill(&swarm.rules(), 1, 1_100);
    let master = swarm.master();
    master.wait_for_log("1099 rules written, 0 deleted");
    master.wait_for_log("the database rejected R05");
    assert_eq!(ids(&swarm).len(), 1_099);
}
