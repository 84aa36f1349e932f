//! Translates a pattern of Python's for the crate `fancy-regex`.
//!
//! It is written from the tree, so that what the two read differently (`$`, `\Z`, nested brackets in a class, flags)
//! has Python's meaning.

use std::fmt::Write as _;

use super::node::{Anchor, Greed, Node, Set};

/// Translates a pattern for `fancy-regex`.
///
/// # Errors
/// Why Python would not compile it, or what only Python's own `re` can match.
pub fn spell_for_fancy_regex(pattern: &str) -> Result<String, String> {
    let deep = || "groups that are nested too deep".to_owned();
    let (node, ascii) = super::read(pattern).map_err(|fault| fault.to_string())?.ok_or_else(deep)?;
    if ascii {
        return Err("the flag `a`, which only Python's own `re` has".to_owned());
    }
    let mut out = String::with_capacity(pattern.len() * 2);
    write(&node, &mut out);
    Ok(out)
}

fn write(node: &Node, out: &mut String) {
    match node {
        Node::Empty => {}
        Node::Set(set) => write_set(set, out),
        Node::Sequence(nodes) => nodes.iter().for_each(|node| match node {
            Node::Alternatives(_) => group("(?:", node, out),
            _ => write(node, out),
        }),
        Node::Alternatives(nodes) => {
            for (at, node) in nodes.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "|" });
                write(node, out);
            }
        }
        Node::Repeat { node, least, most, greed } => {
            out.push_str(if *greed == Greed::Possessive { "(?>" } else { "" });
            group("(?:", node, out);
            let _ = match most {
                &u64::MAX => write!(out, "{{{least},}}"),
                most => write!(out, "{{{least},{most}}}"),
            };
            out.push_str(match greed {
                Greed::Greedy => "",
                Greed::Lazy => "?",
                Greed::Possessive => ")",
            });
        }
        Node::Anchor(place) => out.push_str(match place {
            Anchor::Start => r"\A",
            Anchor::LineStart => "(?m:^)",
            Anchor::End => r"(?=\n?\z)",
            Anchor::LineEnd => "(?m:$)",
            Anchor::WordEdge => r"\b",
            Anchor::NoWordEdge => r"\B",
            Anchor::LastEnd => r"\z",
        }),
        Node::Capture(_, node) => group("(", node, out),
        // In parentheses, so that a digit after it does not become part of its number.
        Node::Reference(number) => {
            let _ = write!(out, r"(?:\{number})");
        }
        Node::Look { behind, negated, node } => {
            let begin = match (behind, negated) {
                (false, false) => "(?=",
                (false, true) => "(?!",
                (true, false) => "(?<=",
                (true, true) => "(?<!",
            };
            group(begin, node, out);
        }
        Node::Atomic(node) => group("(?>", node, out),
        Node::Condition(number, with, without) => {
            let _ = write!(out, "(?({number})");
            group("(?:", with, out);
            out.push('|');
            group("(?:", without, out);
            out.push(')');
        }
    }
}

fn group(begin: &str, node: &Node, out: &mut String) {
    out.push_str(begin);
    write(node, out);
    out.push(')');
}

fn write_set(set: &Set, out: &mut String) {
    if set.ranges.is_empty() && set.classes.is_empty() {
        // No text contains half of a surrogate pair.
        return out.push_str(if set.negated { "(?s:.)" } else { "(?!)" });
    }
    out.push_str(if set.ignore_case { "(?i:[" } else { "[" });
    out.push_str(if set.negated { "^" } else { "" });
    for &(low, high) in &set.ranges {
        let _ = write!(out, r"\x{{{:x}}}-\x{{{:x}}}", u32::from(low), u32::from(high));
    }
    for class in &set.classes {
        // Python's word characters are fewer, its blanks are more.
        out.push_str(match class {
            's' => r"\s\x1c-\x1f",
            'S' => r"[^\s\x1c-\x1f]",
            'd' => r"\d",
            'D' => r"\D",
            'w' => r"\p{L}\p{N}_",
            _ => r"[^\p{L}\p{N}_]",
        });
    }
    out.push_str(if set.ignore_case { "])" } else { "]" });
}
