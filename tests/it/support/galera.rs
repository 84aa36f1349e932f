//! A Galera cluster: MariaDB servers of this host, each in a directory of its own, that end with the test.

use std::net::TcpListener;

use super::servers::{Kind, Server};

/// The library that Debian's package `galera-4` has.
const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";

/// The ports of one node: for the group, for its gaps, and for its first state.
struct Ports([u16; 3]);

impl Ports {
    fn free() -> Self {
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        Self(listeners.map(|listener| listener.local_addr().unwrap().port()))
    }

    /// The options of the node with this number; the first one has no `group` to join.
    fn options(&self, number: usize, group: Option<u16>) -> Vec<String> {
        let [own, gaps, state] = self.0;
        let group = group.map_or_else(String::new, |port| format!("127.0.0.1:{port}"));
        vec![
            format!("--server-id={number}"),
            "--binlog-format=ROW".into(),
            "--innodb-autoinc-lock-mode=2".into(),
            "--wsrep-on=ON".into(),
            format!("--wsrep-provider={PROVIDER}"),
            format!("--wsrep-cluster-address=gcomm://{group}"),
            format!("--wsrep-node-address=127.0.0.1:{own}"),
            "--wsrep-sst-method=rsync".into(),
            format!("--wsrep-sst-receive-address=127.0.0.1:{state}"),
            format!(
                "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{own};\
                 ist.recv_addr=127.0.0.1:{gaps};gcache.size=64M"
            ),
        ]
    }
}

/// Starts a cluster with one node for each of these environments.
pub(crate) async fn start(environments: Vec<Vec<(String, String)>>) -> Vec<Server> {
    let (mut nodes, mut first) = (Vec::new(), None);
    for (index, environment) in environments.into_iter().enumerate() {
        let ports = Ports::free();
        let options = ports.options(index + 1, first);
        first.get_or_insert(ports.0[0]);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let node = Server::start_in(Kind::MariaDb, &options, environment).await;
        let mut client = node.client("").await;
        let ready = "SELECT CAST(variable_value AS CHAR) FROM information_schema.global_status \
                     WHERE variable_name = 'wsrep_local_state_comment'";
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while client.text(ready).await.as_deref() != Some("Synced") {
            assert!(std::time::Instant::now() < deadline, "a node does not join the cluster");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        nodes.push(node);
    }
    nodes
}
