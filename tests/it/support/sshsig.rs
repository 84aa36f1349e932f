//! Signs in software as OpenSSH does, with keys of all four kinds, `sk-` ones included.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use sha2::{Digest as _, Sha256, Sha512};

pub(crate) const NAMESPACE: &str = "rulesyncd-manifest@v1";

/// A private key in memory.
pub(crate) struct SoftKey {
    pair: Pair,
    is_security_key: bool,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

/// How a signature is made.
#[derive(Clone, Copy)]
pub(crate) struct Signing<'s> {
    pub(crate) namespace: &'s str,
    pub(crate) hash: &'s str,
    /// The flags of a security key; 1 is a touch.
    pub(crate) flags: u8,
}

impl Default for Signing<'_> {
    fn default() -> Self {
        Self { namespace: NAMESPACE, hash: "sha512", flags: 1 }
    }
}

fn string(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
    to.extend_from_slice(bytes);
}

fn mpint(to: &mut Vec<u8>, number: &[u8]) {
    let digits: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
    let sign = digits.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut bytes = vec![0; usize::from(sign)];
    bytes.extend(digits);
    string(to, &bytes);
}

impl SoftKey {
    pub(crate) fn ed25519() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Pair::Ed25519(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap());
        Self { pair, is_security_key: false }
    }

    pub(crate) fn p256() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = Pair::P256(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap());
        Self { pair, is_security_key: false }
    }

    /// The same key as if it were in a security key.
    pub(crate) fn in_a_security_key(self) -> Self {
        Self { is_security_key: true, ..self }
    }

    /// One of each kind.
    pub(crate) fn of_each_kind() -> [Self; 4] {
        [Self::ed25519(), Self::p256(), Self::ed25519().in_a_security_key(), Self::p256().in_a_security_key()]
    }

    pub(crate) fn kind(&self) -> &'static str {
        match (&self.pair, self.is_security_key) {
            (Pair::Ed25519(_), false) => "ssh-ed25519",
            (Pair::P256(_), false) => "ecdsa-sha2-nistp256",
            (Pair::Ed25519(_), true) => "sk-ssh-ed25519@openssh.com",
            (Pair::P256(_), true) => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    fn blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        string(&mut blob, self.kind().as_bytes());
        match &self.pair {
            Pair::Ed25519(pair) => string(&mut blob, pair.public_key().as_ref()),
            Pair::P256(pair) => {
                string(&mut blob, b"nistp256");
                string(&mut blob, pair.public_key().as_ref());
            }
        }
        if self.is_security_key {
            string(&mut blob, b"ssh:");
        }
        blob
    }

    /// `KIND KEY`, as on a line of allowed signers.
    pub(crate) fn public(&self) -> String {
        format!("{} {}", self.kind(), STANDARD.encode(self.blob()))
    }

    /// A line of allowed signers.
    pub(crate) fn line(&self, principal: &str) -> String {
        format!("{principal} namespaces=\"{NAMESPACE}\" {}\n", self.public())
    }

    /// An armored signature over `message`.
    pub(crate) fn sign(&self, message: &[u8]) -> String {
        self.sign_as(message, Signing::default())
    }

    pub(crate) fn sign_as(&self, message: &[u8], signing: Signing<'_>) -> String {
        let digest = match signing.hash {
            "sha256" => Sha256::digest(message).to_vec(),
            _ => Sha512::digest(message).to_vec(),
        };
        let mut signed = b"SSHSIG".to_vec();
        for field in [signing.namespace.as_bytes(), b"", signing.hash.as_bytes(), &digest] {
            string(&mut signed, field);
        }
        let mut signature = Vec::new();
        string(&mut signature, self.kind().as_bytes());
        let device = [&[signing.flags][..], &7_u32.to_be_bytes()].concat();
        if self.is_security_key {
            signed = [&Sha256::digest(b"ssh:")[..], &device, &Sha256::digest(&signed)].concat();
        }
        let mut raw = Vec::new();
        match &self.pair {
            Pair::Ed25519(pair) => raw.extend_from_slice(pair.sign(&signed).as_ref()),
            Pair::P256(pair) => {
                let fixed = pair.sign(&SystemRandom::new(), &signed).unwrap();
                let (r, s) = fixed.as_ref().split_at(32);
                mpint(&mut raw, r);
                mpint(&mut raw, s);
            }
        }
        string(&mut signature, &raw);
        if self.is_security_key {
            signature.extend_from_slice(&device);
        }
        let mut blob = b"SSHSIG\0\0\0\x01".to_vec();
        for field in [&self.blob(), signing.namespace.as_bytes(), b"", signing.hash.as_bytes(), &signature] {
            string(&mut blob, field);
        }
        let base64 = STANDARD.encode(blob);
        let lines: Vec<&str> =
            base64.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"))
    }
}
