//! What every store does, as one contract.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rulesyncd::clock::SharedClock;
use rulesyncd::rule::{CompiledRule, RuleState, StateKind};
use rulesyncd::store::{
    Database, FilesystemConfig, FilesystemStore, Follow, MasterSession, RuleStore, RuleWrite, StoreError,
    Subscription,
};

use crate::support::databases::{made, system_clock};
use crate::support::rules::{id, in_words, rule_row, rule_text};

/// The writer of a store's rules.
trait Author {
    async fn save(&mut self, rule_id: &str, version: i32, text: &str);
    async fn delete(&mut self, rule_id: &str);
}

impl Author for MasterSession {
    async fn save(&mut self, rule_id: &str, version: i32, text: &str) {
        let row = rulesyncd::rule::RuleRow { yaml_content: text.into(), ..rule_row(rule_id, version) };
        let applied = self.apply(&[RuleWrite::Upsert(row)]).await.unwrap();
        assert!(applied.rejected.is_empty(), "{applied:?}");
    }

    async fn delete(&mut self, rule_id: &str) {
        let delete = RuleWrite::Delete { rule_id: rule_id.into(), updated_by: "filesystem".into() };
        self.apply(&[delete]).await.unwrap();
    }
}

/// A person with an editor.
struct Editor {
    directory: PathBuf,
}

impl Author for Editor {
    async fn save(&mut self, rule_id: &str, _version: i32, text: &str) {
        std::fs::write(self.directory.join(format!("{rule_id}.yaml")), text).unwrap();
    }

    async fn delete(&mut self, rule_id: &str) {
        std::fs::remove_file(self.directory.join(format!("{rule_id}.yaml"))).unwrap();
    }
}

async fn heard<F: Follow>(subscription: &mut Subscription<F>) -> String {
    let change = tokio::time::timeout(Duration::from_secs(10), subscription.next()).await;
    in_words(&change.expect("no change within 10 s"))
}

fn ids(rules: &[CompiledRule]) -> Vec<&str> {
    rules.iter().map(|rule| rule.definition.rule_id.as_str()).collect()
}

async fn story<S: RuleStore>(store: &S, author: &mut impl Author, clock: SharedClock) {
    assert_eq!(store.load_compiled().await.unwrap(), []);

    // Written rules are loaded, in their final form.
    author.save("R2", 1, &rule_text("R2", 1)).await;
    author.save("R1", 7, &rule_text("R1", 7)).await;
    let rules = store.load_compiled().await.unwrap();
    assert_eq!(ids(&rules), ["R1", "R2"]);
    assert_eq!(rules[0].definition.rule_version, 7);
    assert_eq!(rules[0].definition.match_spec["pattern"], "v7");
    assert_eq!(rules[0].state, RuleState::default());

    // A subscriber receives later changes, each once, in order.
    let mut subscription = store.subscribe_changes().await.unwrap();
    author.save("R1", 8, &rule_text("R1", 8)).await;
    assert_eq!(heard(&mut subscription).await, "written R1 v8");
    author.save("R3", 1, &rule_text("R3", 1)).await;
    assert_eq!(heard(&mut subscription).await, "written R3 v1");
    author.delete("R2").await;
    assert_eq!(heard(&mut subscription).await, "deleted R2");
    assert_eq!(ids(&store.load_compiled().await.unwrap()), ["R1", "R3"]);

    // An invalid rule does not affect others.
    author.save("R4", 1, "rule_id: [").await;
    author.save("R5", 1, &rule_text("R5", 1)).await;
    assert_eq!(heard(&mut subscription).await, "written R5 v1");
    assert_eq!(ids(&store.load_compiled().await.unwrap()), ["R1", "R3", "R5"]);

    // A state is set, replaced, read, loaded, cleared.
    let r1 = id("R1");
    let clipped = RuleState {
        state: StateKind::Clipped,
        confidence_max: Some(0.85),
        reason: Some("too loud".into()),
        set_by: Some("someone".into()),
        ..RuleState::default()
    };
    let first = store.set_state(&r1, clipped.clone()).await.unwrap();
    assert_eq!(RuleState { set_at: None, ..first.clone() }, clipped);
    assert_eq!(heard(&mut subscription).await, "state R1 clipped");
    let disabled = RuleState { state: StateKind::Disabled, ..RuleState::default() };
    let second = store.set_state(&r1, disabled.clone()).await.unwrap();
    let (earlier, later) = (first.set_at.unwrap(), second.set_at.unwrap());
    // A column of whole seconds cannot distinguish them.
    let is_whole = later == later.whole_second() && earlier == earlier.whole_second();
    assert!(later > earlier || is_whole && later >= earlier, "{second:?} after {first:?}");
    assert_eq!(heard(&mut subscription).await, "state R1 disabled");
    assert_eq!(store.get_state(&r1).await.unwrap(), second);
    assert_eq!(store.load_compiled().await.unwrap()[0].state, second);
    assert!(store.clear_state(&r1).await.unwrap());
    assert!(!store.clear_state(&r1).await.unwrap());
    assert_eq!(heard(&mut subscription).await, "state R1 enabled");
    assert_eq!(store.get_state(&r1).await.unwrap(), RuleState::default());

    // An invalid state is refused, and nothing is written.
    let loud = RuleState { confidence_max: Some(-0.5), ..RuleState::default() };
    assert!(matches!(store.set_state(&r1, loud).await, Err(StoreError::InvalidState(_))));
    assert_eq!(store.get_state(&r1).await.unwrap(), RuleState::default());

    // A state expires without a writer.
    let end = clock.now().after(Duration::from_millis(1_500));
    store.set_state(&r1, RuleState { expires_at: Some(end), ..disabled }).await.unwrap();
    assert_eq!(heard(&mut subscription).await, "state R1 disabled");
    assert_eq!(heard(&mut subscription).await, "expired R1");
    assert_eq!(store.get_state(&r1).await.unwrap(), RuleState::default());
}

