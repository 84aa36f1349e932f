//! The stores, from outside.

mod faults;
mod network;
mod oddities;
mod servers;
mod service;
mod sqlite;
mod story;
mod tls;
mod traps;
