//! A Galera cluster: MariaDB servers of this host, each in a directory of its own, that end with the test.

use std::net::TcpListener;

use super::servers::{Kind, Server};

/// The library that Debian's package `galera-4` has.
const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";

/// The ports of one node: for the group, for its gaps, and for its first state.
struct Ports([u16; 3]);

impl Ports {
    fn free(nodes: usize) -> Vec<Self> {
        // All at once, so that no port is free twice.
        let listeners: Vec<_> =
            (0..nodes).map(|_| [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap())).collect();
        let port = |listener: TcpListener| listener.local_addr().unwrap().port();
        listeners.into_iter().map(|listeners| Self(listeners.map(port))).collect()
    }

    /// The options of the node with this number, which joins this group; an empty one is a new group.
    fn options(&self, number: usize, group: &str) -> Vec<String> {
        let [own, gaps, state] = self.0;
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

/// Starts a cluster with one node for each of these environments. A node that is started again joins the others.
pub(crate) async fn start(environments: Vec<Vec<(String, String)>>) -> Vec<Server> {
    let ports = Ports::free(environments.len());
    let group: Vec<String> = ports.iter().map(|Ports([own, ..])| format!("127.0.0.1:{own}")).collect();
    let mut nodes = Vec::new();
    for (index, environment) in environments.into_iter().enumerate() {
        let options = ports[index].options(index + 1, &group[..index].join(","));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut node = Server::start_in(Kind::MariaDb, &options, environment).await;
        node.set_options(ports[index].options(index + 1, &group.join(",")));
        until_it_has_joined(&node).await;
        nodes.push(node);
    }
    nodes
}

/// Waits until a node has what the others have.
pub(crate) async fn until_it_has_joined(node: &Server) {
    let mut client = node.client("").await;
    let ready = "SELECT CAST(variable_value AS CHAR) FROM information_schema.global_status \
                 WHERE variable_name = 'wsrep_local_state_comment'";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while client.text(ready).await.as_deref() != Some("Synced") {
        assert!(std::time::Instant::now() < deadline, "a node does not join the cluster");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
