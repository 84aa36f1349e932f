//! A history: what happens, one step after the other. It follows from numbers.

use std::fmt;
use std::time::{Duration, Instant};

use super::Without;
use super::faults::Fault;
use super::judge::{compare, judge, judge_claims, judge_masters};
use super::tables::Key;
use super::texts::{IDS, MANY, VERSIONS};
use super::worker::{Course, Worker};
use super::world::{Options, SERVERS, World};
use crate::testing::Mutate;

const OVERLAP: Duration = Duration::from_secs(5);

/// Less than the time that a history goes on without faults at its end.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(30);

/// How many masters there are, at most.
const MASTERS: usize = 3;

/// Once the faults have ended: a takeover takes 17 s, one lease more where a master froze before its COMMIT, and the new
/// leader compares everything.
const TAKEOVER: i64 = 17_000_000 + 15_000_000 + 3_000_000;

/// The calls from a look at the lease to the COMMIT, some of them twice.
const CALLS: i64 = 14;

/// Why a history failed: which promise was broken, and how.
#[derive(Debug)]
pub(super) struct Verdict(String);

impl Verdict {
    pub(super) fn new(broken: impl Into<String>) -> Self {
        Self(broken.into())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Verdict {
    /// Whether the promise is the one that was broken; any, if it is empty.
    pub(super) fn is_about(&self, promise: &str) -> bool {
        self.0.starts_with(promise)
    }
}

/// What happens.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Begin {
        server: usize,
        key: Key,
        content: Option<u8>,
        is_ours: bool,
    },
    /// Another program changes all rules of a large table that no other step changes.
    Load {
        server: usize,
        content: u8,
    },
    Commit {
        which: usize,
    },
    Advance {
        micros: i64,
    },
    /// A server applies so many commits, and goes on with each that comes, or pauses.
    Replicate {
        server: usize,
        commits: usize,
        streams: bool,
    },
    FailOver {
        server: usize,
    },
    SetClock {
        server: usize,
        ahead: i64,
    },
    /// The one whose number is the number of masters has no lease, and is started, or stopped.
    Fault {
        master: usize,
        fault: Fault,
    },
    /// A file of a master's directory is written or removed.
    Edit {
        master: usize,
        id: u8,
        content: Option<u8>,
    },
    Connect {
        worker: usize,
        server: usize,
    },
    /// With `led_to`, a proxy led the session to another server a moment ago.
    Poll {
        worker: usize,
        led_to: Option<usize>,
        course: Course,
    },
}

impl Step {
    fn of(number: u64) -> Self {
        let mut chance = Mutate::new(number);
        Self::draw(&mut chance, 100)
    }

    /// One of the first `kinds` percent of all steps.
    fn draw(chance: &mut Mutate, kinds: usize) -> Self {
        let server = |chance: &mut Mutate| chance.below(SERVERS);
        match chance.below(kinds) {
            0..20 => {
                let id = u8::try_from(chance.below(usize::from(IDS))).unwrap();
                let key = if chance.below(3) > 0 { Key::Rule(id) } else { Key::State(id) };
                let (server, content) = (server(chance), content(chance));
                Self::Begin { server, key, content, is_ours: chance.below(2) == 0 }
            }
            20..40 => Self::Commit { which: chance.below(8) },
            40 => {
                let content = u8::try_from(chance.below(usize::from(VERSIONS))).unwrap();
                Self::Load { server: server(chance), content }
            }
            41..46 => Self::Advance { micros: micros(chance, 20_000_000) },
            46..53 => {
                let (server, commits) = (server(chance), chance.below(6));
                Self::Replicate { server, commits, streams: chance.below(2) == 0 }
            }
            53..58 => {
                let id = u8::try_from(chance.below(usize::from(IDS))).unwrap();
                Self::Edit { master: chance.below(MASTERS), id, content: content(chance) }
            }
            58..60 => Self::FailOver { server: server(chance) },
            60..62 => {
                Self::SetClock { server: server(chance), ahead: micros(chance, 40_000_000) - 20_000_000 }
            }
            62..66 => Self::Fault { master: chance.below(MASTERS), fault: fault(chance) },
            66..68 => Self::Connect { worker: chance.below(2), server: server(chance) },
            _ => {
                let led_to = Some(chance.below(20)).filter(|server| *server < SERVERS);
                let calls = if led_to.is_some() { 0 } else { chance.below(5) };
                let meanwhile = (0..calls).map(|_| Self::draw(chance, 58)).collect();
                let fails_at = Some(chance.below(40)).filter(|call| *call < 8);
                let (woken, hurried) = (chance.below(3) == 0, chance.below(4) == 0);
                let course = Course { woken, hurried, meanwhile, fails_at };
                Self::Poll { worker: chance.below(2), led_to, course }
            }
        }
    }

