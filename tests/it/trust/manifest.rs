//! `rulesyncd manifest`: make, sign and verify, with the real `ssh-keygen`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::interoperability::{Agent, make_key, ssh_keygen};
use crate::support::rules::rule_text;
use crate::support::sshsig::NAMESPACE;

/// A directory of rules, keys, and a configuration that trusts one of them.
pub(super) struct Release {
    pub(super) directory: TempDir,
}

impl Release {
    /// Two rules, and a key of `alice` in `allowed_signers`.
    pub(super) fn new() -> Self {
        let release = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(release.rules()).unwrap();
        release.write("R1", 1);
        release.write("R2", 1);
        let line = make_key(&release.path("alice"), "ed25519", "alice@example.org");
        release.trust(&line, 1);
        release
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn rules(&self) -> PathBuf {
        self.path("rules")
    }

    pub(super) fn write(&self, rule_id: &str, version: i32) {
        fs::write(self.rules().join(format!("{rule_id}.yaml")), rule_text(rule_id, version)).unwrap();
    }

    /// Writes the keys and the section `trust`.
    pub(super) fn trust(&self, lines: &str, threshold: usize) {
        let signers = self.path("allowed_signers");
        fs::write(&signers, lines).unwrap();
        fs::set_permissions(&signers, fs::Permissions::from_mode(0o644)).unwrap();
        let section = format!(
            "trust:\n  allowed_signers: {}\n  realm: honeypots\n  threshold: {threshold}\n",
            signers.display()
        );
        fs::write(self.path("trust.yaml"), section).unwrap();
    }

    /// Runs `rulesyncd manifest`; its exit code and everything that it printed.
    pub(super) fn manifest(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rulesyncd"));
        command.arg("manifest").args(arguments).arg("--config").arg(self.path("trust.yaml"));
        let output = command.current_dir(self.directory.path()).output().unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), printed)
    }

    /// Runs it, and expects success.
    pub(super) fn succeed(&self, arguments: &[&str]) -> String {
        let (code, printed) = self.manifest(arguments);
        assert_eq!(code, 0, "{arguments:?}: {printed}");
        printed
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.rules().join(name)).unwrap()
    }

    fn refuses(&self, expected: &str) {
        let (code, printed) = self.manifest(&["verify", "rules"]);
        assert_eq!(code, 1, "{printed}");
        assert!(printed.contains(expected), "{printed}");
    }
}

fn sign_with(key: &Path) -> Vec<&str> {
    vec!["sign", "rules", "--key", key.to_str().unwrap()]
}

#[test]
#[ignore = "needs ssh-keygen"]
fn a_release_is_made_signed_and_verified() {
    let release = Release::new();
    let made =
        release.succeed(&["make", "rules", "--realm", "honeypots", "--max-disabled", "1", "--protect", "R2"]);
    assert!(made.contains("+ R1  version 1 from R1.yaml"), "{made}");
    assert!(made.contains("2 new, 0 changed, 0 gone; 2 rules for honeypots"), "{made}");
    release.refuses("there is no signature");
    release.succeed(&sign_with(&release.path("alice")));
    let verified = release.succeed(&["verify", "rules"]);
    assert!(verified.contains("2 rules are signed by alice@example.org for honeypots"), "{verified}");
    assert!(verified.contains("states max=1 protected=R2"), "{verified}");

    // The real ssh-keygen accepts the same file.
    let (signers, signature) = (release.path("allowed_signers"), release.rules().join("MANIFEST.sig"));
    let verify =
        ["-Y", "verify", "-n", NAMESPACE, "-I", "alice@example.org", "-f", signers.to_str().unwrap()];
    let verify = [&verify[..], &["-s", signature.to_str().unwrap()]].concat();
    assert!(ssh_keygen(&verify, &release.read("MANIFEST")).0);

    // Each file counts.
    release.write("R1", 2);
    release.refuses("R1.yaml is not what it lists");
    release.write("R1", 1);
    fs::rename(release.rules().join("R2.yaml"), release.path("R2.yaml")).unwrap();
    release.refuses("R2.yaml is not what it lists");
    fs::rename(release.path("R2.yaml"), release.rules().join("R2.yaml")).unwrap();
    let list = release.read("MANIFEST.rules");
    fs::write(release.rules().join("MANIFEST.rules"), list.replace("R2 1", "R2 2")).unwrap();
    release.refuses("MANIFEST.rules is not what MANIFEST lists");
    fs::write(release.rules().join("MANIFEST.rules"), list).unwrap();
    let manifest = release.read("MANIFEST");
    fs::write(release.rules().join("MANIFEST"), manifest.replace("max=1", "max=2")).unwrap();
    release.refuses("it is not over these bytes");
    fs::write(release.rules().join("MANIFEST"), &manifest).unwrap();

    // A file that is not listed is not in the release.
    release.write("R3", 1);
    let verified = release.succeed(&["verify", "rules"]);
    assert!(
        verified.contains("R3.yaml is not in the release: `rulesyncd manifest make` adds it"),
        "{verified}"
    );
}

