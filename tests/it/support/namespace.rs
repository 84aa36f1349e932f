//! A host of its own for commands that use fixed paths: a mount namespace with another /etc and /run.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use super::swarm::{text, wait_for};

/// The namespace; it and all processes in it end when this is dropped.
pub(crate) struct MountNamespace {
    holder: Child,
    dir: TempDir,
}

impl MountNamespace {
    /// This machine's files, with `/etc/rulesyncd`, `/run` and `/var/lib/rulesyncd` empty, and all that is written
    /// to /etc forgotten.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rs").tempdir_in("/var/tmp").unwrap();
        for part in ["upper", "work"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        let script = "mount -t overlay overlay -o lowerdir=/etc,upperdir=$0/upper,workdir=$0/work /etc
            mount -t tmpfs tmpfs /run
            mount -t tmpfs tmpfs /var/lib
            rm -rf /etc/rulesyncd; mkdir -p /etc/rulesyncd/rules /run/rulesyncd /var/lib/rulesyncd
            touch $0/ready; exec sleep infinity";
        let holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-euc", script])
            .arg(dir.path())
            .process_group(0)
            .spawn()
            .unwrap();
        wait_for("the namespace", || dir.path().join("ready").exists().then_some(()));
        Self { holder, dir }
    }

    /// A path of the namespace, as this process sees it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.id()))
    }

    /// A directory that is the same inside and outside.
    pub(crate) fn shared(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// A command inside, with an empty environment; `$RULESYNCD` in a shell's script is the program.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.holder.id().to_string(), "-m", "--"])
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LOGNAME", "operator")
            .stdin(Stdio::null());
        command
    }

    /// The program inside.
    pub(crate) fn rulesyncd(&self, args: &[&str]) -> Command {
        self.command(&[&[env!("CARGO_BIN_EXE_rulesyncd")], args].concat())
    }

    /// Runs the program to its end: its exit code, and what it printed and said.
    pub(crate) fn run(&self, args: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.rulesyncd(args).output().unwrap();
        (status.code().unwrap(), text(&stdout), text(&stderr))
    }
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
