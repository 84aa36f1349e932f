//! A real systemd, booted in a container whose disk is an overlay of this machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::swarm::{Subscriber, text, wait_for};

pub(crate) struct Container {
    // In this order: the process ends before its disk is unmounted and removed.
    nspawn: Child,
    leader: u32,
    disk: Overlay,
    _group: ControlGroup,
}

/// A container's own control group: containers that share one remove the groups of each other's units.
struct ControlGroup(PathBuf);

impl ControlGroup {
    fn create(name: &str) -> Self {
        // Where systemd uses the old hierarchies, the unified one is also mounted.
        let unified = Path::new("/sys/fs/cgroup/unified");
        let mounted = if unified.is_dir() { unified } else { Path::new("/sys/fs/cgroup") };
        let group = Self(mounted.join(format!("rulesyncd-{name}")));
        fs::create_dir(&group.0).unwrap();
        group
    }

    fn remove(folder: &Path) {
        for below in fs::read_dir(folder).into_iter().flatten().flatten() {
            if below.path().is_dir() {
                Self::remove(&below.path());
            }
        }
        let _ = fs::remove_dir(folder);
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        Self::remove(&self.0);
    }
}

struct Overlay {
    dir: TempDir,
}

impl Overlay {
    fn mount() -> Self {
        let dir = tempfile::Builder::new().prefix("rs").tempdir_in("/var/tmp").unwrap();
        for part in ["upper", "work", "root"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        let at = |part: &str| dir.path().join(part).display().to_string();
        let options = format!("lowerdir=/,upperdir={},workdir={}", at("upper"), at("work"));
        run("mount", &["-t", "overlay", "overlay", "-o", &options, &at("root")]);
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // The container's processes may take a moment to let go.
        for _ in 0..50 {
            if Command::new("umount")
                .arg(self.root())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output.stderr));
}

impl Container {
    /// Boots with an isolated network, and waits until everything is up.
    pub(crate) fn boot() -> Self {
        let disk = Overlay::mount();
        let name = disk
            .dir
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .replace(|c: char| !c.is_alphanumeric(), "");
        let group = ControlGroup::create(&name);
        fs::write(disk.root().join("etc/machine-id"), format!("{}\n", uuid::Uuid::new_v4().simple()))
            .unwrap();
        let console = fs::File::create(disk.dir.path().join("console")).unwrap();
        let nspawn = Command::new("sh")
            .args(["-c", "echo $$ > $0/cgroup.procs; exec systemd-nspawn \"$@\""])
            .arg(&group.0)
            .args([
                "--quiet",
                &format!("--machine={name}"),
                // For IPAddressAllow= and similar settings, which are programs in the kernel.
                "--system-call-filter=bpf",
                "--capability=CAP_BPF,CAP_PERFMON",
                "--register=no",
                "--keep-unit",
                "--private-network",
                "--boot",
                "--console=read-only",
            ])
            .arg("-D")
            .arg(disk.root())
            .args([
                "systemd.unit=multi-user.target",
                "systemd.mask=mariadb.service",
                "systemd.mask=postgresql.service",
            ])
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", nspawn.id());
        let mut container = Self { nspawn, leader: 0, disk, _group: group };
        wait_for("the container to be up", || {
            // The first child is a helper that soon gives way to the container's first process.
            container.leader = fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()?;
            let state = container.try_sh("systemctl is-system-running");
            matches!(text(&state.stdout).trim(), "running" | "degraded").then_some(())
        });
        container
    }

    /// Connects two containers with a cable, and gives its ends these addresses.
    pub(crate) fn connect(ends: [(&Self, &str); 2]) {
        let [(one, _), (other, _)] = ends;
        let [one, other] = [one, other].map(|container| container.leader.to_string());
        run(
            "ip",
            &[
                "link", "add", "cable", "netns", &one, "type", "veth", "peer", "name", "cable", "netns",
                &other,
            ],
        );
        for (container, address) in ends {
            container.sh(&format!("ip address add {address} dev cable; ip link set cable up"));
        }
    }

    /// A path of the container, as this machine sees it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader))
    }

    /// Runs a script as root in the container.
    pub(crate) fn try_sh(&self, script: &str) -> Output {
        Command::new("nsenter")
            .args(["-t", &self.leader.to_string(), "-a", "--", "bash", "-euc", script])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a script that must succeed, and returns what it printed.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        assert!(
            output.status.success(),
            "{script}: {}{}\n{}",
            text(&output.stdout),
            text(&output.stderr),
            text(&self.try_sh("journalctl --no-pager -n 50").stdout)
        );
        text(&output.stdout)
    }

    /// Waits until a script's output contains `wanted`.
    pub(crate) fn wait_for(&self, script: &str, wanted: &str) {
        let mut last = String::new();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(&format!("`{wanted}` from `{script}`"), || {
                last = text(&self.try_sh(script).stdout);
                last.contains(wanted).then_some(())
            });
        }));
        if result.is_err() {
            panic!(
                "`{script}` never said `{wanted}`; last it said:\n{last}\n{}",
                self.sh("journalctl --no-pager -n 50")
            );
        }
    }

    /// One property of a unit.
    pub(crate) fn property(&self, unit: &str, property: &str) -> String {
        self.sh(&format!("systemctl show -P {property} {unit}")).trim().to_owned()
    }

    /// Copies a file into the container.
    pub(crate) fn put(&self, from: &Path, to: &str) {
        fs::copy(from, self.path(to)).unwrap();
    }

    /// Connects to the event stream and subscribes.
    pub(crate) fn subscribe(&self) -> Subscriber {
        let mut subscriber = Subscriber::connect(&self.path("/run/rulesyncd/events.sock"));
        subscriber.send(r#"{"op":"subscribe"}"#);
        subscriber
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.try_sh("systemctl poweroff --force --force");
        let ended = (0..50).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            self.nspawn.try_wait().is_ok_and(|status| status.is_some())
        });
        if !ended {
            let _ = self.nspawn.kill();
            let _ = self.nspawn.wait();
        }
        // Named so that it is not taken for unused: its drop unmounts the disk.
        let _ = &self.disk;
    }
}
