use super::token::Token;
use super::{Anchor, ItemKind, Node, Set, Stop, Validator, Width, fault};

impl Validator {
    /// The meaning of a backslash and `escaped`, at `at`, outside a class.
    pub(super) fn escape(&mut self, escaped: char, at: usize) -> Result<(ItemKind, Width, Node), Stop> {
        let anchor = |anchor| Ok((ItemKind::Anchor, Width::ZERO, Node::Anchor(anchor)));
        match escaped {
            'A' => anchor(Anchor::Start),
            'b' => anchor(Anchor::WordEdge),
            'B' => anchor(Anchor::NoWordEdge),
            'Z' => anchor(Anchor::LastEnd),
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => Ok(self.one(Set::class(escaped))),
            '0' => self.octal(escaped, at).map(|one| self.one(Set::of_known(one))),
            '1'..='9' => self.number(escaped, at),
            _ => self.character(escaped, at).map(|one| self.one(Set::of_known(one))),
        }
    }

    /// The character of an octal number that begins with this digit and has at most two more.
    pub(super) fn octal(&mut self, first: char, at: usize) -> Result<Option<char>, Stop> {
        let mut digits = String::from(first);
        for _ in 0..2 {
            digits.extend(self.tokens.eat_if(|character| character.is_digit(8)));
        }
        octal(&digits, at)
    }

    /// A group's number, or three octal digits.
    fn number(&mut self, first: char, at: usize) -> Result<(ItemKind, Width, Node), Stop> {
        let mut number = String::from(first);
        number.extend(self.tokens.eat_if(|character| character.is_ascii_digit()));
        if number.len() == 2
            && number.chars().all(|digit| digit.is_digit(8))
            && let Some(third) = self.tokens.eat_if(|character| character.is_digit(8))
        {
            number.push(third);
            return octal(&number, at).map(|one| self.one(Set::of_known(one)));
        }
        let group = number.parse().unwrap_or(usize::MAX);
        self.reference(group, at).map(|width| (ItemKind::Other, width, Node::Reference(group)))
    }

    /// A group that is referred to: it must exist, and be closed.
    pub(super) fn reference(&mut self, group: usize, at: usize) -> Result<Width, Stop> {
        match self.groups.get(group) {
            None => Err(fault(at, format!("there is no group {group} yet"))),
            Some(None) => Err(fault(at, "a reference to a group that is still open")),
            Some(Some(_)) if self.behind.is_some_and(|before| group >= before) => {
                Err(fault(at, "a reference to a group of the same look-behind"))
            }
            Some(&Some(width)) => Ok(width),
        }
    }

    /// The character of an escape, in a class or outside; `None` if its number is not computed here.
    pub(super) fn character(&mut self, escaped: char, at: usize) -> Result<Option<char>, Stop> {
        let digits = match escaped {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            'N' => return self.named(at),
            'a' => return Ok(Some('\u{7}')),
            'f' => return Ok(Some('\u{c}')),
            'n' => return Ok(Some('\n')),
            'r' => return Ok(Some('\r')),
            't' => return Ok(Some('\t')),
            'v' => return Ok(Some('\u{b}')),
            letter if letter.is_ascii_alphabetic() => {
                return Err(fault(at, format!("`\\{letter}`, which Python does not know,")));
            }
            other => return Ok(Some(other)),
        };
        let mut number = String::new();
        for _ in 0..digits {
            number.extend(self.tokens.eat_if(|character| character.is_ascii_hexdigit()));
        }
        let code = u32::from_str_radix(&number, 16).ok().filter(|_| number.len() == digits);
        match code {
            // For Python, half a surrogate pair is a character.
            Some(code) if code <= 0x10_ffff => Ok(char::from_u32(code)),
            _ => Err(fault(at, format!("`\\{escaped}` without its {digits} hexadecimal digits"))),
        }
    }

    /// A character by its name.
    fn named(&mut self, at: usize) -> Result<Option<char>, Stop> {
        let mut name = String::new();
        if self.tokens.eat('{') {
            while let Some(Token::Char(character)) = self.tokens.next() {
                match character {
                    '}' if name.is_empty() => break,
                    '}' => {
                        let unknown =
                            || fault(at, format!("`\\N{{{name}}}`, which is the name of no character,"));
                        return by_name(&name).map(Some).ok_or_else(unknown);
                    }
                    _ => name.push(character),
                }
            }
        }
        Err(fault(at, "`\\N` without a character's name in braces"))
    }
}

/// The character of this name or alias, in any case.
fn by_name(name: &str) -> Option<char> {
    let found = unicode_names2::character(name)?;
    let Some(known) = unicode_names2::name(found).map(|name| name.to_string()) else { return Some(found) };
    // The crate ignores blanks, hyphens and underscores; Python does not.
    let letters = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    let is_loose = letters(&known).eq_ignore_ascii_case(&letters(name));
    (known.eq_ignore_ascii_case(name) || !is_loose && !name.contains('_')).then_some(found)
}

/// A character by its octal number.
fn octal(digits: &str, at: usize) -> Result<Option<char>, Stop> {
    match u32::from_str_radix(digits, 8) {
        Ok(code) if code <= 0o377 => Ok(char::from_u32(code)),
        _ => Err(fault(at, format!("the octal number {digits}, which is above 377,"))),
    }
}
