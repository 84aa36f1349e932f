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

#[test]
fn two_rows_that_swapped_their_texts_are_served_as_they_were_signed() {
    let key = SoftKey::ed25519();
    let first = release(&key, 1, FIRST, "any");
    let row = |id: &str, text: &str| {
        let header = RuleHeader {
            rule_id: id.to_owned(),
            rule_version: 1,
            source_path: format!("{id}.yaml").into(),
            content_sha256: ContentDigest::of(text),
            updated_at: Timestamp::MIN,
            updated_by: "filesystem".into(),
        };
        Err(RowReader::default().read(&RuleRow { header, yaml_content: text.to_owned() }).unwrap_err())
    };
    let swapped = |worker: &Worker| TableDelta {
        now: time(NOW),
        rules: vec![row("R1", "R2 1"), row("R2", "R1 1")],
        manifest: Some(worker.part_0.clone()),
        ..TableDelta::default()
    };
    // Where the release is served, it is served on; a new worker has nothing of it, and says what is missing.
    let mut old = worker(&key);
    old.publish(&first);
    old.poll();
    old.gate.poll(swapped(&old), &old.served, time(NOW));
    let delta = old.gate.take_served(&old.served, time(NOW));
    old.served.apply(delta);
    assert_eq!((old.served.digest(), old.reasons()), (first.digest, vec!["altered"]));
    let mut new = worker(&key);
    new.offer(&first);
    new.gate.poll(swapped(&new), &new.served, time(NOW));
    new.gate.take_list(Some(first.list.as_bytes()), &new.served);
    assert_eq!(new.gate.status(time(NOW)).missing, ["R1", "R2"]);
}
