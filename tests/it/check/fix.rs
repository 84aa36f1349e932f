//! `--fix`: what it writes, and how.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::{GOOD, check, directory};

/// Every mechanical error in one file.
const SLIPS: &str = "\u{feff}rule_id: 'R0001 '\r
rule_version: 1\r
name: yes\r
applies_to: [command, 0o17]\r
match:\r
\tfield:\tcommand_text\r
\tpattern: 1e3\r
\tenabled: on\r
emits:\r
- {tactic: TA0007, technique_id: T1083, confidence: 0.85}\r
";

const FIXED: &str = "rule_id: 'R0001'
rule_version: 1
name: 'yes'
applies_to: [command, '0o17']
match:
  field: command_text
  pattern: '1e3'
  enabled: true
emits:
- {tactic: TA0007, technique_id: T1083, confidence: 0.85}
";

#[test]
fn mechanical_slips_are_fixed_and_the_rest_is_told() {
    let files = directory(&[
        ("a.yaml", SLIPS),
        ("b.yaml", &GOOD.replace("R0001", "R0002").replace("0.85", "90")),
        ("c.yaml", &GOOD.replace("R0001", "R0003")),
    ]);
    let untouched = ["b.yaml", "c.yaml"].map(|name| fs::metadata(files.path().join(name)).unwrap().ino());
    let run = check(files.path(), &["--fix", "."]);
    assert_eq!(run.code, 1);
    assert!(run.out.starts_with("fixed ./a.yaml\n\nerror[out-of-range]: emits[0].confidence"), "{}", run.out);
    assert!(run.out.contains("3 files: 1 error in 1 file, 0 warnings\n"), "{}", run.out);
    assert_eq!(fs::read_to_string(files.path().join("a.yaml")).unwrap(), FIXED);
    assert_eq!(
        untouched,
        ["b.yaml", "c.yaml"].map(|name| fs::metadata(files.path().join(name)).unwrap().ino())
    );
    // No other file is left in the directory, and nothing is left to fix.
    assert_eq!(fs::read_dir(files.path()).unwrap().count(), 3);
    assert_eq!(check(files.path(), &["--fix", "a.yaml"]).out, "1 file: nothing wrong\n");
}

#[test]
fn a_difference_is_shown_and_nothing_is_written() {
    let files = directory(&[("a.yaml", SLIPS), ("c.yaml", GOOD)]);
    let run = check(files.path(), &["--fix", "--diff", "."]);
    assert_eq!((run.code, run.err.as_str()), (1, ""));
    insta::assert_snapshot!(run.out);
    assert_eq!(fs::read_to_string(files.path().join("a.yaml")).unwrap(), SLIPS);
    let run = check(files.path(), &["--fix", "--diff", "c.yaml"]);
    assert_eq!((run.code, run.out.as_str()), (0, ""));
    assert_eq!(check(files.path(), &["--diff", "c.yaml"]).code, 2);
}

/// Otherwise a path with a slip in it passes for ever in CI.
#[test]
fn a_path_that_cannot_be_read_has_no_difference_and_is_named() {
    let files = directory(&[("a.yaml", SLIPS)]);
    fs::create_dir(files.path().join("empty")).unwrap();
    let run = check(files.path(), &["--fix", "--diff", "absent.yaml", "empty", "a.yaml"]);
    assert_eq!(run.code, 3, "{}", run.err);
    assert!(run.out.contains("+++ a.yaml"), "{}", run.out);
    assert!(run.err.starts_with("rulesyncd: absent.yaml: "), "{}", run.err);
    assert!(run.err.contains("rulesyncd: empty: no rule in it"), "{}", run.err);
    assert!(run.err.ends_with("rulesyncd: 2 paths could not be read\n"), "{}", run.err);
}

/// What only the author knows is not changed.
#[test]
fn what_has_two_meanings_is_not_fixed() {
    for (what, slip) in [
        ("a number in the match", GOOD.replace("'\\bfind\\b'", "010")),
        ("a date in the match", GOOD.replace("'\\bfind\\b'", "2026-05-17")),
        ("an anchor of two values", GOOD.replace("suid_search", "&a yes").replace("'\\bfind\\b'", "*a")),
        ("a technique with a blank, which a reader takes as it is", GOOD.replace("T1083", "'T1083 '")),
        ("a key that is a boolean", GOOD.replace("field:", "yes:")),
        ("tabs of unknown width", GOOD.replace("match: {", "match:\n  a: 1\n \tb: {")),
        ("tabs that would not make it YAML", GOOD.replace("match: {", "match:\n    a: 1\n\tb: {")),
        ("a tab in a text", GOOD.replace("suid_search", "suid\tsearch")),
        ("a second mark", format!("\u{feff}\u{feff}{GOOD}")),
        ("no UTF-8", String::from_utf8_lossy(b"x").into_owned() + "\0"),
    ] {
        let files = directory(&[("a.yaml", &slip)]);
        check(files.path(), &["--fix", "a.yaml"]);
        assert_eq!(fs::read_to_string(files.path().join("a.yaml")).unwrap(), slip, "{what}");
    }
}

#[test]
fn a_fixed_file_keeps_its_mode_and_its_link_and_one_that_cannot_be_written_is_named() {
    let files = directory(&[("target.txt", SLIPS), ("b.yaml", SLIPS)]);
    let at = |name: &str| files.path().join(name);
    symlink("target.txt", at("a.yaml")).unwrap();
    fs::set_permissions(at("target.txt"), fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::metadata(at("target.txt")).unwrap();
    check(files.path(), &["--fix", "a.yaml"]);
    assert!(fs::symlink_metadata(at("a.yaml")).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(at("target.txt")).unwrap(), FIXED);
    let after = fs::metadata(at("target.txt")).unwrap();
    assert_eq!((before.mode(), before.uid()), (after.mode(), after.uid()));
    // A new file: a program that has the old one open reads the old text.
    assert_ne!(before.ino(), after.ino());
}

#[test]
fn a_file_that_cannot_be_fixed_keeps_no_other_from_it() {
    // The file beside it would have too long a name.
    let long = format!("b{}.yaml", "b".repeat(245));
    let files = directory(&[("a.yaml", SLIPS), (&long, SLIPS), ("c.yaml", SLIPS)]);
    let run = check(files.path(), &["--fix", "a.yaml", &long, "c.yaml"]);
    assert_eq!(run.code, 3, "{}", run.err);
    for name in ["a.yaml", "c.yaml"] {
        assert_eq!(fs::read_to_string(files.path().join(name)).unwrap(), FIXED, "{name}");
        assert!(run.out.contains(&format!("fixed {name}\n")), "{}", run.out);
    }
    assert_eq!(fs::read_to_string(files.path().join(&long)).unwrap(), SLIPS);
    assert!(run.err.contains(&format!("{long} cannot be fixed: ")), "{}", run.err);
    assert!(run.err.ends_with("rulesyncd: 1 file could not be fixed\n"), "{}", run.err);
}

#[test]
fn standard_input_can_be_neither_fixed_nor_watched() {
    let files = directory(&[]);
    for flag in ["--fix", "--watch"] {
        let run = check(files.path(), &[flag, "-"]);
        assert_eq!((run.code, run.out.as_str()), (2, ""));
        assert_eq!(run.err, "rulesyncd: standard input can neither be fixed nor watched\n");
    }
}