#[test]
#[ignore = "needs ssh-keygen"]
fn the_next_release_takes_over_what_is_not_said_and_is_newer() {
    let release = Release::new();
    release.succeed(&[
        "make",
        "rules",
        "--realm",
        "honeypots",
        "--expires-in",
        "10d",
        "--max-disabled",
        "50%",
    ]);
    release.succeed(&sign_with(&release.path("alice")));
    let first = release.read("MANIFEST");
    release.write("R1", 2);
    release.write("R3", 1);
    fs::remove_file(release.rules().join("R2.yaml")).unwrap();
    let made = release.succeed(&["make", "rules"]);
    for line in
        ["~ R1  version 1 becomes 2", "+ R3  version 1", "- R2  R2.yaml is gone", "1 new, 1 changed, 1 gone"]
    {
        assert!(made.contains(line), "{made}");
    }
    assert!(!release.rules().join("MANIFEST.sig").exists());
    let second = release.read("MANIFEST");
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(field(&first, "states:"), "max=1");
    for name in ["realm:", "states:"] {
        assert_eq!(field(&first, name), field(&second, name));
    }
    // The times are texts that sort.
    assert!(field(&first, "version:") < field(&second, "version:"));
    assert!(field(&first, "expires:") <= field(&second, "expires:"));
    release.succeed(&sign_with(&release.path("alice")));
    release.succeed(&["verify", "rules"]);
}

#[test]
#[ignore = "needs ssh-keygen"]
fn two_principals_sign_one_of_them_by_an_agent() {
    let release = Release::new();
    let alice = fs::read_to_string(release.path("allowed_signers")).unwrap();
    let bob = make_key(&release.path("bob"), "ecdsa", "bob@example.org");
    release.trust(&format!("{alice}{bob}"), 2);
    release.succeed(&["make", "rules", "--realm", "honeypots"]);
    release.succeed(&sign_with(&release.path("alice")));
    release.succeed(&sign_with(&release.path("alice")));
    assert!(!release.rules().join("MANIFEST.sig.1").exists());
    release.refuses("signatures of 1 of 2 principals count");

    let socket = release.path("agent");
    let _agent = Agent::holding(&release.path("bob"), &socket);
    fs::remove_file(release.path("bob")).unwrap();
    let mut sign = Command::new(env!("CARGO_BIN_EXE_rulesyncd"));
    sign.args(["manifest", "sign", "rules", "--key", "bob.pub"]).env("SSH_AUTH_SOCK", &socket);
    assert!(sign.current_dir(release.directory.path()).status().unwrap().success());
    let verified = release.succeed(&["verify", "rules"]);
    assert!(verified.contains("signed by alice@example.org, bob@example.org"), "{verified}");

    // What is no signature takes nothing from those that are.
    fs::write(release.rules().join("MANIFEST.sig.0"), "no signature").unwrap();
    let verified = release.succeed(&["verify", "rules"]);
    assert!(verified.contains("MANIFEST.sig.0 does not count"), "{verified}");
}

