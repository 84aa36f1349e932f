//! Signed releases.

mod interoperability;
mod manifest;
