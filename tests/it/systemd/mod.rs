//! The package, in a real systemd.

mod as_root;
