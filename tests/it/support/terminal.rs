//! The program on a terminal of its own.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::swarm::{Swarm, wait_for};

/// Runs a program on a new terminal, which standard input types on and standard output shows; ends as the program does.
const ON_A_TERMINAL: &str = r"
import os, pty, select, sys
program, terminal = pty.fork()
if program == 0: os.execv(sys.argv[1], sys.argv[1:])
sources = [terminal, 0]
while True:
    for source in select.select(sources, [], [])[0]:
        try: piece = os.read(source, 65536)
        except OSError: piece = b''
        if piece: os.write(terminal if source == 0 else 1, piece)
        elif source == 0: sources.remove(0)
        else: sys.exit(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]))
";

/// A running program; killed when dropped.
pub(crate) struct Terminal {
    child: Child,
    shown: PathBuf,
}

impl Terminal {
    pub(crate) fn start(swarm: &Swarm, args: &[&str]) -> Self {
        let shown = tempfile::Builder::new().prefix("terminal").tempfile_in(swarm.path("")).unwrap();
        let shown = shown.into_temp_path().keep().unwrap();
        let prototype = swarm.command(&[]);
        let mut command = Command::new("python3");
        command.env_clear().envs(prototype.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.env("TERM", "xterm").args(["-c", ON_A_TERMINAL, env!("CARGO_BIN_EXE_rulesyncd")]).args(args);
        command.stdin(Stdio::piped()).stdout(fs::File::create(&shown).unwrap());
        Self { child: command.spawn().unwrap(), shown }
    }

    /// All that the terminal was sent.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.shown).unwrap()).into_owned()
    }

    /// Waits until this text is shown, or the program has ended; returns whether it is shown.
    pub(crate) fn until(&mut self, wanted: &str) -> bool {
        wait_for(&format!("{wanted:?} on the terminal"), || {
            let has_ended = self.child.try_wait().unwrap().is_some();
            let is_shown = self.shown().contains(wanted);
            (is_shown || has_ended).then_some(is_shown)
        })
    }

    /// Types this.
    pub(crate) fn enter(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits for the end: all that was shown, and the exit code, or the negated number of the signal that ended it.
    pub(crate) fn end(mut self) -> (String, i32) {
        let status = wait_for("the end of the program", || self.child.try_wait().unwrap());
        let code = u8::try_from(status.code().unwrap()).unwrap().cast_signed();
        (self.shown(), code.into())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
