//! `rulesyncd` keeps detection rules in sync across a swarm of hosts.
//!
//! Data flows in one direction, and so do the imports between modules:
//!
//! ```text
//! rule files ─▶ master ─▶ store (database) ─▶ worker ─▶ subscribers
//! ```
//!
//! A tour that follows an edited file:
//!
//! * `directory::Watch` turns the kernel's events into scans: of the files that an event names, or of the whole
//!   directory. An event is only a reason to scan; the scan finds out what is there.
//! * [`directory::Scanner`] reads names, then stamps, then texts, each only where the one before may have changed.
//!   `rulefile` reads a file safely, whatever its name leads to, and [`rule::parse`] turns its text into a
//!   [`rule::Definition`], or into a list of all its errors.
//! * [`rule::plan`] compares files with rows. It is a pure function, and tests check its laws.
//! * [`master::reconcile`] guards the plan against mass deletion and carries it out, at the start and after events,
//!   reloads, rescans, retries and `rulesyncd sync`.
//! * [`store`] is where master and workers meet: one trait, [`store::RuleStore`], over a directory and over three
//!   databases, with one small file for each dialect. A [`store::MasterSession`] is the only writer while it holds its
//!   lock. A [`store::Follow`]er polls the tables in one snapshot; its watermark tells which rows it need not read.
//! * [`rule::Catalogue`] holds the known rules. A [`rule::TableDelta`] goes in, [`rule::RuleChange`]s come out. It is
//!   pure, too.
//! * [`worker`] numbers the changes in a journal and serves them: a subscriber is a position in the journal and has
//!   no queue. So is the writer of the history, which `rulesyncd history` shows. [`wire`] has the protocol's lines, for
//!   the worker and for [`client`], which reconnects.
//!
//! Workers report what they serve; [`fleet`] decides which hosts have a change, purely, for `rulesyncd fleet` and `--wait`.
//!
//! Where releases are signed, [`trust`] decides what counts: a pure room of manifests, signatures and keys. The master
//! publishes a release as a whole, and the worker serves nothing else.
//!
//! Around this are [`config`] (the only module that reads the environment), [`clock`] (the only one that reads the
//! time), [`lifecycle`] (signals, systemd), [`telemetry`] and [`event`] (logs and the kinds of their records, traces,
//! metrics), and [`command`], which connects the modules, in one file for each subcommand.

#![forbid(unsafe_code)]

pub mod address;
pub(crate) mod backoff;
pub mod cli;
pub mod client;
pub mod clock;
pub mod command;
pub mod config;
pub mod directory;
pub mod event;
pub mod fleet;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod lifecycle;
pub mod master;
pub(crate) mod outage;
pub(crate) mod paint;
mod plural;
pub mod python_re;
pub mod rule;
pub(crate) mod rulefile;
pub mod socket;
pub mod store;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod trust;
pub mod wire;
pub mod worker;
