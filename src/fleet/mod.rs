//! The fleet: which hosts have a change. What each worker reports, and what follows from all reports. No I/O.
//!
//! Two questions have two answers. A counter (`rulesyncd_version`) says whether a host has got a change; the digest says
//! whether it serves what it should. A clock answers neither.

mod hosts;
mod report;
mod state;
#[cfg(test)]
mod tests;
mod wait;
mod watch;

pub(crate) use hosts::{Host, hosts, named, to_forget};
pub use report::WorkerReport;
pub(crate) use report::{Digest, ReportedWorker};
pub(crate) use state::{Expected, ExpectedRelease, HostState, Look, Summary, state_of, summarize};
pub(crate) use wait::{Missing, Waiting};
pub(crate) use watch::{FleetNews, FleetWatch};
