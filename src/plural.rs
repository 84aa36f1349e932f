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

/// The first `most` of `items`, and how many more there are: `R1, R2 and 3 more`.
pub(crate) fn some_of<T: Display>(
    mut items: impl ExactSizeIterator<Item = T>,
    most: usize,
    separator: &str,
) -> String {
    let named: Vec<String> = items.by_ref().take(most).map(|item| item.to_string()).collect();
    let named = named.join(separator);
    match items.len() {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_all_else_is_many() {
        assert_eq!([0, 1, 2].map(|number: u64| count(number, "rule")), ["0 rules", "1 rule", "2 rules"]);
        assert_eq!([0, 1, 2].map(|number: usize| is_or_are(&number)), ["are", "is", "are"]);
    }

    #[test]
    fn a_long_list_says_how_much_it_leaves_out() {
        let listed = |most| some_of(["a", "b", "c"].iter(), most, ", ");
        assert_eq!(
            [listed(1), listed(2), listed(3), listed(9)],
            ["a and 2 more", "a, b and 1 more", "a, b, c", "a, b, c"]
        );
        assert_eq!(some_of([""; 0].iter(), 3, ", "), "");
    }
}
