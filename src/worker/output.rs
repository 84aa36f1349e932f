//! The output of one connection that is not yet written to its socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use tokio::net::unix::WriteHalf;

use super::journal::{EncodedChange, SharedLines};
use crate::wire::{ServerLine, encode};

/// The most chunks that one system call writes.
const SLICES: usize = 64;

/// Lines to write. The session bounds their size: it adds lines of the stream only while this is empty.
#[derive(Debug, Default)]
pub(super) struct Output {
    chunks: VecDeque<Chunk>,
    /// How many bytes of the first chunk are written.
    written: usize,
    /// How many bytes of answers, heartbeats and errors were added since this was last empty.
    replies: usize,
}

#[derive(Debug)]
enum Chunk {
    Own(Vec<u8>),
    Shared(SharedLines),
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

    /// How many bytes of replies were added since this was last empty. The session reads no further request
    /// while these are too many.
    pub(super) const fn replies(&self) -> usize {
        self.replies
    }

    /// Adds lines of a snapshot.
    pub(super) fn push(&mut self, lines: Vec<u8>) {
        if !lines.is_empty() {
            self.chunks.push_back(Chunk::Own(lines));
        }
    }

    /// Adds one line that is no part of the stream: an answer, a heartbeat or an error.
    pub(super) fn reply(&mut self, line: &ServerLine) {
        let mut bytes = Vec::new();
        encode::line(&mut bytes, line);
        self.replies += bytes.len();
        self.push(bytes);
    }

    /// Adds changes of the stream.
    pub(super) fn extend(&mut self, changes: &[Arc<EncodedChange>]) {
        let mut runs: Vec<SharedLines> = Vec::new();
        for change in changes {
            if !runs.last_mut().is_some_and(|run| run.try_extend(&change.line)) {
                runs.push(change.line.clone());
            }
        }
        // A slow subscriber with a filter must not keep whole blocks in memory for a few lines.
        self.chunks.extend(runs.into_iter().map(|run| Chunk::Shared(run.detach_if_small())));
    }

    /// Waits until the peer's socket takes bytes, and writes what it takes. Cancel safe.
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
            self.replies = 0;
        }
    }
}
