//! Signed releases.

mod attacks;
mod clocks;
mod commands;
pub(crate) mod grants;
mod interoperability;
mod manifest;
mod master;
mod scale;
mod woken;
mod worker;
