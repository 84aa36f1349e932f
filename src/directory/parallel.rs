//! Work on other threads.

use std::thread;

/// Fewer items are not worth a thread.
const LEAST: usize = 32;

/// Maps the items, in order, on at most so many threads; this one is the first.
pub(crate) fn parallel_map<I: Send, T: Send>(
    mut items: Vec<I>,
    threads: usize,
    work: impl Fn(I) -> T + Sync,
) -> Vec<T> {
    let threads = threads.min(items.len() / LEAST).max(1);
    let share = items.len().div_ceil(threads);
    let work = &work;
    thread::scope(|scope| {
        let mut others = Vec::new();
        while items.len() > share {
            let part = items.split_off(items.len() - share);
            others.push(scope.spawn(move || part.into_iter().map(work).collect::<Vec<T>>()));
        }
        let mut done: Vec<T> = items.into_iter().map(work).collect();
        for other in others.into_iter().rev() {
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
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
