//! How the two versions of YAML read a plain scalar.
//!
//! YAML 1.1 here means PyYAML's `safe_load` (whose expressions differ from the specification's in places), YAML 1.2
//! the core schema.

use chrono::NaiveDate;

use super::findings::Quoted;

/// The value of a plain scalar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reading {
    Null,
    Bool(bool),
    /// An integer of limited size.
    Int(i128),
    /// A larger integer.
    HugeInt,
    Float(f64),
    Text,
    /// A date or a time.
    Time,
    /// The merge key.
    Merge,
    /// A value at which the reader fails.
    Fails,
}

impl Reading {
    /// A description; `text` is the scalar.
    pub(super) fn describe(self, text: &str) -> String {
        match self {
            Self::Null if text.is_empty() => "nothing".to_owned(),
            Self::Null => "null".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Int(value) => format!("the integer {value}"),
            Self::HugeInt => "a huge integer".to_owned(),
            Self::Float(value) => format!("the number {value:?}"),
            Self::Text => format!("the text {}", Quoted(text)),
            Self::Time if text.contains(':') => "a point in time".to_owned(),
            Self::Time => "a date".to_owned(),
            Self::Merge => "the merge key".to_owned(),
            Self::Fails => "an error".to_owned(),
        }
    }
}

/// Equality for a reader of the value: floats are equal bit by bit.
pub(super) fn same(a: Reading, b: Reading) -> bool {
    match (a, b) {
        (Reading::Float(a), Reading::Float(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        _ => a == b,
    }
}

/// Whether a scalar with this beginning can be anything but a text in either version.
pub(super) fn may_be_other(text: &str) -> bool {
    text.bytes().next().is_none_or(|first| first.is_ascii_digit() || b"+-.~<=yYnNtTfFoO".contains(&first))
}

/// The reading of PyYAML's `safe_load`.
pub(super) fn yaml_1_1(text: &str) -> Reading {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Reading::Null,
        "<<" => return Reading::Merge,
        // It has a resolver and no constructor.
        "=" => return Reading::Fails,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Reading::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Reading::Bool(false);
        }
        _ => {}
    }
    float_1_1(text).or_else(|| int_1_1(text)).or_else(|| time_1_1(text)).unwrap_or(Reading::Text)
}

/// The reading of YAML 1.2's core schema.
pub(super) fn yaml_1_2(text: &str) -> Reading {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Reading::Null,
        "true" | "True" | "TRUE" => return Reading::Bool(true),
        "false" | "False" | "FALSE" => return Reading::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Reading::Float(f64::NAN),
        _ => {}
    }
    let (negative, body) = sign(text);
    if matches!(body, ".inf" | ".Inf" | ".INF") {
        return Reading::Float(infinity(negative));
    }
    if body.len() == text.len() {
        for (prefix, radix) in [("0o", 8), ("0x", 16)] {
            if let Some(digits) =
                text.strip_prefix(prefix).filter(|digits| all(digits, |c| c.is_digit(radix)))
            {
                return integer(false, digits, radix);
            }
        }
    }
    if all(body, |c| c.is_ascii_digit()) {
        return integer(negative, body, 10);
    }
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(sign(exponent).1)),
        None => (body, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.bytes().all(|c| c.is_ascii_digit());
    let is_float = digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| all(exponent, |c| c.is_ascii_digit()));
    // The core schema writes `1.` and `.5` in two ways; Rust reads both.
    match text.parse() {
        Ok(value) if is_float => Reading::Float(value),
        _ => Reading::Text,
    }
}

fn sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

fn infinity(negative: bool) -> f64 {
    if negative { f64::NEG_INFINITY } else { f64::INFINITY }
}

/// Whether there is a character, and all are `good`.
fn all(text: &str, good: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(good)
}

/// `[0-9][0-9_]*`
fn digits_1_1(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(|c| c.is_ascii_digit() || c == b'_')
}

