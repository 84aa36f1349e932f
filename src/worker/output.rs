//! What a subscriber is yet to be sent.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use tokio::net::unix::WriteHalf;

use super::journal::{EncodedChange, Piece};
use crate::wire::{ServerLine, encode};

/// How many lines go into one system call.
const SLICES: usize = 64;

/// Lines on their way out. Its size is bounded by who fills it: only when it is empty.
#[derive(Debug, Default)]
pub(super) struct Output {
    chunks: VecDeque<Chunk>,
    /// How much of the first chunk is written.
    written: usize,
    /// How much was said outside of the stream since it was last empty.
    said: usize,
}

#[derive(Debug)]
enum Chunk {
    Own(Vec<u8>),
    Shared(Piece),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(lines) => lines.bytes(),
        }
    }
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many bytes of answers wait; who asks on and on without reading is not read either.
    pub(super) const fn said(&self) -> usize {
        self.said
    }

    /// Lines of the stream.
    pub(super) fn push(&mut self, lines: Vec<u8>) {
        if !lines.is_empty() {
            self.chunks.push_back(Chunk::Own(lines));
        }
    }

    /// One line that is no part of the stream: an answer, a heartbeat, an error.
    pub(super) fn say(&mut self, line: &ServerLine) {
        let mut bytes = Vec::new();
        encode::line(&mut bytes, line);
        self.said += bytes.len();
        self.push(bytes);
    }

    /// Changes of the stream.
    pub(super) fn extend(&mut self, changes: &[Arc<EncodedChange>]) {
        let mut pieces: Vec<Piece> = Vec::new();
        for change in changes {
            if !pieces.last_mut().is_some_and(|lines| lines.join(&change.line)) {
                pieces.push(change.line.clone());
            }
        }
        // Who hears of few changes, and reads slowly, is not to hold on to all that came with them.
        self.chunks.extend(pieces.into_iter().map(|lines| Chunk::Shared(lines.alone())));
    }

    /// Writes some, once the peer takes some. Cancel safe.
    pub(super) async fn write(&mut self, to: &WriteHalf<'_>) -> io::Result<()> {
        to.writable().await?;
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            let skip = if used == 0 { self.written } else { 0 };
            *slice = IoSlice::new(&chunk.bytes()[skip..]);
            used += 1;
        }
        match to.try_write_vectored(&slices[..used]) {
            Ok(count) => {
                self.advance(count);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
        while let Some(first) = self.chunks.front().map(|chunk| chunk.bytes().len())
            && self.written >= first
        {
            self.written -= first;
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() {
            self.said = 0;
        }
    }
}
