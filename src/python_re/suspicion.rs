//! Finds patterns that mean something else to Python than to their author.

/// A part of a pattern that is literal, or means something else than it seems.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Suspicion {
    pub(crate) message: String,
    pub(crate) help: String,
}

/// Looks for spellings of other engines and of word processors, and reports one of each kind.
pub(crate) fn suspicions(pattern: &str) -> Vec<Suspicion> {
    [slashes(pattern), posix_class(pattern), typographic_quote(pattern)].into_iter().flatten().collect()
}

/// `/find/i`: delimiters and flags, as in JavaScript and Perl.
fn slashes(pattern: &str) -> Option<Suspicion> {
    const FLAGS: &str = "gimsxuy";
    let (body, flags) = pattern.strip_prefix('/')?.rsplit_once('/')?;
    let is_flag = |(at, flag): (usize, char)| FLAGS.contains(flag) && !flags[..at].contains(flag);
    let unescaped = body.replace(r"\\", "").replace(r"\/", "");
    if body.is_empty() || unescaped.contains('/') || !flags.char_indices().all(is_flag) {
        return None;
    }
    // `/tmp/` is a path as well; a text cannot start before a leading slash, or end after a trailing one.
    if flags.is_empty() && !body.starts_with('^') && !unescaped.ends_with('$') {
        return None;
    }
    let ours: String = flags.chars().filter(|flag| "imsx".contains(*flag)).collect();
    let flags = if flags.is_empty() { String::new() } else { format!(" and `{flags}`") };
    let prefix = if ours.is_empty() {
        "no slashes".to_owned()
    } else {
        format!("no slashes, and `(?{ours})` before it")
    };
    Some(Suspicion {
        message: format!("the slashes{flags} around the pattern are characters to match for Python"),
        help: format!("write {prefix}"),
    })
}

/// `[[:alpha:]]`, which Python reads as a set of these characters and a bracket.
fn posix_class(pattern: &str) -> Option<Suspicion> {
    const CLASSES: [(&str, &str); 14] = [
        ("alpha", r"[^\W\d_]"),
        ("digit", r"\d"),
        ("alnum", r"[^\W_]"),
        ("space", r"\s"),
        ("word", r"\w"),
        ("upper", "[A-Z]"),
        ("lower", "[a-z]"),
        ("xdigit", "[0-9A-Fa-f]"),
        ("punct", r"[!-/:-@\[-`{-~]"),
        ("blank", r"[ \t]"),
        ("cntrl", r"[\x00-\x1f\x7f]"),
        ("print", "[ -~]"),
        ("graph", "[!-~]"),
        ("ascii", r"[\x00-\x7f]"),
    ];
    CLASSES.into_iter().find_map(|(name, ours)| {
        let at = pattern.find(&format!("[:{name}:]")).or_else(|| pattern.find(&format!("[:^{name}:]")))?;
        // Outside a class, such a text has no meaning in other engines either.
        pattern[..at].contains('[').then(|| Suspicion {
            message: format!("`[:{name}:]` is no class for Python, but a set of these characters"),
            help: format!("write {ours}"),
        })
    })
}

/// Quotes as word processors write them.
fn typographic_quote(pattern: &str) -> Option<Suspicion> {
    let quote = pattern.chars().find(|character| "“”„‟‘’‚‛".contains(*character))?;
    let plain = if "“”„‟".contains(quote) { '"' } else { '\'' };
    Some(Suspicion {
        message: format!("the typographic quote `{quote}` (U+{:04X}) is in the pattern", u32::from(quote)),
        help: format!("write `{plain}` if that is meant, or its escape `\\u{:04x}`", u32::from(quote)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_spellings_are_suspected() {
        for (pattern, message, help) in [
            ("/find/i", "the slashes and `i` around", "write no slashes, and `(?i)` before it"),
            (r"/a\/b/gi", "the slashes and `gi` around", "(?i)"),
            ("/^find$/", "the slashes around", "write no slashes"),
            ("/find/g", "the slashes and `g` around", "write no slashes"),
            ("[[:alpha:]]+", "`[:alpha:]` is no class", r"write [^\W\d_]"),
            ("[^_[:digit:]]", "`[:digit:]` is no class", r"write \d"),
            ("[[:^space:]]", "`[:space:]` is no class", r"write \s"),
            ("“find”", "the typographic quote `“` (U+201C)", "write `\"` if"),
            ("it’s", "the typographic quote `’` (U+2019)", r"\u2019"),
        ] {
            let found = suspicions(pattern);
            assert_eq!(found.len(), 1, "{pattern}: {found:?}");
            assert!(
                found[0].message.contains(message) && found[0].help.contains(help),
                "{pattern}: {found:?}"
            );
        }
    }

    #[test]
    fn paths_and_texts_are_not() {
        for pattern in [
            "/tmp/",
            "/etc/cron.d/",
            "/usr/bin/gi",
            r"/dev/tcp/\d",
            "/bin/sh",
            "//",
            "/",
            "",
            "/a/ii",
            "a/i",
            r"/a\\/b/i",
            "[:alpha:]",
            "a:alpha:",
            "[a:]",
            "\"it's\"",
            "/etc/passwd$",
        ] {
            assert_eq!(suspicions(pattern), [], "{pattern}");
        }
    }
}
