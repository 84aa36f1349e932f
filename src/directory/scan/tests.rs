use std::fs;
use std::time::Duration;

use super::look::EMPTY_FOR;
use super::*;
use crate::clock::{Clock as _, SystemClock};

fn rule(id: &str, name: &str) -> String {
    format!(
        "rule_id: {id}\nrule_version: 1\nname: {name}\napplies_to: [command]\nmatch: {{field: x}}\n\
         emits:\n  - {{tactic: TA0007, technique_id: T1083, confidence: 0.5}}\n"
    )
}

struct Fixture {
    dir: tempfile::TempDir,
    scanner: Scanner,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scanner = Scanner::new(
            dir.path().to_owned(),
            &[],
            Limits { size: 4096, ..Limits::default() },
            "filesystem",
        );
        Self { dir, scanner }
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn look(&mut self) -> Vec<String> {
        self.look_at(&ScanScope::All)
    }

    fn look_at(&mut self, scope: &ScanScope) -> Vec<String> {
        self.look_at_time(scope, SystemClock.now())
    }

    fn look_at_time(&mut self, scope: &ScanScope, now: Timestamp) -> Vec<String> {
        self.scanner.update(scope, &BTreeSet::new(), now).unwrap().into_keys().collect()
    }

    fn scanner_stamp(&self, name: &str) -> Stamp {
        Stamp::at(&self.dir.path().join(name)).unwrap().unwrap()
    }

    /// Another text in the file, and the scanner made to believe that the stamp is the one it knows.
    fn write_under_the_old_stamp(&mut self, name: &str, text: String) {
        self.write(name, text);
        let stamp = self.scanner_stamp(name);
        self.scanner.files.restamp(name, stamp, true);
    }

    fn why(&self, name: &str) -> String {
        match self.scanner.file(name).unwrap().outcome.as_ref().unwrap_err() {
            InvalidFile::Unreadable(why) => why.clone(),
            InvalidFile::Invalid(findings) => findings[0].message.clone(),
            InvalidFile::Unfinished => "unfinished".to_owned(),
        }
    }
}

#[test]
fn each_look_finds_what_changed_since_the_last() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", rule("A", "one"));
    fixture.write("b.yml", rule("B", "one"));
    for ignored in [".a.yaml.swp", "a.yaml~", "4913", "a.yaml.tmp", "notes.txt"] {
        fixture.write(ignored, "not a rule");
    }
    assert_eq!(fixture.look(), ["a.yaml", "b.yml"]);
    assert_eq!(fixture.look(), [""; 0]);
    fixture.write("a.yaml", rule("A", "two"));
    fs::remove_file(fixture.dir.path().join("b.yml")).unwrap();
    assert_eq!(fixture.look(), ["a.yaml", "b.yml"]);
    assert_eq!(fixture.scanner.rules().count(), 1);
}

#[test]
fn an_edit_of_the_same_size_in_the_same_tick_is_found() {
    let mut fixture = Fixture::new();
    for round in 0..200 {
        fixture.write("a.yaml", rule("A", &format!("{round:03}")));
        assert_eq!(fixture.look(), ["a.yaml"], "round {round}");
    }
}

#[test]
fn a_name_alone_is_looked_at_without_the_others() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", rule("A", "one"));
    fixture.write("b.yaml", rule("B", "one"));
    let only_a = ScanScope::Names(["a.yaml".to_owned(), "missing.yaml".to_owned()].into());
    assert_eq!(fixture.look_at(&only_a), ["a.yaml"]);
    assert!(fixture.scanner.file("b.yaml").is_none());
}

#[tokio::test]
async fn a_folder_is_passed_over_whatever_its_name() {
    let mut fixture = Fixture::new();
    fs::create_dir(fixture.dir.path().join("folder.yaml")).unwrap();
    assert_eq!(fixture.look(), [""; 0]);
    assert_eq!(fixture.look_at(&ScanScope::Names(["folder.yaml".to_owned()].into())), [""; 0]);
    assert!(fixture.scanner.file("folder.yaml").is_none());
    assert!(!fixture.scanner.has_missing_files().await.unwrap());
}