/// The parts of `(?::[0-5]?[0-9])+`; `None` if it does not match.
fn base_60(text: &str) -> Option<Vec<u32>> {
    let rest = text.strip_prefix(':')?;
    rest.split(':')
        .map(|part| match part.as_bytes() {
            [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9'] => part.parse().ok(),
            _ => None,
        })
        .collect()
}

fn integer(negative: bool, digits: &str, radix: u32) -> Reading {
    match i128::from_str_radix(digits, radix) {
        Ok(value) => Reading::Int(if negative { -value } else { value }),
        Err(_) => Reading::HugeInt,
    }
}

fn int_1_1(text: &str) -> Option<Reading> {
    let (negative, body) = sign(text);
    let plain = || body.replace('_', "");
    let based = |radix: u32| {
        let digits = plain().split_off(2);
        // PyYAML reads `0x_` as an integer and fails.
        if digits.is_empty() { Reading::Fails } else { integer(negative, &digits, radix) }
    };
    if let Some(digits) = body.strip_prefix("0b") {
        return all(digits, |c| matches!(c, '0' | '1' | '_')).then(|| based(2));
    }
    if let Some(digits) = body.strip_prefix("0x") {
        return all(digits, |c| c.is_ascii_hexdigit() || c == '_').then(|| based(16));
    }
    if let Some(digits) = body.strip_prefix('0') {
        // A zero alone, or before octal digits; underscores alone leave a zero.
        return digits
            .bytes()
            .all(|c| matches!(c, b'0'..=b'7' | b'_'))
            .then(|| integer(negative, &plain(), 8));
    }
    match body.find(':') {
        None => digits_1_1(body).then(|| integer(negative, &plain(), 10)),
        Some(colon) if digits_1_1(&body[..colon]) => {
            let parts = base_60(&body[colon..])?;
            let first = body[..colon].replace('_', "").parse::<i128>().ok();
            let sum = first.and_then(|first| {
                parts.iter().try_fold(first, |sum, &part| sum.checked_mul(60)?.checked_add(part.into()))
            });
            Some(sum.map_or(Reading::HugeInt, |sum| Reading::Int(if negative { -sum } else { sum })))
        }
        Some(_) => None,
    }
}

fn float_1_1(text: &str) -> Option<Reading> {
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(Reading::Float(f64::NAN));
    }
    let (negative, body) = sign(text);
    if matches!(body, ".inf" | ".Inf" | ".INF") {
        return Some(Reading::Float(infinity(negative)));
    }
    let (before, after) = body.split_once('.')?;
    let fraction = |text: &str| text.bytes().all(|c| c.is_ascii_digit() || c == b'_');
    let parse = |text: &str| text.replace('_', "").parse().ok().map(Reading::Float);
    if let Some(colon) = before.find(':') {
        if !digits_1_1(&before[..colon]) || !fraction(after) {
            return None;
        }
        let parts = base_60(&before[colon..])?;
        let first: f64 = before[..colon].replace('_', "").parse().ok()?;
        let whole = parts.iter().fold(first, |sum, &part| sum * 60.0 + f64::from(part));
        let rest: f64 = format!("0.{}0", after.replace('_', "")).parse().ok()?;
        return Some(Reading::Float(if negative { -(whole + rest) } else { whole + rest }));
    }
    // The exponent's sign is mandatory.
    let (after, exponent) = match after.split_once(['e', 'E']) {
        Some((after, exponent)) => (after, Some(exponent)),
        None => (after, None),
    };
    let good_exponent = exponent.is_none_or(|exponent| {
        let (_, digits) = sign(exponent);
        digits.len() < exponent.len() && all(digits, |c| c.is_ascii_digit())
    });
    let good = match before {
        // PyYAML does not accept digits that begin with an underscore, but older versions did.
        "" if after.starts_with('_') && body.len() == text.len() => {
            return fraction(after).then(|| parse(text).unwrap_or(Reading::Fails));
        }
        // No sign before a leading dot.
        "" => body.len() == text.len() && digits_1_1(after),
        _ => digits_1_1(before) && fraction(after),
    };
    if good && good_exponent { parse(text) } else { None }
}

/// `None` if PyYAML's expression for a timestamp does not match; [`Reading::Fails`] if it does and there is no such
/// time.
fn time_1_1(text: &str) -> Option<Reading> {
    let mut rest = text;
    let year = number(&mut rest, 4..=4)?;
    token(&mut rest, '-')?;
    let month = number(&mut rest, 1..=2)?;
    let month_digits = text.len() - rest.len() - 5;
    token(&mut rest, '-')?;
    let day = number(&mut rest, 1..=2)?;
    let date = i32::try_from(year).ok().filter(|&year| year > 0);
    let date_exists = date.and_then(|year| NaiveDate::from_ymd_opt(year, month, day)).is_some();
    let reading = |good: bool| Some(if good { Reading::Time } else { Reading::Fails });
    if rest.is_empty() {
        // A date alone has two digits for month and day.
        return if month_digits == 2 && text.len() == 10 { reading(date_exists) } else { None };
    }
    let after = rest.strip_prefix(['T', 't']).unwrap_or_else(|| rest.trim_start_matches([' ', '\t']));
    if after.len() == rest.len() {
        return None;
    }
    rest = after;
    let hour = number(&mut rest, 1..=2)?;
    token(&mut rest, ':')?;
    let minute = number(&mut rest, 2..=2)?;
    token(&mut rest, ':')?;
    let second = number(&mut rest, 2..=2)?;
    if token(&mut rest, '.').is_some() {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    let mut good = date_exists && hour < 24 && minute < 60 && second < 60;
    let zone = rest.trim_start_matches([' ', '\t']);
    rest = zone;
    if token(&mut rest, 'Z').is_none() && token(&mut rest, '+').or_else(|| token(&mut rest, '-')).is_some() {
        let hours = number(&mut rest, 1..=2)?;
        let minutes = if token(&mut rest, ':').is_some() { number(&mut rest, 2..=2)? } else { 0 };
        good &= hours * 60 + minutes < 24 * 60;
    }
    // Blanks belong to the zone that follows them.
    if rest.is_empty() { reading(good) } else { None }
}

fn token(rest: &mut &str, expected: char) -> Option<()> {
    *rest = rest.strip_prefix(expected)?;
    Some(())
}

/// As many digits as `count` allows, and no fewer.
fn number(rest: &mut &str, count: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let digits = rest.bytes().take(*count.end()).take_while(u8::is_ascii_digit).count();
    if digits < *count.start() {
        return None;
    }
    let (number, after) = rest.split_at(digits);
    *rest = after;
    number.parse().ok()
}
