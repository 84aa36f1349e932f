//! Assembles and inspects the frames of a protocol, which arrive in pieces of any size.

/// The longest row, in bytes. A text may have 4 MiB in the database's encoding, and three times as much in UTF-8. A
/// longer MySQL packet continues in the next one.
pub(super) const LONGEST_ROW: usize = (16 << 20) - 2;

/// The longest frame other than a row: an error, a description, a step of the authentication.
pub(super) const LONGEST_FRAME: usize = 64 << 10;

/// The length of a frame's header in both protocols, in bytes: in PostgreSQL the type and the length, in MySQL the
/// length, the number and the first byte of the content.
const HEADER: usize = 5;

/// What a server must not send, in words for the log that quote nothing of it.
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
    /// Without inspection: its length in bytes, with its header.
    Passing(usize),
    /// After it was received as a whole and inspected: its length in bytes, with its header.
    Whole(usize),
    /// Not at all, since it is for the relay: its length in bytes, with its header.
    Kept(usize),
}

/// Which frames of a protocol may pass.
pub(super) trait FrameRules: Send {
    /// Decides by the first bytes of a frame; `None` if more of them are needed.
    fn header(&mut self, bytes: &[u8]) -> Result<Option<Frame>, Violation>;

    /// Inspects a frame that [`FrameRules::header`] wants to be inspected.
    fn frame(&mut self, frame: &[u8]) -> Result<(), Violation>;

    /// Records what the driver sends.
    fn driver_sent(&mut self, bytes: &[u8]) -> Result<(), Violation>;
}

/// Inspects the frames of one connection.
pub(super) struct Inspection<R> {
    rules: R,
    /// The part that was received of a header, or of a frame that is inspected.
    held: Vec<u8>,
    /// The length of the frame that is held; `None` if it is not known yet.
    awaited: Option<usize>,
    /// How many more bytes pass without inspection.
    passing: usize,
    /// How many more bytes are not passed on.
    keeping: usize,
}

impl<R: FrameRules> Inspection<R> {
    pub(super) const fn new(rules: R) -> Self {
        Self { rules, held: Vec::new(), awaited: None, passing: 0, keeping: 0 }
    }

    /// Appends the bytes that may go to the driver to `passed`.
    ///
    /// # Errors
    /// The first frame that may not pass; no byte of it is passed.
    pub(super) fn server_sent(&mut self, mut bytes: &[u8], passed: &mut Vec<u8>) -> Result<(), Violation> {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (now, later) = bytes.split_at(self.passing.min(bytes.len()));
                passed.extend_from_slice(now);
                self.passing -= now.len();
                bytes = later;
                continue;
            }
            if self.keeping > 0 {
                let now = self.keeping.min(bytes.len());
                self.keeping -= now;
                bytes = &bytes[now..];
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
                    Some(Frame::Kept(length)) => {
                        self.keeping = length.saturating_sub(self.held.len());
                        self.held.clear();
                    }
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

/// Reads numbers and texts of a frame, from front to back.
pub(super) struct Fields<'f>(pub(super) &'f [u8]);

impl<'f> Fields<'f> {
    /// The next bytes; `None` if there are fewer.
    pub(super) fn take(&mut self, count: usize) -> Option<&'f [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// The bytes before the next NUL, which is skipped.
    pub(super) fn text(&mut self) -> Option<&'f [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }
}
