//! No clock decides what is served: hosts that are decades apart serve one digest.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::master::version;
use super::worker::{snapshot, status, wait_for_reasons};
use crate::support::clock;
use crate::support::databases::TestDatabase;
use crate::support::releases::Owner;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Daemon, Swarm, wait_for};

const FIRST: &[(&str, i32)] = &[("R1", 1), ("R2", 1), ("R3", 1)];

fn start_at(owner: &Owner, swarm: &Swarm, mode: &str, time: &str) -> Daemon {
    swarm.daemon(mode, |command| {
        owner.trusted_by(swarm, command);
        clock::start_at(command, time);
    })
}

#[tokio::test]
#[ignore = "needs PostgreSQL and faketime"]
async fn hosts_at_1970_and_2099_serve_one_digest_and_say_what_they_cannot_judge() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let database = TestDatabase::server(&server.create("signed").await).await;
    let mut sql = database.external().await;
    let owner = Owner { states: "max=1".to_owned(), ..Owner::new() };
    let [rules, past, future] = [(); 3].map(|()| Swarm::on(&database.address));
    for host in [&rules, &past, &future] {
        owner.signers(host, "");
    }
    owner.release(1, FIRST).check_out(&rules);
    let (_master, _present) = (owner.daemon(&rules, "master"), owner.daemon(&rules, "worker"));
    let past_worker = start_at(&owner, &past, "worker", "1970-01-02 00:00:00");
    let future_worker = start_at(&owner, &future, "worker", "2099-06-01 00:00:00");
    wait_for_reasons(&rules, &[]);
    wait_for_reasons(&past, &["clock"]);
    wait_for_reasons(&future, &["expired"]);
    let hosts = [&rules, &past, &future];
    let one_digest = |what: &str, is_so: &dyn Fn(&Value) -> bool| {
        wait_for(what, || {
            let all = hosts.map(status);
            let is_one = all.iter().all(|status| status["digest"] == all[0]["digest"] && is_so(status));
            (is_one && !all[0]["digest"].is_null()).then_some(())
        });
    };
    one_digest("the first release", &|status| status["rules"] == 3);
    let mut subscriber = past.subscribe();
    let (served, trust) = snapshot(&mut subscriber);
    assert_eq!((served.len(), &trust["reasons"]), (3, &json!(["clock"])));

    // The database's clock judges states, so both end the first one, and the next takes its place.
    let now = database.now().await;
    sql.put_state("R1", "disabled", Some(now.after(Duration::from_secs(4))), now).await;
    sql.put_state("R2", "disabled", None, now.after(Duration::from_millis(1))).await;
    one_digest("the second state", &|status| {
        status["states"] == 1 && status["trust"]["without_effect"] == json!({})
    });
    let ended = hosts.map(status);
    assert!(ended.iter().all(|status| status["digest"] == ended[0]["digest"]), "{ended:?}");

    // The next release comes into force everywhere.
    owner.release(2, &[("R1", 2), ("R2", 1)]).check_out(&rules);
    one_digest("the second release", &|status| status["trust"]["version"] == json!(version(2)));
    wait_for_reasons(&past, &["clock"]);
    wait_for_reasons(&future, &["expired"]);
    past_worker.kill();
    future_worker.kill();
    clock::clear_up();
}

#[test]
#[ignore = "needs faketime"]
fn a_key_that_has_lapsed_signs_nothing_new_and_what_was_accepted_stays() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    let signers = owner.signers(&swarm, "");
    let line = owner.key.line("owner").replace(" namespaces", " valid-before=\"20200601Z\",namespaces");
    fs::write(&signers, line).unwrap();
    fs::set_permissions(&signers, fs::Permissions::from_mode(0o644)).unwrap();
    owner.release(1, FIRST).check_out(&swarm);
    let master = start_at(&owner, &swarm, "master", "2020-03-01 00:00:00");
    let worker = start_at(&owner, &swarm, "worker", "2020-03-01 00:00:00");
    let digest = wait_for_reasons(&swarm, &[])["digest"].clone();
    worker.kill();
    // A year later.
    let worker = start_at(&owner, &swarm, "worker", "2021-03-01 00:00:00");
    assert_eq!(wait_for_reasons(&swarm, &[])["digest"], digest);
    owner.release(2, &[("R1", 2), ("R2", 1), ("R3", 1)]).check_out(&swarm);
    let found = wait_for_reasons(&swarm, &["bad_signature", "altered"]);
    assert_eq!(found["digest"], digest);
    let refusal = found["trust"]["refusal"].as_str().unwrap();
    assert!(refusal.contains("is not valid at this time"), "{refusal}");
    worker.kill();
    master.kill();
    clock::clear_up();
}
