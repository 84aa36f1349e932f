//! Frames of a protocol, as they come in pieces of any size.

/// The longest row, in bytes. The texts that are asked for are at most 4 MiB in the database's encoding,
/// and at most three times as long in UTF-8. MySQL's packets of one byte more go on in the next one.
pub(super) const LONGEST_ROW: usize = (16 << 20) - 2;

/// The longest frame that is no row: an error, a description, a step of the authentication.
pub(super) const LONGEST_FRAME: usize = 64 << 10;

/// What begins a frame of either protocol, in bytes: of PostgreSQL its kind and length, of MySQL its
/// length, number and first byte.
const HEADER: usize = 5;

/// What a server must not send, in words for the log. Nothing that it sent is quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation(pub(super) String);

impl Violation {
    pub(super) fn sent(detail: impl Into<String>) -> Self {
        Self(detail.into())
    }
}

/// How a frame is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// As it comes; so many bytes, header included.
    Passing(usize),
    /// Once all of it is there and was inspected; so many bytes, header included.
    Whole(usize),
}

/// What one protocol lets pass.
pub(super) trait FrameRules: Send {
    /// Decides on a frame by its first bytes; `None` where more of them are needed.
    fn header(&mut self, bytes: &[u8]) -> Result<Option<Frame>, Violation>;

    /// Inspects a frame of which [`FrameRules::header`] said so.
    fn frame(&mut self, frame: &[u8]) -> Result<(), Violation>;

    /// Takes note of what the driver sends.
    fn driver_sent(&mut self, bytes: &[u8]) -> Result<(), Violation>;
}

/// The inspection of one connection.
pub(super) struct Inspection<R> {
    rules: R,
    /// A header, or a frame that is inspected, as far as it has come.
    held: Vec<u8>,
    /// How long the frame is that is held; `None` where that is not known yet.
    awaited: Option<usize>,
    /// Bytes that pass as they come.
    passing: usize,
}

impl<R: FrameRules> Inspection<R> {
    pub(super) const fn new(rules: R) -> Self {
        Self { rules, held: Vec::new(), awaited: None, passing: 0 }
    }

    /// Appends what may go to the driver to `passed`.
    ///
    /// # Errors
    /// At the first frame that may not; nothing of it is passed.
    pub(super) fn server_sent(&mut self, mut bytes: &[u8], passed: &mut Vec<u8>) -> Result<(), Violation> {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (now, later) = bytes.split_at(self.passing.min(bytes.len()));
                passed.extend_from_slice(now);
                self.passing -= now.len();
                bytes = later;
                continue;
            }
            let wanted = self.awaited.unwrap_or(HEADER) - self.held.len();
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            self.held.extend_from_slice(now);
            bytes = later;
            if self.awaited.is_none() {
                match self.rules.header(&self.held)? {
                    None => {}
                    Some(Frame::Passing(length)) => {
                        self.passing = length.saturating_sub(self.held.len());
                        passed.append(&mut self.held);
                    }
                    Some(Frame::Whole(length)) => self.awaited = Some(length),
                }
            }
            if self.awaited.is_some_and(|length| self.held.len() >= length) {
                self.rules.frame(&self.held)?;
                passed.append(&mut self.held);
                self.awaited = None;
            }
        }
        Ok(())
    }

    pub(super) fn driver_sent(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.rules.driver_sent(bytes)
    }
}

/// Reads numbers and texts of a frame, from its beginning to its end.
pub(super) struct Fields<'f>(pub(super) &'f [u8]);

impl<'f> Fields<'f> {
    /// The next so many bytes; `None` where there are fewer.
    pub(super) fn take(&mut self, count: usize) -> Option<&'f [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next so many bytes, as many as there are in `N`.
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// What stands before the next NUL, which is passed over.
    pub(super) fn text(&mut self) -> Option<&'f [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }
}
