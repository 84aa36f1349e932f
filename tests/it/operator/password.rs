//! A database's password that every user of the host can read is warned of.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::swarm::{Swarm, text};

const WARNING: &str = "every user of this host can read the database's password";

/// Nobody listens there.
const ADDRESS: &str = "postgresql://rulesyncd:canary@localhost/rules?host=/nonexistent";

/// A directory that every user may search, with this file in it.
fn file(swarm: &Swarm, name: &str, text: &str, mode: u32) -> PathBuf {
    set_mode(&swarm.path(""), 0o755);
    let directory = swarm.path("etc");
    fs::create_dir_all(&directory).unwrap();
    set_mode(&directory, 0o755);
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    set_mode(&path, mode);
    path
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// How often a command warns, with what it writes.
fn warnings(command: &mut Command) -> (usize, String) {
    let errors = text(&command.env_remove("RULESYNCD_DATABASE_URL").output().unwrap().stderr);
    assert!(!errors.contains("canary"), "{errors}");
    (errors.matches(WARNING).count(), errors)
}

#[test]
fn of_a_file_with_an_address_where_others_can_read_it() {
    let swarm = Swarm::on_sqlite();
    let states = |path: &Path| {
        let mut command = swarm.command(&["state", "list"]);
        command.env("RULESYNCD_DATABASE_URL_FILE", path);
        command
    };
    let url = file(&swarm, "url", ADDRESS, 0o644);
    for args in [&["state", "list"][..], &["sync"], &["sync", "--dry-run"], &["verify"], &["why", "R1"]] {
        let (count, errors) = warnings(swarm.command(args).env("RULESYNCD_DATABASE_URL_FILE", &url));
        assert_eq!(count, 1, "{args:?}: {errors}");
        for wanted in [url.to_str().unwrap(), "mode 0644", "owner uid ", "chmod 600"] {
            assert!(errors.contains(wanted), "no `{wanted}` in {errors}");
        }
    }
    for mode in ["master", "worker"] {
        let daemon = swarm.daemon(mode, |command| {
            command.env_remove("RULESYNCD_DATABASE_URL").env("RULESYNCD_DATABASE_URL_FILE", &url);
        });
        assert_eq!(daemon.count_in_log(WARNING), 1, "{}", daemon.log());
        daemon.stop();
    }
    // A link is as readable as what it leads to.
    let link = swarm.path("link");
    std::os::unix::fs::symlink(&url, &link).unwrap();
    assert_eq!(warnings(&mut states(&link)).0, 1);
    // Neither of these can be read by others, or has a password.
    assert_eq!(warnings(states(&url).env("CREDENTIALS_DIRECTORY", url.parent().unwrap())).0, 0);
    set_mode(url.parent().unwrap(), 0o750);
    assert_eq!(warnings(&mut states(&url)).0, 0);
    for mode in [0o600, 0o640] {
        assert_eq!(warnings(&mut states(&file(&swarm, "url", ADDRESS, mode))).0, 0, "{mode:o}");
    }
    let without = file(&swarm, "without", &ADDRESS.replace(":canary", ""), 0o644);
    assert_eq!(warnings(&mut states(&without)).0, 0);
}

#[test]
fn of_a_configuration_with_an_address_where_others_can_read_it() {
    let swarm = Swarm::on_sqlite();
    let config = format!("database:\n  url: '{ADDRESS}'\n");
    for (mode, expected) in [(0o644, 1), (0o600, 0)] {
        let path = file(&swarm, "config.yaml", &config, mode);
        let (count, errors) = warnings(swarm.command(&["state", "list"]).env("RULESYNCD_CONFIG", &path));
        assert_eq!(count, expected, "{errors}");
        assert_eq!(errors.contains(path.to_str().unwrap()), expected == 1, "{errors}");
        // The address of the environment is used, and who can read that, no file says.
        let mut elsewhere = swarm.command(&["state", "list"]);
        elsewhere.env("RULESYNCD_CONFIG", &path).env("RULESYNCD_DATABASE_URL", ADDRESS);
        assert_eq!(text(&elsewhere.output().unwrap().stderr).matches(WARNING).count(), 0);
    }
}

#[test]
fn no_mistake_in_a_configuration_prints_it() {
    let swarm = Swarm::on_sqlite();
    let config = |lines: &str| {
        let path = file(&swarm, "config.yaml", &format!("database:\n  url: {ADDRESS}\n{lines}"), 0o600);
        let output = swarm.command(&["config", "worker"]).env("RULESYNCD_CONFIG", &path).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    for mistake in [
        "  url: x\n",
        "   connect_timeout: 5s\n",
        "\tconnect_timeout: 5s\n",
        "worker: 7\n",
        "worker: [\n",
        "  postgres://u:canary@h/d: x\n",
    ] {
        let (code, said) = config(mistake);
        assert_eq!(code, Some(2), "{mistake}: {said}");
        assert!(said.contains("config.yaml:") && !said.contains("canary"), "{mistake}: {said}");
    }
    let (code, shown) = config("telemetry:\n  otlp: http://h/?api_key=canary\n");
    assert!(code == Some(0) && shown.contains("http://h/?***") && !shown.contains("canary"), "{shown}");
    let output = swarm.command(&["config", "worker"]).env("RULESYNCD_CONFIG", "").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}
