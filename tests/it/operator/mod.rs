//! An operator's commands on a host: which database they use, and what they say about daemons in trouble.

mod database;
mod health;
mod layer;
mod password;
mod picture;
mod shell;
mod states;
