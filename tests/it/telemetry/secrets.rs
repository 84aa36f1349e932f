//! No text of a rule and no address gets into the log or to the collector; an operator's reason is only in the log's
//! audit record of the state.

use super::receiver::{Manner, Receiver};
use crate::support::swarm::Swarm;

const REASON: &str = "CANARYREASON";

/// A word for each text that must not be exported.
const CANARIES: [&str; 6] =
    ["CANARYNAME", "CANARYPATTERN", "CANARYCOMMENT", REASON, "CANARYDBPASS", "CANARYOTLPPASS"];

fn text(rule_id: &str, version: i32) -> String {
    format!(
        "# CANARYCOMMENT\nrule_id: {rule_id}\nrule_version: {version}\nname: CANARYNAME\n\
         description: CANARYNAME\napplies_to: [command]\nmatch:\n  field: command_text\n  pattern: 'CANARYPATTERN'\n\
         emits:\n  - tactic: TA0007\n    technique_id: T1083\n    confidence: 0.85\n"
    )
}

#[test]
fn canaries_stay_in_their_cage() {
    let receiver = Receiver::new(Manner::Takes);
    let swarm = Swarm::on_sqlite();
    swarm.save("r1.yaml", text("R1", 1));
    let daemon = |mode: &str| {
        swarm.daemon(mode, |command| {
            receiver.collect(command);
            let endpoint = receiver.endpoint().replace("http://", "http://user:CANARYOTLPPASS@");
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
            command.env("RULESYNCD_LOG", "trace").env("RULESYNCD_TELEMETRY_LOG_FORMAT", "json");
        })
    };
    let (master, worker) = (daemon("master"), daemon("worker"));
    let mut subscriber = swarm.subscribe();
    while subscriber.snapshot().is_empty() {
        subscriber = swarm.subscribe();
    }
    swarm.save("r1.yaml", text("R1", 2));
    subscriber.change();
    let mut state = swarm.command(&["state", "set", "R1", "disabled", "--reason", REASON]);
    receiver.collect(&mut state);
    assert!(state.status().unwrap().success());
    assert_eq!(subscriber.change()["new_value"]["reason"], REASON);
    swarm.save("r2.yaml", text("R2", 1).replace("command]", "]"));
    master.wait_for_log("r2.yaml");
    swarm.sql("insert into ttp_rule select 'ODD', 1, 'o', 'no: CANARYNAME', updated_at, 'git' from ttp_rule");
    worker.wait_for_log("ODD");
    let away = "postgres://u:CANARYDBPASS@127.0.0.1:1/db";
    let mut lost = swarm.command(&["worker"]);
    receiver.collect(&mut lost);
    lost.env("RULESYNCD_DATABASE_URL", away).env("RULESYNCD_LOG", "trace");
    lost.env("RULESYNCD_SOCKET", swarm.path("lost.sock"));
    let lost = swarm.spawn(lost);
    lost.wait_for_log("the database does not answer");

    receiver.named("ttp.rule.ingest", "source_path", "r2.yaml");
    receiver.named("ttp.rule.state.change", "rule_id", "R1");
    receiver.metric("ttp.rule.rejected{reason=rule_row}", |count| count == 1.0);
    assert!(receiver.holds("r1.yaml"), "the search finds what is there");
    for canary in CANARIES {
        assert!(!receiver.holds(canary), "{canary} was exported");
        for daemon in [&master, &worker, &lost] {
            let audited =
                if canary == REASON { daemon.count_in_log(&format!(" by operator: {REASON}")) } else { 0 };
            assert_eq!(daemon.count_in_log(canary), audited, "{canary} in {}", daemon.log());
        }
    }
}
