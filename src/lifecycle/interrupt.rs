//! Interruptions of a command that then still has something to say.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::time::sleep;

/// How often to look whether a signal came.
const INTERVAL: Duration = Duration::from_millis(50);

/// SIGINT and SIGTERM of a command. While this exists, the first one does not end the process.
#[derive(Debug)]
pub(crate) struct Interrupt {
    /// Whether the next signal ends the process.
    ends: Arc<AtomicBool>,
    /// The first signal; 0 if none came.
    first: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Holds back the first signal.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub(crate) fn hold_back() -> io::Result<Self> {
        let (ends, first) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset, and sets it for the second.
            flag::register_conditional_default(signal, Arc::clone(&ends))?;
            flag::register(signal, Arc::clone(&ends))?;
            flag::register_usize(signal, Arc::clone(&first), signal.unsigned_abs() as usize)?;
        }
        Ok(Self { ends, first })
    }

    /// Waits for the first signal. Cancel safe.
    pub(crate) async fn received(&self) -> Signal {
        loop {
            match self.first.load(Ordering::Relaxed) {
                0 => sleep(INTERVAL).await,
                first if first == SIGINT.unsigned_abs() as usize => return Signal(SIGINT),
                _ => return Signal(SIGTERM),
            }
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// A signal that asked this process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

impl Signal {
    /// Ends the process by the signal, as if nobody had held it back: a shell then ends the script, too.
    pub(crate) fn end_process(self) -> ExitCode {
        let _ = signal_hook::low_level::emulate_default_handler(self.0);
        // Not reached: both signals end a process.
        ExitCode::FAILURE
    }
}
