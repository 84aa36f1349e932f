//! Each invalid construct, and a plain spelling of it that is valid.

use super::{Code, GOOD, codes, found};

/// The valid rule with these lines in its `match`.
fn with(lines: &str) -> String {
    let indented = lines.replace('\n', "\n  ").replace("\n  \n", "\n\n").replace("\n  \n", "\n\n");
    GOOD.replace("  field: command_text\n", &format!("  {indented}\n"))
}

#[track_caller]
fn refused(lines: &str, code: Code) {
    assert!(codes(with(lines)).contains(&code), "{lines:?} is {:?}", codes(with(lines)));
}

#[track_caller]
fn taken(lines: &str) {
    assert_eq!(codes(with(lines)), [], "{lines:?}");
}

#[test]
fn characters() {
    for bad in
        ["\0", "\u{1}", "\u{7f}", "\u{85}", "\u{90}", "\u{2028}", "\u{2029}", "\u{feff}", "\u{fffe}", "\r"]
    {
        for lines in [format!("a: 'x{bad}y'"), format!("a: b # x{bad}y"), format!("a: |\n  x{bad}y")] {
            refused(&lines, Code::Character);
        }
    }
    refused(r#"a: "x\0y""#, Code::Character);
    taken("a: é 日本 😀 \u{a0}");
    taken(r#"a: "\N\L\P\e\x07\u0085\U0001F600\_\t\/""#);
    assert_eq!(codes(format!("\u{feff}{}", GOOD.replace('\n', "\r\n"))), []);
    assert_eq!(codes(b"\xff\xfea\0"), [Code::Encoding]);
    assert_eq!(codes(b"a: \xc3"), [Code::Encoding]);
    assert_eq!(codes(b"a: \xed\xa0\x80"), [Code::Encoding]);
}

/// A scalar may be as long as a file: a finding is kept by a master, and printed in each output of `check`.
#[test]
fn no_finding_repeats_a_long_text() {
    let (word, digits) = ("x".repeat(100_000), "1".repeat(100_000));
    for text in [
        format!("rule_id: *{word}"),
        format!("rule_id: &{word} a"),
        format!("rule_id: !{word} a"),
        format!("{word}: 1"),
        format!("{digits}: 1"),
        format!("0{digits}: 1"),
        format!("name: {digits}"),
        format!("name: 0{digits}"),
        format!("name: 0x{digits}"),
        format!("rule_version: {word}"),
        format!("rule_version: '{digits}'"),
        format!("rule_id: {word}"),
        format!("rule_id: {word}.{word}"),
        format!(
            "match:
  pattern: '({word}'"
        ),
        format!("emits: [{{tactic: {word}, technique_id: {word}, confidence: {digits}}}]"),
        format!("- {word}"),
        format!("a: -{word}"),
        word.clone(),
        format!("'{word}"),
        format!(r#"a: "\{word}""#),
        format!("a: @{word}"),
        format!("%{word}"),
        format!("{{{{ {word} }}}}: {{{{ {word} }}}}"),
    ] {
        for found in found(&text) {
            let said = found.message.len() + found.help.as_ref().map_or(0, String::len);
            assert!(said < 2_048, "{}: {said} bytes: {:.80} {:?}", &text[..20], found.message, found.code);
        }
    }
}

#[test]
fn tabs() {
    for bad in ["a:\tb", "a: b\t# c", "a: b\tc", "a: [b,\tc]", "\ta: b", "a:\n\t- b", "- \tb"] {
        refused(bad, if bad.starts_with("- ") { Code::Syntax } else { Code::Tab });
    }
    taken("a: 'b\tc'\nd: \"e\tf\" # g\th\ni: |\n  j\tk");
}

#[test]
fn syntax_on_which_readers_differ() {
    for bad in [
        "? a\n: b",
        "a: {? b : c}",
        "a: {b\n  : c}",
        "a: {\"b\" # d\n  : c}",
        "a: [b?c]",
        "a: [?c]",
        "a: {b: :c}",
        "a: [:c]",
        "a: {b:, c: d}",
        "a: {b:}",
        "a: &b.c d",
        "a: &é d",
        "a: &b c\nd: &b e",
        r#"a: "\ud83d\ude00""#,
        r#"a: "\\\uD83D""#,
        "a: |\n \n  b",
        "a: >\n\n  \n  b",
        "a: |\n  \tb",
        "a: |\n   \n   \n",
        "a: &b[c]",
        "a: &b'c'",
    ] {
        refused(bad, if bad.ends_with("\\uD83D\"") { Code::Syntax } else { Code::Dialect });
    }
    taken(
        "a: b?c\nd: ['e?f', ':g', '-']\nh: ?i\nj: :k\nl: &m n\no: *m\np: \"\\\\ud83d\"\nq: {r\n  , \"s\":t}",
    );
    for (bad, good) in [("|", "|-"), (">", ">-"), ("|+", "|-")] {
        let open = |style: &str| format!("{GOOD}notes: {style}\n  no line break at the end");
        assert!(codes(open(bad)).contains(&Code::Dialect), "{bad}");
        assert_eq!(codes(open(good)), [Code::UnknownKey], "{good}");
    }
    assert_eq!(codes(format!("%YAML 1.2\n---\n{GOOD}")), [Code::Dialect]);
    assert_eq!(codes(format!("...\n{GOOD}")), [Code::Dialect]);
    assert_eq!(codes(format!("--- # a rule\n{GOOD}...\n")), []);
    assert_eq!(codes(format!("{GOOD}---\n{GOOD}")), [Code::SeveralDocuments]);
}

#[test]
fn keys() {
    for bad in ["1: a", "null: a", "true: a", "~: a", "[a]: b", "{a: b}: c", "1.5: a"] {
        refused(bad, Code::KeyNotString);
    }
    for bad in ["yes: a", "010: a", "=: a", "2026-05-17: a", "a: {on: b}"] {
        refused(bad, Code::AmbiguousValue);
    }
    for bad in ["a: b\na: c", "a: {b: c, 'b': d}", "a: [{b: c, \"\\x62\": d}]", "pattern: x"] {
        refused(bad, Code::DuplicateKey);
    }
    for bad in ["<<: {a: b}", "a: &b {c: d}\n<<: *b", "a: {<<: 1}"] {
        refused(bad, Code::MergeKey);
    }
    taken("'1': a\n'yes': b\n'<<': c\n\"=\": d\na: {A: b, a: c}");
    // Even what nobody reads must be loaded, alike by every reader.
    let unknown = |value: &str| codes(format!("{GOOD}notes: {value}\n"));
    assert_eq!(unknown("[yes, 010, 2026-05-17, .nan, {a: 1e3}]"), [Code::UnknownKey]);
    assert_eq!(unknown("="), [Code::UnknownKey, Code::AmbiguousValue]);
    assert_eq!(unknown("2026-02-30"), [Code::UnknownKey, Code::AmbiguousValue]);
    assert_eq!(unknown("0x_"), [Code::UnknownKey, Code::AmbiguousValue]);
    assert_eq!(unknown("{a: 1, a: 2}"), [Code::UnknownKey, Code::DuplicateKey]);
    assert_eq!(unknown("{1: 2}"), [Code::UnknownKey, Code::KeyNotString]);
    assert_eq!(unknown("!x 1"), [Code::UnknownKey, Code::Tag]);
}

#[test]
fn aliases_and_sizes() {
    refused("a: *b", Code::Alias);
    refused("a: &b [*b]", Code::Alias);
    refused("a: &b {c: [*b]}", Code::Alias);
    taken("a: &b [c, {d: e}]\nf: *b\ng: [*b, *b]\nl: [&m , {n: &o}]\n&h i: j\nk: *h");
    refused(&format!("a: {}{}", "[".repeat(63), "]".repeat(63)), Code::TooDeep);
    taken(&format!("a: {}{}", "[".repeat(62), "]".repeat(62)));
    // Depth and number count after aliases are expanded.
    let deep = format!("a: &a {0}x{1}\nb: {0}*a{1}", "[".repeat(40), "]".repeat(40));
    refused(&deep, Code::TooDeep);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]";
    refused(bomb, Code::TooManyValues);
    // Few values, and gigabytes of text.
    let repeated = |text: usize, times: usize| {
        format!("a: &a {}\nb: &b [{}]\nc: [*b]", "x".repeat(text), ["*a"].repeat(times).join(", "))
    };
    refused(&repeated(1 << 17, 3), Code::TooManyValues);
    refused(&repeated(100_000, 2), Code::TooManyValues);
    taken(&repeated(60_000, 2));
    let long = format!("{GOOD}#{}", "x".repeat(256 * 1024));
    assert_eq!(codes(long), [Code::TooLarge]);
}

#[test]
fn tags_and_numbers() {
    for bad in
        ["a: !!str 1", "a: !x 1", "a: ! 1", "a: !!map {}", "!!str a: b", "a: !<tag:yaml.org,2002:str> b"]
    {
        refused(bad, Code::Tag);
    }
    for bad in
        [".inf", "-.inf", ".nan", "1.5e+999", "18446744073709551616", "-9223372036854775809", &"9".repeat(60)]
    {
        refused(&format!("a: {bad}"), Code::Number);
    }
    taken("a: [9223372036854775807, -9223372036854775808, 1.5e+30, -0.0]");
}

#[test]
fn fields() {
    let spoiled = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        codes(GOOD.replace(from, to))
    };
    for (from, to, code) in [
        ("rule_id: R0015", "rule_id: 15", Code::WrongType),
        ("rule_id: R0015", "rule_id: 'R 15'", Code::RuleId),
        ("rule_id: R0015", "rule_id: ''", Code::RuleId),
        ("rule_id: R0015", "rule_id: |\n  R0015", Code::RuleId),
        ("rule_id: R0015\n", "", Code::MissingField),
        ("rule_version: 3", "rule_version: '3'", Code::WrongType),
        ("rule_version: 3", "rule_version: 3.0", Code::WrongType),
        ("rule_version: 3", "rule_version: true", Code::WrongType),
        ("rule_version: 3", "rule_version: -1", Code::OutOfRange),
        ("rule_version: 3", "rule_version: 2147483648", Code::OutOfRange),
        ("name: suid_search", "name:", Code::WrongType),
        ("name: suid_search", "name: 1", Code::WrongType),
        ("name: suid_search", "name: [a]", Code::WrongType),
        ("[shell, command, shell]", "[]", Code::EmptyList),
        ("[shell, command, shell]", "shell", Code::WrongType),
        ("[shell, command, shell]", "[shell, 1]", Code::WrongType),
        ("[command_id]", "", Code::WrongType),
        ("[command_id]", "[~]", Code::WrongType),
        ("confidence: 0.85", "confidence: 1.01", Code::OutOfRange),
        ("confidence: 0.85", "confidence: -0.1", Code::OutOfRange),
        ("confidence: 0.85", "confidence: .nan", Code::Number),
        ("confidence: 0.85", "confidence: high", Code::WrongType),
        ("T1548.001", "T1549.001", Code::SubTechnique),
        ("tactic: TA0007", "tactic: discovery", Code::AttackId),
        ("technique_id: T1083", "technique_id: t1083", Code::AttackId),
        ("T1548.001", "T1548.1", Code::AttackId),
        ("'\\bfind\\s+-perm'", "'(a'", Code::Pattern),
        ("- tactic: TA0007\n    technique_id", "- tactics: TA0007\n    technique_id", Code::UnknownKey),
    ] {
        assert!(spoiled(from, to).contains(&code), "{to} is {:?}", spoiled(from, to));
    }
    for (from, to) in [
        ("rule_version: 3", "rule_version: 2147483647"),
        ("rule_version: 3", "rule_version: 0"),
        ("evidence_fields: [command_id]\n", ""),
        ("[command_id]", "[]"),
        ("|\n  find with a SUID predicate.", ""),
        ("sub_technique_id: T1548.001", "sub_technique_id:"),
        ("technique_id: T1083", "technique_id: T1083.001"),
        ("confidence: 0.85", "confidence: 0"),
    ] {
        assert_eq!(spoiled(from, to), [], "{to}");
    }
}