/// The contract for a database with its tables.
pub(super) async fn of_a_database(database: Database) {
    let mut session = database.try_lock().await.unwrap().unwrap();
    story(&database, &mut session, system_clock()).await;
}

fn directory_store(directory: &Path) -> FilesystemStore {
    let config = FilesystemConfig {
        directory: directory.into(),
        follow_links_to: Vec::new(),
        max_rule_size: 256 << 10,
        full_scan_interval: Duration::from_secs(3_600),
        max_memory: 64 << 20,
    };
    FilesystemStore::new(config, system_clock())
}

#[tokio::test]
async fn a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory_store(directory.path());
    let mut editor = Editor { directory: directory.path().into() };
    story(&store, &mut editor, system_clock()).await;
}

/// Whoever waits for a change beside other things gives each wait up now and then, also in the middle of a poll.
#[tokio::test]
async fn a_directory_loses_no_change_to_a_wait_that_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut editor = Editor { directory: directory.path().into() };
    let mut subscription = directory_store(directory.path()).subscribe_changes().await.unwrap();
    let ids: Vec<String> = (0..40).map(|number| format!("R{number}")).collect();
    let mut heard = BTreeSet::new();
    for version in 1..=20 {
        for id in &ids {
            editor.save(id, version, &rule_text(id, version)).await;
        }
        for wait in 0..200_u64 {
            let patience = Duration::from_micros(wait % 40 * 50);
            if let Ok(change) = tokio::time::timeout(patience, subscription.next()).await {
                heard.insert(in_words(&change));
            }
        }
    }
    for id in &ids {
        let last = format!("written {id} v20");
        while !heard.contains(&last) {
            let change = tokio::time::timeout(Duration::from_secs(60), subscription.next()).await;
            heard.insert(in_words(&change.unwrap_or_else(|_| panic!("nobody heard: {last}"))));
        }
    }
}

#[tokio::test]
async fn a_sqlite_file() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("sqlite://{}/rules.db", directory.path().display());
    of_a_database(made(&address, system_clock()).await).await;
}

#[tokio::test]
async fn a_sqlite_database_in_memory() {
    of_a_database(made("sqlite::memory:", system_clock()).await).await;
}
