//! What must be true of any bytes from a client.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, ReadBuf};

use super::{LineReader, MAX_REQUEST, Request};

/// Bytes that come a few at a time.
struct Pieces<'b> {
    rest: &'b [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let (piece, rest) = self.rest.split_at(self.size.min(buffer.remaining()).min(self.rest.len()));
        buffer.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

/// The lines of a client: they are those between the line ends, in whatever pieces they come, and no request is longer
/// than it may be. An accepted one is read again as it is written; a refused one is refused in bounded words.
pub fn request(bytes: &[u8]) -> bool {
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let Some((rest, whole)) = lines.split_last() else { return false };
    let expected = whole.iter().take_while(|line| line.len() <= MAX_REQUEST);
    let expected: Vec<_> = expected.map(|line| line.to_vec()).collect();
    let is_too_long = whole.len() > expected.len() || rest.len() > MAX_REQUEST;
    for size in [1 << 20, 5] {
        let mut lines = Vec::new();
        let mut reader = LineReader::new(Pieces { rest: bytes, size }, MAX_REQUEST);
        let end = loop {
            // The bytes are there, so that nothing is waited for.
            match reader.next().now_or_never() {
                Some(Ok(Some(line))) => lines.push(line.to_vec()),
                Some(other) => break Some(other.is_err()),
                None => break None,
            }
        };
        assert_eq!(lines, expected);
        assert_eq!(end, Some(is_too_long));
    }
    let are_requests = |line: &Vec<u8>| match Request::parse(line) {
        Ok(request) => {
            let written = serde_json::to_vec(&request).unwrap_or_default();
            assert_eq!(Request::parse(&written).as_ref(), Ok(&request));
            true
        }
        Err(error) => {
            assert!(error.message.len() < line.len() + 400, "{}", error.message);
            false
        }
    };
    !is_too_long && expected.iter().all(are_requests)
}
