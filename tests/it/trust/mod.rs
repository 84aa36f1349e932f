//! Signed releases.

mod interoperability;
mod manifest;
mod master;
mod worker;
