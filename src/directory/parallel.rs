//! Work on other threads.

use std::sync::{Mutex, PoisonError};
use std::thread;

/// Fewer items are not worth a thread.
const LEAST: usize = 32;

/// Maps the items, in order, on at most so many threads; this one is the first. Where the system gives no more threads, as
/// under a limit of processes, it does all that the others would have done.
pub(crate) fn parallel_map<I: Send, T: Send>(
    mut items: Vec<I>,
    threads: usize,
    work: impl Fn(I) -> T + Sync,
) -> Vec<T> {
    let threads = threads.min(items.len() / LEAST).max(1);
    let share = items.len().div_ceil(threads);
    let work = &work;
    let mut parts = Vec::new();
    while items.len() > share {
        parts.push(Mutex::new(items.split_off(items.len() - share)));
    }
    let map = |part: Vec<I>| part.into_iter().map(work).collect::<Vec<T>>();
    // What a thread that does not begin would have taken is still there.
    let take =
        |part: &Mutex<Vec<I>>| std::mem::take(&mut *part.lock().unwrap_or_else(PoisonError::into_inner));
    thread::scope(|scope| {
        let begin = |part| thread::Builder::new().spawn_scoped(scope, move || map(take(part))).ok();
        let others: Vec<_> = parts.iter().map(|part| (begin(part), part)).collect();
        let mut done = map(items);
        for (other, part) in others.into_iter().rev() {
            done.extend(match other {
                Some(other) => other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                None => map(take(part)),
            });
        }
        done
    })
}

/// Runs what may wait for a file system on another thread, so that the daemon's own goes on meanwhile.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_are_in_the_order_of_the_items() {
        for (items, threads) in [(0, 2), (1, 2), (99, 0), (99, 1), (99, 2), (100, 3), (1_000, 16)] {
            let mapped = parallel_map((0..items).collect(), threads, |item: usize| item * 2);
            assert_eq!(mapped, (0..items).map(|item| item * 2).collect::<Vec<_>>(), "{items} on {threads}");
        }
    }
}
