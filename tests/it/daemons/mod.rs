//! The daemons as processes, on SQLite.

mod bad_input;
mod directory;
mod lifecycle;
mod main_job;
mod reconcile;
mod silence;
mod verify;
mod why;
