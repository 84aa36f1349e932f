//! The stores, from outside.

mod budget;
mod cleartext;
mod compatibility;
mod contract;
mod faults;
mod network;
mod servers;
mod service;
mod sqlite;
mod tls;
mod watermark;

use rulesyncd::store::StoreError;

/// Makes sure that what a master tried failed with its lock, and that it says how that was noticed.
fn assert_lock_lost<T: std::fmt::Debug>(result: Result<T, StoreError>, how: &str) {
    let error = result.expect_err("the lock was held");
    assert!(matches!(error, StoreError::LockLost { .. }), "{error}");
    let told = error.to_string();
    assert!(told.starts_with(&format!("the master's lock was lost: {how}")), "{told}");
}
