use super::token::Token;
use super::{Node, Stop, Validator, Width, fault};

/// The flags of a group: which are set, which unset.
#[derive(Default)]
struct Flags {
    on: String,
    off: String,
}

impl Validator {
    /// A group, after its opening parenthesis at `at`: its width, or `None` if it matches nothing and cannot be
    /// repeated. `start` says that the pattern's flags are allowed here.
    pub(super) fn group(
        &mut self,
        verbose: bool,
        at: usize,
        start: bool,
    ) -> Result<Option<(Width, Node)>, Stop> {
        if !self.tokens.eat('?') {
            return self.capture(verbose, at, None).map(Some);
        }
        let Some(Token::Char(kind)) = self.tokens.next() else {
            return Err(fault(at, "an unfinished group"));
        };
        match kind {
            'P' => self.named_group(verbose, at).map(Some),
            ':' => self.rest(verbose, at).map(Some),
            '>' => self.rest(verbose, at).map(|(width, node)| Some((width, Node::Atomic(Box::new(node))))),
            '#' => self.comment(at).map(|()| None),
            '=' | '!' => self.rest(verbose, at).map(|(_, node)| {
                let node = Node::Look { behind: false, negated: kind == '!', node: Box::new(node) };
                Some((Width::ZERO, node))
            }),
            '<' => self.look_behind(verbose, at).map(Some),
            '(' => self.condition(verbose, at).map(Some),
            '-' => self.flags(String::new(), verbose, at, start),
            flag if "aiLmsux".contains(flag) => self.flags(flag.to_string(), verbose, at, start),
            other => {
                Err(fault(at, format!("a group that begins with `(?{other}`, which Python does not know,")))
            }
        }
    }

    /// The content of a group, up to and with its end.
    fn rest(&mut self, verbose: bool, at: usize) -> Result<(Width, Node), Stop> {
        let read = self.alternatives(verbose, false)?;
        self.close(at).map(|()| read)
    }

    fn close(&mut self, at: usize) -> Result<(), Stop> {
        if self.tokens.eat(')') { Ok(()) } else { Err(fault(at, "a parenthesis that is not closed")) }
    }

    fn capture(&mut self, verbose: bool, at: usize, name: Option<String>) -> Result<(Width, Node), Stop> {
        let number = self.groups.len();
        if let Some(name) = name
            && self.names.insert(name.clone(), number).is_some()
        {
            return Err(fault(at, format!("a second group of the name `{name}`")));
        }
        self.groups.push(None);
        let (width, node) = self.rest(verbose, at)?;
        if let Some(group) = self.groups.get_mut(number) {
            *group = Some(width);
        }
        Ok((width, Node::Capture(number, Box::new(node))))
    }

    /// After `(?P`.
    fn named_group(&mut self, verbose: bool, at: usize) -> Result<(Width, Node), Stop> {
        if self.tokens.eat('<') {
            let name = self.name('>', at)?;
            return self.capture(verbose, at, Some(name));
        }
        if self.tokens.eat('=') {
            let name = self.name(')', at)?;
            return match self.names.get(&name).copied() {
                Some(group) => self.reference(group, at).map(|width| (width, Node::Reference(group))),
                None => Err(fault(at, format!("there is no group `{name}` yet"))),
            };
        }
        Err(fault(at, "a group that begins with `(?P` and neither `<` nor `=`"))
    }

    /// A group's name, up to and with `end`.
    fn name(&mut self, end: char, at: usize) -> Result<String, Stop> {
        let name = self.until(end, at)?;
        // Python's names beyond ASCII are not checked.
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii();
        if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() || !name.chars().all(good) {
            return Err(fault(at, format!("`{name}`, which cannot be a group's name,")));
        }
        Ok(name)
    }

    fn until(&mut self, end: char, at: usize) -> Result<String, Stop> {
        let mut text = String::new();
        loop {
            match self.tokens.next() {
                Some(Token::Char(character)) if character == end => return Ok(text),
                Some(Token::Char(character)) => text.push(character),
                Some(Token::Escape(character)) => text.extend(['\\', character]),
                None => return Err(fault(at, format!("a group's name without `{end}` after it"))),
            }
        }
    }

    fn comment(&mut self, at: usize) -> Result<(), Stop> {
        loop {
            match self.tokens.next() {
                Some(Token::Char(')')) => return Ok(()),
                Some(_) => {}
                None => return Err(fault(at, "a comment that is not closed")),
            }
        }
    }

