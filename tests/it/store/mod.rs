//! The stores, from outside.

mod story;
