use std::time::Duration;

/// How a follower polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowConfig {
    /// How far below the watermark a row may still appear.
    pub overlap: Duration,
    /// How often a poll compares every row.
    pub full_scan_interval: Duration,
    /// The most rows of each table: of a longer table nothing is read.
    pub max_rules: usize,
    /// The most memory of all definitions together, in bytes; rules that do not fit are quarantined.
    pub max_memory: usize,
}

impl Default for FollowConfig {
    fn default() -> Self {
        Self {
            overlap: Duration::from_secs(5),
            full_scan_interval: Duration::from_secs(60),
            max_rules: 200_000,
            max_memory: 64 << 20,
        }
    }
}
