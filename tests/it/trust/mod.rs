//! Signed releases.

mod interoperability;
