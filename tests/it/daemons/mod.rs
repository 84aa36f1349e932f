//! The daemons as processes, on SQLite.

mod allowed;
mod bad_input;
mod directory;
mod hanging_disk;
mod history;
mod invalid_states;
mod lifecycle;
mod main_job;
mod mass_delete;
mod outages;
mod own_cache;
mod reconcile;
mod records;
mod saves;
mod scanner_model;
mod silence;
mod verify;
mod why;
mod without_database;
