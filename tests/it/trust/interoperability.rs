//! The program and the real `ssh-keygen` agree on which signatures are good.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rulesyncd::clock::Timestamp;
use rulesyncd::trust::{AllowedSigners, KeyDates, Policy};

use crate::support::sshsig::{NAMESPACE, Signing, SoftKey};

const MANIFEST: &str = "rulesyncd-manifest 1\nrealm: honeypots\nversion: 2026-11-27T08:00:00Z\n\
    expires: 2099-01-01T00:00:00Z\nstates: any\n\
    rules: 0 0 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";

const PRINCIPAL: &str = "release@example.org";

/// Runs `ssh-keygen` with these arguments and this input; whether it succeeded, and what it printed.
pub(super) fn ssh_keygen(arguments: &[&str], input: &str) -> (bool, String) {
    run(Command::new("ssh-keygen").args(arguments), input)
}

fn run(command: &mut Command, input: &str) -> (bool, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
}

/// Makes a key without a passphrase, and returns its line of allowed signers.
pub(super) fn make_key(path: &Path, kind: &str, principal: &str) -> String {
    let path = path.to_str().unwrap();
    let (made, printed) = ssh_keygen(&["-q", "-t", kind, "-N", "", "-C", "", "-f", path], "");
    assert!(made, "{printed}");
    format!("{principal} {}", fs::read_to_string(format!("{path}.pub")).unwrap())
}

fn policy(lines: &str) -> Policy {
    let signers = AllowedSigners::parse(lines.as_bytes()).unwrap();
    Policy { signers, realm: "honeypots".parse().unwrap(), threshold: 1, min_version: None }
}

fn we_accept(lines: &str, message: &str, signature: &str) -> bool {
    let dates = KeyDates::At(Timestamp::parse("2026-11-27T08:00:00Z").unwrap());
    policy(lines).verify(message.as_bytes(), signature, dates).is_ok()
}

fn they_accept(directory: &Path, lines: &str, message: &str, signature: &str) -> bool {
    let (signers, file) = (directory.join("signers"), directory.join("signature"));
    fs::write(&signers, lines).unwrap();
    fs::write(&file, signature).unwrap();
    let (signers, file) = (signers.to_str().unwrap(), file.to_str().unwrap());
    let at = "verify-time=20261127080000Z";
    ssh_keygen(
        &["-Y", "verify", "-O", at, "-f", signers, "-I", PRINCIPAL, "-n", NAMESPACE, "-s", file],
        message,
    )
    .0
}

#[test]
#[ignore = "needs ssh-keygen"]
fn both_accept_what_keys_of_all_kinds_signed_in_software() {
    let directory = tempfile::tempdir().unwrap();
    let other_version = MANIFEST.replace("2026-11-27", "2026-11-28");
    for key in SoftKey::of_each_kind() {
        let lines = key.line(PRINCIPAL);
        let both = |lines: &str, message: &str, signature: &str| {
            let (ours, theirs) = (
                we_accept(lines, message, signature),
                they_accept(directory.path(), lines, message, signature),
            );
            assert_eq!(ours, theirs, "{}: {lines}{signature}", key.kind());
            ours
        };
        for hash in ["sha256", "sha512"] {
            let signature = key.sign_as(MANIFEST.as_bytes(), Signing { hash, ..Signing::default() });
            assert!(both(&lines, MANIFEST, &signature), "{}", key.kind());
            assert!(!both(&lines, &other_version, &signature));
        }
        let good = key.sign(MANIFEST.as_bytes());
        let file = key.sign_as(MANIFEST.as_bytes(), Signing { namespace: "file", ..Signing::default() });
        assert!(!both(&lines, MANIFEST, &file));
        assert!(!both(&SoftKey::ed25519().line(PRINCIPAL), MANIFEST, &good));
        for (options, expected) in [
            ("namespaces=\"rulesyncd-*\"", true),
            ("namespaces=\"file,git\"", false),
            ("namespaces=\"*,!rulesyncd-manifest@v1\"", false),
            ("valid-after=\"20261127Z\",valid-before=\"20261128Z\"", true),
            ("valid-before=\"202611270800Z\"", true),
            ("valid-before=\"20261127075959Z\"", false),
            ("valid-after=\"20261127080001Z\"", false),
            ("valid-after=\"20261127080000Z\"", true),
        ] {
            let lines = format!("{PRINCIPAL} {options} {}\n", key.public());
            assert_eq!(both(&lines, MANIFEST, &good), expected, "{options}");
        }
        // ssh-keygen does not ask whether the key was touched.
        let untouched = key.sign_as(MANIFEST.as_bytes(), Signing { flags: 0, ..Signing::default() });
        if key.kind().starts_with("sk-") {
            assert!(they_accept(directory.path(), &lines, MANIFEST, &untouched));
            assert!(!we_accept(&lines, MANIFEST, &untouched));
        }
    }
}

/// An agent that ends with the test.
pub(super) struct Agent(Child);

impl Agent {
    /// Starts an agent on `socket` that holds the private key of this file.
    pub(super) fn holding(key: &Path, socket: &Path) -> Self {
        let mut command = Command::new("ssh-agent");
        let agent = Self(command.args(["-D", "-a"]).arg(socket).stdout(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(30);
        while !socket.exists() {
            assert!(Instant::now() < deadline, "the agent has no socket");
            std::thread::sleep(Duration::from_millis(10));
        }
        let added = Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", socket).status().unwrap();
        assert!(added.success());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
#[ignore = "needs ssh-keygen"]
fn we_accept_what_ssh_keygen_signed() {
    let directory = tempfile::tempdir().unwrap();
    for kind in ["ed25519", "ecdsa"] {
        let key = directory.path().join(kind);
        let lines = make_key(&key, kind, PRINCIPAL);
        for hash in ["hashalg=sha512", "hashalg=sha256"] {
            let sign = ["-Y", "sign", "-q", "-O", hash, "-n", NAMESPACE, "-f", key.to_str().unwrap()];
            let (signed, signature) = ssh_keygen(&sign, MANIFEST);
            assert!(signed, "{signature}");
            assert!(we_accept(&lines, MANIFEST, &signature), "{kind}");
            assert!(!we_accept(&lines, &MANIFEST.replace("any", "max=0"), &signature), "{kind}");
        }
        // The agent has the private key, and the file of the public key names it.
        let socket = directory.path().join(format!("agent.{kind}"));
        let _agent = Agent::holding(&key, &socket);
        fs::remove_file(&key).unwrap();
        let public = key.with_extension("pub");
        let mut sign = Command::new("ssh-keygen");
        sign.args(["-Y", "sign", "-q", "-n", NAMESPACE, "-f"]).arg(public).env("SSH_AUTH_SOCK", &socket);
        let (signed, signature) = run(&mut sign, MANIFEST);
        assert!(signed, "{signature}");
        assert!(we_accept(&lines, MANIFEST, &signature), "{kind}");
    }
}
