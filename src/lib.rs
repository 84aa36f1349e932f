//! `rulesyncd` keeps detection rules in step across a swarm of hosts.
//!
//! Data goes one way, and the modules stand in that order:
//!
//! ```text
//! rule files ─▶ master ─▶ store (database) ─▶ worker ─▶ subscribers
//! ```

pub mod backoff;
pub mod cli;
pub mod client;
pub mod clock;
pub mod command;
pub mod config;
pub mod event;
pub mod lifecycle;
pub mod master;
pub mod paint;
pub mod rule;
pub mod rulefile;
pub mod socket;
pub mod store;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod wire;
pub mod worker;
