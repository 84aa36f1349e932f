//! What must be true of any bytes that a parser of this room reads. The unit tests check it on the corpus, the targets in
//! `fuzz` on what libFuzzer makes of it. Each function returns whether the bytes are accepted.

use std::fmt::Write as _;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::armor::{BEGIN, END, MAX_SIGNATURE, dearmor};
use super::list::{ListedRule, MAX_LIST};
use super::manifest::{ListDigest, MAX_MANIFEST};
use super::signers::{MAX_ALLOWED_SIGNERS, Signer};
use super::wire::{Fields, put_string};
use super::{AllowedSigners, KeyDates, Manifest, Policy, PublicKey, RuleList, Signature, split_signatures};
use crate::clock::Timestamp;

/// The longest reason that is given for a file.
const LONGEST_REASON: usize = 1_024;

fn refused(reason: &impl ToString) -> bool {
    let reason = reason.to_string();
    assert!(!reason.is_empty() && reason.len() < LONGEST_REASON, "{reason}");
    assert!(!reason.contains(char::is_control), "{reason:?}");
    false
}

/// `MANIFEST`: what is accepted is written as the same bytes.
pub fn manifest(bytes: &[u8]) -> bool {
    let manifest = match Manifest::parse(bytes) {
        Ok(manifest) => manifest,
        Err(error) => return refused(&error),
    };
    assert_eq!(manifest.to_string().as_bytes(), bytes);
    assert!(bytes.len() <= MAX_MANIFEST && manifest.list.bytes <= MAX_LIST);
    assert!(manifest.version < manifest.expires);
    assert_eq!(manifest.realm.as_str().parse().as_ref(), Ok(&manifest.realm));
    true
}

/// `MANIFEST.rules`: what is accepted is written as the same bytes, in whatever order its rules are put together.
pub fn manifest_rules(bytes: &[u8]) -> bool {
    let list = match RuleList::parse(bytes) {
        Ok(list) => list,
        Err(error) => return refused(&error),
    };
    assert_eq!(list.to_text().as_bytes(), bytes);
    assert!(bytes.len() <= MAX_LIST);
    assert_eq!(ListDigest::of(bytes).rules, list.rules().len());
    let backwards: Vec<ListedRule> = list.rules().iter().rev().cloned().collect();
    assert_eq!(RuleList::new(backwards).as_ref(), Ok(&list));
    assert!(list.rules().iter().all(|rule| list.get(rule.rule_id.as_str()) == Some(rule)));
    true
}

/// The message that the keys of [`SIGNED`] signed.
pub(super) const MESSAGE: &[u8] = b"the release of the corpus\n";

/// Signatures over [`MESSAGE`], one by a key of each kind.
pub(super) const SIGNED: [&[u8]; 4] = [
    include_bytes!("../../tests/corpus/sshsig/valid_over_message_ed25519.sig"),
    include_bytes!("../../tests/corpus/sshsig/valid_over_message_p256.sig"),
    include_bytes!("../../tests/corpus/sshsig/valid_over_message_sk_ed25519.sig"),
    include_bytes!("../../tests/corpus/sshsig/valid_over_message_sk_p256.sig"),
];

/// A file `MANIFEST.sig`, or the block in its base64: what is accepted is encoded as the same bytes, and verifies only if
/// it is one that a key made.
pub fn sshsig(bytes: &[u8]) -> bool {
    let is_file = armored_signature(bytes);
    armored_signature(armor(bytes).as_bytes()) || is_file
}

fn armored_signature(text: &[u8]) -> bool {
    let signature = match Signature::parse(text) {
        Ok(signature) => signature,
        Err(error) => return refused(&error),
    };
    let block = dearmor(text).unwrap_or_default();
    assert!(text.len() <= MAX_SIGNATURE && block.len() < MAX_SIGNATURE);
    let again = armor(&block);
    if again.len() <= MAX_SIGNATURE {
        assert_eq!(Signature::parse(again.as_bytes()).as_ref(), Ok(&signature));
    }
    let parts = block_parts(&block);
    let mut rebuilt = block[..10].to_vec();
    parts.iter().for_each(|part| put_string(&mut rebuilt, part));
    assert_eq!(rebuilt, block);
    let [key, namespace, _, hash, _] = parts;
    assert_eq!(key_again(&signature.key, key), key);
    assert_eq!(namespace, super::NAMESPACE.as_bytes());
    assert!([&b"sha256"[..], b"sha512"].contains(&hash));

    if signature.verify(MESSAGE).is_ok() {
        // The reserved field is not signed.
        let signed =
            |[key, namespace, _, hash, signature]: [&[u8]; 5]| [key, namespace, hash, signature].concat();
        let made = SIGNED.iter().map(|made| dearmor(made).unwrap_or_default());
        let is_made = made.into_iter().any(|made| signed(block_parts(&made)) == signed(parts));
        assert!(is_made, "nobody made this signature");
    }
    assert!(signature.verify(b"the release of the corpus").is_err());
    assert!(signature.verify(b"").is_err());
    true
}

