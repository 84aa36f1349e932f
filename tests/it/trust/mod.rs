//! Signed releases.

mod commands;
mod grants;
mod interoperability;
mod manifest;
mod master;
mod worker;
