//! A signature of a manifest: PROTOCOL.sshsig, "Blob format" and "Signed Data, of which the signature goes into the
//! blob above".

use sha2::{Digest as _, Sha256, Sha512};

use super::keys::NotVerified;
use super::wire::{Fields, put_string};
use super::{Malformed, PublicKey, armor, shown};

/// The namespace of signatures of manifests: a signature that was made for another purpose does not count.
pub(crate) const NAMESPACE: &str = "rulesyncd-manifest@v1";

const MAGIC: &[u8] = b"SSHSIG";
const VERSION: u32 = 1;

/// A parsed signature, not yet verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    /// The key that claims to have made it.
    pub(crate) key: PublicKey,
    hash: Hash,
    signature: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn of(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(message).to_vec(),
            Self::Sha512 => Sha512::digest(message).to_vec(),
        }
    }
}

impl Signature {
    /// Parses an armored signature, as in a file `MANIFEST.sig`.
    ///
    /// # Errors
    /// [`Malformed`] if it is malformed, is of another kind of key or hash, or was made for another namespace than
    /// [`NAMESPACE`].
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let blob = armor::dearmor(text)?;
        let parts = |mut fields: Fields<'_>| {
            let magic = fields.bytes(MAGIC.len())?;
            let version = fields.uint32()?;
            let (key, namespace) = (fields.string()?.to_vec(), fields.string()?.to_vec());
            // "Implementations should ignore the reserved field if it is not empty."
            fields.string()?;
            let (hash, signature) = (fields.string()?.to_vec(), fields.string()?.to_vec());
            fields.end()?;
            (magic == MAGIC && version == VERSION).then_some((key, namespace, hash, signature))
        };
        let (key, namespace, hash, signature) =
            parts(Fields::new(&blob)).ok_or_else(|| Malformed::new("it is not an SSHSIG of version 1"))?;
        if namespace != NAMESPACE.as_bytes() {
            let found = shown(&String::from_utf8_lossy(&namespace));
            return Err(Malformed::new(format!("its namespace is {found}, and not `{NAMESPACE}`")));
        }
        let hash = [Hash::Sha256, Hash::Sha512].into_iter().find(|known| known.name().as_bytes() == hash);
        let hash = hash.ok_or_else(|| Malformed::new("its hash is neither sha256 nor sha512"))?;
        let key = PublicKey::from_blob(&key)
            .ok_or_else(|| Malformed::new("its key is of a kind that is not accepted; expected ed25519 or ecdsa on the curve P-256, plain or of a security key"))?;
        Ok(Self { key, hash, signature })
    }

    /// Verifies it over `message`.
    ///
    /// # Errors
    /// Why not, as the end of a sentence about the signature.
    pub(crate) fn verify(&self, message: &[u8]) -> Result<(), &'static str> {
        let mut signed = MAGIC.to_vec();
        put_string(&mut signed, NAMESPACE.as_bytes());
        put_string(&mut signed, b"");
        put_string(&mut signed, self.hash.name().as_bytes());
        put_string(&mut signed, &self.hash.of(message));
        self.key.verify(&signed, &self.signature).map_err(|reason| match reason {
            NotVerified::Malformed => "is malformed",
            NotVerified::Untouched => "was made without a touch of the security key",
            NotVerified::Wrong => "is not over these bytes",
        })
    }
}
