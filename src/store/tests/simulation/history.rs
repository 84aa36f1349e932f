//! A history: what happens, one step after the other. It follows from numbers.

use std::fmt;
use std::time::{Duration, Instant};

use super::Without;
use super::judge::{compare, judge};
use super::texts::{IDS, VERSIONS};
use super::worker::{Course, FULL_SCAN_INTERVAL, Worker};
use super::world::{Key, SERVERS, World};
use crate::testing::Mutate;

const OVERLAP: Duration = Duration::from_secs(5);

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

/// What happens.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Begin {
        key: Key,
        content: Option<u8>,
        is_ours: bool,
    },
    Commit {
        which: usize,
    },
    Advance {
        micros: i64,
    },
    Replicate {
        server: usize,
        commits: usize,
    },
    FailOver {
        server: usize,
    },
    SetClock {
        server: usize,
        ahead: i64,
    },
    Freeze {
        is_frozen: bool,
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
                let content = u8::try_from(chance.below(usize::from(VERSIONS) + 2)).unwrap();
                let content = Some(content).filter(|content| *content < VERSIONS);
                Self::Begin { key, content, is_ours: chance.below(2) == 0 }
            }
            20..40 => Self::Commit { which: chance.below(8) },
            40..46 => Self::Advance { micros: micros(chance, 20_000_000) },
            46..58 => Self::Replicate { server: server(chance), commits: 1 + chance.below(6) },
            58..60 => Self::FailOver { server: server(chance) },
            60..62 => {
                Self::SetClock { server: server(chance), ahead: micros(chance, 40_000_000) - 20_000_000 }
            }
            62..64 => Self::Freeze { is_frozen: chance.below(2) == 0 },
            64..67 => Self::Connect { worker: chance.below(2), server: server(chance) },
            _ => {
                let led_to = Some(chance.below(20)).filter(|server| *server < SERVERS);
                let calls = if led_to.is_some() { 0 } else { chance.below(5) };
                let meanwhile = (0..calls).map(|_| Self::draw(chance, 58)).collect();
                let fails_at = Some(chance.below(40)).filter(|call| *call < 8);
                let course = Course { woken: chance.below(3) == 0, meanwhile, fails_at };
                Self::Poll { worker: chance.below(2), led_to, course }
            }
        }
    }

    /// Lets a step happen that concerns the servers.
    pub(super) fn happen(self, world: &mut World) {
        match self {
            Self::Begin { key, content, is_ours } => world.begin(key, content, is_ours),
            Self::Commit { which } => world.finish(which),
            Self::Advance { micros } => world.advance(micros),
            Self::Replicate { server, commits } => world.replicate(server, commits),
            Self::FailOver { server } => world.fail_over(server),
            Self::SetClock { server, ahead } => world.set_clock(server, ahead),
            Self::Freeze { is_frozen } => world.freeze(is_frozen),
            Self::Connect { .. } | Self::Poll { .. } => {}
        }
    }
}

fn micros(chance: &mut Mutate, most: usize) -> i64 {
    i64::try_from(chance.below(most)).unwrap()
}

/// The steps of a history, each as a number.
#[derive(Debug, Clone)]
pub(super) struct History {
    has_whole_seconds: bool,
    numbers: Vec<u64>,
}

impl History {
    pub(super) fn of(seed: u64) -> Self {
        let mut chance = Mutate::new(seed);
        let has_whole_seconds = chance.below(4) == 0;
        let steps = 10 + chance.below(80);
        let numbers = (0..steps).map(|_| chance.below(usize::MAX) as u64).collect();
        Self { has_whole_seconds, numbers }
    }

    /// Runs all steps and then a world without faults.
    pub(super) fn run(&self, without: Without) -> Result<(), Verdict> {
        let begin = Instant::now();
        let mut world = World::new(OVERLAP, self.has_whole_seconds);
        let mut workers = [Worker::new(0), Worker::new(1)];
        for &number in &self.numbers {
            // Time passes between any two steps.
            world.advance(i64::try_from(number % 1_500_000).unwrap());
            match Step::of(number) {
                Step::Connect { worker, server } => workers[worker].connect(server),
                Step::Poll { worker, led_to, course } => {
                    let worker = &mut workers[worker];
                    if let Some(server) = led_to {
                        worker.is_led_to(server, &world);
                    }
                    if let Some(polled) = worker.poll(&mut world, course, begin, (OVERLAP, without)) {
                        judge(&worker.known, &worker.stream, &polled)?;
                    }
                }
                step => step.happen(&mut world),
            }
        }
        world.heal();
        world.advance(i64::try_from(FULL_SCAN_INTERVAL.as_micros()).unwrap());
        for worker in &mut workers {
            let polled = worker.poll(&mut world, Course::default(), begin, (OVERLAP, without));
            let polled = polled.ok_or_else(|| Verdict::new("progress: a poll without faults fails"))?;
            judge(&worker.known, &worker.stream, &polled)?;
            compare(&worker.known, world.tables(world.primary()), true)
                .map_err(|verdict| Verdict::new(format!("progress: {verdict}")))?;
        }
        Ok(())
    }

    /// The same failure with as few steps as leaving them out finds.
    pub(super) fn shrunk(mut self, without: Without) -> Self {
        let mut length = self.numbers.len();
        while length > 0 {
            let mut place = 0;
            while place < self.numbers.len() {
                let mut shorter = self.clone();
                shorter.numbers.drain(place..(place + length).min(self.numbers.len()));
                if shorter.run(without).is_err() {
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
        writeln!(f, "whole seconds: {}", self.has_whole_seconds)?;
        for &number in &self.numbers {
            writeln!(f, "+{} us {:?}", number % 1_500_000, Step::of(number))?;
        }
        Ok(())
    }
}
