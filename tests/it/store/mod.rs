//! The stores, from outside.

mod servers;
mod story;
mod traps;
