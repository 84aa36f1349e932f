//! The units that people write: `250ms`, `256KiB`, `20%`, `0660`.

use std::fmt;
use std::time::Duration;

/// Reads a duration such as `250ms`, `1s`, `5m`, `1h 30m`.
///
/// # Errors
/// What was found and what was expected.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        format!("`{text}` is not a duration; expected a number with a unit, such as `250ms`, `1s` or `5m`")
    })
}

/// Reads a size such as `256KiB`, `1MiB`, `4096`; a number alone is bytes.
///
/// # Errors
/// What was found and what was expected.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: Option<usize> = match unit.trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "KB" | "kB" => Some(1_000),
        "MB" => Some(1_000_000),
        _ => None,
    };
    number
        .parse::<usize>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| {
            format!("`{text}` is not a size; expected a number with a unit, such as `256KiB` or `1MiB`")
        })
}

/// A size as [`size`] reads it, in the greatest unit that divides it.
pub(crate) fn show_size(bytes: usize) -> String {
    [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|&(factor, _)| bytes != 0 && bytes.is_multiple_of(factor))
        .map_or_else(|| bytes.to_string(), |(factor, unit)| format!("{}{unit}", bytes / factor))
}

/// A share of a whole, 0 to 100 percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent(f64);

impl Percent {
    /// Reads `20%`; a number alone is percent too.
    ///
    /// # Errors
    /// What was found and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim();
        match number.parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self(percent)),
            _ => Err(format!("`{text}` is not a share; expected `0%` to `100%`")),
        }
    }

    /// Whether `part` is more than this share of `whole`.
    #[expect(clippy::cast_precision_loss, reason = "counts of rows are far below 2^52")]
    pub(crate) fn is_exceeded_by(self, part: usize, whole: usize) -> bool {
        part as f64 * 100.0 > self.0 * whole as f64
    }

    /// The greatest number that is not more than this share of `whole`.
    pub fn of(self, whole: usize) -> u32 {
        let parts = (0..=whole).take_while(|part| !self.is_exceeded_by(*part, whole));
        u32::try_from(parts.last().unwrap_or(0)).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// Reads permission bits in octal: `0660`, `660`, `0o660`.
///
/// # Errors
/// What was found and what was expected.
pub(crate) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|&mode| mode <= 0o777)
        .ok_or_else(|| format!("`{text}` is not a permission mode; expected octal digits, such as `0660`"))
}

/// An address of HTTP without its password and its query, which may hold a key. A user's name without a password is
/// removed, too: it is often a token.
///
/// The text is not parsed as an address, so that a malformed one is covered, too.
pub(crate) fn without_secret(address: &str) -> String {
    let (scheme, rest) = address.split_at(address.find("://").map_or(0, |end| end + 3));
    let (rest, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    if query.contains('@') {
        // A key with an `@` in it, or the password of a user.
        return format!("{scheme}***");
    }
    let query = query.get(..1).map_or_else(String::new, |mark| format!("{mark}***"));
    match rest.rsplit_once('@') {
        Some((entry, host)) => {
            let user = entry.split_once(':').map_or_else(String::new, |(user, _)| format!("{user}:"));
            format!("{scheme}{user}***@{host}{query}")
        }
        None => format!("{scheme}{rest}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(size("256KiB"), Ok(262_144));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(Percent::parse("20%").unwrap().to_string(), "20%");
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mode("0o660"), Ok(0o660));
    }

    #[test]
    fn what_is_no_unit_is_told_with_what_was_expected() {
        for wrong in
            [duration("1").unwrap_err(), size("1 elephant").unwrap_err(), size("99999999999GiB").unwrap_err()]
        {
            assert!(wrong.contains("expected"), "{wrong}");
        }
        assert!(Percent::parse("120%").is_err());
        assert!(Percent::parse("NaN").is_err());
        assert!(mode("0888").is_err());
        assert!(mode("7777").is_err());
    }

    #[test]
    fn a_size_reads_itself_back() {
        for bytes in [0, 1, 1023, 1024, 262_144, 3 << 30] {
            assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }
    }

    #[test]
    fn a_share_is_exceeded_only_above_it() {
        let fifth = Percent::parse("20%").unwrap();
        assert!(!fifth.is_exceeded_by(2, 10));
        assert!(fifth.is_exceeded_by(3, 10));
        assert!(!fifth.is_exceeded_by(0, 0));
    }
}