    /// Lets a step happen that concerns the servers and the masters.
    pub(super) fn happen(self, world: &mut World) {
        match self {
            Self::Begin { server, key, content, is_ours } => {
                world.begin_other(server, &[(key, content)], is_ours);
            }
            Self::Load { server, content } => {
                let rules = (IDS..world.options.rules).map(|id| (Key::Rule(id), Some(content)));
                world.begin_other(server, &rules.collect::<Vec<_>>(), false);
            }
            Self::Commit { which } => world.finish(which),
            Self::Advance { micros } => world.advance(micros),
            Self::Replicate { server, commits, streams } => {
                world.replicate(server, commits);
                world.stream(server, streams);
            }
            Self::FailOver { server } => world.fail_over(server),
            Self::SetClock { server, ahead } => world.set_clock(server, ahead),
            Self::Fault { master, .. } if master == world.options.masters => world.switch_unleased(),
            Self::Fault { master, fault } => {
                world.with_master(master, |master, world| master.suffer(fault, world));
            }
            Self::Edit { master, id, content } => {
                world.with_master(master, |master, _| master.directory.edit(id, content));
            }
            Self::Connect { .. } | Self::Poll { .. } => {}
        }
    }
}

fn micros(chance: &mut Mutate, most: usize) -> i64 {
    i64::try_from(chance.below(most)).unwrap()
}

fn content(chance: &mut Mutate) -> Option<u8> {
    let content = u8::try_from(chance.below(usize::from(VERSIONS) + 2)).unwrap();
    Some(content).filter(|content| *content < VERSIONS)
}

fn fault(chance: &mut Mutate) -> Fault {
    let is_lucky = chance.below(2) == 0;
    match chance.below(10) {
        0..4 => Fault::Freeze { micros: micros(chance, 30_000_000), host: is_lucky },
        4..7 => Fault::CutWrites { may_commit: is_lucky },
        7 => Fault::CutBeats { answers_late: is_lucky, is_noticed: chance.below(2) == 0 },
        8 => Fault::Kill { may_commit: is_lucky, down: micros(chance, 20_000_000) },
        _ => Fault::Stop { down: micros(chance, 20_000_000) },
    }
}

/// What a history has from its beginning, and its steps, each as a number.
#[derive(Debug, Clone)]
pub(super) struct History {
    options: Options,
    numbers: Vec<u64>,
}

impl History {
    pub(super) fn of(seed: u64, without: Without) -> Self {
        let mut chance = Mutate::new(seed);
        let mut options = Options {
            overlap: OVERLAP,
            whole_seconds: chance.below(4) == 0,
            folds: chance.below(4) == 0,
            is_cluster: chance.below(3) == 0,
            has_locks: chance.below(4) > 0,
            masters: [1, 1, 2, 3][chance.below(4)],
            call: [2_000, 2_000, 300_000, 1_000_000][chance.below(4)],
            rules: if chance.below(64) == 0 { MANY } else { IDS },
            has_row: true,
            without,
        };
        let steps = 10 + chance.below(80);
        let numbers = (0..steps).map(|_| chance.below(usize::MAX) as u64).collect();
        // The last draw: without it the histories of all seeds are what they were.
        options.has_row = chance.below(8) > 0;
        Self { options, numbers }
    }

    /// The time before a step, in microseconds. Many rules are in the window of a poll only for a moment.
    fn pause(&self, number: u64) -> i64 {
        let longest = if self.options.rules > IDS { 200_000 } else { 1_500_000 };
        i64::try_from(number % longest).unwrap()
    }

    /// Runs all steps and then a world without faults.
    pub(super) fn run(&self) -> Result<(), Verdict> {
        let begin = Instant::now();
        let mut world = World::new(self.options);
        let mut workers = [0, 1].map(|server| Worker::new(server, FULL_SCAN_INTERVAL));
        for &number in &self.numbers {
            // Time passes between any two steps.
            world.advance(self.pause(number));
            match Step::of(number) {
                Step::Connect { worker, server } => workers[worker].connect(server),
                Step::Poll { worker, led_to, course } => {
                    let worker = &mut workers[worker];
                    if let Some(server) = led_to {
                        worker.is_led_to(server, &world);
                    }
                    if let Some(polled) = worker.poll(&mut world, course, begin) {
                        judge(&worker.known, &worker.stream, &polled, &world)?;
                    }
                }
                step => step.happen(&mut world),
            }
            world.judged()?;
            judge_claims(&world)?;
        }
        world.heal();
        world.advance(TAKEOVER + CALLS * self.options.call);
        world.judged()?;
        judge_masters(&world)?;
        for worker in &mut workers {
            let polled = worker.poll(&mut world, Course::default(), begin);
            let polled = polled.ok_or_else(|| Verdict::new("progress: a poll without faults fails"))?;
            judge(&worker.known, &worker.stream, &polled, &world)?;
            compare(&worker.known, &world.head, true, &world)
                .map_err(|verdict| Verdict::new(format!("progress: {verdict}")))?;
        }
        Ok(())
    }

    /// Whether it breaks this promise, or any, if it is empty.
    pub(super) fn breaks(&self, promise: &str) -> bool {
        self.run().is_err_and(|verdict| verdict.is_about(promise))
    }

    /// The same failure with as few steps as leaving them out finds.
    pub(super) fn shrunk(mut self, promise: &str) -> Self {
        let mut length = self.numbers.len();
        while length > 0 {
            let mut place = 0;
            while place < self.numbers.len() {
                let mut shorter = self.clone();
                shorter.numbers.drain(place..(place + length).min(self.numbers.len()));
                if shorter.breaks(promise) {
                    self = shorter;
                } else {
                    place += length;
                }
            }
            length /= 2;
        }
        self
    }
}

/// One step a line.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.options)?;
        for &number in &self.numbers {
            writeln!(f, "+{} us {:?}", self.pause(number), Step::of(number))?;
        }
        Ok(())
    }
}
