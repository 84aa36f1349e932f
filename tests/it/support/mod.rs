//! What the tests share.

pub(crate) mod certificates;
pub(crate) mod clock;
pub(crate) mod container;
pub(crate) mod counting;
pub(crate) mod databases;
pub(crate) mod forged;
pub(crate) mod galera;
pub(crate) mod haproxy;
pub(crate) mod hostile;
pub(crate) mod impostor;
pub(crate) mod mounts;
pub(crate) mod mysql9;
pub(crate) mod namespace;
pub(crate) mod network;
pub(crate) mod pooler;
pub(crate) mod raw;
pub(crate) mod releases;
pub(crate) mod rules;
pub(crate) mod servers;
pub(crate) mod slow_files;
pub(crate) mod sshsig;
pub(crate) mod swarm;
pub(crate) mod tables;
pub(crate) mod terminal;
