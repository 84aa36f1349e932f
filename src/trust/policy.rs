//! Whether a manifest counts: The Update Framework, section 5, for a manifest that is root, timestamp and targets in
//! one.

use std::collections::BTreeSet;

use super::{
    AllowedSigners, MAX_SIGNATURES, Malformed, Manifest, PublicKey, Realm, ReleaseTime, Signature, shown,
    split_signatures,
};
use crate::clock::Timestamp;

/// What a verifier requires, all of it from its own configuration.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The keys that may sign.
    pub signers: AllowedSigners,
    /// The realm that a manifest must have.
    pub realm: Realm,
    /// So many distinct principals must have signed.
    pub threshold: usize,
    /// Nothing older is accepted.
    pub min_version: Option<ReleaseTime>,
}

/// Whether the dates of keys count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyDates {
    /// At a manifest's acceptance: a key must be valid at this time.
    At(Timestamp),
    /// For a manifest that was accepted before.
    Ignored,
}

/// A manifest with its signatures, of which enough count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedManifest {
    /// What it says.
    pub manifest: Manifest,
    /// The principals whose signatures count, sorted.
    pub(crate) signers: Vec<String>,
    /// Its signatures, one after the other, those that do not count included.
    pub(crate) signatures: String,
}

/// Why a manifest does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("there is no manifest: {0}")]
    Missing(String),
    /// It is malformed.
    #[error("the manifest is malformed: {0}")]
    Malformed(String),
    /// It is for another swarm.
    #[error("the manifest is for the realm `{found}`, and not for `{expected}`")]
    WrongRealm {
        /// The realm that it names.
        found: String,
        /// The realm of this verifier.
        expected: String,
    },
    /// Too few signatures count; why the others do not.
    #[error("signatures of {counted} of {threshold} principals count{}", ignored.iter().map(|why| format!("; {why}")).collect::<String>())]
    BadSignature {
        /// How many distinct principals signed.
        counted: usize,
        /// How many must.
        threshold: usize,
        /// A sentence for each signature that does not count.
        ignored: Vec<String>,
    },
    /// It is older than one that was accepted before, or than `trust.min_version`.
    #[error("the manifest of {found} is older than {oldest}, the oldest that is accepted")]
    RolledBack {
        /// Its version.
        found: ReleaseTime,
        /// The oldest that is accepted.
        oldest: ReleaseTime,
    },
    /// It has the version of one that was accepted before, and other bytes.
    #[error("the manifest of {0} has other bytes than the one that was accepted before")]
    Conflict(ReleaseTime),
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.0)
    }
}

impl Policy {
    /// Verifies a manifest by its own: form, realm, and signatures (The Update Framework, sections 5.3.4, 5.4.2 and
    /// 5.6.3). Whether it is older than another is another question.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify(
        &self,
        manifest: &[u8],
        signatures: &str,
        dates: KeyDates,
    ) -> Result<SignedManifest, Refusal> {
        let parsed = Manifest::parse(manifest)?;
        if parsed.realm != self.realm {
            return Err(Refusal::WrongRealm {
                found: parsed.realm.to_string(),
                expected: self.realm.to_string(),
            });
        }
        let parts = split_signatures(signatures)?;
        let (mut principals, mut ignored) = (BTreeSet::new(), Vec::new());
        for (number, part) in (1..).zip(parts) {
            match self.signer_of(manifest, part.as_bytes(), dates) {
                Ok(principal) => drop(principals.insert(principal)),
                Err(reason) => ignored.push(format!("signature {number} does not count: {reason}")),
            }
        }
        if principals.len() < self.threshold.max(1) {
            let (counted, threshold) = (principals.len(), self.threshold);
            if ignored.is_empty() && principals.is_empty() {
                ignored.push("there is no signature".to_owned());
            }
            return Err(Refusal::BadSignature { counted, threshold, ignored });
        }
        let signers = principals.into_iter().map(str::to_owned).collect();
        Ok(SignedManifest { manifest: parsed, signers, signatures: signatures.to_owned() })
    }

    /// The manifest that was read, with the signatures of the same one that were known before, as far as they count.
    ///
    /// Whoever can write the table can take signatures out of it, and the floor counts only as long as enough of its
    /// signers are listed.
    pub(super) fn with_known(&self, read: SignedManifest, known: &SignedManifest) -> SignedManifest {
        let body = read.manifest.to_string();
        let mut keys: Vec<PublicKey> = Vec::new();
        let mut texts: Vec<&str> = Vec::new();
        for signed in [known, &read] {
            for text in split_signatures(&signed.signatures).unwrap_or_default() {
                let key = Signature::parse(text.as_bytes()).map(|signature| signature.key);
                let counts = self.signer_of(body.as_bytes(), text.as_bytes(), KeyDates::Ignored).is_ok();
                if let Some(key) = key.ok().filter(|key| counts && !keys.contains(key)) {
                    keys.push(key);
                    texts.push(text);
                }
            }
        }
        texts.truncate(MAX_SIGNATURES);
        let joined = join_signatures(texts).unwrap_or_default();
        self.verify(body.as_bytes(), &joined, KeyDates::Ignored).unwrap_or(read)
    }

    /// Whether a verified manifest may follow `floor`, the newest that was accepted before (The Update Framework,
    /// sections 5.4.3 and 5.5.5).
    ///
    /// # Errors
    /// [`Refusal::RolledBack`] and [`Refusal::Conflict`].
    pub(crate) fn admit(&self, manifest: &Manifest, floor: Option<&Manifest>) -> Result<(), Refusal> {
        let found = manifest.version;
        let floor_version = floor.map(|floor| floor.version);
        match floor_version.max(self.min_version) {
            Some(oldest) if found < oldest => Err(Refusal::RolledBack { found, oldest }),
            _ if floor.is_some_and(|floor| floor.version == found && floor != manifest) => {
                Err(Refusal::Conflict(found))
            }
            _ => Ok(()),
        }
    }

    /// The principal whose signature this is.
    fn signer_of(&self, manifest: &[u8], signature: &[u8], dates: KeyDates) -> Result<&str, String> {
        let signature = Signature::parse(signature).map_err(|error| error.to_string())?;
        let signer = self.signers.of_key(&signature.key);
        let signer = signer.ok_or_else(|| "its key is not listed".to_owned())?;
        let of = shown(&signer.principal);
        if !signer.may_sign_manifests() {
            return Err(format!("the key of {of} may not sign for this namespace"));
        }
        if let KeyDates::At(now) = dates
            && !signer.is_valid_at(now)
        {
            return Err(format!("the key of {of} is not valid at this time"));
        }
        signature.verify(manifest).map_err(|reason| format!("it {reason}"))?;
        Ok(&signer.principal)
    }
}

/// Joins files of signatures, sorted by their names, as the database holds them.
///
/// # Errors
/// [`Malformed`] if there are too many.
pub(crate) fn join_signatures<'s>(files: impl IntoIterator<Item = &'s str>) -> Result<String, Malformed> {
    let mut joined = String::new();
    for (number, file) in files.into_iter().enumerate() {
        if number == MAX_SIGNATURES {
            return Err(Malformed::new(format!("there are more than {MAX_SIGNATURES} signatures")));
        }
        joined.push_str(file);
        if !file.ends_with('\n') {
            joined.push('\n');
        }
    }
    Ok(joined)
}
