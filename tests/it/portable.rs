//! The static program and the container image, built by their own scripts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::rules::rule_text;
use crate::support::swarm::{Subscriber, Swarm, text, wait_for};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

#[test]
#[ignore = "builds the program anew, needs root"]
fn the_static_program_works_where_there_is_no_library_as_root() {
    let program = output(Command::new("packaging/build-static").arg("dev").current_dir(PROJECT));
    let swarm = Swarm::on_sqlite();
    fs::copy(Path::new(PROJECT).join(program), swarm.path("rulesyncd")).unwrap();
    fs::create_dir(swarm.path("dev")).unwrap();
    // A program that is statically linked with glibc reads random(4), not getrandom(2).
    for (name, minor) in [("random", "8"), ("urandom", "9")] {
        output(Command::new("mknod").arg(swarm.path("dev").join(name)).args(["c", "1", minor]));
    }
    let alone = |args: &[&str]| {
        let mut command = Command::new("/usr/sbin/chroot");
        command
            .arg(swarm.path(""))
            .arg("/rulesyncd")
            .args(args)
            .env_clear()
            .env("RULESYNCD_DATABASE_URL", "sqlite:///rules.db")
            .env("RULESYNCD_RULES_DIR", "/rules")
            .env("RULESYNCD_SOCKET", "/events.sock")
            .env("RULESYNCD_MASTER_SOCKET", "/master.sock")
            .env("RULESYNCD_WORKER_CACHE", "/catalogue.ndjson")
            .env("RULESYNCD_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    };
    let master = swarm.spawn(alone(&["master"]));
    master.wait_for_log("master started");
    let worker = swarm.spawn(alone(&["worker"]));
    swarm.save("a.yaml", rule_text("A", 1));
    wait_for("the rule in the table", || (swarm.rows().len() == 1).then_some(()));
    wait_for("the rule on the stream", || (swarm.subscribe().snapshot().len() == 1).then_some(()));
    worker.stop();
    master.stop();

    // A name is resolved without the C library's plug-ins.
    fs::create_dir(swarm.path("etc")).unwrap();
    fs::write(swarm.path("etc/hosts"), "127.0.0.1 db.example.org\n").unwrap();
    let refused = alone(&["sync", "--database-url", "postgres://u:p@db.example.org:1/x"]).output().unwrap();
    assert!(text(&refused.stderr).contains("refused"), "{}", text(&refused.stderr));

    the_sources_in_two_directories_give_one_program();
}

/// Without debug information, as what is shipped; what the program needs is built once, for neither it nor the
/// sources know their directory.
fn the_sources_in_two_directories_give_one_program() {
    let target = Path::new(PROJECT).join("target/static");
    let [one, other] = ["one", "another directory"].map(|name| {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join(name);
        let copied = "mkdir \"$1\" && tar -c --exclude=./target --exclude=./.git . | tar -x -C \"$1\"";
        output(Command::new("sh").args(["-c", copied, "sh"]).arg(&copy).current_dir(PROJECT));
        let mut build = Command::new("packaging/build-static");
        build.arg("dev").current_dir(&copy).env("CARGO_TARGET_DIR", &target);
        let program = output(build.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0"));
        let bytes = fs::read(copy.join(program)).unwrap();
        let home = output(Command::new("sh").args(["-c", "echo ${CARGO_HOME:-$HOME/.cargo}"]));
        for path in [copy.to_str().unwrap(), PROJECT, &home] {
            let found = bytes.windows(path.len()).any(|bytes| bytes == path.as_bytes());
            assert!(!found, "the program has the path {path}");
        }
        bytes
    });
    assert!(one == other, "{} and {} bytes", one.len(), other.len());
}

/// Buildah with its own storage.
struct Buildah {
    storage: TempDir,
}

impl Buildah {
    fn command(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.storage.path().join(name);
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "vfs", "--root"]).arg(at("root")).arg("--runroot").arg(at("run"));
        command.args(args).env("BUILDAH_ISOLATION", "chroot").env("TMPDIR", self.storage.path());
        command
    }

    fn run(&self, args: &[&str]) -> String {
        output(&mut self.command(args))
    }

    /// An image with this machine's toolchain, because no registry is reachable: it contains only links; returns what
    /// must be mounted in it.
    fn make_builder(&self) -> Vec<String> {
        let container = self.run(&["from", "scratch"]);
        let root = PathBuf::from(self.run(&["mount", &container]));
        for name in ["bin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name)).unwrap();
        }
        fs::create_dir(root.join("tmp")).unwrap();
        let rustc = |what| output(Command::new("rustc").args(["--print", what]).current_dir(PROJECT));
        let home = PathBuf::from(output(Command::new("sh").args(["-c", "echo ${CARGO_HOME:-$HOME/.cargo}"])));
        let toolchain = rustc("sysroot");
        let path = format!("PATH={toolchain}/bin:/usr/bin:/bin");
        let target = Path::new(PROJECT).join("target/static");
        fs::create_dir_all(&target).unwrap();
        let home_variable = format!("CARGO_HOME={}", home.display());
        let settings = [&path, &home_variable, "CARGO_TARGET_DIR=/target", "CARGO_NET_OFFLINE=true"];
        for setting in settings {
            self.run(&["config", "--env", setting, &container]);
        }
        self.run(&["commit", "--quiet", &container, "localhost/builder"]);
        vec![
            "/usr:/usr:ro".to_owned(),
            "/etc/alternatives:/etc/alternatives:ro".to_owned(),
            format!("{toolchain}:{toolchain}:ro"),
            format!("{0}:{0}", home.display()),
            format!("{}:/target", target.display()),
        ]
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        // Removes what a failed test left running in a container.
        for process in fs::read_dir("/proc").unwrap().flatten() {
            if fs::read_link(process.path().join("root"))
                .is_ok_and(|root| root.starts_with(self.storage.path()))
            {
                let _ = Command::new("kill").arg(process.file_name()).status();
            }
        }
        let _ = self.command(&["rm", "--all"]).output();
        let _ = self.command(&["rmi", "--all", "--force"]).output();
    }
}

#[test]
#[ignore = "builds the program anew, needs root and buildah"]
fn the_container_image_builds_from_the_repository_and_serves_rules_as_root() {
    let storage = tempfile::Builder::new().prefix("rs").tempdir_in("/var/tmp").unwrap();
    let buildah = Buildah { storage };
    let mounts = buildah.make_builder();
    let mut build = buildah.command(&["build", "--build-arg", "BUILDER=localhost/builder"]);
    for mount in &mounts {
        build.args(["--volume", mount]);
    }
    output(build.args(["--build-arg", "PROFILE=dev", "--tag", "localhost/rulesyncd", PROJECT]));

    let container = buildah.run(&["from", "localhost/rulesyncd"]);
    let inspect =
        |what: &str| buildah.run(&["inspect", "--type", "image", "--format", what, "localhost/rulesyncd"]);
    assert_eq!(
        inspect("{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.User}}"),
        "[/usr/bin/rulesyncd] 65532:65532"
    );
    let root = buildah.run(&["mount", &container]);
    let files = output(Command::new("find").args([&root, "-not", "-type", "d"]));
    assert_eq!(files, format!("{root}/usr/bin/rulesyncd"), "the program is all there is");

    // The host's database and rules, and the worker's socket back to it.
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    for name in ["data", "run"] {
        fs::create_dir(swarm.path(name)).unwrap();
        std::os::unix::fs::chown(swarm.path(name), Some(65532), Some(65532)).unwrap();
    }
    let run = |args: &[&str]| {
        let mut command = buildah.command(&["run"]);
        for (name, inside) in
            [("rules", "/etc/rulesyncd/rules:ro"), ("data", "/var/lib/rulesyncd"), ("run", "/run/rulesyncd")]
        {
            command.arg("--volume").arg(format!("{}:{inside}", swarm.path(name).display()));
        }
        command.args([&*container, "--", "/usr/bin/rulesyncd"]).args(args).stdin(Stdio::null());
        command
    };
    let synchronised = output(&mut run(&["sync"]));
    let worker = swarm.spawn(run(&["worker"]));
    let mut subscriber = Subscriber::connect(&swarm.path("run/events.sock"));
    subscriber.send(r#"{"op":"subscribe"}"#);
    assert_eq!(subscriber.snapshot().len(), 1, "{synchronised}");
    let status: Value = serde_json::from_str(&output(&mut run(&[
        "status",
        "--json",
        "--socket",
        "/run/rulesyncd/events.sock",
    ])))
    .unwrap();
    output(Command::new("kill").arg(status["pid"].to_string()));
    assert!(worker.wait().success());
}
