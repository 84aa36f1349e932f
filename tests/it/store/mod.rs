//! The stores, from outside.

mod story;
mod traps;
