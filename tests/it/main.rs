//! One integration binary: one link, one run, shared helpers.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod bus;
mod check;
mod client;
mod daemons;
mod differential;
mod driver;
mod faults;
mod fleet;
mod foreign_text;
mod hostile;
mod hostile_server;
mod layers;
mod operator;
mod portable;
mod python;
mod restart;
mod samples;
mod slow_reader;
mod staleness;
mod store;
mod stream;
mod supply_chain;
mod support;
mod systemd;
mod telemetry;
mod trust;
