//! Every figure of speed and size, compared with what the machine allows, or with another build.
//!
//! ```text
//! cargo bench --profile dist --bench figures                          compare with the floors
//! cargo bench --profile dist --bench figures -- --against PROGRAM     compare with another build
//! cargo bench --profile dist --bench figures -- --only 'cold sync'    measure some of them
//! cargo bench --profile dist --bench figures -- --plot growth.svg     and draw how they grow
//! ```
//!
//! Contenders are measured in turn, in one run, because ratios vary less than times. A floor is the same work by the
//! simplest means in this process: see `plain`. Needs PostgreSQL, MariaDB and an idle machine.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its outcome is what it prints")]
#![expect(clippy::cast_precision_loss, reason = "counts and bytes of this size are exact")]

mod bells;
mod contest;
mod following;
mod heard;
mod host;
mod plain;
mod plot;
mod resting;
mod servers;
/// The helpers of the tests that a benchmark uses.
#[path = "../../tests/it/support"]
#[expect(dead_code, reason = "the tests use more of them")]
mod support {
    pub(crate) mod databases;
    pub(crate) mod rules;
    pub(crate) mod servers;
    pub(crate) mod sshsig;
}
mod sync;
mod trusting;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use contest::{Contender, Figure, Goal, Line, Unit};
use host::Rules;
use servers::Databases;

const BACKENDS: [&str; 3] = ["sqlite", "postgresql", "mysql"];

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

/// All figures, in the order of the table.
fn figures<'a>(rules: &'a Rules, databases: &'a Databases) -> Vec<Figure<'a>> {
    let mut figures = Vec::new();
    figures.extend(SIZES.map(|count| sync::cold(rules, databases, "sqlite", count)));
    figures.extend(BACKENDS[1..].iter().map(|backend| sync::cold(rules, databases, backend, 10_000)));
    figures.extend(SIZES.map(|count| sync::unchanged(rules, databases, count)));
    figures.extend(SIZES.map(|count| sync::unchanged_beside_a_master(rules, count)));
    figures.extend(SIZES.map(|count| following::first_load(rules, databases, "sqlite", count)));
    figures
        .extend(BACKENDS[1..].iter().map(|backend| following::first_load(rules, databases, backend, 10_000)));
    figures.extend(SIZES.map(|count| following::snapshot(rules, count)));
    figures.extend(BACKENDS.map(|backend| heard::heard(rules, databases, backend, 1_000)));
    for backend in ["sqlite", "postgresql"] {
        figures.extend([100, 10_000, 100_000].map(|count| heard::heard(rules, databases, backend, count)));
    }
    for just_loaded in [false, true] {
        figures.extend(
            ["sqlite", "postgresql"].map(|backend| heard::heard_growth(databases, backend, just_loaded)),
        );
    }
    figures.extend(["sqlite", "postgresql"].map(|backend| heard::edited(databases, backend, 100_000)));
    figures.extend(BACKENDS.map(|backend| heard::state_set(databases, backend, 10)));
    figures.push(trusting::verified(10_000));
    for (subscribers, changes) in [(1, 10_000), (10, 10_000), (100, 10_000), (1_000, 1_000)] {
        figures.push(following::stream(rules, databases, subscribers, changes));
    }
    for mode in ["worker", "master"] {
        figures.extend(["time", "wake-ups"].map(|what| resting::idle_time(rules, mode, what)));
        figures.extend([100, 10_000, 100_000].map(|count| resting::resident(rules, mode, count)));
    }
    figures.push(resting::overhead(rules, 100_000));
    figures.push(resting::size());
    figures.push(resting::start_up(rules));
    for (backend, poll_interval) in [("postgresql", 1_000), ("mysql", 1_000), ("mysql", 100)] {
        let poll_interval = Duration::from_millis(poll_interval);
        figures.extend(
            [100, 10_000].map(|count| servers::idle_workers(databases, backend, count, poll_interval)),
        );
    }
    figures.extend([20, 200].map(|workers| bells::idle(databases, workers)));
    figures.extend(
        [(20, false), (20, true), (200, false), (200, true)]
            .map(|(workers, frozen)| bells::heard(databases, workers, frozen)),
    );
    figures.extend(BACKENDS[1..].iter().map(|backend| servers::idle_poll(databases, backend)));
    figures
}

