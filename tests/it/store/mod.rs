//! The stores, tested through their public interface.

mod budget;
mod cleartext;
mod columns;
mod compatibility;
mod contract;
mod doorbell;
mod driver;
mod failover;
mod faults;
mod frozen;
mod full;
pub(crate) mod hosts;
mod lease;
mod network;
mod nonsense;
mod own_tables;
mod poolers;
pub(crate) mod replicas;
mod servers;
mod service;
mod sqlite;
mod states;
mod tls;
mod version;
mod watermark;

use rulesyncd::store::StoreError;

/// Checks that a master's call failed because of its lock, and says how that was noticed.
fn assert_lock_lost<T: std::fmt::Debug>(result: Result<T, StoreError>, how: &str) {
    let error = result.expect_err("the lock was held");
    assert!(matches!(error, StoreError::LockLost { .. }), "{error}");
    let told = error.to_string();
    assert!(told.starts_with(&format!("the master's lock was lost: {how}")), "{told}");
}
