use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How much is read at once, in bytes. A longer buffer is shrunk to this after a long line.
const CHUNK: usize = 8 * 1024;

/// Reads lines of bounded length from a stream.
///
/// Bytes that are not yet a whole line stay in the buffer, so [`LineReader::next`] loses nothing when it is
/// cancelled.
#[derive(Debug)]
pub(crate) struct LineReader<R> {
    from: R,
    limit: usize,
    buffer: Vec<u8>,
    /// The first byte of the next line.
    start: usize,
    /// The bytes from `start` to here contain no LF.
    searched: usize,
}

/// Why there is no next line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The line is longer than allowed; nothing after it can be read.
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    /// The stream broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// Reads lines of at most `limit` bytes, without their LF.
    pub(crate) const fn new(from: R, limit: usize) -> Self {
        Self { from, limit, buffer: Vec::new(), start: 0, searched: 0 }
    }

    /// The next line without its LF; `None` at the end of the stream, even after half a line. Cancel safe.
    ///
    /// # Errors
    /// [`FrameError`]; no line follows it.
    pub(crate) async fn next(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let end = loop {
            let found = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n');
            let end = found.map_or(self.buffer.len(), |position| self.searched + position);
            if end - self.start > self.limit {
                return Err(FrameError::TooLong(self.limit));
            }
            if found.is_some() {
                break end;
            }
            self.searched = end;
            self.make_room();
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        };
        let line = self.start..end;
        self.start = end + 1;
        self.searched = self.start;
        Ok(Some(&self.buffer[line]))
    }

    fn make_room(&mut self) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
            if self.buffer.len() < CHUNK {
                self.buffer.shrink_to(CHUNK);
            }
        }
        self.buffer.reserve(CHUNK);
    }
}
