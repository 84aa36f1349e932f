//! From the rules directory to the table.
mod log;
pub mod plan;
pub mod reconcile;
pub mod scan;
pub mod watch;
