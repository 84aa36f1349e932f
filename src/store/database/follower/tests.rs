use std::sync::Arc;
use std::time::Duration;

use super::super::tests::database_at;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::rule::{ContentDigest, RowFingerprint, RuleHeader, RuleRow, Table};
use crate::store::{Follow as _, RowIndex, RuleStore as _, RuleWrite, TextSink};

/// Takes three seconds for each text, as a disk may.
struct Slow;

impl TextSink for Slow {
    fn put(&self, _content: ContentDigest, _text: &str) {
        std::thread::sleep(Duration::from_secs(3));
    }
}

impl RowIndex for Slow {
    fn count(&self, _table: Table) -> u64 {
        0
    }

    fn fingerprint(&self, _table: Table, _key: &str) -> Option<RowFingerprint> {
        None
    }

    fn texts(&self) -> Option<Arc<dyn TextSink>> {
        Some(Arc::new(Self))
    }
}

/// A state that ended while rows were read must not be effective again once they are applied.
#[tokio::test]
async fn the_time_of_a_poll_that_takes_long_is_that_of_its_end() {
    let database = database_at("sqlite::memory:", Duration::from_secs(60)).await;
    let yaml_content = "rule_id: R1\nrule_version: 1\nname: slow\napplies_to: [command]\nmatch:\n  field: command_text\n  \
                        pattern: x\nemits:\n  - tactic: TA0007\n    technique_id: T1083\n    confidence: 0.85\n";
    let header = RuleHeader {
        rule_id: "R1".to_owned(),
        rule_version: 1,
        source_path: "R1.yaml".into(),
        content_sha256: ContentDigest::of(yaml_content),
        updated_at: Timestamp::MIN,
        updated_by: "filesystem".into(),
    };
    let mut session = database.try_lock().await.unwrap().unwrap();
    let row = RuleRow { header, yaml_content: yaml_content.to_owned() };
    session.apply([RuleWrite::Upsert(row)]).await.unwrap();
    let delta = database.follow().poll(&Arc::new(Slow)).await.unwrap();
    assert!(delta.rules[0].is_ok(), "{:?}", delta.rules);
    let behind = SystemClock.now().since(delta.now);
    assert!(behind < Duration::from_secs(2), "{behind:?}");
}
