//! The binary form of SSH's messages: RFC 4251, section 5.

/// Reads fields from the front of a message. Each method returns `None` if the message ends too soon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    pub(super) const fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    /// So many bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn uint32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A string: its length in four bytes, and its bytes.
    pub(super) fn string(&mut self) -> Option<&'b [u8]> {
        let length = self.uint32()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    /// A number of at most 32 bytes that is not negative, in 32 bytes. RFC 4251: no unnecessary leading zero byte.
    pub(super) fn mpint256(&mut self) -> Option<[u8; 32]> {
        let digits = match self.string()? {
            [0, rest @ ..] if rest.first().is_some_and(|byte| byte & 0x80 != 0) => rest,
            [first, ..] if *first == 0 || first & 0x80 != 0 => return None,
            digits => digits,
        };
        let mut number = [0; 32];
        number[32_usize.checked_sub(digits.len())?..].copy_from_slice(digits);
        Some(number)
    }

    /// `Some` if nothing is left.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Appends a string with its length.
pub(super) fn put_string(to: &mut Vec<u8>, bytes: &[u8]) {
    // Everything that is written here was bounded when it was read.
    to.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend_from_slice(bytes);
}
