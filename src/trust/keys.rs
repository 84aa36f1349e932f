//! SSH public keys of the four kinds that may sign a release.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

use super::wire::Fields;

/// The names of the kinds, as a line of the file names them.
pub(super) const KINDS: [&str; 4] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// The flag that a security key sets if its owner touched it: PROTOCOL.u2f, "SSH U2F signatures".
const USER_PRESENT: u8 = 1;

/// A public key. RFC 8709, section 4 (ed25519); RFC 5656, section 3.1 (ecdsa); PROTOCOL.u2f (both `sk-` kinds).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    curve: Curve,
    /// `None` for a key that is not in a security key.
    pub(super) application: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Curve {
    Ed25519([u8; 32]),
    /// The uncompressed point.
    P256([u8; 65]),
}

/// What a security key adds to a message: its flags and its counter.
type Device = (u8, [u8; 4]);

impl PublicKey {
    /// Parses the binary form; `None` if it is malformed, or of another kind.
    pub(crate) fn from_blob(blob: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(blob);
        let kind = fields.string()?;
        let curve = match kind {
            b"ssh-ed25519" | b"sk-ssh-ed25519@openssh.com" => {
                Curve::Ed25519(fields.string()?.try_into().ok()?)
            }
            b"ecdsa-sha2-nistp256" | b"sk-ecdsa-sha2-nistp256@openssh.com" => {
                if fields.string()? != b"nistp256" {
                    return None;
                }
                let point: [u8; 65] = fields.string()?.try_into().ok()?;
                (point[0] == 4).then_some(Curve::P256(point))?
            }
            _ => return None,
        };
        let application = match kind.starts_with(b"sk-") {
            true => Some(fields.string()?.to_vec()),
            false => None,
        };
        fields.end()?;
        Some(Self { curve, application })
    }

    /// The kind's name.
    pub(crate) const fn kind(&self) -> &'static str {
        match (&self.curve, &self.application) {
            (Curve::Ed25519(_), None) => KINDS[0],
            (Curve::P256(_), None) => KINDS[1],
            (Curve::Ed25519(_), Some(_)) => KINDS[2],
            (Curve::P256(_), Some(_)) => KINDS[3],
        }
    }

    /// The point on the curve: keys with the same point have the same owner, whatever their kind.
    pub(super) const fn point(&self) -> &[u8] {
        match &self.curve {
            Curve::Ed25519(point) => point,
            Curve::P256(point) => point,
        }
    }

    /// Verifies a signature in SSH's binary form over `message`.
    ///
    /// For a security key the signature must say that its owner touched it. (`ssh-keygen` does not require it.)
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), NotVerified> {
        let (kind, raw, device) = self.read_signature(signature).ok_or(NotVerified::Malformed)?;
        if kind != self.kind().as_bytes() {
            return Err(NotVerified::Malformed);
        }
        let mut device_message = Vec::new();
        let message = match (&self.application, device) {
            (Some(application), Some((flags, counter))) => {
                if flags & USER_PRESENT == 0 {
                    return Err(NotVerified::Untouched);
                }
                // PROTOCOL.u2f, "SSH U2F signatures": what the device signed.
                device_message.extend_from_slice(&Sha256::digest(application));
                device_message.push(flags);
                device_message.extend_from_slice(&counter);
                device_message.extend_from_slice(&Sha256::digest(message));
                &device_message
            }
            _ => message,
        };
        let verified = match &self.curve {
            Curve::Ed25519(point) => UnparsedPublicKey::new(&ED25519, point.as_slice()).verify(message, &raw),
            Curve::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.as_slice()).verify(message, &raw)
            }
        };
        verified.map_err(|_| NotVerified::Wrong)
    }

    /// The kind, the 64 bytes, and the flags and the counter of a security key.
    fn read_signature<'s>(&self, signature: &'s [u8]) -> Option<(&'s [u8], [u8; 64], Option<Device>)> {
        let mut fields = Fields::new(signature);
        let kind = fields.string()?;
        let raw = self.raw_signature(fields.string()?)?;
        let device = match self.application {
            Some(_) => Some((fields.array::<1>()?[0], fields.array()?)),
            None => None,
        };
        fields.end()?;
        Some((kind, raw, device))
    }

    /// The 64 bytes of a signature: RFC 8709, section 6, and RFC 5656, section 3.1.2.
    fn raw_signature(&self, bytes: &[u8]) -> Option<[u8; 64]> {
        match self.curve {
            Curve::Ed25519(_) => bytes.try_into().ok(),
            Curve::P256(_) => {
                let mut numbers = Fields::new(bytes);
                let mut raw = [0; 64];
                raw[..32].copy_from_slice(&numbers.mpint256()?);
                raw[32..].copy_from_slice(&numbers.mpint256()?);
                numbers.end()?;
                Some(raw)
            }
        }
    }
}

/// Why a signature is not one of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotVerified {
    Malformed,
    Untouched,
    Wrong,
}

/// The kind and the point, in base64.
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), STANDARD.encode(self.point()))
    }
}
