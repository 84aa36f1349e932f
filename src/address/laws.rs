//! What must be true of any text of an address.

use super::Address;

/// A password, or its beginning, that must be shown nowhere.
const SECRET: &str = "hunter2hunter2";

/// An address: what is shown of an accepted one is read as the same, and no password is shown, whatever is wrong with
/// the rest.
pub fn address(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    // A parameter says what is wrong with its value.
    if !text.contains(SECRET) && !text.contains('=') {
        for scheme in ["mysql", "postgresql"] {
            for written in [
                format!("{scheme}://user:{SECRET}{text}"),
                format!("{scheme}://user:{SECRET}{text}@host/rules"),
                format!("{scheme}://user:{text}{SECRET}@host/rules"),
            ] {
                let shown = written.parse::<Address>().map(|address| (address.to_string(), address.place()));
                assert!(!format!("{shown:?}").contains(SECRET), "{written} is shown as {shown:?}");
            }
        }
    }
    match text.parse::<Address>() {
        Ok(address) => {
            let shown = address.to_string();
            // Other characters are shown as they are meant, and not as an address has them.
            let has_plain_login =
                shown.split_once('@').is_none_or(|(login, _)| login.matches('/').count() == 2);
            if has_plain_login
                && shown.chars().all(|c| c.is_ascii_alphanumeric() || ":/.,@_=&?*-[]".contains(c))
            {
                let again = shown.parse::<Address>().map(|again| again.with_password_of(&address));
                assert_eq!(again.as_ref(), Ok(&address), "{text}");
            }
            true
        }
        Err(error) => {
            assert!(!error.0.is_empty() && error.0.len() < text.len() * 10 + 400, "{error}");
            false
        }
    }
}
