//! Who can write the tables takes away no rule and no floor.

use super::*;
use crate::rule::RuleRow;
use crate::store::RowReader;

#[test]
fn a_row_that_is_invalid_in_another_column_suppresses_no_listed_rule() {
    let key = SoftKey::ed25519();
    let first = release(&key, 1, FIRST, "any");
    let header = RuleHeader {
        rule_id: "R2".to_owned(),
        rule_version: 1,
        source_path: "x".repeat(5_000).into(),
        content_sha256: ContentDigest::of("R2 1"),
        updated_at: Timestamp::MIN,
        updated_by: "filesystem".into(),
    };
    let row = RuleRow { header, yaml_content: "R2 1".to_owned() };
    let rejected = RowReader::default().read(&row).unwrap_err();
    let mut worker = worker(&key);
    worker.offer(&first);
    let delta = TableDelta {
        now: time(NOW),
        rules: vec![Ok(Arc::clone(&first.rules[0])), Err(rejected)],
        manifest: Some(worker.part_0.clone()),
        ..TableDelta::default()
    };
    worker.gate.poll(delta, &worker.served, time(NOW));
    worker.gate.take_list(Some(first.list.as_bytes()), &worker.served);
    assert_eq!(worker.reasons(), ["incomplete", "altered"]);
    assert_eq!(worker.gate.status(time(NOW)).missing, ["R2"]);
}

#[test]
fn signatures_that_are_taken_out_of_the_table_take_nothing_from_the_floor() {
    let (leaving, staying) = (SoftKey::ed25519(), SoftKey::p256());
    let both = policy(&[leaving.line("owner"), staying.line("owner")].concat(), 1);
    let old = release(&staying, 1, FIRST, "any");
    let signed = release(&leaving, 2, SECOND, "any");
    let whole = Signed { signatures: signed.signatures.clone() + &staying.sign(&signed.body), ..signed };
    let stripped = release(&leaving, 2, SECOND, "any");
    let publish = |worker: &mut Worker, release: &Signed| {
        worker.publish(release);
        worker.poll();
    };
    let is_held = |worker: &mut Worker| {
        worker.gate.trust(policy(&staying.line("owner"), 1));
        publish(worker, &old);
        assert_eq!(
            (worker.served.digest(), worker.reasons()),
            (whole.digest, vec!["rolled_back", "altered"])
        );
    };
    let mut worker = Worker::new(Gate::new(both.clone(), None));
    publish(&mut worker, &whole);
    publish(&mut worker, &stripped);
    assert_eq!((worker.served.digest(), worker.reasons()), (whole.digest, vec![]));
    is_held(&mut worker);

    // The same after a restart with nothing but the floor.
    let floor = Some((whole.body.as_slice(), whole.signatures.as_str()));
    let mut worker = Worker::new(Gate::new(both, floor));
    publish(&mut worker, &stripped);
    is_held(&mut worker);
}