    /// After `(?<`.
    fn look_behind(&mut self, verbose: bool, at: usize) -> Result<(Width, Node), Stop> {
        let negated = self.tokens.eat('!');
        if !negated && !self.tokens.eat('=') {
            return Err(fault(at, "a group that begins with `(?<` (Python names a group with `(?P<name>`)"));
        }
        let outer = self.behind;
        self.behind = Some(outer.unwrap_or(self.groups.len()));
        let (width, node) = self.rest(verbose, at)?;
        self.behind = outer;
        if width.least == width.most {
            return Ok((Width::ZERO, Node::Look { behind: true, negated, node: Box::new(node) }));
        }
        Err(fault(at, "a look-behind that has more than one width"))
    }

    /// After `(?(`: a group's number or name, and the alternatives with and without it.
    fn condition(&mut self, verbose: bool, at: usize) -> Result<(Width, Node), Stop> {
        let name = self.until(')', at)?;
        let group = if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
            let group = name.parse().unwrap_or(usize::MAX);
            if group == 0 {
                return Err(fault(at, "a condition on group 0"));
            }
            self.asked.push((group, at));
            group
        } else {
            match self.names.get(&name) {
                Some(&group) => group,
                None => return Err(fault(at, format!("there is no group `{name}` yet"))),
            }
        };
        if self.behind.is_some() {
            self.reference(group, at)?;
        }
        let (with_width, with) = self.sequence(verbose, false)?;
        let (width, without) = if self.tokens.eat('|') {
            let (width, without) = self.sequence(verbose, false)?;
            if self.tokens.peek() == Some(Token::Char('|')) {
                return Err(fault(at, "a condition with more than two alternatives"));
            }
            (with_width.or(width), without)
        } else {
            (with_width.or(Width::ZERO), Node::Empty)
        };
        self.close(at)?;
        Ok((width, Node::Condition(group, Box::new(with), Box::new(without))))
    }

    /// Flags, for the pattern or for a group; `first` was already read.
    fn flags(
        &mut self,
        first: String,
        verbose: bool,
        at: usize,
        start: bool,
    ) -> Result<Option<(Width, Node)>, Stop> {
        let mut flags = Flags { on: first, off: String::new() };
        let flag = |character: char| character.is_ascii_alphabetic();
        // `(?-` already has its hyphen.
        let mut hyphen = flags.on.is_empty();
        if !hyphen {
            flags.on.extend(std::iter::from_fn(|| self.tokens.eat_if(flag)));
            hyphen = self.tokens.eat('-');
        }
        if hyphen {
            flags.off.extend(std::iter::from_fn(|| self.tokens.eat_if(flag)));
        }
        flags.check(hyphen, at)?;
        if !hyphen && self.tokens.eat(')') {
            return self.pattern_flags(&flags.on, verbose, at, start).map(|()| None);
        }
        if !self.tokens.eat(':') {
            return Err(fault(at, "flags of a group without `:` or `)` after them"));
        }
        let verbose = (verbose || flags.on.contains('x')) && !flags.off.contains('x');
        self.ascii_group |= flags.on.contains('a');
        let outer = self.mode;
        self.mode.set(&flags.on, true);
        self.mode.set(&flags.off, false);
        let read = self.rest(verbose, at);
        self.mode = outer;
        read.map(Some)
    }

    fn pattern_flags(&mut self, on: &str, verbose: bool, at: usize, start: bool) -> Result<(), Stop> {
        if !start {
            return Err(fault(at, "flags of the whole pattern that do not stand at its start"));
        }
        self.ascii |= on.contains('a');
        self.unicode |= on.contains('u');
        self.mode.set(on, true);
        if self.ascii && self.unicode {
            return Err(fault(at, "the flags `a` and `u`, which exclude each other,"));
        }
        if on.contains('x') && !verbose {
            return Err(Stop::Verbose);
        }
        Ok(())
    }
}

impl Flags {
    fn check(&self, hyphen: bool, at: usize) -> Result<(), Stop> {
        let unknown = |flags: &str| flags.chars().find(|&flag| !"aiLmsux".contains(flag));
        if let Some(flag) = unknown(&self.on).or_else(|| unknown(&self.off)) {
            return Err(fault(at, format!("the flag `{flag}`, which Python does not know,")));
        }
        if self.on.contains('L') {
            return Err(fault(at, "the flag `L`, which is for bytes,"));
        }
        if self.on.contains('a') && self.on.contains('u') {
            return Err(fault(at, "the flags `a` and `u`, which exclude each other,"));
        }
        if hyphen && self.off.is_empty() {
            return Err(fault(at, "a `-` with no flag after it"));
        }
        if self.off.contains(['a', 'L', 'u']) {
            return Err(fault(at, "the flag `a`, `L` or `u`, which cannot be unset,"));
        }
        if self.on.chars().any(|flag| self.off.contains(flag)) {
            return Err(fault(at, "a flag that is set and unset"));
        }
        Ok(())
    }
}
