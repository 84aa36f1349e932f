//! Signed releases in a swarm's rules directory, made and signed in software.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use rulesyncd::rule::{ContentDigest, RuleId};
use rulesyncd::trust::{ListDigest, ListedRule, Manifest, RuleList};

use super::rules::rule_text;
use super::sshsig::SoftKey;
use super::swarm::{Daemon, Swarm, text};

/// A time to which the tests' releases add minutes.
const DAY: &str = "2020-01-01";

/// Who signs releases, and how they are made.
pub(crate) struct Owner {
    pub(crate) key: SoftKey,
    pub(crate) realm: &'static str,
    pub(crate) states: String,
    pub(crate) expires: String,
}

/// The files of a release, by name.
#[derive(Clone)]
pub(crate) struct Files(pub(crate) Vec<(String, String)>);

impl Owner {
    pub(crate) fn new() -> Self {
        let (realm, states, expires) = ("honeypots", "any".to_owned(), "2099-01-01T00:00:00Z".to_owned());
        Self { key: SoftKey::ed25519(), realm, states, expires }
    }

    /// The file of allowed signers with this owner's key, and other lines.
    pub(crate) fn signers(&self, swarm: &Swarm, others: &str) -> PathBuf {
        let path = swarm.path("allowed_signers");
        fs::write(&path, format!("{}{others}", self.key.line("owner"))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    /// `MANIFEST` and `MANIFEST.rules` of these rules, each an id with its version.
    pub(crate) fn manifest(&self, version: &str, rules: &[(&str, i32)]) -> (String, String) {
        let listed = rules.iter().map(|(rule_id, version)| ListedRule {
            rule_id: RuleId::new(rule_id).unwrap(),
            rule_version: *version,
            content_sha256: ContentDigest::of(rule_text(rule_id, *version)),
            source_path: format!("{rule_id}.yaml").into(),
        });
        let list = RuleList::new(listed.collect()).unwrap().to_text();
        let manifest = Manifest {
            realm: self.realm.parse().unwrap(),
            version: version.parse().unwrap(),
            expires: self.expires.parse().unwrap(),
            states: rulesyncd::trust::Bound::parse(&self.states).unwrap(),
            list: ListDigest::of(list.as_bytes()),
        };
        (manifest.to_string(), list)
    }

    /// All files of a release that is made `minute` minutes after a fixed time.
    pub(crate) fn release(&self, minute: u32, rules: &[(&str, i32)]) -> Files {
        self.release_of(&format!("{DAY}T{:02}:{:02}:00Z", minute / 60, minute % 60), rules)
    }

    /// All files of a release of this version.
    pub(crate) fn release_of(&self, version: &str, rules: &[(&str, i32)]) -> Files {
        let (manifest, list) = self.manifest(version, rules);
        let signature = self.key.sign(manifest.as_bytes());
        let mut files: Vec<_> = rules
            .iter()
            .map(|(rule_id, version)| (format!("{rule_id}.yaml"), rule_text(rule_id, *version)))
            .collect();
        files.push(("MANIFEST.rules".to_owned(), list));
        files.push(("MANIFEST".to_owned(), manifest));
        files.push(("MANIFEST.sig".to_owned(), signature));
        Files(files)
    }

    /// A daemon that trusts this owner.
    pub(crate) fn daemon(&self, swarm: &Swarm, mode: &str) -> Daemon {
        swarm.daemon(mode, |command| self.trusted_by(swarm, command))
    }

    /// Makes a command trust this owner, or whoever is in the file of allowed signers by now.
    pub(crate) fn trusted_by(&self, swarm: &Swarm, command: &mut Command) {
        let signers = swarm.path("allowed_signers");
        if !signers.exists() {
            self.signers(swarm, "");
        }
        command.env("RULESYNCD_TRUST_ALLOWED_SIGNERS", signers).env("RULESYNCD_TRUST_REALM", self.realm);
    }
}

impl Files {
    /// Writes the files, and removes every other rule and signature.
    pub(crate) fn check_out(&self, swarm: &Swarm) {
        for entry in fs::read_dir(swarm.rules()).unwrap() {
            let entry = entry.unwrap();
            if !self.0.iter().any(|(name, _)| entry.file_name() == name.as_str()) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        for (name, text) in &self.0 {
            swarm.save_atomically(name, text);
        }
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        &self.0.iter().find(|(other, _)| other == name).unwrap().1
    }
}

/// What a SQLite file holds in one snapshot: the manifest's version, and whether rows and parts are exactly its
/// release. `None` before the first.
pub(crate) fn stored_release(swarm: &Swarm) -> Option<(String, bool)> {
    let script = "import sqlite3, sys, hashlib\n\
        db = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)\n\
        db.execute('begin')\n\
        made = db.execute(\"select 1 from sqlite_master where name = 'rulesyncd_manifest'\").fetchall()\n\
        parts = db.execute('select body from rulesyncd_manifest order by part').fetchall() if made else []\n\
        rows = db.execute('select rule_id, rule_version, yaml_content, source_path from ttp_rule').fetchall() if made else []\n\
        if parts:\n\
        \x20   text = ''.join(sorted(f'{i} {v} {hashlib.sha256(t.encode()).hexdigest()} {p}\\n' for i, v, t, p in rows))\n\
        \x20   body, parts = parts[0][0], ''.join(part for part, in parts[1:])\n\
        \x20   whole = body.split()[-1] == hashlib.sha256(text.encode()).hexdigest() and text == parts\n\
        \x20   print(body.split('version: ')[1].split()[0], whole)";
    let file = swarm.url().trim_start_matches("sqlite://");
    let output = Command::new("python3").args(["-c", script, file]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let (version, whole) = printed.trim().split_once(' ')?;
    Some((version.to_owned(), whole == "True"))
}
