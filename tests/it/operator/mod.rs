//! An operator's commands on a host: which database they act on, and what they say of daemons that are not well.

mod database;
mod health;
mod password;
mod shell;
