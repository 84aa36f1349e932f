//! One worker keeps a cache: two would replace each other's files, and each would read the other's.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::event;
use crate::rulefile;

/// The right to keep a cache, its history and its floor, until it is dropped.
#[derive(Debug)]
pub(super) struct CacheLock {
    /// `None` where no lock can be had: then the cache cannot be written either, or its file system has no locks.
    _file: Option<File>,
}

/// Takes the cache at this path; `None`, and a record of it, if another worker has it.
pub(super) fn take(cache: &Path) -> Option<CacheLock> {
    let Ok(file) = rulefile::create(&rulefile::with_suffix(cache, "lock")) else {
        return Some(CacheLock { _file: None });
    };
    match file.try_lock() {
        Ok(()) => Some(CacheLock { _file: Some(file) }),
        Err(TryLockError::Error(error)) => {
            tracing::debug!(error = %error, "the cache is kept without a lock");
            Some(CacheLock { _file: None })
        }
        Err(TryLockError::WouldBlock) => {
            tracing::error!(
                message_id = event::CACHE_SET_ASIDE,
                "another worker keeps the cache {}: this one keeps none, and no history; give each its own worker.cache, \
                 or end the other and restart this one",
                cache.display()
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_has_one_worker_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("cache");
        let first = take(&cache).unwrap();
        assert!(take(&cache).is_none());
        assert!(take(&directory.path().join("other")).is_some());
        drop(first);
        assert!(take(&cache).is_some());
        // What cannot be written is told when it is tried.
        assert!(take(&directory.path().join("none/cache")).is_some());
    }
}
