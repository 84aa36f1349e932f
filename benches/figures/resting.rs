//! What the daemons cost while nothing happens.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::contest::{Contender, Figure, Goal, Unit};
use crate::host::{Host, Rules, Subscriber};

/// As long as anything that follows a load is under way: the overlap, the writing of the cache.
const SETTLED: Duration = Duration::from_secs(12);

/// How long an idle daemon is watched.
const WATCHED: Duration = Duration::from_secs(20);

/// The time that a process has computed for.
pub(crate) fn cpu_time(process: &Path) -> Duration {
    let of = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    };
    let tasks = std::fs::read_dir(process.join("task"));
    tasks.map(|tasks| tasks.filter_map(|task| of(task.ok()?)).sum()).unwrap_or_default()
}

/// How often a process was woken.
fn wake_ups(process: &Path) -> f64 {
    let of = |task: std::fs::DirEntry| number(&task.path(), "voluntary_ctxt_switches");
    std::fs::read_dir(process.join("task")).unwrap().filter_map(|task| of(task.ok()?)).sum()
}

/// A number of a process's or task's status.
fn number(process: &Path, key: &str) -> Option<f64> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A worker or a master that has nothing to do.
fn idle(build: &Path, rules: &Rules, mode: &str, count: usize) -> (Host, PathBuf) {
    let directory = rules.directory(count);
    let mut host = Host::on_sqlite(build, directory.path());
    host.run(&["sync"]);
    let id = host.start(mode);
    match mode {
        "worker" => {
            drop(Subscriber::to(&host, r#"{"op":"subscribe","follow":false}"#).until("snapshot_begin"))
        }
        _ => {
            host.wait_for_master();
            host.run(&["sync"]);
        }
    }
    std::thread::sleep(SETTLED);
    (host, PathBuf::from(format!("/proc/{id}")))
}

/// Processor time and wake-ups of an idle daemon.
pub(crate) fn idle_time<'a>(rules: &'a Rules, mode: &'static str, what: &'static str) -> Figure<'a> {
    let (name, unit) = match what {
        "wake-ups" => (format!("idle {mode}, wake-ups a second"), Unit::PerSecond),
        _ => (format!("idle {mode}, percent of a core"), Unit::Percent),
    };
    let figure = Figure::new(name, unit, move |contender| {
        let Contender::Build(build) = contender else { return Vec::new() };
        let (_host, process) = idle(build, rules, mode, 100);
        let (start, time, wakes) = (Instant::now(), cpu_time(&process), wake_ups(&process));
        std::thread::sleep(WATCHED);
        let watched = start.elapsed().as_secs_f64();
        vec![match unit {
            Unit::Percent => (cpu_time(&process) - time).as_secs_f64() / watched * 100.0,
            _ => (wake_ups(&process) - wakes) / watched,
        }]
    });
    let figure = figure.rounds(1);
    if unit == Unit::Percent { figure.goal(Goal::AtMost(0.1)) } else { figure }
}

/// What a daemon holds in memory.
pub(crate) fn resident<'a>(rules: &'a Rules, mode: &'static str, count: usize) -> Figure<'a> {
    let figure = Figure::new(format!("resident {mode}, {count} rules"), Unit::Bytes, move |contender| {
        let Contender::Build(build) = contender else { return Vec::new() };
        let (_host, process) = idle(build, rules, mode, count);
        vec![number(&process, "VmRSS").unwrap() * 1024.0]
    });
    let series = if mode == "worker" { "worker, resident" } else { "master, resident" };
    let figure = figure.rounds(1).series(series, count);
    if (mode, count) == ("worker", 100) { figure.goal(Goal::AtMost(10.0 * 1024.0 * 1024.0)) } else { figure }
}

/// What a rule takes in a worker beyond its compiled form.
pub(crate) fn overhead(rules: &Rules, count: usize) -> Figure<'_> {
    const FEW: usize = 100;
    let figure =
        Figure::new(format!("a rule's overhead in a worker of {count}"), Unit::Bytes, move |contender| {
            let Contender::Build(build) = contender else { return Vec::new() };
            let mut held = [FEW, count].map(|count| {
                let (host, process) = idle(build, rules, "worker", count);
                let resident = number(&process, "VmRSS").unwrap() * 1024.0;
                // The compiled form with its state; the line's other fields are no part of it.
                let mut subscriber = Subscriber::to(&host, r#"{"op":"subscribe","follow":false}"#);
                (resident, subscriber.until("rule")["new_value"].to_string().len())
            });
            let (many, compiled) = held[1];
            held[1].0 = (many - held[0].0) / (count - FEW) as f64;
            vec![held[1].0 - compiled as f64]
        });
    figure.rounds(1).goal(Goal::AtMost(400.0))
}

/// The program's size.
pub(crate) fn size() -> Figure<'static> {
    let figure = Figure::new("size of the program", Unit::Bytes, |contender| match contender {
        Contender::Build(build) => vec![std::fs::metadata(build).unwrap().len() as f64],
        Contender::Floor => Vec::new(),
    });
    figure.rounds(1)
}

/// From nothing to a worker that greets; the floor is a process that does nothing.
pub(crate) fn start_up(rules: &Rules) -> Figure<'_> {
    let figure = Figure::new("worker's start, 100 rules", Unit::Seconds, move |contender| {
        let directory = rules.directory(100);
        let Contender::Build(build) = contender else {
            let start = Instant::now();
            Command::new("sh").args(["-c", "exec true"]).status().unwrap();
            return vec![start.elapsed().as_secs_f64()];
        };
        let mut host = Host::on_sqlite(build, directory.path());
        host.run(&["sync"]);
        vec![host.first_load()]
    });
    figure.rounds(11)
}
