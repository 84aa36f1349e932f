//! Polls in the seconds after many rules were loaded at once.

use super::model::{Follower, Model, expected, known, named_rule, rule, time};

/// A model with 90 rules that were loaded at once, with stamps of whole seconds or not, and a follower that has just
/// read them.
fn loaded(has_xor: bool, whole_seconds: bool) -> (Model, Follower) {
    let (mut model, mut follower) = (Model { has_xor, ..Model::default() }, Follower::default());
    follower.poll(&mut model, false, false);
    model.now += 20_000_000;
    for id in 0..90 {
        let stamp = if whole_seconds { time(model.now) } else { time(model.now + 1 + i64::from(id)) };
        model.rules.insert(format!("R{id}"), rule(id, 1, stamp));
    }
    model.raise(false);
    model.now += 1_000;
    follower.poll(&mut model, false, false);
    model.now += 1_000;
    follower.poll(&mut model, false, false);
    (model, follower)
}

#[test]
fn an_idle_poll_after_a_load_reads_none_of_its_rows() {
    for whole_seconds in [false, true] {
        let (mut model, mut follower) = loaded(true, whole_seconds);
        for _ in 0..8 {
            model.now += 1_000_000;
            assert_eq!(follower.poll(&mut model, false, false), 1);
            assert_eq!(model.rows_read, 0);
        }
        // A database that does not sum them has them read.
        let (mut model, mut follower) = loaded(false, whole_seconds);
        model.now += 1_000_000;
        follower.poll(&mut model, false, false);
        assert_eq!(model.rows_read, 90);
    }
}

#[test]
fn a_poll_after_an_edit_reads_the_edit_once() {
    let (mut model, mut follower) = known();
    model.has_xor = true;
    follower.poll(&mut model, false, false);
    model.now += 100_000;
    model.rules.insert("R1".to_owned(), rule(1, 2, time(model.now)));
    model.raise(false);
    follower.poll(&mut model, false, true);
    assert_eq!(model.rows_read, 1);
    // The low mark rises from the old stamps to the overlap before the edit.
    for _ in 0..8 {
        model.now += 1_000_000;
        assert_eq!(follower.poll(&mut model, false, false), 1);
        assert_eq!(model.rows_read, 0);
    }
}

#[test]
fn a_change_among_many_rules_that_were_just_loaded_is_found() {
    type Change = fn(&mut Model);
    let changes: [Change; 4] = [
        // The second write of a second.
        |model| {
            let stamp = model.rules["R7"].header.updated_at;
            model.rules.insert("R7".to_owned(), named_rule(7, 1, stamp.whole_second(), "another"));
        },
        // Two rows exchange their texts and paths.
        |model| {
            let stamp = model.rules["R7"].header.updated_at;
            let (mut one, mut other) = (rule(7, 2, stamp), rule(8, 1, stamp));
            std::mem::swap(&mut one.header.source_path, &mut other.header.source_path);
            model.rules.extend([("R7".to_owned(), one), ("R8".to_owned(), other)]);
        },
        // A row replaces another.
        |model| {
            let stamp = model.rules.remove("R7").unwrap().header.updated_at;
            model.rules.insert("R99".to_owned(), rule(99, 1, stamp));
            model.deleted_by_others += 1;
        },
        |model| {
            model.rules.remove("R7");
            model.deleted_by_others += 1;
        },
    ];
    for change in changes {
        for has_xor in [false, true] {
            let (mut model, mut follower) = loaded(has_xor, true);
            model.now += 1_000_000;
            follower.poll(&mut model, false, false);
            change(&mut model);
            model.now += 1_000_000;
            follower.poll(&mut model, false, false);
            assert_eq!(follower.catalogue.digest(), expected(&model).digest());
        }
    }
}

#[test]
fn a_wake_up_for_an_edit_reads_none_of_the_rules_that_were_just_loaded() {
    let (mut model, mut follower) = loaded(true, false);
    for version in 2..5 {
        model.now += 100_000;
        model.rules.insert("R7".to_owned(), rule(7, version, time(model.now)));
        model.raise(false);
        follower.poll(&mut model, false, true);
        assert_eq!(model.rows_read, 1);
        assert_eq!(follower.catalogue.digest(), expected(&model).digest());
        assert!(follower.is_behind());
    }
    // A wake-up for a late commit alone reads the window; the version was explained.
    let late = model.rules["R8"].header.updated_at;
    model.rules.insert("R8".to_owned(), rule(8, 2, late));
    follower.poll(&mut model, false, true);
    assert_eq!(follower.catalogue.digest(), expected(&model).digest());
    assert!(!follower.is_behind());
    assert_eq!(follower.version(), model.version);
}

#[test]
fn the_poll_after_one_that_read_only_newer_rules_is_no_full_one() {
    let (mut model, mut follower) = loaded(true, false);
    // Long before the window.
    model.rules.insert("R91".to_owned(), rule(91, 1, time(-90_000_000)));
    model.now += 100_000;
    follower.poll(&mut model, true, false);
    model.now += 100_000;
    model.rules.insert("R7".to_owned(), rule(7, 2, time(model.now)));
    model.raise(false);
    follower.poll(&mut model, false, true);
    model.now += 1_000_000;
    follower.poll(&mut model, false, false);
    assert_eq!(model.rows_read, 90, "the window, and not all 91");
    assert_eq!(follower.version(), model.version);
}
