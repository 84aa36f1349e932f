use super::*;

fn find(pattern: &str) -> Option<Backtracking> {
    slowest(pattern, &mut 0)
}

#[test]
fn the_patterns_of_a_file_have_one_budget() {
    let mut budget = Budget::default();
    let pattern = |number: u32| format!(r"(.*,.*;{number}){{1,9}}x\d+\d+y");
    let found: Vec<_> = (0..4_000).map(|number| super::find(&pattern(number), &mut budget)).collect();
    let not_checked = found.iter().position(|found| *found == Some(Finding::NotChecked)).unwrap();
    assert!((50..4_000).contains(&not_checked), "{not_checked}");
    assert_eq!(found[not_checked + 1..].iter().flatten().count(), 0);
}

#[test]
fn sets_of_repetitions_that_share_characters_are_found() {
    for pattern in
        [r"(a+)+$", r"(a|a)*$", r"(a|aa)+$", r"([a-zA-Z]+)*\d", r"(.*a){20}", r"^(\w+\s?)*$", r"(x+x+)+y"]
    {
        let found = find(pattern).unwrap_or_else(|| panic!("{pattern}"));
        assert_eq!(found.seconds, None, "{pattern}: {found:?}");
    }
    for pattern in [r"\s+$", r"\bfind\s+\S+.*-perm\b", r".*.*=.*", r"\d+\d+x", r".*,.*;x"] {
        let found = find(pattern).unwrap_or_else(|| panic!("{pattern}"));
        assert!(found.seconds.is_some(), "{pattern}: {found:?}");
    }
}

#[test]
fn what_is_quick_is_not_warned_of() {
    for pattern in [
        r"\bfind\b",
        r"^[a-z]+$",
        r"^\s*(curl|wget)\s",
        r"^(?:[a-z]+,)*[a-z]+$",
        r"(?>a+)+$",
        r"a{1,5}b{1,5}",
        r"(a++)+$",
        r"^(?=.*x)y",
    ] {
        assert_eq!(find(pattern), None, "{pattern}");
    }
}

#[test]
fn a_bound_that_keeps_the_time_short_is_believed() {
    for quick in [
        r"\bfind\s[^;|&]{0,400}\s-perm\s{1,9}[-/]?(?:u[+=]s|[246]000)\b",
        r"\b(?:nc|ncat|netcat)\b[^;|&]{0,400}\s-[a-z]{0,16}e\b",
        r"a{1,99}b",
    ] {
        assert_eq!(find(quick), None, "{quick}");
    }
    // A bound that is never reached has no effect, and one bounded repetition does not limit the others.
    for slow in [r"a{1,9000}a*b", r"x{1,99}a*a*b"] {
        assert!(find(slow).is_some(), "{slow}");
    }
}

#[test]
fn no_pattern_takes_the_memory_or_the_time_of_the_check() {
    let nested = (0..190).fold("(?:a|b)".repeat(900), |inner, _| format!("(?>{inner})+"));
    let hundreds = (0..4).fold("a{100}".to_owned(), |inner, _| format!("(?:{inner}){{100}}"));
    for pattern in [
        format!("(?:{hundreds})b+"),
        format!("(?={hundreds})?b+"),
        "a{100,}".repeat(20_000),
        "a{100,}".repeat(3_900),
        "a+".repeat(8_000),
        "a+".repeat(3_900),
        "(?:)".repeat(3_000) + "+b+",
        "(?:){4294967290}b+".to_owned(),
        "(?:(?:(?:){4294967290}){4294967290}){4294967290}b+".to_owned(),
        "(?:(?:a{50}){20}|".repeat(190) + "b+" + &")".repeat(190) + "+",
        nested,
    ] {
        let begun = std::time::Instant::now();
        find(&pattern);
        let seconds = begun.elapsed().as_secs();
        let shown: String = pattern.chars().take(40).collect();
        // A second where nothing else runs: the cause takes minutes, or all memory.
        assert!(seconds < 30, "{shown}… takes {seconds} s");
    }
}

#[test]
fn a_long_text_before_a_repetition_hides_it_and_no_other() {
    let found = find(&("x".repeat(1_100) + "a+a+a+b|c+c+c+d")).unwrap();
    assert_eq!(found.pump, "c");
}
