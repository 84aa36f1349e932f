//! Programs that ask a daemon which does not answer, or are not listened to themselves, end and say
//! so.

use std::fs;

use crate::support::rules::rule_text;
use crate::support::swarm::Swarm;

#[test]
fn a_daemon_that_does_not_answer_is_told_in_bounded_time() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    let (master, worker) = (swarm.master(), swarm.worker());
    swarm.subscribe().snapshot();
    master.signal("STOP");
    worker.signal("STOP");
    let start = |args: &[&str]| swarm.spawn(swarm.command(args));
    for asking in [start(&["sync"]), start(&["watch", "--once"])] {
        let log = asking.log_path();
        let ended = asking.wait();
        let said = fs::read_to_string(log).unwrap();
        assert_eq!(ended.code(), Some(3), "{said}");
        assert!(said.contains("did not answer within 10s"), "{said}");
    }
}

#[test]
fn a_look_at_a_worker_that_has_loaded_nothing_ends_and_says_so() {
    let swarm = Swarm::on("postgresql://someone@127.0.0.1:1/rules");
    let _worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_HEARTBEAT_INTERVAL", "100ms");
    });
    let looking = swarm.spawn(swarm.command(&["watch", "--once"]));
    let log = looking.log_path();
    let ended = looking.wait();
    let said = fs::read_to_string(log).unwrap();
    assert_eq!(ended.code(), Some(3), "{said}");
    assert!(said.contains("has loaded nothing from its database"), "{said}");
}
