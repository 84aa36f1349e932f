//! Every key of the configuration, declared once: its name, type, default, bounds, variable and help. The
//! structures, `rulesyncd config`, the JSON Schema, the manual page and the files in `config/` follow from it.

use std::path::PathBuf;
use std::time::Duration;

use super::kind::{
    Bytes, Connections, Count, Directives, Flag, Format, Interval, Key, Label, Lease, List, Maybe, Mode, One,
    Path, RealmName, RuleSize, ServerAddress, Share, Text, Time, Timeout, Uid, Version,
};
use super::reader::Reader;
use super::setting::Setting;
use super::{ConfigError, LogFormat, Percent};
use crate::address::Address;
use crate::trust::{Realm, ReleaseTime};

/// The keys that belong together.
pub(super) trait Section {
    /// The keys whose values differ in another one.
    fn changed(&self, other: &Self) -> Vec<&'static str>;
}

/// Declares sections. For each key: its documentation is its help, the first type is the program's; then the number
/// and kind of its values, the default (or, after `such as`, an example), and a shorter variable. A key `at reload` applies
/// when a daemon reads its configuration again; all others wait for a restart.
macro_rules! sections {
    ($(
        $(#[doc = $about:literal])+
        $visible:vis $section:ident($config:ident) {$(
            $(#[doc = $help:literal])+
            $name:ident: $type:ty, $key:ty
                $(= $default:literal)? $(, such as $example:literal)? $(, also $variable:literal)?
                $(, at $reload:ident)?;
        )+}
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Debug, Clone, PartialEq)]
            $visible struct $config {
                $($(#[doc = $help])+ pub $name: $type,)+
            }

            impl $config {
                pub(super) fn resolve(from: &Reader<'_>) -> Result<Self, ConfigError> {
                    Ok(Self {
                        $($name: <$key as Key>::resolve(from, concat!(stringify!($section), ".", stringify!($name)))?,)+
                    })
                }
            }

            impl Section for $config {
                fn changed(&self, other: &Self) -> Vec<&'static str> {
                    let keys = [$((self.$name != other.$name, concat!(stringify!($section), ".", stringify!($name)))),+];
                    keys.into_iter().filter(|(is_changed, _)| *is_changed).map(|(_, key)| key).collect()
                }
            }
        )+

        /// The sections, in the order in which they are shown.
        pub(crate) const SECTIONS: &[&str] = &[$(stringify!($section)),+];

        /// All keys, in the order in which they are shown.
        pub const SETTINGS: &[Setting] = &[$($(
            Setting {
                key: concat!(stringify!($section), ".", stringify!($name)),
                default: first([$(Some($default),)? None]),
                example: first([$(Some($default),)? $(Some($example),)? None]),
                help: &[$($help),+],
                short_variable: first([$(Some($variable),)? None]),
                applies_at_reload: first([$(Some(stringify!($reload)),)? None]).is_some(),
                spelling: <$key as Key>::SPELLING,
                schema: <$key as Key>::schema,
            },
        )+)+];
    };
}

const fn first<const N: usize>(options: [Option<&'static str>; N]) -> Option<&'static str> {
    options[0]
}

sections! {
    /// How the database is reached.
    pub(super) database(DatabaseSection) {
        /// The database with the two tables: SQLite for one host; MySQL, MariaDB or PostgreSQL for a swarm. A worker
        /// needs the right to SELECT from the tables, and none but its report in `rulesyncd_worker` to write. With
        /// `dir:///etc/rulesyncd/rules` a worker follows that directory without a database and a master: one host, no
        /// operator states.
        ///
        /// * `mysql://rulesyncd@db.example.org/honeypots?ssl-mode=verify_identity`
        /// * `postgres://rulesyncd@db.example.org/honeypots?sslmode=verify-full`
        /// * `postgres://rulesyncd@/honeypots?host=/run/postgresql&requirepeer=postgres`
        /// * `postgres://rulesyncd@db1.example.org,db2.example.org:5433/honeypots?target_session_attrs=read-write`:
        ///   several servers with one database. The values are libpq's (any, read-write, read-only, primary, standby,
        ///   prefer-standby), for `mysql://`, too. A worker uses any unless it is set, a master only read-write.
        ///
        /// SQLAlchemy's spelling works too: `mysql+asyncmy://`, `postgresql+asyncpg://`, `sqlite+aiosqlite:///`.
        url: String, One<Text> = "sqlite:///var/lib/rulesyncd/rules.db";

        /// A file that holds the whole address of the database. Use it for an address with a password: a file that
        /// only the daemon can read, or a systemd credential. Set either url or url_file.
        url_file: Option<PathBuf>, Maybe<Path>, such as "/etc/rulesyncd/database_url";

        /// The most connections of one daemon.
        max_connections: u32, One<Connections> = "4";

        /// How long a connection attempt, or one statement, may take before it is tried again.
        connect_timeout: Duration, One<Timeout> = "5s";

        /// Whether a master creates missing tables and their indexes. Set it to false if another service creates them by
        /// its own migrations: the master then waits for the tables, and creates nothing in them.
        create_tables: bool, One<Flag> = "true";

        /// Allow connections to another host that are not encrypted, or whose certificate is not verified
        /// (sslmode=require). Only for networks that you trust.
        allow_plaintext: bool, One<Flag> = "false";
    }

    /// What the master does.
    pub master(MasterConfig) {
        /// The directory that holds the rules: its files `[A-Za-z0-9_]+.yaml` and `.yml`, without subdirectories. It
        /// may be a symbolic link.
        rules_dir: PathBuf, One<Path> = "/etc/rulesyncd/rules", also "RULESYNCD_RULES_DIR", at reload;

        /// More directories that links among the rules may lead to. A rule file, or a file of a signed release, may be
        /// a symbolic link to a file in rules_dir, in a sibling whose name begins with `..` (as Kubernetes mounts a
        /// ConfigMap), or in one of these directories. The master does not follow any other link.
        follow_links_to: Vec<PathBuf>, List<Path>, at reload;

        /// The label of the rows that this master owns. It leaves rows with another label alone, unless a file holds
        /// the same rule_id: then the file wins.
        updated_by: String, One<Label> = "filesystem", at reload;

        /// How often the master compares everything. It sees changes at once; this finds what the watch missed.
        rescan_interval: Duration, One<Interval> = "60s", at reload;

        /// The share of the owned rows that the master deletes without asking. It holds back a plan that would delete
        /// more than this, and more than five, until `rulesyncd sync --allow-mass-delete`: an empty mount must not
        /// empty the swarm.
        max_delete: Percent, One<Share> = "20%", at reload;

        /// The largest rule file. Workers take at most 4MiB.
        max_rule_size: usize, One<RuleSize> = "256KiB", at reload;

        /// How long a worker may be silent before the master deletes its report, and `rulesyncd fleet` forgets it.
        forget_workers_after: Duration, One<Time> = "7d", at reload;

        /// How long a master may give no sign of life before a standby takes over, on MySQL and PostgreSQL. On one server a
        /// standby takes over at once when the master's session ends.
        lease: Duration, One<Lease> = "15s";

        /// The socket on which the master answers `rulesyncd status` and `rulesyncd sync`.
        socket: PathBuf, One<Path> = "/run/rulesyncd/master.sock";
    }

    /// What the worker does.
    pub worker(WorkerConfig) {
        /// The socket of the event stream. A socket that systemd passes takes the place of this key and the next two.
        socket: PathBuf, One<Path> = "/run/rulesyncd/events.sock", also "RULESYNCD_SOCKET";

        /// The permission bits of that socket.
        socket_mode: u32, One<Mode> = "0660";

        /// The group of that socket; the daemon's own where this is not set.
        socket_group: Option<String>, Maybe<Text>, such as "honeypot";

        /// The ids of the users who may connect. Where the list is empty, whoever can open the socket may.
        allow_uids: Vec<u32>, List<Uid>;

        /// The longest time between two polls. It matters where the database does not announce a change: on MySQL and
        /// MariaDB those of other programs, and all on a replica, in a cluster or through a pooler. Each worker varies it by
        /// a tenth, so that the polls of a swarm spread.
        poll_interval: Duration, One<Interval> = "1s";

        /// How far below the watermark a row may still appear. Choose more than the longest transaction that writes
        /// rules takes, and more than the clocks of the writers differ.
        overlap: Duration, One<Time> = "5s";

        /// How often the worker compares everything, whatever the watermark says.
        full_scan_interval: Duration, One<Interval> = "60s";

        /// The number of changes that are kept for subscribers that come back.
        journal_length: usize, One<Count> = "65536";

        /// The most rows of each table. Of a table with more rows the worker reads nothing, and goes on serving what
        /// it read before.
        max_rules: usize, One<Count> = "200000";

        /// The most bytes of all definitions and states together, of which the rules of more than 64 KiB may take
        /// half. Rules that do not fit are quarantined. The ids of a table, and quarantined rows, may take another
        /// quarter; beyond that a poll fails. Whoever raises this raises MemoryMax of the unit too.
        max_memory: usize, One<Bytes> = "64MiB";

        /// The share of the known rules whose deletion the worker follows at once. Whoever can write the tables could
        /// empty every host, so the worker holds back a deletion of more than this, and of more than five, and says
        /// so. `rulesyncd allow-mass-delete` on this host lets it pass. A row that is not a rule any more counts as
        /// deleted.
        max_delete: Percent, One<Share> = "20%";

        /// How long the worker holds back a mass deletion that nobody allows. Deletions that join those held back
        /// begin the time anew.
        max_delete_hold: Duration, One<Time> = "1h";

        /// How often a subscriber gets a heartbeat when nothing changes.
        heartbeat_interval: Duration, One<Interval> = "15s";

        /// The most subscribers. A connection that has not subscribed after 30 s is closed.
        max_subscribers: usize, One<Count> = "1024";

        /// The most subscribers of one user, so that no user takes the connections of the others.
        max_subscribers_per_uid: usize, One<Count> = "512";

        /// How many changes a subscriber may lag behind before the worker sends a snapshot instead.
        subscriber_queue: usize, One<Count> = "4096";

        /// The file with the last known rules. The worker serves them, marked stale, when it starts while the database
        /// is unavailable. Under systemd the default is in the unit's state directory, /var/lib/rulesyncd-worker.
        /// Beside it, with the suffix `.history`, are the changes that `rulesyncd history` shows, at most 64 MiB.
        cache: PathBuf, One<Path> = "/var/lib/rulesyncd/catalogue.ndjson";

        /// The name by which this worker reports itself to the fleet; where this is not set, the machine's id
        /// (/etc/machine-id).
        id: Option<String>, Maybe<Text>, such as "hp-ams-01";

        /// After a change the worker reports what it serves at a random time within this span, so that the reports of a
        /// swarm spread. With 10,000 workers, choose 10s.
        report_spread: Duration, One<Time> = "1s";

        /// How often the worker reports although nothing changes. A host that missed three reports is silent.
        report_interval: Duration, One<Interval> = "30s";

        /// Where a worker reports whose server takes no writes, such as a replica: the address of the server that does.
        /// Where this is not set, that is the host of database.url that takes writes. Each such report opens a
        /// connection and closes it, and is spread over 10 s at least.
        report_url: Option<Address>, Maybe<ServerAddress>, such as "postgres://rulesyncd_worker@primary/honeypots";

        /// The host's message bus. The worker publishes a notice of each change there.
        bus_socket: Option<PathBuf>, Maybe<Path>, such as "/run/bus.sock";
    }

    /// Signed rule sets: which releases are accepted. It is the same on the master and on every worker.
    pub(crate) trust(TrustConfig) {
        /// The keys that may sign releases, a file in the format of OpenSSH's ALLOWED SIGNERS that only root may write.
        /// Naming it switches trust on: a worker serves signed releases and nothing else, and a master publishes whole
        /// signed releases only. SIGHUP reads it again; the other keys of the section wait for a restart.
        allowed_signers: Option<PathBuf>, Maybe<Path>, such as "/etc/rulesyncd/allowed_signers";

        /// The realm whose releases are accepted, `[a-z0-9-]{1,64}`. Required with allowed_signers.
        realm: Option<Realm>, Maybe<RealmName>, such as "honeypots";

        /// So many distinct principals must have signed a release.
        threshold: usize, One<Count> = "1";

        /// No release older than this time is accepted or loaded. Set it on new hosts, and after the theft of a key.
        min_version: Option<ReleaseTime>, Maybe<Version>, such as "2026-11-27T08:00:00Z";
    }

    /// What is logged and exported.
    pub(crate) telemetry(TelemetryConfig) {
        /// What is logged: `error`, `warn`, `info`, `debug`, or directives such as `info,sqlx=debug`.
        log: String, One<Directives> = "info", also "RULESYNCD_LOG";

        /// The form of the log: `auto` (journald under systemd, otherwise text), `journald`, `text` or `json`.
        log_format: LogFormat, One<Format> = "auto";

        /// An OTLP/HTTP endpoint. Where this is not set, the standard OTEL_EXPORTER_OTLP_* variables apply.
        otlp: Option<String>, Maybe<Text>, such as "http://localhost:4318";
    }
}

impl MasterConfig {
    /// So many deletions are never a mass deletion, however few rows there are.
    pub(crate) const FREE_DELETES: usize = 5;
}