#[test]
fn what_is_no_rule_is_invalid_and_not_missing_and_says_why() {
    let mut fixture = Fixture::new();
    let at = |name: &str| fixture.dir.path().join(name);
    std::os::unix::fs::symlink("nowhere", at("dangling.yaml")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("fifo.yaml")).status().unwrap().success());
    fixture.write("large.yaml", vec![b'#'; 5000]);
    fixture.write("junk.yaml", [0u8, 159, 146, 150]);
    fixture.write("empty.yaml", "");
    fixture.look();
    assert_eq!(fixture.why("empty.yaml"), "unfinished", "a moment ago somebody may have begun to write it");
    fixture.look_at_time(&ScanScope::All, SystemClock.now().after(EMPTY_FOR));
    assert!(fixture.why("dangling.yaml").contains("leads nowhere"), "{}", fixture.why("dangling.yaml"));
    assert_eq!(fixture.why("fifo.yaml"), "it is a FIFO, not a file");
    assert_eq!(fixture.why("large.yaml"), "it has 5000 bytes; a rule may have 4096");
    assert!(!fixture.why("junk.yaml").is_empty());
    assert!(!fixture.why("empty.yaml").is_empty());
    assert_eq!(fixture.look(), [""; 0], "a file that is invalid as before is not logged again");
}

#[test]
fn links_among_the_files_are_seen_and_a_file_that_cannot_be_read_may_be_one() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", rule("A", "one"));
    fixture.write("beside.txt", rule("B", "one"));
    fixture.look();
    assert!(!fixture.scanner.has_links());
    for target in ["beside.txt", "nowhere"] {
        let link = fixture.dir.path().join("b.yaml");
        std::os::unix::fs::symlink(target, &link).unwrap();
        assert_eq!(fixture.look(), ["b.yaml"]);
        assert!(fixture.scanner.has_links(), "{target}");
        fs::remove_file(&link).unwrap();
        fixture.look();
        assert!(!fixture.scanner.has_links());
    }
    // The same file by its own name and by a link are two things.
    fs::rename(fixture.dir.path().join("a.yaml"), fixture.dir.path().join("a.txt")).unwrap();
    std::os::unix::fs::symlink("a.txt", fixture.dir.path().join("a.yaml")).unwrap();
    fixture.look();
    assert!(fixture.scanner.has_links());
}

#[test]
fn a_directory_that_is_away_leaves_everything_as_it_was() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", rule("A", "one"));
    fixture.look();
    let aside = fixture.dir.path().with_extension("aside");
    fs::rename(fixture.dir.path(), &aside).unwrap();
    for scope in [ScanScope::All, ScanScope::Names(["a.yaml".to_owned()].into())] {
        let away = fixture.scanner.update(&scope, &BTreeSet::new(), SystemClock.now()).unwrap_err();
        assert!(away.to_string().contains(&*fixture.dir.path().to_string_lossy()), "{away}");
    }
    assert!(fixture.scanner.file("a.yaml").is_some());
    fs::rename(&aside, fixture.dir.path()).unwrap();
    assert_eq!(fixture.look(), [""; 0]);
}

#[tokio::test]
async fn a_text_that_was_forgotten_is_read_again_only_if_it_is_still_the_same() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", rule("A", "one"));
    fixture.look();
    fixture.scanner.forget_texts();
    assert_eq!(fixture.scanner.texts(&["a.yaml"]).await, [Some(rule("A", "one").into())]);
    fixture.write("a.yaml", rule("A", "two"));
    assert_eq!(fixture.scanner.texts(&["a.yaml"]).await, [None]);
}

#[test]
fn many_files_are_read_by_two_threads_to_the_same_end() {
    let mut fixture = Fixture::new();
    for number in 0..200 {
        fixture.write(&format!("r{number}.yaml"), rule(&format!("R{number}"), "one"));
    }
    assert_eq!(fixture.look().len(), 200);
    for (name, scanned) in fixture.scanner.files() {
        let id = scanned.rule().unwrap().rule_id.as_str().to_lowercase();
        assert_eq!(name, format!("{id}.yaml"));
    }
}

