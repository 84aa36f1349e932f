//! However a file is saved, its whole content reaches the table.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rulesyncd::directory::DELETE_AFTER;

use crate::support::mounts::Mount;
use crate::support::rules::rule_text;
use crate::support::swarm::{Daemon, Swarm, wait_for};

/// How long a slow writer pauses between two writes. The pause itself is what is tried.
const SLOW_WRITER: Duration = Duration::from_millis(120);

/// The text of the row of `A`, once it differs from `before`.
fn wait_for_text(swarm: &Swarm, what: &str, text: &str) {
    wait_for(what, || swarm.rows().iter().any(|row| row[0] == "A" && row[3] == text).then_some(()));
}

/// Overwrites a file in place, with the same length.
fn overwrite(file: &Path, text: &str) {
    let mut file = OpenOptions::new().write(true).open(file).unwrap();
    file.rewind().unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
#[ignore = "needs root to mount"]
fn two_saves_within_one_whole_second_are_both_found_as_root() {
    let swarm = Swarm::on_sqlite();
    let _mount = Mount::ext4_of_whole_seconds(&swarm.rules(), &swarm.path("image"));
    swarm.save("A.yaml", rule_text("A", 10));
    let _master = swarm.master();
    wait_for_text(&swarm, "the first text", &rule_text("A", 10));
    for version in 11..20 {
        // Right after the last one was read, so mostly within the second of its stamp.
        overwrite(&swarm.rules().join("A.yaml"), &rule_text("A", version));
        wait_for_text(&swarm, "each save", &rule_text("A", version));
    }
}

#[test]
#[ignore = "needs root to mount"]
fn a_save_under_the_same_stamp_is_found_by_a_process_that_heard_nothing_as_root() {
    let swarm = Swarm::on_sqlite();
    let _mount = Mount::ext4_of_whole_seconds(&swarm.rules(), &swarm.path("image"));
    for version in 10..14 {
        swarm.save("A.yaml", rule_text("A", version));
        swarm.succeed(&["sync"]);
        assert_eq!(swarm.rows()[0][3], rule_text("A", version));
    }
}

/// A Python process that has mapped a file and closed it, and writes each line of its input into the mapping: this
/// causes no event, and on tmpfs no new stamp.
struct Mapping(Child);

impl Mapping {
    fn of(file: &Path) -> Self {
        let script = "import mmap, sys\n\
             file = open(sys.argv[1], 'r+b'); mapping = mmap.mmap(file.fileno(), 0); file.close()\n\
             print('mapped', flush=True)\n\
             for line in sys.stdin:\n\
             \x20   text = bytes.fromhex(line); mapping[:len(text)] = text; print('written', flush=True)";
        let mut python = Command::new("python3");
        let child =
            python.args(["-c", script]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut mapping = Self(child.unwrap());
        mapping.answer();
        mapping
    }

    fn answer(&mut self) {
        let mut line = Vec::new();
        let output = self.0.stdout.as_mut().unwrap();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            std::io::Read::read_exact(output, &mut byte).unwrap();
            line.push(byte[0]);
        }
    }

    fn write(&mut self, text: &str) {
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        writeln!(self.0.stdin.as_mut().unwrap(), "{hex}").unwrap();
        self.answer();
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root to mount"]
fn a_write_through_a_mapping_is_found_by_sync_and_by_the_rescan_as_root() {
    let swarm = Swarm::on_sqlite();
    let _mount = Mount::tmpfs(&swarm.rules(), "1m");
    swarm.save("A.yaml", rule_text("A", 10));
    let mut mapping = Mapping::of(&swarm.rules().join("A.yaml"));
    let master = swarm.master();
    wait_for_text(&swarm, "the first text", &rule_text("A", 10));
    // Long enough that every stamp can be trusted.
    wait_for("the file to be old", || {
        let age = fs::metadata(swarm.rules().join("A.yaml")).unwrap().modified().unwrap().elapsed().unwrap();
        (age > Duration::from_millis(2_500)).then_some(())
    });
    mapping.write(&rule_text("A", 11));
    swarm.succeed(&["sync"]);
    assert_eq!(swarm.rows()[0][3], rule_text("A", 11), "`sync` asks the master, who reads everything");
    master.kill();

    let _master = swarm.daemon("master", |command| {
        command.env("RULESYNCD_MASTER_RESCAN_INTERVAL", "200ms");
    });
    mapping.write(&rule_text("A", 12));
    wait_for_text(&swarm, "the rescan", &rule_text("A", 12));
}

/// The log records about the rule `A` and about invalid files.
fn assert_nothing_but(daemon: &Daemon, expected: &[(&str, usize)]) {
    for (what, count) in expected {
        assert_eq!(daemon.count_in_log(what), *count, "{what}:\n{}", daemon.log());
    }
}

#[test]
fn a_file_that_is_written_slowly_is_read_once_it_is_whole() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    let master = swarm.daemon("master", |command| {
        // Rescans happen during it, too.
        command.env("RULESYNCD_MASTER_RESCAN_INTERVAL", "300ms");
    });
    wait_for_text(&swarm, "the first text", &rule_text("A", 1));
    // Every prefix from the last line on is a valid rule.
    let text = rule_text("A", 2) + "evidence_fields:\n- command_text\n- command_id\n- session_id\n";
    let mut file = File::create(swarm.rules().join("A.yaml")).unwrap();
    for piece in text.as_bytes().chunks(20) {
        file.write_all(piece).unwrap();
        sleep(SLOW_WRITER);
        let served = &swarm.rows()[0][3];
        assert!(*served == rule_text("A", 1), "half a file was published:\n{served}");
    }
    drop(file);
    wait_for_text(&swarm, "the whole text", &text);
    assert_nothing_but(&master, &[("ERROR", 0), ("A updated", 1)]);
}

#[test]
fn a_writer_that_never_closes_its_file_is_not_waited_for_forever() {
    let swarm = Swarm::on_sqlite();
    let _master = swarm.master();
    let mut file = File::create(swarm.rules().join("A.yaml")).unwrap();
    file.write_all(rule_text("A", 1).as_bytes()).unwrap();
    wait_for_text(&swarm, "what was written", &rule_text("A", 1));
    drop(file);
}

#[test]
fn files_that_are_removed_and_made_anew_in_a_burst_are_no_errors_and_no_deletions() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    let master = swarm.master();
    wait_for_text(&swarm, "the first text", &rule_text("A", 1));
    for version in 2..40 {
        swarm.remove("A.yaml");
        let mut file = File::create(swarm.rules().join("A.yaml")).unwrap();
        sleep(SLOW_WRITER / 2);
        file.write_all(rule_text("A", version).as_bytes()).unwrap();
    }
    wait_for_text(&swarm, "the last text", &rule_text("A", 39));
    assert_nothing_but(&master, &[("ERROR", 0), ("A deleted", 0)]);
}

#[test]
fn a_file_that_is_empty_is_told_as_that_once_nobody_can_be_writing_it() {
    let swarm = Swarm::on_sqlite();
    let master = swarm.master();
    swarm.save("A.yaml", "");
    master.wait_for_log("the file is empty");
    assert_eq!(master.count_in_log("the file is empty"), 1);
}

#[test]
fn a_file_that_is_away_for_a_moment_is_no_deletion_and_one_that_stays_away_is() {
    let swarm = Swarm::on_sqlite();
    for id in ["A", "B"] {
        swarm.save(&format!("{id}.yaml"), rule_text(id, 1));
    }
    let master = swarm.master();
    wait_for("both rows", || (swarm.rows().len() == 2).then_some(()));
    let (file, aside) = (swarm.rules().join("A.yaml"), swarm.rules().join("A.yaml~"));
    for _ in 0..3 {
        fs::rename(&file, &aside).unwrap();
        // The time in which the file is missing: shorter than it takes to count as deleted.
        sleep(DELETE_AFTER / 5);
        fs::rename(&aside, &file).unwrap();
    }
    swarm.remove("B.yaml");
    wait_for("the deletion", || (swarm.rows().len() == 1).then_some(()));
    assert_nothing_but(&master, &[("A deleted", 0), ("A added", 1), ("B deleted", 1)]);
}

#[test]
fn an_id_that_changes_inside_of_a_file_goes_at_once() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    let _master = swarm.master();
    let mut worker = swarm.worker();
    let mut subscriber = swarm.subscribe();
    if subscriber.snapshot().is_empty() {
        subscriber.change();
    }
    swarm.save_atomically("A.yaml", rule_text("NEW", 1));
    let first = subscriber.change();
    let second = subscriber.change();
    assert_eq!((&first["rule_id"], &second["rule_id"]), (&"NEW".into(), &"A".into()), "{first} {second}");
    let time = |line: &serde_json::Value| line["emitted_at"].as_str().unwrap().to_owned();
    assert_eq!(time(&first), time(&second), "one poll finds both: they were one transaction");
    assert_eq!(worker.ended(), None);
}

#[test]
fn a_save_by_another_name_of_the_same_file_is_found_by_both() {
    let swarm = Swarm::on_sqlite();
    swarm.save("B.yaml", rule_text("A", 10));
    fs::hard_link(swarm.rules().join("B.yaml"), swarm.rules().join("A.yaml")).unwrap();
    let _master = swarm.master();
    wait_for_text(&swarm, "the first text", &rule_text("A", 10));
    // The row is of the file that comes first; the event names the other.
    overwrite(&swarm.rules().join("B.yaml"), &rule_text("A", 11));
    wait_for_text(&swarm, "the save by the other name", &rule_text("A", 11));
}
