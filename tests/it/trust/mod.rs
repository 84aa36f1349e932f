//! Signed releases.

mod attacks;
mod clocks;
mod commands;
pub(crate) mod grants;
mod interoperability;
mod manifest;
mod master;
mod off;
mod scale;
mod woken;
mod worker;