fn written(unit: Unit, value: Option<f64>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    match unit {
        Unit::Seconds if value < 0.001 => format!("{:.0} µs", value * 1e6),
        Unit::Seconds if value < 1.0 => format!("{:.1} ms", value * 1e3),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Bytes if value < 4096.0 => format!("{value:.0} B"),
        Unit::Bytes => format!("{:.1} MiB", value / 1024.0 / 1024.0),
        Unit::Percent => format!("{value:.3} %"),
        Unit::PerSecond => format!("{value:.2}/s"),
    }
}

/// `within 2 times: yes`
fn goal(line: &Line) -> String {
    let Some(goal) = line.goal else { return String::new() };
    let goal = match goal {
        Goal::Times(times) => format!("within {times} times"),
        Goal::Above(above) => format!("within {} above", written(line.unit, Some(above))),
        Goal::AtMost(most) => format!("at most {}", written(line.unit, Some(most))),
    };
    match line.is_reached() {
        Some(true) => goal + ": yes",
        Some(false) => goal + ": NO",
        None => goal + ": not known",
    }
}

fn tell(line: &Line, against: bool) {
    let ratio = contest::median(&line.ratios()).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    let verdict = match (against, line.moved()) {
        (true, Some(ratio)) if ratio < 1.0 => format!("less by {:.0} %", (1.0 - ratio) * 100.0),
        (true, Some(ratio)) => format!("MORE by {:.0} %", (ratio - 1.0) * 100.0),
        (true, None) => String::new(),
        (false, _) => goal(line),
    };
    let columns = [0, 1].map(|contender| written(line.unit, line.median(contender)));
    println!("| {:<78} | {:>10} | {:>10} | {ratio:>6} | {verdict:<24} |", line.name, columns[0], columns[1]);
}

/// Every figure of speed and size, beside what the machine allows or beside another build
#[derive(Debug, Parser)]
struct Flags {
    /// As cargo calls it
    #[arg(long, hide = true)]
    bench: bool,
    /// The figures with these words alone; may be given more than once
    #[arg(long, value_name = "WORDS")]
    only: Vec<String>,
    /// Beside another build instead of the floors
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
    /// Also draw how they grow, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

fn main() {
    // `cargo test --all-targets` runs benches too, without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    // A thousand subscribers are as many open files.
    let own = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &own, "--nofile=8192:"]).status();
    assert!(raised.is_ok_and(|status| status.success()), "prlimit could not allow 8192 open files");
    let Flags { only, against, plot, .. } = Flags::parse();
    let first = against.clone().map_or(Contender::Floor, Contender::Build);
    let contenders = [first, Contender::Build(env!("CARGO_BIN_EXE_rulesyncd").into())];
    let (rules, databases) = (Rules::default(), Databases::new());
    let mut told = Vec::new();
    let heading = if against.is_some() { "the other" } else { "floor" };
    println!("| {:<78} | {heading:>10} | {:>10} | {:>6} | {:<24} |", "figure", "this", "ratio", "");
    println!("|{:-<80}|{:->11}:|{:->11}:|{:->7}:|{:-<26}|", "", "", "", "", "");
    for figure in figures(&rules, &databases) {
        if !only.is_empty() && !only.iter().any(|words| figure.name.contains(words)) {
            continue;
        }
        for line in figure.run(&contenders) {
            tell(&line, against.is_some());
            told.push(line);
        }
    }
    if let Some(path) = plot {
        std::fs::write(path, plot::svg(&told)).unwrap();
    }
}
