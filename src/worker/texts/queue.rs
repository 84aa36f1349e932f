//! Texts that wait for the disk, in bounded memory.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::rule::ContentDigest;

/// The most bytes of texts that wait, unless one alone has more.
const MAX_BYTES: usize = 1 << 20;

/// A disk that takes no text for so long hangs: from then on a full queue takes none either, until the disk works again.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the thread waits for more, so that a poll does not start one for each text.
const PAUSE: Duration = Duration::from_millis(10);

/// A text that the disk does not have yet.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) content: ContentDigest,
    pub(super) text: Box<str>,
    /// How many polls had been applied when it was read.
    pub(super) polls: u64,
}

/// The texts that wait. One thread at most writes them, while there are any.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// Wakes the thread up before its pause ends.
    wanted: Condvar,
    written: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Arc<Waiting>>,
    bytes: usize,
    has_thread: bool,
    /// Since when the first one is being written.
    begun: Option<Instant>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a text, which another thread passes to `write`. While the queue is full, waits for a disk that works.
    ///
    /// # Errors
    /// The disk hangs and the queue is full, or there is no thread.
    pub(super) fn push(
        self: &Arc<Self>,
        content: ContentDigest,
        text: &str,
        polls: u64,
        write: impl Fn(&Waiting) + Send + 'static,
    ) -> io::Result<()> {
        let mut inner = self.lock();
        while !inner.waiting.is_empty() && inner.bytes + text.len() > MAX_BYTES {
            let left = PATIENCE.saturating_sub(inner.begun.map_or(Duration::ZERO, |begun| begun.elapsed()));
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the disk hangs"));
            }
            self.wanted.notify_one();
            inner = self.written.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if !inner.has_thread {
            let queue = Arc::clone(self);
            std::thread::Builder::new().name("texts".to_owned()).spawn(move || queue.drain(write))?;
            inner.has_thread = true;
        }
        inner.bytes += text.len();
        inner.waiting.push_back(Arc::new(Waiting { content, text: text.into(), polls }));
        Ok(())
    }

    /// Writes one text after the other, until none came for [`PAUSE`].
    fn drain(&self, write: impl Fn(&Waiting)) {
        let mut inner = self.lock();
        while !inner.waiting.is_empty() {
            while let Some(first) = inner.waiting.front().map(Arc::clone) {
                inner.begun = Some(Instant::now());
                drop(inner);
                write(&first);
                inner = self.lock();
                inner.begun = None;
                inner.waiting.pop_front();
                inner.bytes -= first.text.len();
                self.written.notify_all();
            }
            inner = self.wanted.wait_timeout(inner, PAUSE).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.has_thread = false;
    }

    /// Waits until none of the texts waits any more.
    pub(super) fn settle(&self) {
        let mut inner = self.lock();
        while !inner.waiting.is_empty() {
            self.wanted.notify_one();
            inner = self.written.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_disk_that_hangs_takes_bounded_memory_and_time() {
        let queue = Arc::new(Queue::default());
        let (release, hangs) = mpsc::channel::<()>();
        let (write, written) = mpsc::channel();
        let hangs = Arc::new(Mutex::new(hangs));
        let text = "x".repeat(MAX_BYTES / 4);
        let push = |number: usize| {
            let (hangs, write) = (Arc::clone(&hangs), write.clone());
            queue.push(ContentDigest::of(number.to_string()), &text, 7, move |waiting| {
                let _ = hangs.lock().unwrap().recv();
                write.send((waiting.content, waiting.text.len(), waiting.polls)).unwrap();
            })
        };
        for number in 0..4 {
            push(number).unwrap();
        }
        let begun = Instant::now();
        for number in 4..100 {
            assert_eq!(push(number).unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        assert!(begun.elapsed() < 10 * PATIENCE, "only the first is waited for: {:?}", begun.elapsed());
        // It works again.
        drop(release);
        queue.settle();
        push(4).unwrap();
        queue.settle();
        let written: Vec<_> = written.try_iter().collect();
        let expected = (0..5).map(|number| (ContentDigest::of(number.to_string()), text.len(), 7));
        assert_eq!(written, expected.collect::<Vec<_>>());
    }
}
