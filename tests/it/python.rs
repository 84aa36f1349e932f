//! The Python package of `examples/python`: checked, built, installed, and its own tests against running daemons.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::support::servers::{Kind, Server};
use crate::support::swarm::text;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn package() -> PathBuf {
    root().join("examples/python")
}

/// The Python that has the packages of `tests/python/requirements.txt`.
fn python() -> Command {
    let mut command = Command::new(root().join("target/venv/bin/python"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A directory with the wheel, built once for all tests.
fn wheel() -> PathBuf {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let offline = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir"];
        run(python().args(["-m", "pip", "wheel"]).args(offline).arg(directory.path()).arg(package()));
        directory
    });
    let mut files = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path());
    files.find(|path| path.extension().is_some_and(|end| end == "whl")).unwrap()
}

/// A directory to which the wheel was installed, once for all tests.
fn installed() -> &'static Path {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    DIRECTORY
        .get_or_init(|| {
            let directory = tempfile::tempdir().unwrap();
            let offline = ["--quiet", "--no-deps", "--no-index", "--target"];
            run(python().args(["-m", "pip", "install"]).args(offline).arg(directory.path()).arg(wheel()));
            directory
        })
        .path()
}

/// Runs the package's tests with the installed package: on SQLite, or on what `backend` names.
fn suite(mut python: Command, backend: &str, options: &[&str]) {
    python
        .current_dir(package())
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "-rsxX"])
        .args(options)
        .env("PYTHONPATH", installed())
        .env("RULESYNCD_PROGRAM", env!("CARGO_BIN_EXE_rulesyncd"))
        .env("RULESYNCD_TEST_BACKEND", backend);
    // What was skipped, and what a directory refuses, is part of the tests' output.
    std::io::stderr().write_all(run(&mut python).as_bytes()).unwrap();
}

#[test]
#[ignore = "needs target/venv with mypy and ruff: tests/run"]
fn it_is_strictly_typed_and_free_of_findings() {
    let check = |tool: &[&str]| run(python().current_dir(package()).arg("-m").args(tool));
    check(&["ruff", "check", "--no-cache", "."]);
    check(&["ruff", "format", "--no-cache", "--check", "."]);
    let cache = tempfile::tempdir().unwrap();
    let cache = format!("--cache-dir={}", cache.path().display());
    for version in ["3.11", "3.14"] {
        check(&["mypy", &cache, "--python-version", version, "src", "follow.py", "tests"]);
    }
}

#[test]
#[ignore = "needs target/venv with hatchling: tests/run"]
fn a_new_environment_needs_nothing_but_the_wheel() {
    let directory = tempfile::tempdir().unwrap();
    run(python().args(["-m", "venv", "--without-pip"]).arg(directory.path()));
    let fresh = directory.path().join("bin/python");
    let install = ["install", "--quiet", "--no-index"];
    run(python().args(["-m", "pip", "--python"]).arg(&fresh).args(install).arg(wheel()));
    let shown = run(Command::new(&fresh).current_dir(directory.path()).args([
        "-I",
        "-c",
        "import importlib.metadata as m, importlib.resources as r, rulesyncd, rulesyncd.sync\n\
         print(m.version('rulesyncd'), (r.files(rulesyncd) / 'py.typed').is_file())\n\
         print(sorted(d.name for d in m.distributions()))",
    ]));
    assert_eq!(shown, format!("{} True\n['rulesyncd']\n", env!("CARGO_PKG_VERSION")));
}

#[test]
#[ignore = "needs target/venv with pytest: tests/run"]
fn it_keeps_its_contract_on_sqlite() {
    suite(python(), "sqlite", &[]);
}

#[test]
#[ignore = "needs target/venv with pytest: tests/run"]
fn it_keeps_its_contract_on_a_directory() {
    suite(python(), "dir", &["-m", "backends"]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL, and target/venv with pytest: tests/run"]
async fn it_keeps_its_contract_on_postgres() {
    let server = Server::start(Kind::Postgres, &["-c", "max_connections=200"]).await;
    let url = format!("postgresql://postgres@/postgres?host={}", server.path().display());
    suite(python(), &url, &["-m", "backends"]);
}

#[tokio::test]
#[ignore = "needs MariaDB, and target/venv with pytest: tests/run"]
async fn it_keeps_its_contract_on_mariadb() {
    let server = Server::start(Kind::MariaDb, &["--default-time-zone=+05:00"]).await;
    let socket = server.path().join("sock");
    let url = format!("mysql://root@localhost/mysql?unix_socket={}", socket.display());
    suite(python(), &url, &["-m", "backends"]);
}

/// `tests/run` makes an environment for each Python that it finds, and names those that it does not.
#[test]
#[ignore = "needs another Python and its target/venv-3.*: tests/run"]
fn it_keeps_its_contract_with_every_python_at_hand() {
    let mut found = Vec::new();
    for version in ["3.12", "3.13", "3.14"] {
        let python = root().join(format!("target/venv-{version}/bin/python"));
        if python.exists() {
            suite(Command::new(python), "sqlite", &["-m", "backends", "-k", "not 10000 and not killed"]);
            found.push(version);
        }
    }
    assert!(!found.is_empty(), "no target/venv-3.* is there");
    std::io::stderr().write_all(format!("also run with Python {found:?}\n").as_bytes()).unwrap();
}
