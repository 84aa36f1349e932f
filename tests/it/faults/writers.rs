//! The writers: an author of files, another program, and operators. Each records what it is about to do.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rulesyncd::clock::{Clock as _, SystemClock, Timestamp};

use super::chance::Chance;
use super::clocks::Timeline;
use super::history::{Order, Removal, Rule};
use super::target::External;
use crate::support::databases::ExternalClient;
use crate::support::rules::rule_text;
use crate::support::swarm::Swarm;

/// What was written and removed.
pub(super) struct Book {
    pub(super) timeline: Timeline,
    pub(super) texts: Mutex<BTreeMap<String, Rule>>,
    pub(super) removals: Mutex<Vec<Removal>>,
}

impl Book {
    pub(super) fn new(timeline: Timeline) -> Self {
        Self { timeline, texts: Mutex::default(), removals: Mutex::default() }
    }

    fn note_text(&self, rule_id: &str, version: i64, text: &str) {
        let rule = Rule::of(rule_id, version, text);
        self.texts.lock().unwrap().insert(rule.sha256.clone(), rule);
    }

    fn note_removal(&self, rule_id: &str) {
        self.note_removal_at(self.timeline.now(), rule_id);
    }

    fn note_removal_at(&self, at: u64, rule_id: &str) {
        self.removals.lock().unwrap().push(Removal { at, rule_id: rule_id.to_owned() });
    }
}

/// In milliseconds: well below the time after which a master takes a file for deleted.
const BREATH: u64 = 100;

/// The directory as its author left it. The nemesis holds this lock while it replaces the directory.
pub(super) struct Author<'a> {
    swarm: &'a Swarm,
    book: &'a Book,
    versions: BTreeMap<String, i64>,
    pub(super) valid: BTreeMap<String, i64>,
    pub(super) invalid: BTreeSet<(String, i64)>,
}

/// Rules that are edited and made invalid, but whose file always exists.
pub(super) fn permanent() -> Vec<String> {
    (0..8).map(|number| format!("S{number:02}")).collect()
}

/// Rules that are created and deleted.
fn temporary() -> Vec<String> {
    (0..8).map(|number| format!("C{number:02}")).collect()
}

/// Rules of another program.
pub(super) fn foreign() -> Vec<String> {
    (0..4).map(|number| format!("F{number:02}")).collect()
}

pub(super) fn all() -> Vec<String> {
    [permanent(), temporary(), foreign()].concat()
}

/// Files that are always invalid.
pub(super) const BAD_FILES: [&str; 4] = ["dangling.yaml", "fifo.yaml", "junk.yaml", "large.yaml"];

/// Rows that are always invalid.
pub(super) const BAD_ROWS: [&str; 4] = ["BAD NAME", "BAD_ID", "BAD_STATE", "BAD_TEXT"];

