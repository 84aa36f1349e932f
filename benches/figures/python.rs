//! The same work as the Python stores do it, on the same files.

use std::process::Command;

use crate::contest::{Contender, Figure, Unit};
use crate::host::{Host, Rules};

/// The three steps that `stores.py` does, and what of the program does the same.
pub(crate) const STEPS: [&str; 3] = ["files", "write", "load"];

/// How long a step takes in Python, in the place of the floor, and here.
pub(crate) fn step<'a>(rules: &'a Rules, what: &'static str, count: usize) -> Figure<'a> {
    let name = match what {
        "files" => format!("{count} files read and checked; floor: Python"),
        "write" => format!("{count} files to the table; floor: Python"),
        _ => format!("{count} rows loaded; floor: Python"),
    };
    let figure = Figure::new(name, Unit::Seconds, move |contender| {
        let directory = rules.directory(count);
        let program = match contender {
            Contender::Floor => {
                let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");
                if !std::path::Path::new(python).exists() {
                    eprintln!("{python} is not there: ./tests/run makes it");
                    return Vec::new();
                }
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/stores.py");
                let done = Command::new(python).arg(script).arg(directory.path()).arg(what).output().unwrap();
                assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
                return vec![String::from_utf8_lossy(&done.stdout).trim().parse().unwrap()];
            }
            Contender::Build(build) => build,
        };
        let mut host = Host::on_sqlite(program, directory.path());
        vec![match what {
            "files" => host.run(&["check", &directory.path().display().to_string()]),
            "write" => host.run(&["sync"]),
            _ => {
                host.run(&["sync"]);
                host.first_load()
            }
        }]
    });
    figure.rounds(1)
}
