//! Rules in every shape that a person, an editor or a faulty transfer could give them.

/// Numbers that look random and are the same in every run (xorshift64*).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.roll(from.len())]
    }
}

/// Scalars that no reader misreads.
#[rustfmt::skip]
const TAME: &[&str] = &[
    "a", "text", "two words", "http://x/y?z=1", "a:b", "a#b", "lifter:x", "x-y", "é", "日本", "😀", "a'b",
    "a\"b", "1", "12", "-3", "0.5", "true", "null", "a.b",
];

/// Scalars on which readers differ, or could.
#[rustfmt::skip]
const SCALARS: &[&str] = &[
    "a", "text", "R0001", "T1083", "T1548.001", "TA0007", "two words", "a:b", "a: b", "a #b", "a#b",
    "http://x/y?z=1", "yes", "Yes", "no", "NO", "on", "off", "y", "n", "true", "True", "TRUE", "tRue",
    "false", "null", "Null", "~", "", "0", "00", "07", "08", "010", "-010", "+10", "-0", "1", "12", "1_000",
    "1_", "_1", "0o10", "0O10", "0b101", "0b", "0b2", "0x1F", "0x1f", "0X1F", "0x", "0x_", "-0x1F", "0b_",
    "0_", "0_7", "1__2", "12:30", "12:30:45", "1:60", "190:20:30", "0:30", "08:30", "12:30:45.5", "1:2.",
    "1.", "1.0", ".5", "-.5", "+.5", ".5e1", ".5e+1", "1e3", "1E3", "1e+3", "1.0e3", "1.0e+3", "1.0E-3",
    "1.5e+400", "1_0.5", "1._5", "0.1_0", ".1_0", "._1", "01.5", "1.2.3", ".", "..", "...", "-", "--", "---",
    "+", "+-1", ".inf", "-.inf", "+.INF", ".Inf", ".nan", ".NaN", ".NAN", "-.nan", "nan", "inf", "2026-05-17",
    "2026-5-17", "2026-99-99", "0000-01-01", "2026-02-30", "2026-05-17T07:25:09Z", "2026-05-17 07:25:09",
    "2026-05-17 07:25:09.123", "2026-05-17t7:25:09+01:30", "2026-05-17 07:25:61", "2026-5-1 7:2:3",
    "2026-5-1 7:25:09", "2026-05-17T07:25:09 +99", "2026-05-17T07:25:09-7", "2026-05-17x", "=", "<<", "<",
    "==", "?", "? a", "?a", ":", ":a", ": a", "-a", "- a", "@a", "`a`", "%a", "!a", "!!str a", "!!int 1",
    "! a", "&a", "&a b", "*a", "*", "&", "|", ">", "|a", "'", "\"", "'a'", "\"a\"", "a'b", "a\"b", "[", "]",
    "{", "}", ",", "a,b", "[a]", "{a}", "{a: b}", "[a, b]", "a]", "a}", "a?b", "a ?b", "\\", "\\n", "\\u0041",
    "\\ud83d\\ude00", "\\x41", "\\/", "\\ ", "\\q", "\\0", "\\N", "\\_", "\\\"", "\\bfind\\s+", "é", "日本",
    "😀", "a\u{a0}b", "a\u{feff}b", "a\u{85}b", "a\u{2028}b", "\u{7f}", "\u{1}", "\0", "\u{fffe}",
    "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616",
    "-9223372036854775808", "-9223372036854775809", "99999999999999999999999999999999999999999999",
    "0x8000000000000000", "0xffffffffffffffffffff", "0.1", "0.85", "1e-7", "123456789.123456789", "5e-324",
    "2.2250738585072011e-308", "0.30000000000000004", "a\tb", "\ta", "a\t", " a", "a ", "a  b", "#", "#a",
    "a #", "lifter:x", "(?i)\\b(a|b)\\b", "$", "^a$", "x\\\\y", "1 2", "0.", "-1", "-1.5", "+1.5", "1,5",
];

