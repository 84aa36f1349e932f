use super::PatternError;

/// A character, or a backslash and the character after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Char(char),
    Escape(char),
}

/// A pattern as tokens.
#[derive(Debug, Clone)]
pub(super) struct Tokens {
    /// Each with its position in characters.
    list: Vec<(usize, Token)>,
    at: usize,
    length: usize,
}

impl Tokens {
    pub(super) fn new(pattern: &str) -> Result<Self, PatternError> {
        let mut list = Vec::with_capacity(pattern.len());
        let mut characters = pattern.chars().enumerate();
        let mut length = 0;
        while let Some((at, character)) = characters.next() {
            length = at + 1;
            if character != '\\' {
                list.push((at, Token::Char(character)));
                continue;
            }
            let Some((end, escaped)) = characters.next() else {
                return Err(PatternError { at, what: "a backslash with nothing after it".to_owned() });
            };
            length = end + 1;
            list.push((at, Token::Escape(escaped)));
        }
        Ok(Self { list, at: 0, length })
    }

    /// The position of the next token, in characters.
    pub(super) fn position(&self) -> usize {
        self.list.get(self.at).map_or(self.length, |&(at, _)| at)
    }

    pub(super) fn peek(&self) -> Option<Token> {
        self.list.get(self.at).map(|&(_, token)| token)
    }

    pub(super) fn advance(&mut self) {
        self.at += 1;
    }

    pub(super) fn next(&mut self) -> Option<Token> {
        let token = self.peek();
        self.at += usize::from(token.is_some());
        token
    }

    /// Takes the next token if it is this character.
    pub(super) fn eat(&mut self, character: char) -> bool {
        let is = self.peek() == Some(Token::Char(character));
        self.at += usize::from(is);
        is
    }

    /// Takes the next token if it is a wanted character.
    pub(super) fn eat_if(&mut self, wanted: impl Fn(char) -> bool) -> Option<char> {
        match self.peek() {
            Some(Token::Char(character)) if wanted(character) => {
                self.at += 1;
                Some(character)
            }
            _ => None,
        }
    }

    /// Takes decimal digits, as many as there are.
    pub(super) fn digits(&mut self) -> String {
        std::iter::from_fn(|| self.eat_if(|character| character.is_ascii_digit())).collect()
    }

    /// The current position, for [`Tokens::back_to`].
    pub(super) fn mark(&self) -> usize {
        self.at
    }

    pub(super) fn back_to(&mut self, mark: usize) {
        self.at = mark;
    }
}
