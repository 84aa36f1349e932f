//! The text form of a signature: PROTOCOL.sshsig, "Armored format".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Malformed, ascii};

/// The first line of a signature.
pub(super) const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
/// The last line of a signature.
pub(crate) const END: &str = "-----END SSH SIGNATURE-----";

/// The longest file of a signature, in bytes.
pub(crate) const MAX_SIGNATURE: usize = 2 << 10;

/// The most signatures of a manifest.
pub(crate) const MAX_SIGNATURES: usize = 16;

/// The longest line of base64. `ssh-keygen` writes 70.
const LONGEST_LINE: usize = 76;

/// The binary form of an armored signature.
///
/// # Errors
/// [`Malformed`]: it is too long, a line is missing, or the base64 is not canonical.
pub(super) fn dearmor(text: &[u8]) -> Result<Vec<u8>, Malformed> {
    let text = ascii(text, MAX_SIGNATURE)?;
    let body = text.strip_prefix(BEGIN).and_then(|text| text.strip_prefix('\n'));
    let body = body.ok_or_else(|| Malformed::new(format!("expected `{BEGIN}` as its first line")))?;
    let body = body.strip_suffix('\n').unwrap_or(body).strip_suffix(END);
    let body = body.ok_or_else(|| Malformed::new(format!("expected `{END}` as its last line")))?;
    let mut base64 = String::with_capacity(body.len());
    for line in body.split_inclusive('\n') {
        let line = line
            .strip_suffix('\n')
            .ok_or_else(|| Malformed::new("its last line has no line end before it"))?;
        if line.is_empty() || line.len() > LONGEST_LINE {
            return Err(Malformed::new(format!(
                "a line has {} characters; expected 1 to {LONGEST_LINE}",
                line.len()
            )));
        }
        base64.push_str(line);
    }
    STANDARD.decode(base64).map_err(|_| Malformed::new("its lines are not base64"))
}

/// Splits signatures that follow one another, as the database holds them. Each part ends with [`END`] and a line end,
/// but for what is left over at the end.
///
/// # Errors
/// [`Malformed`] if there are more than [`MAX_SIGNATURES`].
pub(crate) fn split_signatures(text: &str) -> Result<Vec<&str>, Malformed> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if parts.len() == MAX_SIGNATURES {
            return Err(Malformed::new(format!("there are more than {MAX_SIGNATURES} signatures")));
        }
        let end = rest.find(END).map_or(rest.len(), |begin| begin + END.len());
        let end = if rest[end..].starts_with('\n') { end + 1 } else { end };
        let (part, others) = rest.split_at(end);
        parts.push(part);
        rest = others;
    }
    Ok(parts)
}