/// Pieces that change the meaning of the text around them.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "\t", "\n", "\n\n", "\r\n", "\r", " ", "  ", "    ", "#", " #", " # c\n", "# c\n", ":", ": ", " :", ":\n",
    "- ", "-", "\n- ", "? ", "?", ",", ", ", "[", "]", "{", "}", "[]", "{}", "'", "''", "\"", "\\", "\\\n",
    "|", "|\n", "|-\n", "|+\n", "|2\n", "|1-\n", ">", ">\n", ">-\n", ">+\n", "> # c\n", "|#c\n", "&a ", "&a",
    "*a", "*a ", "&b.c ", "&é ", "!", "!!str ", "!!map ", "!x ", "!<x> ", "<<: ", "<<: *a", "%",
    "%YAML 1.1\n", "%YAML 1.2\n---\n", "%TAG ! x\n", "---", "---\n", "--- ", "...", "...\n", "\n---\n",
    "\n...\n", "@", "`", "\u{feff}", "\u{85}", "\u{2028}", "\u{2029}", "\u{a0}", "\0", "\u{7f}", "\u{1b}",
    "é", "😀", "a", "b: c", "\nb: c", "\n b: c", "\n  b: c", "\n   b: c", "{b: c}", "[b, c]", "\"b\": c",
    "\"b\":c", "'b' : c", "b:", "b :c", "~", "yes", "010", "1_000", "=", "<<", "12:30", "2026-05-17", "x",
    "0", ".", "\\u", "\\x4", "\\ud800", "\\0", "\"a\\\n  b\"", "'a\n\n  b'", "a\n  b", "|\n    \n   a\n",
    ">\n a\n\n  b\n c\n", "|\n\ta\n", ">\n  a\n  \tb\n", "match:", "name: x\n", "emits:", "rule_id: Z\n",
    "description: ",
];

fn word(dice: &mut Dice) -> &'static str {
    if dice.one_in(4) { dice.pick(SCALARS) } else { dice.pick(TAME) }
}

/// A scalar in one of the styles, at an indentation.
fn scalar(dice: &mut Dice, indent: usize, flow: bool) -> String {
    let text = word(dice);
    let pad = " ".repeat(indent + 1 + dice.roll(3));
    match dice.roll(if flow { 6 } else { 11 }) {
        0..=2 => text.to_owned(),
        3 => format!("'{}'", text.replace('\'', "''")),
        4 if dice.one_in(3) => format!("\"{}\"", text.replace('"', "\\\"")),
        4 => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        5 => format!("{text}\n{}{pad}{}", if dice.one_in(3) { "\n" } else { "" }, word(dice)),
        6 => format!("\"{text}\n{pad}{}\"", word(dice).replace('"', "")),
        7 => format!("'{text}\n\n{pad}{}'", word(dice).replace('\'', "")),
        _ => block(dice, &pad),
    }
}

/// A block scalar whose lines are indented by `pad`, more or less.
fn block(dice: &mut Dice, pad: &str) -> String {
    let mut block =
        dice.pick(&["|", ">", "|", ">", "|-", ">-", "|+", ">+", "|2", ">1", "|3-", "|+2", ">2+"]).to_owned();
    block += dice.pick(&["\n", "\n", "\n", "\n", "\n", "\n\n", " # c\n", " \n", "\n    \n", "\n  \n"]);
    for _ in 0..1 + dice.roll(4) {
        block += pad;
        block += dice.pick(&["", "", "", "", "", "", " ", "  ", "\t", "# "]);
        block += word(dice);
        block += dice.pick(&[
            "\n",
            "\n",
            "\n",
            "\n",
            "\n",
            "\n\n",
            "\n\n\n",
            " \n",
            "\t\n",
            "\n   \n",
            "\r\n",
            "\n     \n",
        ]);
    }
    // What follows begins a line of its own.
    if dice.one_in(4) { block } else { block.trim_end_matches('\n').to_owned() }
}

/// A value of some kind, at an indentation.
fn value(dice: &mut Dice, indent: usize, flow: bool, depth: usize) -> String {
    let kind = if depth == 0 { 0 } else { dice.roll(9) };
    let count = dice.roll(3);
    let pad = " ".repeat(indent + 1 + dice.roll(2));
    match kind {
        0..=4 => scalar(dice, indent, flow),
        5 | 6 => {
            let items: Vec<_> = (0..count).map(|_| value(dice, indent, true, depth - 1)).collect();
            let glue = dice.pick(&[", ", ", ", ",", " ,", ",\n   "]);
            let end = dice.pick(&["", "", "", ",", "\n", " "]);
            if kind == 5 {
                return format!("[{}{end}]", items.join(glue));
            }
            let pairs: Vec<_> = items
                .iter()
                .map(|item| {
                    format!("{}{}{item}", key(dice), dice.pick(&[": ", ": ", ": ", ":", " : ", ":\n "]))
                })
                .collect();
            format!("{{{}{end}}}", pairs.join(glue))
        }
        _ if flow => scalar(dice, indent, flow),
        7 => (0..=count).map(|_| format!("\n{pad}- {}", value(dice, indent + 2, false, depth - 1))).collect(),
        _ => (0..=count)
            .map(|_| format!("\n{pad}{}: {}", key(dice), value(dice, pad.len(), false, depth - 1)))
            .collect(),
    }
}