pub(super) fn poison_directory(swarm: &Swarm) {
    let at = |name: &str| swarm.rules().join(name);
    swarm.save("large.yaml", vec![b'#'; 1 << 20]);
    swarm.save("junk.yaml", [0xff, 0xfe, 0, 1, 2]);
    std::fs::create_dir(at("folder.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", at("dangling.yaml")).unwrap();
    assert!(Command::new("mkfifo").arg(at("fifo.yaml")).status().unwrap().success());
}

pub(super) async fn poison_tables(external: &mut ExternalClient) {
    let now = SystemClock.now();
    external.put_text("BAD_TEXT", 1, "rule_id: [", now).await;
    external.put_text("BAD_ID", 1, &rule_text("ANOTHER", 1), now).await;
    external.put_text("BAD NAME", 1, &rule_text("BAD", 1), now).await;
    external.put_state("BAD_STATE", "asleep", None, now).await;
}

impl<'a> Author<'a> {
    pub(super) fn new(swarm: &'a Swarm, book: &'a Book) -> Self {
        let (versions, valid, invalid) = Default::default();
        Self { swarm, book, versions, valid, invalid }
    }

    fn next_text(&mut self, id: &str) -> (i64, String) {
        let version = self.versions.entry(id.to_owned()).or_default();
        *version += 1;
        (*version, rule_text(id, i32::try_from(*version).unwrap()))
    }

    fn save(&mut self, id: &str, in_place: bool) {
        let (version, text) = self.next_text(id);
        self.book.note_text(id, version, &text);
        let name = format!("{id}.yaml");
        if in_place {
            self.swarm.save(&name, text)
        } else {
            self.swarm.save_atomically(&name, text)
        }
        self.valid.insert(id.to_owned(), version);
    }

    fn spoil(&mut self, id: &str) {
        let (version, text) = self.next_text(id);
        self.invalid.insert((id.to_owned(), version));
        self.swarm.save(&format!("{id}.yaml"), text.replace("applies_to", "applies"));
        self.valid.remove(id);
    }

    fn remove(&mut self, id: &str) {
        let file = self.swarm.rules().join(format!("{id}.yaml"));
        if file.exists() {
            self.book.note_removal(id);
            std::fs::remove_file(file).unwrap();
            self.valid.remove(id);
        }
    }

    /// As git does: removes the file and writes it again at once. If this takes long on a slow machine, it counts as
    /// a removal.
    fn replace(&mut self, id: &str) {
        let from = self.book.timeline.now();
        let _ = std::fs::remove_file(self.swarm.rules().join(format!("{id}.yaml")));
        self.save(id, true);
        if self.book.timeline.now() - from > BREATH {
            self.book.note_removal_at(from, id);
        }
    }

    /// Makes every file valid again, and saves every permanent rule. Temporary rules that were deleted stay deleted.
    pub(super) fn mend(&mut self) {
        for id in permanent() {
            self.save(&id, false);
        }
        self.remove(&temporary()[0]);
    }
}

pub(super) fn write_files(author: &Mutex<Author<'_>>, mut chance: Chance, end: &AtomicBool) {
    let (permanent, temporary) = (permanent(), temporary());
    while !end.load(Ordering::Relaxed) {
        {
            let (stands, passes) = (chance.pick(&permanent), chance.pick(&temporary));
            let mut author = author.lock().unwrap();
            match chance.below(10) {
                0..=4 => author.save(stands, chance.below(2) == 0),
                5 => author.spoil(stands),
                6 | 7 => author.save(passes, chance.below(2) == 0),
                8 => author.remove(passes),
                _ => author.replace(stands),
            }
        }
        chance.pause(40);
    }
}

/// The offsets of another program's clock, in seconds.
const SKEWS: [i64; 3] = [0, 3_600, -3_600];

/// Another program, whose clock is right, an hour ahead, or an hour behind. At the end it writes each of its rules
/// once more, and retries until it succeeds.
pub(super) async fn write_rows(database: &External, book: &Book, mut chance: Chance, end: &AtomicBool) {
    let mut external = None;
    let mut version = 0;
    let mut left = foreign();
    while !left.is_empty() {
        let ending = end.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(chance.below(150))).await;
        if external.is_none() {
            external = database.connect().await;
        }
        let Some(open) = &mut external else { continue };
        version += 1;
        let skew = SKEWS[usize::try_from(version).unwrap() % SKEWS.len()] * 1_000_000;
        let stamp = Timestamp::from_micros(SystemClock.now().as_micros() + skew);
        let id = if ending { left[0].clone() } else { chance.pick(&left).clone() };
        let done = if chance.below(6) == 0 && !ending {
            book.note_removal(&id);
            open.try_run(&format!("DELETE FROM ttp_rule WHERE rule_id = '{id}'")).await.map(drop)
        } else {
            book.note_text(&id, version.into(), &rule_text(&id, version));
            open.try_put(&id, version, stamp).await
        };
        match done {
            Ok(()) if ending => drop(left.remove(0)),
            Ok(()) => {}
            Err(_) => external = None,
        }
    }
}

/// Operators, who go on when the database is unavailable.
pub(super) fn set_states(
    run: impl Fn(&[&str]) -> std::process::Output,
    timeline: Timeline,
    mut chance: Chance,
    end: &AtomicBool,
) -> Vec<Order> {
    let ids = all();
    let mut orders = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let id = chance.pick(&ids);
        let (state, rest): (_, &[&str]) = match chance.below(4) {
            0 => (None, &[]),
            1 => (Some("disabled"), &["--expires-in", "1s"]),
            2 => (Some("clipped"), &["--confidence-max", "0.85"]),
            _ => (Some("disabled"), &["--reason", "storm"]),
        };
        let order = match state {
            // The rule may not exist at the moment.
            Some(state) => ["state", "--json", "set", "--force", id, state].to_vec(),
            None => ["state", "--json", "clear", id].to_vec(),
        };
        let from = timeline.now();
        let output = run(&[&order, rest].concat());
        let answer = output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap());
        orders.push(Order {
            from,
            to: timeline.now(),
            rule_id: id.clone(),
            state: state.map(str::to_owned),
            ends: rest.contains(&"--expires-in"),
            answer,
        });
        chance.pause(250);
    }
    orders
}
