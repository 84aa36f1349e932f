//! The kinds of records that an operator acts on. `journalctl` finds each by its id, and the message catalogue
//! (`systemd/rulesyncd.catalog`) explains it. Ids never change.

/// The target of records about operators' decisions: in journald they have the priority `notice`.
pub(crate) const AUDIT: &str = "rulesyncd::audit";

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $id:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $id;)*

        /// Every id, with the name of its kind.
        #[cfg(test)]
        pub(crate) const ALL: &[(&str, &str)] = &[$((stringify!($name), $id)),*];
    };
}

kinds! {
    /// The daemon works.
    STARTED = "e5ea998a4aa045138034134eef89b915";
    /// The daemon ends.
    STOPPED = "85a46d95e67242fd94fe69ab74334fb0";
    /// The process cannot start, or cannot go on.
    FAILED = "6d05acf598904a169826cd1b2feb8cf4";
    /// A rule was written to the table.
    RULE_WRITTEN = "a27880826f594059ab09172d15cc7f35";
    /// A rule was deleted from the table.
    RULE_DELETED = "a25ffdb78ba742998873ba645a92e766";
    /// A file is invalid, or a row is quarantined.
    RULE_REJECTED = "f05631314b044fa3aed67544188ce7dc";
    /// The rules directory cannot be watched, or can again.
    WATCH_FAILED = "6a1d1c1f8d7c4b0f9b53a0c9d0a6f2be";
    /// A YAML file is ignored because of its name or place, or no longer is.
    FILE_IGNORED = "0b7f3a6f0c2f4d2f9b0d8f6f3a5c1e47";
    /// An invalid file or a quarantined row is valid again.
    RULE_VALID_AGAIN = "30d9deea7013433eb7fa1d2ec0b9b391";
    /// Two files hold one id.
    RULE_CONFLICT = "79c5f131bd5f4e5e98c7123847b9a99e";
    /// A file overwrote a row that another program had written.
    RULE_TAKEN_OVER = "599b766d37204a53adb39404b99b1bea";
    /// Deletions are held back.
    MASS_DELETE_HELD = "49e6e871ff5841948afd365bfacb1bd0";
    /// An operator released held back deletions.
    MASS_DELETE_ALLOWED = "55bf73f9af34415f92501626115f3bca";
    /// The rules directory cannot be read.
    DIRECTORY_UNAVAILABLE = "b5e276c3312d4b8c8fb2df6a7439bf33";
    /// The rules directory can be read again.
    DIRECTORY_BACK = "28923d385fdd44099053f9faa3429555";
    /// The database does not answer, for this cause or since an hour.
    DATABASE_UNAVAILABLE = "f66d0bac39f54758ad847fd67e8776e0";
    /// The database answers again.
    DATABASE_BACK = "a23c1f6b849f43a9864a0fded3442f00";
    /// A worker waits for the tables, or they exist now.
    TABLES_AWAITED = "9d7d2f0f4f3c4a0e8a1b7c52d5e63b18";
    /// Another master holds the lock.
    STANDBY = "de486e83ba664e1bad1fd965b4071e97";
    /// This master holds the lock.
    LOCK_TAKEN = "27faa35f437445e99d95a15a56524760";
    /// A state was set, cleared, or has expired.
    STATE_CHANGED = "cedc33052ab64459be1c14701c42f4f3";
    /// A change of a rule's definition went to the subscribers.
    RULE_CHANGED = "fb627753ce1740d68f6a6e86315602e4";
    /// A connection was rejected.
    SUBSCRIBER_REFUSED = "b32d4b0c105e4e13b3c844edf114f933";
    /// A subscriber could not keep up.
    SUBSCRIBER_LAGGED = "37009592b99846ac805330d73a73f72a";
    /// The cache could not be used or written.
    CACHE_SET_ASIDE = "187e7d446533460a8a3ac5591b92cfd8";
    /// The history of changes cannot be written, or can again.
    HISTORY_UNAVAILABLE = "3f6c2b7a9d1e4c58b0a4e7d2f5c81963";
    /// A full scan found what the watermark had missed.
    MISSED_BY_WATERMARK = "675055fa6c414a8baf30e7753c287502";
    /// The tables went back: a failover lost commits, or a backup was restored.
    ROLLED_BACK = "16cf459493c24c488bc82bae4f13a601";
    /// Rules were written with a lower version than before.
    VERSIONS_FELL = "7ea0c8b6e1ff4409bda07912751a5330";
    /// A signed release is held back, or no longer is.
    RELEASE_HELD = "5b0e0e5c1d5d4a0c8a4f0d9a3f6b7c21";
    /// A signed release was published.
    RELEASE_PUBLISHED = "a8d6c1f4e2b94b7f9c3e5d7a1b2f4c63";
    /// The published release expires soon, or has expired.
    RELEASE_ENDS = "c4e7a9b2f1d34e5c8b6a7d9e0f2c3b15";
    /// What is trusted changed: a reason against the served release began or ended.
    TRUST_CHANGED = "e1f3b5d7a9c24f6e8d0b2a4c6e8f1d37";
    /// The configuration was reloaded.
    RELOADED = "3dfb9a018f334b0284390eedf223693e";
    /// The configuration is not valid.
    CONFIGURATION_REFUSED = "9416bd25c48d4fc8b1478b88e7462544";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_explains_every_kind_once_and_nothing_else() {
        let catalogue = include_str!("../systemd/rulesyncd.catalog");
        let mut explained: Vec<_> = catalogue.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
        let mut known: Vec<_> = ALL.iter().map(|&(_, id)| id).collect();
        explained.sort_unstable();
        known.sort_unstable();
        assert_eq!(explained, known);
    }
}