fn key(dice: &mut Dice) -> String {
    match dice.roll(12) {
        0 => scalar(dice, 0, true),
        1 => format!("\"{}\"", dice.pick(&["a", "b", "c d", "e: f"])),
        2 => format!("'{}'", dice.pick(&["a", "b", "c d", "yes"])),
        3 => {
            dice.pick(&["pattern", "field", "kind", "a b", "é", "x-y", "x.y", "&k a", "*a", "? a"]).to_owned()
        }
        _ => dice.pick(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]).to_owned(),
    }
}

/// A rule; often a good one.
pub(crate) fn rule(dice: &mut Dice) -> Vec<u8> {
    let odd = dice.roll(22);
    let mut field =
        |at: usize, good: &str| if at == odd { value(dice, 0, false, 1) } else { good.to_owned() };
    let mut fields = vec![
        format!("rule_id: {}", field(0, "R1")),
        format!("rule_version: {}", field(1, "1")),
        format!("name: {}", field(2, "n")),
        format!("applies_to: {}", field(3, "[a]")),
        format!("evidence_fields: {}", field(4, "[]")),
        format!("unknown: {}", field(5, "x")),
        format!("description: {}", field(6, "d")),
    ];
    let [tactic, technique, sub, confidence] =
        [(7, "TA0001"), (8, "T1001"), (9, "T1001.001"), (10, "0.5")].map(|(at, good)| field(at, good));
    fields.push(match dice.roll(3) {
        0 => format!("emits:\n- tactic: {tactic}\n  technique_id: {technique}\n  sub_technique_id: {sub}\n  confidence: {confidence}"),
        1 => format!("emits:\n  - confidence: {confidence}\n    tactic: {tactic}\n    technique_id: {technique}"),
        _ => format!("emits: [{{tactic: {tactic}, technique_id: {technique}, confidence: {confidence}}}]"),
    });
    // Optional fields are mostly missing: the more Python reads, the longer the test takes.
    for at in [6, 5, 4] {
        if at != odd && !dice.one_in(6) {
            fields.remove(at);
        }
    }
    let spec = (0..=dice.roll(2))
        .fold(String::new(), |spec, _| spec + &format!("\n  {}: {}", key(dice), value(dice, 2, false, 2)));
    fields.push(format!("match:{spec}"));
    if dice.one_in(3) {
        let at = dice.roll(fields.len());
        fields.rotate_left(at);
    }
    let mut text = fields.join("\n");
    if !dice.one_in(8) {
        text.push('\n');
    }
    let mut text = text.into_bytes();
    if dice.one_in(3) {
        for _ in 0..=dice.roll(3) {
            spoil(dice, &mut text);
        }
    }
    text
}

/// A rule with mistakes of an editor, or of a person who does not know YAML.
pub(crate) fn fixable(dice: &mut Dice) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(&rule(dice)).into_owned();
    if dice.one_in(3) {
        let (blanks, tab) = dice
            .pick(&["  |\t", "    |\t", ": |:\t", "- |-\t", " | \t", "\n|\t\n", "\n| \n"])
            .split_once('|')
            .unwrap();
        text = if dice.one_in(2) { text.replace(blanks, tab) } else { text.replacen(blanks, tab, 1) };
    }
    if dice.one_in(6) {
        text =
            text.replace("rule_id: R1", dice.pick(&["rule_id: 'R1 '", "rule_id: \" R1\"", "rule_id: R1  "]));
    }
    match dice.roll(8) {
        0 => text = text.replace('\n', "\r\n"),
        1 => text = text.replace('\n', "\r"),
        2 => text = text.replacen('\n', "\r\n", 1 + dice.roll(4)),
        _ => {}
    }
    if dice.one_in(6) {
        text.insert(0, '\u{feff}');
    }
    text.into_bytes()
}

/// Makes one mistake.
fn spoil(dice: &mut Dice, text: &mut Vec<u8>) {
    let at = dice.roll(text.len() + 1);
    match dice.roll(9) {
        0..=4 => {
            let piece = dice.pick(PIECES);
            text.splice(at..at, piece.bytes());
        }
        5 => {
            let end = (at + dice.roll(4)).min(text.len());
            text.drain(at..end);
        }
        6 => {
            // A line is moved in or out.
            let start = text[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |found| found + 1);
            if dice.one_in(2) {
                text.splice(start..start, b"  ".iter().copied());
            } else if text.get(start) == Some(&b' ') {
                text.remove(start);
            }
        }
        7 => {
            // A piece is repeated elsewhere.
            let end = (at + dice.roll(12)).min(text.len());
            let piece = text[at..end].to_vec();
            let to = dice.roll(text.len() + 1);
            text.splice(to..to, piece);
        }
        _ => {
            if let Some(byte) = text.get_mut(at) {
                *byte = b" \n\t:#-?,[]{}'\"|>&*!%@`~\\a0.\xc3\xff"[dice.roll(29)];
            }
        }
    }
}

