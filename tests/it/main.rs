//! One integration binary: one link, one run, shared helpers.

mod differential;
mod store;
mod support;
