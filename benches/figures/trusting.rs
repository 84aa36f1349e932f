//! Signed releases.

use std::hint::black_box;
use std::time::Instant;

use rulesyncd::rule::{ContentDigest, RuleId};
use rulesyncd::trust::{AllowedSigners, Bound, KeyDates, ListDigest, ListedRule, Manifest, Policy, RuleList};

use crate::contest::{Contender, Figure, Goal, Unit};
use crate::host::rule_text;
use crate::support::sshsig::SoftKey;

/// A signed release, and the key that it verifies with.
struct Release {
    policy: Policy,
    manifest: String,
    signature: String,
    list: String,
    texts: Vec<String>,
}

impl Release {
    fn of(count: usize) -> Self {
        let texts: Vec<String> = (0..count).map(|number| rule_text(number, 1)).collect();
        let listed = texts.iter().zip(0..).map(|(text, number)| ListedRule {
            rule_id: RuleId::new(&format!("R{number:06}")).unwrap(),
            rule_version: 1,
            content_sha256: ContentDigest::of(text),
            source_path: format!("R{number:06}.yaml").into(),
        });
        let list = RuleList::new(listed.collect()).unwrap().to_text();
        let manifest = Manifest {
            realm: "honeypots".parse().unwrap(),
            version: "2026-01-01T00:00:00Z".parse().unwrap(),
            expires: "2099-01-01T00:00:00Z".parse().unwrap(),
            states: Bound::Any,
            list: ListDigest::of(list.as_bytes()),
        };
        let (key, manifest) = (SoftKey::ed25519(), manifest.to_string());
        let signers = AllowedSigners::parse(key.line("owner").as_bytes()).unwrap();
        let policy = Policy { signers, realm: "honeypots".parse().unwrap(), threshold: 1, min_version: None };
        let signature = key.sign(manifest.as_bytes());
        Self { policy, manifest, signature, list, texts }
    }

    /// The signature, the list, and every text.
    fn verify(&self) {
        let signed =
            self.policy.verify(self.manifest.as_bytes(), &self.signature, KeyDates::Ignored).unwrap();
        let list = signed.manifest.parse_list(self.list.as_bytes()).unwrap();
        let is_listed =
            |(listed, text): (&ListedRule, &String)| listed.content_sha256 == ContentDigest::of(text);
        assert!(
            list.rules().len() == self.texts.len() && list.rules().iter().zip(&self.texts).all(is_listed)
        );
    }
}

/// A whole release verified by this build's library, beside hashing its texts.
pub(crate) fn verified<'a>(count: usize) -> Figure<'a> {
    let mut release = None;
    Figure::new(format!("a signed release verified, {count} rules"), Unit::Seconds, move |contender| {
        let release = release.get_or_insert_with(|| Release::of(count));
        let start = Instant::now();
        match contender {
            Contender::Floor => {
                for text in &release.texts {
                    black_box(ContentDigest::of(black_box(text)));
                }
            }
            // The library of another build is not in this process.
            Contender::Build(build) if build.as_os_str() != env!("CARGO_BIN_EXE_rulesyncd") => {
                return Vec::new();
            }
            Contender::Build(_) => release.verify(),
        }
        vec![start.elapsed().as_secs_f64()]
    })
    .rounds(20)
    .goal(Goal::AtMost(0.05))
}
