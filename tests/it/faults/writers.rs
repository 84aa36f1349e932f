//! Who writes: the files' author, another program, operators.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rulesyncd::clock::Timestamp;

use super::chance::Chance;
use crate::support::databases::Hand;
use crate::support::rules::rule_text;
use crate::support::swarm::Swarm;

/// The directory as its author left it. Whoever swaps the directory holds this, too.
#[derive(Default)]
pub(super) struct Author {
    versions: BTreeMap<String, i64>,
    pub(super) valid: BTreeMap<String, i64>,
    pub(super) invalid: BTreeSet<(String, i64)>,
}

/// Rules that are edited and broken, but whose file always stands.
pub(super) fn standing() -> Vec<String> {
    (0..8).map(|number| format!("S{number:02}")).collect()
}

/// Rules that come and go.
fn passing() -> Vec<String> {
    (0..8).map(|number| format!("C{number:02}")).collect()
}

/// Rules of another program.
pub(super) fn foreign() -> Vec<String> {
    (0..4).map(|number| format!("F{number:02}")).collect()
}

pub(super) fn all() -> Vec<String> {
    [standing(), passing(), foreign()].concat()
}

impl Author {
    fn next_version(&mut self, id: &str) -> i64 {
        let version = self.versions.entry(id.to_owned()).or_default();
        *version += 1;
        *version
    }

    pub(super) fn save(&mut self, swarm: &Swarm, id: &str, in_place: bool) {
        let version = self.next_version(id);
        let (name, text) = (format!("{id}.yaml"), rule_text(id, i32::try_from(version).unwrap()));
        if in_place {
            swarm.save(&name, text)
        } else {
            swarm.save_atomically(&name, text)
        }
        self.valid.insert(id.to_owned(), version);
    }

    fn spoil(&mut self, swarm: &Swarm, id: &str) {
        let version = self.next_version(id);
        let text = rule_text(id, i32::try_from(version).unwrap());
        swarm.save(&format!("{id}.yaml"), text.replace("applies_to", "applies"));
        self.invalid.insert((id.to_owned(), version));
        self.valid.remove(id);
    }

    /// Every file a valid one again, and every rule that stands, saved.
    pub(super) fn mend(&mut self, swarm: &Swarm) {
        for id in standing() {
            self.save(swarm, &id, false);
        }
        for id in passing() {
            let spoilt = !self.valid.contains_key(&id) && swarm.rules().join(format!("{id}.yaml")).exists();
            if spoilt {
                self.save(swarm, &id, false);
            }
        }
    }
}

pub(super) fn write_files(swarm: &Swarm, author: &Mutex<Author>, mut chance: Chance, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        {
            let mut author = author.lock().unwrap();
            let (standing, passing) = (standing(), passing());
            match chance.below(10) {
                0..=4 => author.save(swarm, &chance.pick(&standing[..]).clone(), chance.below(2) == 0),
                5 => author.spoil(swarm, &chance.pick(&standing[..]).clone()),
                6 | 7 => author.save(swarm, &chance.pick(&passing[..]).clone(), chance.below(2) == 0),
                8 => {
                    let id = chance.pick(&passing[..]);
                    if std::fs::remove_file(swarm.rules().join(format!("{id}.yaml"))).is_ok() {
                        author.valid.remove(id);
                    }
                }
                // As git does: removed and written in one breath.
                _ => {
                    let id = chance.pick(&standing[..]);
                    let _ = std::fs::remove_file(swarm.rules().join(format!("{id}.yaml")));
                    author.save(swarm, id, true);
                }
            }
        }
        chance.pause(40);
    }
}

/// Another program, whose clock is right, an hour ahead, or an hour behind.
pub(super) async fn write_rows(
    connect: impl AsyncFn() -> Option<Hand>,
    now: impl Fn() -> Timestamp,
    mut chance: Chance,
    end: &AtomicBool,
) {
    let mut hand = None;
    let mut version = 0;
    while !end.load(Ordering::Relaxed) {
        tokio::time::sleep(std::time::Duration::from_millis(chance.below(150))).await;
        if hand.is_none() {
            hand = connect().await;
        }
        let Some(open) = &mut hand else { continue };
        version += 1;
        let hour = 3_600_000_000;
        let skew = *chance.pick(&[0, hour, -hour]);
        let stamp = Timestamp::from_micros(now().as_micros() + skew);
        let id = chance.pick(&foreign()).clone();
        let done = if chance.below(6) == 0 {
            open.try_run(&format!("DELETE FROM ttp_rule WHERE rule_id = '{id}'")).await.map(drop)
        } else {
            open.try_put(&id, version, stamp).await
        };
        if done.is_err() {
            hand = None;
        }
    }
}

/// Operators; that the database is away at times is told to them, and they go on.
pub(super) fn set_states(swarm: &Swarm, mut chance: Chance, end: &AtomicBool) -> usize {
    let ids = all();
    let mut done = 0;
    while !end.load(Ordering::Relaxed) {
        let id = chance.pick(&ids);
        let output = match chance.below(4) {
            0 => swarm.run(&["state", "clear", id]),
            1 => swarm.run(&["state", "set", id, "disabled", "--expires-in", "1s"]),
            2 => swarm.run(&["state", "set", id, "clipped", "--confidence-max", "0.85"]),
            _ => swarm.run(&["state", "set", id, "disabled", "--reason", "storm"]),
        };
        done += usize::from(output.status.success());
        chance.pause(300);
    }
    done
}
