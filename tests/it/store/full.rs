//! The disk of a server is full while a master writes.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::process::Command;

use crate::support::mounts::Mount;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Swarm, wait_for};

/// What was written before is served, the journal says once what is the matter, and with room for it everything is written,
/// and delivered once.
async fn a_full_disk_of_the_server_is_an_outage(kind: Kind) {
    const RULES: usize = 60;
    let mut server = Server::start(kind, &[]).await;
    server.create("rules").await;
    server.stop();
    let (data, kept) = (server.path().join("data"), server.path().join("kept"));
    fs::rename(&data, &kept).unwrap();
    fs::create_dir(&data).unwrap();
    let _mount = Mount::tmpfs(&data, "384m");
    assert!(Command::new("cp").arg("-a").arg(kept.join(".")).arg(&data).status().unwrap().success());
    server.go_on().await;

    let swarm = Swarm::on(server.address("rules"));
    swarm.save("R0.yaml", rule_text("R0", 1));
    let (master, worker) = (swarm.master(), swarm.worker());
    wait_for("the rule", || (swarm.subscribe().snapshot().len() == 1).then_some(()));
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();

    let filler = data.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let full = std::iter::repeat_with(|| file.write_all(&[0; 4096])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    let long = "# long\n".repeat(20_000);
    for number in 1..=RULES {
        let id = format!("R{number}");
        swarm.save(&format!("{id}.yaml"), rule_text(&id, 1) + &long);
    }
    master.wait_for_log("retrying until it works");
    assert!((1..=RULES).contains(&swarm.subscribe().snapshot().len()), "{}", worker.log());

    drop(file);
    fs::remove_file(&filler).unwrap();
    if server.run("", "SELECT 1").await.is_err() {
        // MariaDB ends itself when InnoDB cannot write.
        server.stop();
        server.go_on().await;
    }
    let mut seen: Vec<String> =
        (0..RULES).map(|_| subscriber.change()["rule_id"].as_str().unwrap().to_owned()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), RULES, "{}", master.log());
    master.wait_for_log("the database answers again");
    swarm.save("LAST.yaml", rule_text("LAST", 1));
    assert_eq!(subscriber.nothing_before("LAST")["rule_version"], 1);
    for daemon in [&master, &worker] {
        assert!(daemon.log().lines().count() < RULES + 40, "{}", daemon.log());
    }
}

#[tokio::test]
#[ignore = "needs root and PostgreSQL"]
async fn a_full_disk_of_postgres_is_an_outage_as_root() {
    a_full_disk_of_the_server_is_an_outage(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs root and MariaDB"]
async fn a_full_disk_of_mariadb_is_an_outage_as_root() {
    a_full_disk_of_the_server_is_an_outage(Kind::MariaDb).await;
}
