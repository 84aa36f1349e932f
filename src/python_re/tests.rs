use super::validate;

/// A pattern that Python's `re` compiles is not reported, whatever other engines do with it.
#[test]
fn pythons_patterns_are_not_called_wrong() {
    for pattern in [
        r"(?i)\b(sqlmap|nikto)\b",
        r"(?P<a>x)(?P=a)\1(?(a)y|z)",
        r"(?<=ab|cd)e(?<!f{3})",
        r"a{,5}b{2,}c{3}?d{}e{,}f{x}",
        r"a++(?>b)*+",
        r"[]a](?#c)+[^]]",
        r"(?x) a # b ( c
            *",
        r"(?a)(?s-i:\N{DIGIT ONE})",
        r"\$\{(?:jndi|\${[^}]*}):(?:ldap|rmi)s?://",
        r"\x41\u0041\U0001F600\0\012\377",
    ] {
        assert_eq!(validate(pattern), Ok(()), "{pattern}");
    }
}

#[test]
fn what_python_refuses_is_told_with_its_place() {
    for (pattern, fault) in [
        ("a(", "a parenthesis that is not closed at character 2"),
        ("a)", "a parenthesis is closed that was not opened at character 2"),
        ("x[a", "a class that is not closed at character 2"),
        ("é*+*", "a repetition of a repetition at character 4"),
        ("^*", "there is nothing to repeat at character 2"),
        ("a{3,2}", "at least 3 repetitions and at most 2 at character 3"),
        (r"a\z", r"`\z`, which Python does not know, at character 2"),
        ("a\\", "a backslash with nothing after it at character 2"),
        ("[z-a]", "a range in a class that runs backwards or to a set at character 2"),
        ("(?<=a+)b", "a look-behind that has more than one width at character 1"),
        ("(?<n>a)", "a group that begins with `(?<` (Python names a group with `(?P<name>`) at character 1"),
        ("a(?i)b", "flags of the whole pattern that do not stand at its start at character 2"),
        (r"(a)\2", "there is no group 2 yet at character 4"),
        (r"(a\1)", "a reference to a group that is still open at character 3"),
        ("(?P<a>x)(?P<a>y)", "a second group of the name `a` at character 9"),
        ("(?au)x", "the flags `a` and `u`, which exclude each other, at character 1"),
    ] {
        assert_eq!(validate(pattern).unwrap_err().to_string(), fault, "{pattern}");
    }
}

#[test]
fn depth_is_bounded_and_not_judged() {
    assert_eq!(validate(&"(".repeat(100_000)), Ok(()));
    assert_eq!(validate(&"(?(1)".repeat(100_000)), Ok(()));
}