/// Rules without keys, beside a file that is precious to who signs.
fn unsigned() -> Release {
    let release = Release { directory: tempfile::tempdir().unwrap() };
    fs::create_dir(release.rules()).unwrap();
    release.write("R1", 1);
    fs::write(release.path("trust.yaml"), "").unwrap();
    fs::write(release.path("victim"), "precious").unwrap();
    release
}

#[test]
fn no_link_in_the_directory_leads_to_a_file_that_is_overwritten() {
    let release = unsigned();
    for name in [".MANIFEST.rules.new", ".MANIFEST.new", "MANIFEST.rules", "MANIFEST.sig"] {
        symlink("../victim", release.rules().join(name)).unwrap();
    }
    release.succeed(&["make", "rules", "--realm", "a"]);
    assert_eq!(fs::read_to_string(release.path("victim")).unwrap(), "precious");
    assert!(release.read("MANIFEST.rules").contains("R1.yaml"));
    let mut names: Vec<_> =
        fs::read_dir(release.rules()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["MANIFEST", "MANIFEST.rules", "R1.yaml"]);
}

#[test]
fn a_rule_that_a_link_leads_to_counts_as_it_does_for_the_master() {
    let release = unsigned();
    fs::create_dir(release.path("shared")).unwrap();
    fs::write(release.path("shared/R2.yaml"), rule_text("R2", 1)).unwrap();
    symlink("../shared/R2.yaml", release.rules().join("R2.yaml")).unwrap();
    let make = ["make", "rules", "--realm", "a"];
    let (code, printed) = release.manifest(&make);
    assert!(code == 1 && printed.contains("! R2.yaml  it is a symbolic link out of"), "{code}: {printed}");
    assert!(!release.rules().join("MANIFEST").exists());
    let allowed = format!("master:\n  follow_links_to: [{}]\n", release.path("shared").display());
    fs::write(release.path("trust.yaml"), allowed).unwrap();
    assert!(release.succeed(&make).contains("+ R2  version 1 from R2.yaml"));
}

#[test]
fn a_link_leads_to_a_manifest_only_where_it_may_lead_to_a_rule() {
    let release = unsigned();
    let make = ["make", "rules", "--realm", "a"];
    release.succeed(&make);
    fs::create_dir(release.path("shared")).unwrap();
    for name in ["MANIFEST", "MANIFEST.rules"] {
        fs::rename(release.rules().join(name), release.path("shared").join(name)).unwrap();
        symlink(format!("../shared/{name}"), release.rules().join(name)).unwrap();
    }
    for arguments in [&["make", "rules"][..], &["sign", "rules", "--key", "trust.yaml"]] {
        let (code, printed) = release.manifest(arguments);
        assert!(
            code == 3 && printed.contains("it is a symbolic link out of"),
            "{arguments:?}: {code}: {printed}"
        );
    }
    let allowed = format!("master:\n  follow_links_to: [{}]\n", release.path("shared").display());
    fs::write(release.path("trust.yaml"), allowed).unwrap();
    assert!(release.succeed(&["make", "rules"]).contains("0 new, 0 changed, 0 gone"));
}

#[test]
fn without_a_home_no_key_of_the_working_directory_signs() {
    let release = unsigned();
    release.succeed(&["make", "rules", "--realm", "a"]);
    fs::create_dir(release.path(".ssh")).unwrap();
    fs::write(release.path(".ssh/id_ed25519"), "another's").unwrap();
    for home in [None, Some(""), Some("."), Some("relative")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rulesyncd"));
        command.args(["manifest", "sign", "rules", "--config"]).arg(release.path("trust.yaml"));
        command
            .current_dir(release.directory.path())
            .env_remove("HOME")
            .envs(home.map(|home| ("HOME", home)));
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains("name one with --key"), "{home:?}: {said}");
    }
}

