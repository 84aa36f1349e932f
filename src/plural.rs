//! Numbers with their nouns.

use std::fmt::Display;

/// `1 rule`, `2 rules`, `0 rules`.
pub(crate) fn count<N: Display + PartialEq + From<u8>>(number: N, what: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// `is` for one, `are` for any other number.
pub(crate) fn is_or_are<N: PartialEq + From<u8>>(number: &N) -> &'static str {
    if *number == N::from(1) { "is" } else { "are" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_all_else_is_many() {
        assert_eq!([0, 1, 2].map(|number: u64| count(number, "rule")), ["0 rules", "1 rule", "2 rules"]);
        assert_eq!([0, 1, 2].map(|number: usize| is_or_are(&number)), ["are", "is", "are"]);
    }
}
