//! Random sequences of everything that people and programs do to files, on file systems with different stamps, with
//! scans at any moment. The law: once nothing has changed for three seconds, the table contains what a new process
//! would read. Rescans do not help the master: the next one is an hour away.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::faults::chance::Chance;
use crate::faults::number;
use crate::support::mounts::Mount;
use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text, wait_for};

/// How many names the operations use: few, so that they collide.
const NAMES: u64 = 40;

/// How many operations come between two checks of the law.
const ROUND: u64 = 400;

/// What is told of in the law.
const QUIET: Duration = Duration::from_secs(3);

#[derive(Clone, Copy)]
enum FileSystem {
    Ext4OfWholeSeconds,
    Tmpfs,
    Overlay,
}

#[test]
#[ignore = "needs root to mount"]
fn what_was_saved_is_served_on_ext4_of_whole_seconds_as_root() {
    run(FileSystem::Ext4OfWholeSeconds, 3_600, seed(FileSystem::Ext4OfWholeSeconds));
}

#[test]
#[ignore = "needs root to mount"]
fn what_was_saved_is_served_on_tmpfs_as_root() {
    run(FileSystem::Tmpfs, 3_600, seed(FileSystem::Tmpfs));
}

#[test]
#[ignore = "needs root to mount"]
fn what_was_saved_is_served_on_overlayfs_as_root() {
    run(FileSystem::Overlay, 3_600, seed(FileSystem::Overlay));
}

#[test]
#[ignore = "takes half an hour or more; needs root to mount: tests/run long"]
fn a_million_operations_on_files_as_root() {
    // Mostly waits, so many directories and masters at once.
    std::thread::scope(|scope| {
        for file_system in [FileSystem::Ext4OfWholeSeconds, FileSystem::Tmpfs, FileSystem::Overlay] {
            for part in 0..8 {
                scope.spawn(move || run(file_system, 42_000, seed(file_system) + 100 * part));
            }
        }
    });
}

/// The same seed makes the same operations.
fn seed(file_system: FileSystem) -> u64 {
    number("SEED", 1 + file_system as u64)
}

fn run(file_system: FileSystem, operations: u64, seed: u64) {
    let swarm = Swarm::on_sqlite();
    let layers = tempfile::tempdir_in("/dev/shm").unwrap();
    let _mount = match file_system {
        FileSystem::Ext4OfWholeSeconds => Mount::ext4_of_whole_seconds(&swarm.rules(), &swarm.path("image")),
        FileSystem::Tmpfs => Mount::tmpfs(&swarm.rules(), "16m"),
        FileSystem::Overlay => Mount::overlay(&swarm.rules(), layers.path()),
    };
    let master = swarm.daemon("master", |command| {
        command.env("RULESYNCD_MASTER_RESCAN_INTERVAL", "1h").env("RULESYNCD_MASTER_MAX_DELETE", "100%");
    });
    let mut hands = Hands::new(&swarm.rules(), seed);
    for done in (0..operations).step_by(usize::try_from(ROUND).unwrap()) {
        for _ in 0..ROUND {
            hands.one_operation();
        }
        std::thread::sleep(QUIET);
        let what = format!("the law after {} operations, seed {seed}", done + ROUND);
        let mut said = String::new();
        let law = || {
            said = text(&swarm.run(&["sync", "--dry-run"]).stdout);
            said.contains("0 to add, 0 to change, 0 to delete,").then_some(())
        };
        let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for(&what, law)));
        assert!(held.is_ok(), "{what}: a new process would do this:\n{said}\n{}", hands.last.join("\n"));
    }
    assert!(master.log().contains("added from"), "the table was written");
}

/// Executes the operations.
struct Hands {
    directory: PathBuf,
    chance: Chance,
    version: i32,
    python: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The last operations, for the message of a failure.
    last: Vec<String>,
}