#[test]
#[ignore = "needs ssh-keygen"]
fn what_cannot_be_a_release_is_refused() {
    let release = Release::new();
    let refused = |arguments: &[&str], code: i32, expected: &str| {
        let (found, printed) = release.manifest(arguments);
        assert_eq!(found, code, "{arguments:?}: {printed}");
        assert!(printed.contains(expected), "{arguments:?}: {printed}");
    };
    refused(&["make", "rules"], 2, "with --realm");
    refused(&["make", "rules", "--realm", "Honeypots"], 2, "a-z");
    refused(&["make", "rules", "--realm", "a", "--protect", "R9"], 2, "no rule has the protected id R9");
    refused(
        &["make", "rules", "--realm", "a", "--max-disabled", "any", "--protect", "R1"],
        2,
        "--max-disabled",
    );
    refused(&["make", "allowed_signers", "--realm", "a"], 3, "allowed_signers");
    refused(&["sign", "rules"], 3, "there is no MANIFEST in rules");
    refused(&["verify", "rules"], 1, "there is no MANIFEST in rules");
    fs::write(release.rules().join("R3.yaml"), "rule_id: [").unwrap();
    refused(&["make", "rules", "--realm", "a"], 1, "! R3.yaml");
    assert!(!release.rules().join("MANIFEST").exists());
    fs::write(release.rules().join("R3.yaml"), rule_text("r1", 1)).unwrap();
    refused(&["make", "rules", "--realm", "a"], 2, "r1 is listed twice, or in two cases");
    fs::remove_file(release.rules().join("R3.yaml")).unwrap();

    // For another swarm.
    release.succeed(&["make", "rules", "--realm", "test"]);
    release.succeed(&sign_with(&release.path("alice")));
    release.refuses("for the realm `test`, and not for `honeypots`");
    // A public key alone, without an agent.
    let public = release.path("alice.pub");
    fs::remove_file(release.path("alice")).unwrap();
    refused(&sign_with(&public), 3, "ssh-keygen");
}

#[test]
#[ignore = "needs ssh-keygen"]
fn a_file_of_keys_that_others_may_change_is_never_used() {
    let release = Release::new();
    release.succeed(&["make", "rules", "--realm", "honeypots"]);
    release.succeed(&sign_with(&release.path("alice")));
    let signers = release.path("allowed_signers");
    let refused = |expected: &str| {
        let (code, printed) = release.manifest(&["verify", "rules"]);
        assert_eq!(code, 2, "{printed}");
        assert!(printed.contains(expected), "{printed}");
    };
    for mode in [0o646, 0o664] {
        fs::set_permissions(&signers, fs::Permissions::from_mode(mode)).unwrap();
        refused("others than its owner may write it");
    }
    let lines = fs::read_to_string(&signers).unwrap();
    release.trust(&lines, 2);
    refused("it has 1 principals that may sign releases, and trust.threshold is 2");
    release.trust("", 1);
    refused("it names no key that may sign");
    release.trust(&lines.replace("alice", "*"), 1);
    refused("line 1: the principal has the character '*'");
    fs::remove_file(&signers).unwrap();
    refused("there is no such file");
    fs::write(release.path("trust.yaml"), "trust:\n  realm: honeypots\n").unwrap();
    refused("without trust.allowed_signers");
    fs::write(release.path("trust.yaml"), "").unwrap();
    refused("trust.allowed_signers is not set");
}

#[test]
#[ignore = "needs ssh-keygen"]
fn the_commands_of_the_readme_make_a_release_that_verifies() {
    let (_, section) = include_str!("../../../README.md").split_once("\n### Sign your rules\n").unwrap();
    let block = |kind: &str| {
        let (_, rest) = section.split_once(&format!("\n```{kind}\n")).unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    };
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("rules")).unwrap();
    fs::write(directory.path().join("rules/R1.yaml"), rule_text("R1", 1)).unwrap();
    fs::write(directory.path().join("trust.yaml"), block("yaml")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_rulesyncd")).parent().unwrap();
    let path = format!("{}:{}", program.display(), "/usr/bin:/bin");
    let script = format!("umask 022\nset -e\n{}", block("sh"));
    let output =
        Command::new("sh").args(["-c", &script]).env("PATH", path).current_dir(directory.path()).output();
    let output = output.unwrap();
    let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("1 rule is signed by release@example.org for honeypots"), "{printed}");
}
