//! What the version of the tables tells a poll.

use super::super::{TablesVersion, watermarks};
use super::model::{Follower, Model, expected, known, rule, time};

#[test]
fn a_version_that_rose_without_an_explanation_makes_the_same_poll_a_full_one() {
    for (is_ours, woken) in [(true, false), (true, true), (false, false), (false, true)] {
        let (mut model, mut follower) = known();
        // The stamp is older than the overlap.
        model.rules.insert("R1".to_owned(), rule(1, 2, time(0)));
        if is_ours {
            model.raise(false);
        }
        follower.poll(&mut model, false, woken);
        assert_eq!(follower.catalogue.digest() == expected(&model).digest(), is_ours, "woken: {woken}");
        // The same version has been explained, and once the overlap has passed, a poll is one statement.
        model.now += 20_000_000;
        follower.poll(&mut model, false, false);
        model.now += 20_000_000;
        assert_eq!(follower.poll(&mut model, false, false), 1);
    }
}

#[test]
fn a_version_that_is_explained_makes_no_poll_a_full_one() {
    let (mut model, mut follower) = known();
    let before = model.version;
    // Another program's change, which no window reads, and one that explains the version.
    model.rules.insert("R1".to_owned(), rule(1, 2, time(0)));
    model.rules.insert("R2".to_owned(), rule(2, 2, time(model.now)));
    model.raise(false);
    follower.poll(&mut model, false, false);
    assert_ne!(follower.catalogue.digest(), expected(&model).digest());
    assert_ne!(follower.watermarks.as_ref().unwrap().version, before);
}

#[test]
fn a_version_that_fell_makes_the_poll_a_full_one() {
    let (mut model, mut follower) = known();
    // A backup was restored, and rows were written since.
    model.rules.insert("R1".to_owned(), rule(1, 0, time(-1)));
    model.rules.insert("R2".to_owned(), rule(2, 7, time(model.now)));
    model.version = Some(TablesVersion { version: 0, deleted: 0 });
    follower.poll(&mut model, false, false);
    assert_eq!(follower.catalogue.digest(), expected(&model).digest());
}

#[test]
fn a_version_that_cannot_be_read_for_a_while_is_compared_with_the_last_one() {
    let (mut model, mut follower) = known();
    let version = model.version.take();
    assert_eq!(follower.poll(&mut model, false, false), 1);
    model.version = version;
    assert_eq!(follower.poll(&mut model, false, false), 1);
    model.version = Some(TablesVersion { version: 0, deleted: 0 });
    assert!(follower.poll(&mut model, false, false) > 1);
}

#[test]
fn whatever_wakes_a_poll_it_counts_the_rules_only_after_a_deletion_and_once_in_five_seconds() {
    let (mut model, mut follower) = known();
    let mut version = 1;
    let mut is_counted = |model: &mut Model, follower: &mut Follower, woken| {
        version += 1;
        model.now += 100_000;
        model.rules.insert("R1".to_owned(), rule(1, version, time(model.now)));
        model.raise(false);
        follower.poll(model, false, woken);
        assert_eq!(follower.catalogue.digest(), expected(model).digest());
        model.is_counted
    };
    for woken in [false, true, true, false] {
        assert!(!is_counted(&mut model, &mut follower, woken), "an edit, woken: {woken}");
    }
    for woken in [true, false] {
        model.rules.insert("R2".to_owned(), rule(2, 1, time(model.now)));
        assert!(!is_counted(&mut model, &mut follower, woken), "a new rule, woken: {woken}");
        model.rules.remove("R2");
        model.raise(true);
        assert!(is_counted(&mut model, &mut follower, woken), "a deletion, woken: {woken}");
        assert!(!is_counted(&mut model, &mut follower, woken), "the edit after a deletion, woken: {woken}");
    }
    follower.later = watermarks::COUNT_INTERVAL;
    assert!(is_counted(&mut model, &mut follower, true), "five seconds later");
    assert!(!is_counted(&mut model, &mut follower, true));
}
