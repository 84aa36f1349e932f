//! The stores, from outside.

mod faults;
mod measure;
mod servers;
mod sqlite;
mod story;
mod traps;
