//! `rulesyncd` keeps detection rules in sync across a swarm of hosts.
//!
//! Data goes one way, and the modules stand in that order:
//!
//! ```text
//! rule files ─▶ master ─▶ store (database) ─▶ worker ─▶ subscribers
//! ```
//!
//! A tour, along the way of an edited file:
//!
//! * [`directory::Watch`] turns the kernel's events into scans: of the files that an event names, or of the whole
//!   directory. The scan finds out what is there; an event is only a reason to poll.
//! * [`directory::Scanner`] reads names, then stamps, then texts, each only where the one before may have changed.
//!   [`rulefile`] reads a file without harm, whatever its name leads to, and [`rule::parse`] makes a
//!   [`rule::Definition`] of its text, or a list of everything that is wrong with it.
//! * [`rule::plan`] compares files with rows. It is a pure function; its laws are tested.
//! * [`master::reconcile`] guards the plan against mass deletion and carries it out. Start-up, events, reloads,
//!   rescans, retries and `rulesyncd sync` all come through it.
//! * [`store`] is where master and workers meet: one trait, [`store::RuleStore`], over a directory
//!   and over three databases, with one small file a dialect. [`store::MasterSession`] is the only
//!   writer while its lock stands; a [`store::Follow`]er polls at the tables in one snapshot and
//!   knows by its watermark which rows it need not read.
//! * [`rule::Catalogue`] is what is known. A [`rule::TableDelta`] goes in, [`rule::RuleChange`]s come out,
//!   whatever way the tables took. Pure, too.
//! * [`worker`] numbers the changes in a journal and serves them: a subscriber is a place in it,
//!   not a queue. [`wire`] has the lines, for both ends; [`client`] is a subscriber that reconnects.
//!
//! Beside the way stand [`config`] (the only reader of the environment), [`clock`] (the only one
//! that asks for the time), [`lifecycle`] (signals, systemd), [`telemetry`] and [`event`] (the log
//! and its kinds of records, traces, metrics), and [`command`], one file a subcommand, each a list
//! of what is wired to what.

#![forbid(unsafe_code)]

pub mod address;
pub mod backoff;
pub mod cli;
pub mod client;
pub mod clock;
pub mod command;
pub mod config;
pub mod directory;
pub mod event;
pub mod lifecycle;
pub mod master;
pub mod outage;
pub mod paint;
mod plural;
pub mod rule;
pub mod rulefile;
pub mod socket;
pub mod store;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod wire;
pub mod worker;
