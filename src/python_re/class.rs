use super::token::Token;
use super::{Set, Stop, Validator, fault};

/// A member of a class.
enum Member {
    /// A character; `None` if it is not known which.
    Character(Option<char>),
    /// A set, like `\d`.
    Set(char),
}

impl Set {
    fn take(&mut self, member: Member) {
        match member {
            Member::Character(character) => self.ranges.extend(character.map(|one| (one, one))),
            Member::Set(class) => self.classes.push(class),
        }
    }
}

impl Validator {
    /// A class, after its opening bracket at `at`.
    pub(super) fn class(&mut self, at: usize) -> Result<Set, Stop> {
        let unclosed = || fault(at, "a class that is not closed");
        let mut set = Set { negated: self.tokens.eat('^'), ..Set::default() };
        let mut first = true;
        loop {
            let place = self.tokens.position();
            let token = self.tokens.next().ok_or_else(unclosed)?;
            if token == Token::Char(']') && !first {
                return Ok(set);
            }
            first = false;
            let low = self.member(token, place)?;
            if !self.tokens.eat('-') {
                set.take(low);
                continue;
            }
            let high_place = self.tokens.position();
            let token = self.tokens.next().ok_or_else(unclosed)?;
            if token == Token::Char(']') {
                set.take(low);
                set.take(Member::Character(Some('-')));
                return Ok(set);
            }
            let high = self.member(token, high_place)?;
            let good = match (low, high) {
                (Member::Character(Some(low)), Member::Character(Some(high))) => {
                    set.ranges.push((low, high));
                    low <= high
                }
                (Member::Character(_), Member::Character(_)) => true,
                _ => false,
            };
            if !good {
                return Err(fault(place, "a range in a class that runs backwards or to a set"));
            }
        }
    }

    fn member(&mut self, token: Token, at: usize) -> Result<Member, Stop> {
        let escaped = match token {
            Token::Char(character) => return Ok(Member::Character(Some(character))),
            Token::Escape(escaped) => escaped,
        };
        match escaped {
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => Ok(Member::Set(escaped)),
            'b' => Ok(Member::Character(Some('\u{8}'))),
            '0'..='7' => self.octal(escaped, at).map(Member::Character),
            '8' | '9' => {
                Err(fault(at, format!("`\\{escaped}` in a class, where no group can be referred to,")))
            }
            _ => self.character(escaped, at).map(Member::Character),
        }
    }
}