impl Hands {
    fn new(directory: &Path, seed: u64) -> Self {
        // Operations for which Rust's library has no safe functions.
        let script = "import ctypes, mmap, sys\n\
             libc = ctypes.CDLL(None, use_errno=True)\n\
             for line in sys.stdin:\n\
             \x20 what, one, other = line.rstrip('\\n').split('\\t')\n\
             \x20 if what == 'map':\n\
             \x20   with open(one, 'r+b') as file:\n\
             \x20     data = bytes.fromhex(other)\n\
             \x20     with mmap.mmap(file.fileno(), 0) as mapping: mapping[:len(data)] = data\n\
             \x20 else: libc.renameat2(-100, one.encode(), -100, other.encode(), 2)\n\
             \x20 print('done', flush=True)";
        let mut python = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (python.stdin.take().unwrap(), python.stdout.take().unwrap());
        Self {
            directory: directory.to_owned(),
            chance: Chance::new(seed, 1),
            version: 100,
            python,
            input,
            output: BufReader::new(output),
            last: Vec::new(),
        }
    }

    fn python(&mut self, what: &str, one: &Path, other: &str) {
        writeln!(self.input, "{what}\t{}\t{other}", one.display()).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{what}");
    }

    fn name(&mut self) -> PathBuf {
        let number = self.chance.below(NAMES);
        self.directory.join(format!("F{number:02}.yaml"))
    }

    /// A text: mostly a rule, of one size, with an id that mostly belongs to the name.
    fn text(&mut self, path: &Path) -> String {
        self.version = if self.version == 999 { 100 } else { self.version + 1 };
        let number = self.chance.below(NAMES);
        let own = path.file_stem().unwrap().to_string_lossy().replace('F', "R");
        match self.chance.below(12) {
            0 => "rule_id: [\n".to_owned(),
            1 => rule_text(&format!("R{number:02}"), self.version),
            _ => rule_text(&own, self.version),
        }
    }

    fn one_operation(&mut self) {
        let (path, other) = (self.name(), self.name());
        let text = self.text(&path);
        let operation = self.chance.below(16);
        self.last.push(format!("{operation} {} {} {:?}", path.display(), other.display(), text.get(..24)));
        if self.last.len() > 400 {
            self.last.remove(0);
        }
        let beside = self.directory.join(".beside");
        match operation {
            0..=2 => drop(fs::write(&path, &text)),
            3 => {
                if let Ok(mut file) = OpenOptions::new().write(true).open(&path) {
                    file.write_all(text.as_bytes()).unwrap();
                }
            }
            // Slowly, in two pieces.
            4 => {
                if let Ok(mut file) = File::create(&path) {
                    let (first, second) = text.split_at(text.len() / 2);
                    file.write_all(first.as_bytes()).unwrap();
                    self.chance.pause(60);
                    file.write_all(second.as_bytes()).unwrap();
                }
            }
            5 | 6 if path.metadata().is_ok_and(|found| found.is_file() && found.len() > 0) => {
                let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
                // No longer than the file: a mapping does not make it longer.
                let size = usize::try_from(path.metadata().unwrap().len()).unwrap();
                self.python("map", &path, &hex[..hex.len().min(2 * size)]);
            }
            // A new file with the stamp of the one that it replaces, as a restored backup has.
            7 | 8 => {
                fs::write(&beside, &text).unwrap();
                let stamp = path.metadata().and_then(|found| found.modified());
                if let Ok(stamp) = stamp {
                    File::options().write(true).open(&beside).unwrap().set_modified(stamp).unwrap();
                }
                drop(fs::rename(&beside, &path));
            }
            9 => drop(fs::hard_link(&path, &other)),
            10 => {
                // To another file of the directory, hidden or a rule's.
                let target = if self.chance.below(2) == 0 { "F00.yaml" } else { ".target" };
                fs::write(self.directory.join(".target"), &text).unwrap();
                if fs::remove_file(&path).is_ok() && path.file_name().unwrap() != "F00.yaml" {
                    symlink(target, &path).unwrap();
                }
            }
            11 => drop(fs::remove_file(&path)),
            12 => {
                let mode = if self.chance.below(2) == 0 { 0o600 } else { 0o644 };
                drop(fs::set_permissions(&path, fs::Permissions::from_mode(mode)));
            }
            13 => self.python("exchange", &path, &other.display().to_string()),
            14 => drop(fs::rename(&path, &other)),
            // Empty for a moment, with a name that makes the master scan everything where links are.
            _ => {
                let file = File::create(&path);
                fs::write(self.directory.join("4913"), "").unwrap();
                self.chance.pause(20);
                if let Ok(mut file) = file {
                    file.write_all(text.as_bytes()).unwrap();
                }
            }
        }
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        let _ = self.python.kill();
        let _ = self.python.wait();
    }
}