#[tokio::test]
async fn a_young_file_is_read_again_until_its_stamp_shows_every_later_change() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", rule("A", "one"));
    let written = fixture.scanner_stamp("a.yaml").changed();
    fixture.look_at_time(&ScanScope::All, written.after(Duration::from_millis(50)));
    let wait = fixture.scanner.recheck_in(written.after(Duration::from_millis(50))).unwrap();
    assert!(wait >= Duration::from_millis(50) && wait < Duration::from_secs(3), "{wait:?}");
    // Another text under the same stamp: what a coarse stamp, or a write through a mapping, leaves.
    fixture.write_under_the_old_stamp("a.yaml", rule("A", "two"));
    assert_eq!(
        fixture.scanner.recheck(written.after(Duration::from_secs(3))).await,
        ["a.yaml".to_owned()].into()
    );
    assert_eq!(
        fixture.look_at_time(
            &ScanScope::Names(["a.yaml".to_owned()].into()),
            written.after(Duration::from_secs(3))
        ),
        ["a.yaml"]
    );
    assert_eq!(fixture.scanner.recheck_in(written.after(Duration::from_secs(3))), None);
}

#[test]
fn a_rescan_reads_what_no_stamp_shows() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", rule("A", "one"));
    let later = SystemClock.now().after(Duration::from_secs(5));
    fixture.look_at_time(&ScanScope::All, later);
    fixture.write_under_the_old_stamp("a.yaml", rule("A", "two"));
    assert_eq!(fixture.look_at_time(&ScanScope::All, later), [""; 0]);
    assert_eq!(fixture.look_at_time(&ScanScope::Reread, later), ["a.yaml"]);
}

#[test]
fn a_file_that_is_being_written_stays_as_it_was() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", rule("A", "one"));
    fixture.look();
    let before = fixture.scanner.file("a.yaml").unwrap().outcome.clone();
    fixture.write("a.yaml", "rule_id: A\n");
    fixture.write("new.yaml", "rule_id: N\n");
    let unfinished = ["a.yaml".to_owned(), "new.yaml".to_owned()].into();
    for scope in [ScanScope::All, ScanScope::Reread, ScanScope::Names(["a.yaml".to_owned()].into())] {
        let found = fixture.scanner.update(&scope, &unfinished, SystemClock.now()).unwrap();
        assert_eq!(found, ChangedFiles::new(), "{scope:?}");
    }
    assert_eq!(fixture.scanner.file("a.yaml").unwrap().outcome, before);
    assert_eq!(fixture.why("new.yaml"), "unfinished");
    assert_eq!(fixture.look(), ["a.yaml", "new.yaml"]);
}

#[tokio::test]
async fn a_file_that_is_removed_after_it_was_stamped_is_not_invalid_and_soon_gone() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", rule("A", "one"));
    let stamp = fixture.scanner_stamp("a.yaml");
    fs::remove_file(fixture.dir.path().join("a.yaml")).unwrap();
    let now = SystemClock.now();
    let read = fixture.scanner.reader.read("a.yaml", Ok(stamp), None, now);
    assert!(matches!(read, Found::File(file) if file.outcome == Err(InvalidFile::Unfinished)));

    fixture.write("a.yaml", rule("A", "one"));
    fixture.look();
    fixture.scanner.unsettled.insert("a.yaml".to_owned(), Some(stamp));
    fs::remove_file(fixture.dir.path().join("a.yaml")).unwrap();
    assert_eq!(fixture.scanner.recheck(now).await, ["a.yaml".to_owned()].into());
    assert_eq!(fixture.look_at(&ScanScope::Names(["a.yaml".to_owned()].into())), ["a.yaml"]);
    assert!(fixture.scanner.file("a.yaml").is_none());
}
