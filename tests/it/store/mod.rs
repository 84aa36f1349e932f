//! The stores, from outside.

mod measure;
mod servers;
mod sqlite;
mod story;
mod traps;
