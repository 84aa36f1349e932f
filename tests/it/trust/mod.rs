//! Signed releases.

mod attacks;
mod clocks;
mod commands;
mod grants;
mod interoperability;
mod manifest;
mod master;
mod scale;
mod worker;