/// Pieces of regular expressions.
#[rustfmt::skip]
const REGEX: &[&str] = &[
    "a", "b", "x", "1", " ", "#", "-", ",", "]", "}", "é", "😀", ".", "^", "$", "|", "|", "(", "(", ")", ")",
    ")", "[", "[^", "]", "*", "+", "?", "*?", "+?", "??", "*+", "++", "?+", "{", "}", "{2}", "{2,}", "{,3}",
    "{2,3}", "{3,2}", "{,}", "{}", "{a}", "{2}?", "{2}+", "{99999999999}", "{4294967295}", "{4294967294}",
    "(a)", "(?:a)", "(?:", "(?P<n>", "(?P<n>a)", "(?P<m>", "(?P=n)", "(?P=m)", "(?P>n)", "(?P<1>", "(?P<>",
    "(?P<é>", "(?<n>", "(?<n>a)", "(?=", "(?!", "(?<=", "(?<!", "(?<=a)", "(?<=a|b)", "(?<=a|bc)", "(?<=a*)",
    "(?<!ab?)", "(?>", "(?>a)", "(?#c)", "(?#", "(?(1)a|b)", "(?(1)", "(?(n)", "(?(n)a)", "(?(2)a|b)",
    "(?(0)a)", "(?()a)", "(?(1)a|b|c)", "(?i)", "(?i)", "(?x)", "(?ims)", "(?a)", "(?u)", "(?L)", "(?au)",
    "(?i:", "(?-i:", "(?i-s:", "(?i-i:", "(?-a:", "(?i-)", "(?-)", "(?x: ", "(?-x: ", "(?z)", "(?i", "(?",
    "(?P", "(?R)", "(?1)", "(?|a)", "(?&n)", "\\", "\\d", "\\D", "\\s", "\\w", "\\W", "\\b", "\\B", "\\A",
    "\\Z", "\\z", "\\G", "\\h", "\\R", "\\K", "\\p{L}", "\\p", "\\X", "\\Q", "\\E", "\\n", "\\t", "\\a",
    "\\e", "\\v", "\\f", "\\r", "\\0", "\\01", "\\018", "\\1", "\\2", "\\9", "\\10", "\\11", "\\111", "\\400",
    "\\377", "\\x41", "\\x4", "\\xg", "\\u0041", "\\u41", "\\U00000041", "\\U00110000", "\\ud800",
    "\\N{DIGIT ONE}", "\\N{}", "\\N", "\\N{no such}", "\\N{NOPE}", "\\N{latin small letter a}",
    "\\N{latinsmalllettera}", "\\N{LATIN_SMALL_LETTER_A}", "\\N{BACKSPACE}", "\\N{LINE FEED}",
    "\\N{ DIGIT ONE}", "\\N{HANGUL SYLLABLE GA}", "\\N{CJK UNIFIED IDEOGRAPH-4E00}", "\\N{KEYCAP DIGIT ONE}",
    "\\N{TIBETAN MARK TSA -PHRU}", "\\g<1>", "\\k<n>", "\\c", "\\_", "\\ ", "\\é", "\\(",
    "\\[", "\\.", "\\-", "\\]", "[a-z]", "[z-a]", "[\\d-z]", "[a-\\d]", "[a-]", "[-a]", "[]", "[]]", "[^]",
    "[^]]", "[a", "[\\b]", "[\\B]", "[\\8]", "[\\400]", "[\\377]", "[\\x41-\\x42]", "[\\N{DIGIT ONE}]",
    "[[:alpha:]]", "[a&&b]", "[a--b]", "[\\]]", "[ #]", "\\Q[\\E", "\n", "# c\n",
];

/// A regular expression, often a good one.
pub(crate) fn pattern(dice: &mut Dice) -> String {
    const TAME: &[&str] =
        &["a", "b+", "[a-z]*", "\\d", "(a|b)", "(?:a", "(b", ")", "|", "x?", ".", "\\b", "{2}"];
    let tame = 1 + dice.roll(8);
    let mut pattern: String = (0..=dice.roll(7))
        .map(|_| if dice.roll(8) < tame { dice.pick(TAME) } else { dice.pick(REGEX) })
        .collect();
    // Open brackets are mostly closed.
    let open = pattern.matches('(').count().saturating_sub(pattern.matches(')').count());
    if !dice.one_in(4) {
        pattern += &")".repeat(open);
    }
    pattern
}