/// A block in the text form, as `ssh-keygen` writes it.
pub(super) fn armor(block: &[u8]) -> String {
    let mut text = format!("{BEGIN}\n");
    for (place, character) in STANDARD.encode(block).chars().enumerate() {
        if place > 0 && place % 70 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    let _ = write!(text, "\n{END}\n");
    text
}

/// Key, namespace, reserved field, hash and signature of a block that is well-formed.
fn block_parts(block: &[u8]) -> [&[u8]; 5] {
    let mut fields = Fields::new(&block[10..]);
    [(); 5].map(|()| fields.string().unwrap_or_default())
}

/// The binary form of a key, made of what was understood of it.
fn key_again(key: &PublicKey, blob: &[u8]) -> Vec<u8> {
    let (is_p256, is_security_key) = (key.point().len() == 65, key.kind().starts_with("sk-"));
    let mut again = Vec::new();
    put_string(&mut again, key.kind().as_bytes());
    if is_p256 {
        put_string(&mut again, b"nistp256");
    }
    put_string(&mut again, key.point());
    if is_security_key {
        let mut application = Fields::new(&blob[again.len()..]);
        put_string(&mut again, application.string().unwrap_or_default());
    }
    again
}

/// A file of allowed signers: what is accepted, written again without what was passed over, is read as the same.
pub fn allowed_signers(bytes: &[u8]) -> bool {
    let read = match AllowedSigners::parse(bytes) {
        Ok(read) => read,
        Err(error) => return refused(&error),
    };
    assert!(bytes.len() <= MAX_ALLOWED_SIGNERS);
    assert!(read.warnings.iter().all(|warning| warning.len() < LONGEST_REASON));
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!((1..=lines).contains(&(read.signers.len())) && read.warnings.len() < lines);
    assert!(read.principals() <= read.signers.len());
    let text: String = read.signers.iter().map(line).collect();
    if text.len() <= MAX_ALLOWED_SIGNERS {
        let again = AllowedSigners::parse(text.as_bytes());
        assert_eq!(again.map(|again| again.signers).as_ref(), Ok(&read.signers), "{text}");
    }
    // Another order of the lines changes nothing but the order.
    let backwards: String = read.signers.iter().rev().map(line).collect();
    let again = AllowedSigners::parse(backwards.as_bytes());
    assert!(
        text.len() > MAX_ALLOWED_SIGNERS || again.is_ok_and(|again| again.principals() == read.principals())
    );
    true
}

/// The line of a signer.
fn line(signer: &Signer) -> String {
    let date =
        |time: Timestamp| time.to_string().chars().take(19).filter(char::is_ascii_digit).collect::<String>();
    let options = [
        signer.namespaces.as_ref().map(|patterns| format!("namespaces=\"{patterns}\"")),
        signer.valid_after.map(|time| format!("valid-after=\"{}Z\"", date(time))),
        signer.valid_before.map(|time| format!("valid-before=\"{}Z\"", date(time))),
    ];
    let options: Vec<String> = options.into_iter().flatten().collect();
    let mut key = Vec::new();
    put_string(&mut key, signer.key.kind().as_bytes());
    if signer.key.point().len() == 65 {
        put_string(&mut key, b"nistp256");
    }
    put_string(&mut key, signer.key.point());
    if let Some(application) = &signer.key.application {
        put_string(&mut key, application);
    }
    let space = if options.is_empty() { "" } else { " " };
    let key = STANDARD.encode(key);
    format!("{} {}{space}{} {key}\n", signer.principal, options.join(","), signer.key.kind())
}

/// The keys, the manifest and its signatures of [`release`].
pub(super) const SIGNERS: &[u8] = include_bytes!("../../tests/corpus/release.allowed_signers");
pub(super) const RELEASE: &[u8] = include_bytes!("../../tests/corpus/release/valid.bin");

static POLICY: LazyLock<Option<Policy>> = LazyLock::new(|| {
    let signers = AllowedSigners::parse(SIGNERS).ok()?;
    Some(Policy { signers, realm: "honeypots".parse().ok()?, threshold: 2, min_version: None })
});

/// Part 0 of a release, manifest and signatures with a NUL between them: what is accepted has exactly the bytes that
/// were signed, whatever was done to the signatures.
pub fn release(bytes: &[u8]) -> bool {
    let parts = |bytes: &'static [u8]| bytes.split(|byte| *byte == 0).next();
    let place = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (body, signatures) = bytes.split_at(place);
    let Ok(signatures) = std::str::from_utf8(signatures.strip_prefix(b"\0").unwrap_or(signatures)) else {
        return false;
    };
    let Some(policy) = &*POLICY else { return false };
    let verified = policy.verify(body, signatures, KeyDates::Ignored);
    let Ok(signed) = verified else { return false };
    assert_eq!(Some(body), parts(RELEASE), "nobody signed this manifest");
    assert_eq!(signed.manifest.to_string().as_bytes(), body);
    assert!(signed.signers.len() >= 2 && signed.signers.is_sorted_by(|a, b| a < b));
    assert_eq!(split_signatures(&signed.signatures).map(|parts| parts.concat()).as_deref(), Ok(signatures));
    true
}
