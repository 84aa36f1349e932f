//! The stores, from outside.

mod faults;
mod servers;
mod service;
mod sqlite;
mod story;
mod traps;
