use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::rule::ContentDigest;

const OWNER: &str = "filesystem";

/// A file and its rule; `Err` is an invalid file, with the id that it names.
type File = (String, Result<RuleHeader<RuleId>, Option<RuleId>>);

fn file(path: &str, id: &str, content: &str) -> File {
    (path.to_owned(), Ok(row(id, path, content, OWNER).with_id(RuleId::new(id).unwrap())))
}

fn broken(path: &str) -> File {
    (path.to_owned(), Err(None))
}

fn broken_naming(path: &str, id: &str) -> File {
    (path.to_owned(), Err(RuleId::new(id).ok()))
}

fn plan(files: &[File], rows: &[RuleHeader], owner: &str) -> Plan {
    super::plan(
        files.iter().map(|(path, rule)| (path.as_str(), rule.as_ref().map_err(Option::as_ref))),
        rows,
        owner,
    )
}

fn row(id: &str, path: &str, content: &str, by: &str) -> RuleHeader {
    RuleHeader {
        rule_id: id.to_owned(),
        rule_version: 1,
        source_path: path.into(),
        updated_by: by.into(),
        updated_at: Timestamp::from_micros(0),
        content_sha256: ContentDigest::of(content),
    }
}

/// The table after a plan was carried out: an independent, simple implementation.
fn carry_out(plan: &Plan, rows: &[RuleHeader]) -> Vec<RuleHeader> {
    let mut table: BTreeMap<String, RuleHeader> =
        rows.iter().map(|row| (row.rule_id.clone(), row.clone())).collect();
    for delete in &plan.deletes {
        table.remove(&delete.rule_id);
    }
    for write in &plan.writes {
        for replaced in write.replaces.iter().chain(&write.case_variants) {
            table.remove(&replaced.rule_id);
        }
        table.insert(write.rule.rule_id.to_string(), write.rule.unchecked());
    }
    table.into_values().collect()
}

fn deleted(plan: &Plan) -> Vec<&str> {
    plan.deletes.iter().map(|delete| delete.rule_id.as_str()).collect()
}

fn written(plan: &Plan) -> Vec<(&str, bool)> {
    plan.writes.iter().map(|write| (&*write.rule.source_path, write.replaces.is_some())).collect()
}

#[test]
fn a_new_file_is_inserted_an_edited_one_updated_a_missing_one_deleted() {
    let files = [file("a.yaml", "A", "1"), file("b.yaml", "B", "2"), file("c.yaml", "C", "3")];
    let rows =
        [row("B", "b.yaml", "old", OWNER), row("C", "c.yaml", "3", OWNER), row("D", "d.yaml", "4", OWNER)];
    let plan = plan(&files, &rows, OWNER);
    assert_eq!(written(&plan), [("a.yaml", false), ("b.yaml", true)]);
    assert_eq!(deleted(&plan), ["D"]);
    assert_eq!((plan.unchanged, plan.conflicts.len()), (1, 0));
}

#[test]
fn a_renamed_file_is_an_update_and_deletes_nothing() {
    let plan = plan(&[file("new.yaml", "A", "1")], &[row("A", "old.yaml", "1", OWNER)], OWNER);
    assert_eq!(written(&plan), [("new.yaml", true)]);
    assert_eq!(deleted(&plan), [""; 0]);
}

#[test]
fn an_id_changed_inside_a_file_deletes_the_old_and_adds_the_new() {
    let plan = plan(&[file("a.yaml", "B", "2")], &[row("A", "a.yaml", "1", OWNER)], OWNER);
    assert_eq!((deleted(&plan), written(&plan)), (vec!["A"], vec![("a.yaml", false)]));
}

#[test]
fn a_broken_file_keeps_its_last_good_row() {
    assert_eq!(plan(&[broken("a.yaml")], &[row("A", "a.yaml", "1", OWNER)], OWNER), Plan::default());
}

#[test]
fn a_file_that_was_renamed_and_broken_in_one_step_keeps_its_last_good_row() {
    let rows = [row("A", "old.yaml", "1", OWNER)];
    for named in ["A", "a"] {
        assert_eq!(plan(&[broken_naming("new.yaml", named)], &rows, OWNER), Plan::default());
    }
    assert_eq!(deleted(&plan(&[broken_naming("new.yaml", "B")], &rows, OWNER)), ["A"]);

    let files = [broken_naming("new.yaml", "A"), file("other.yaml", "A", "2")];
    assert_eq!(written(&plan(&files, &rows, OWNER)), [("other.yaml", true)], "a valid file takes it");
}

#[test]
fn a_broken_file_keeps_its_id_against_another_file() {
    let plan = plan(&[broken("a.yaml"), file("b.yaml", "A", "2")], &[row("A", "a.yaml", "1", OWNER)], OWNER);
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!(
        (plan.conflicts[0].source_path.as_str(), plan.conflicts[0].held_by.as_str()),
        ("b.yaml", "a.yaml")
    );
}

#[test]
fn of_two_files_with_one_id_the_one_that_the_row_names_keeps_it() {
    let files = [file("a.yaml", "X", "1"), file("b.yaml", "X", "2")];
    let kept = plan(&files, &[row("X", "b.yaml", "2", OWNER)], OWNER);
    assert!(kept.is_empty(), "{kept:?}");
    assert_eq!(kept.conflicts[0].source_path, "a.yaml");

    let fresh = plan(&files, &[], OWNER);
    assert_eq!(written(&fresh), [("a.yaml", false)], "the first by path where no row says");
    assert_eq!(fresh.conflicts[0].source_path, "b.yaml");

    let takes_over = plan(&files[..1], &[row("X", "b.yaml", "2", OWNER)], OWNER);
    assert_eq!(written(&takes_over), [("a.yaml", true)]);
    assert_eq!(deleted(&takes_over), [""; 0]);
}

#[test]
fn ids_that_differ_only_in_case_are_one_conflict() {
    let plan = plan(
        &[file("a.yaml", "r1", "1"), file("b.yaml", "R1", "2")],
        &[row("R1", "b.yaml", "2", OWNER)],
        OWNER,
    );
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!(plan.conflicts.len(), 1);
}

#[test]
fn a_valid_file_keeps_its_row_though_a_broken_one_has_a_row_of_its_id_in_another_case() {
    let files = [file("0.yaml", "aa", "0"), broken("3.yaml"), file("5.yaml", "AA", "0")];
    let rows = [row("Aa", "3.yaml", "0", OWNER), row("aa", "5.yaml", "0", OWNER)];
    let first = plan(&files, &rows, OWNER);
    assert_eq!((written(&first), deleted(&first)), (vec![("5.yaml", true)], vec![]));
    assert_eq!(plan(&files, &carry_out(&first, &rows), OWNER).writes, []);
}

#[test]
fn a_valid_file_whose_id_changes_its_case_leaves_a_broken_one_the_row_of_that_id() {
    let files = [broken("3.yaml"), file("5.yaml", "AA", "1")];
    let rows = [row("AA", "3.yaml", "0", OWNER), row("aa", "5.yaml", "0", OWNER)];
    let plan = plan(&files, &rows, OWNER);
    assert_eq!(carry_out(&plan, &rows), [row("AA", "3.yaml", "0", OWNER)]);
    assert_eq!((&*plan.conflicts[0].source_path, &*plan.conflicts[0].held_by), ("5.yaml", "3.yaml"));
}

#[test]
fn an_id_that_changes_its_case_replaces_its_row() {
    let rows = [row("R1", "a.yaml", "1", OWNER)];
    let plan = plan(&[file("a.yaml", "r1", "2")], &rows, OWNER);
    assert_eq!(plan.writes[0].replaces.as_ref().unwrap().rule_id, "R1");
    let ids: Vec<_> = carry_out(&plan, &rows).into_iter().map(|row| row.rule_id).collect();
    assert_eq!(ids, ["r1"]);
}

#[test]
fn a_file_wins_over_a_foreign_row_and_a_foreign_row_without_a_file_is_left() {
    let rows = [row("A", "a.yaml", "1", "git"), row("B", "b.yaml", "1", "git")];
    let plan = plan(&[file("a.yaml", "A", "1")], &rows, OWNER);
    assert_eq!(plan.writes[0].replaces.as_ref().unwrap().updated_by.as_ref(), "git");
    assert_eq!(deleted(&plan), [""; 0]);
}

#[test]
fn a_file_wins_over_a_foreign_row_of_its_id_in_another_case_though_its_own_row_stands() {
    let files = [file("a.yaml", "abc", "1")];
    let rows = [row("ABC", "x", "9", "admin"), row("Abc", "y", "9", "git"), row("abc", "a.yaml", "1", OWNER)];
    let plan = plan(&files, &rows, OWNER);
    assert_eq!(plan.writes[0].takes_over().unwrap().rule_id, "ABC");
    let ids: Vec<_> = carry_out(&plan, &rows).into_iter().map(|row| row.rule_id).collect();
    assert_eq!((ids, deleted(&plan)), (vec!["abc".to_owned()], vec![]));
}

fn directory(ids: Range, contents: Range) -> impl Strategy<Value = Vec<File>> {
    // One file for each id: no invalid files and no conflicts, for which the history would matter.
    prop::collection::btree_map(0..ids, (0..contents, 0..3u8), 0..8).prop_map(|entries| {
        let named = |(id, (content, name))| {
            file(&format!("{id}_{name}.yaml"), &format!("R{id}"), &format!("{id}{content}"))
        };
        entries.into_iter().map(named).collect()
    })
}

type Range = u8;

fn messy_directory() -> impl Strategy<Value = Vec<File>> {
    let id = prop::sample::select(vec!["AA", "aa", "B", "C"]);
    let entry = (prop::option::weighted(0.9, id), prop::option::weighted(0.8, 0..2u8));
    prop::collection::btree_map(0..6u8, entry, 0..6).prop_map(|entries| {
        let named = |(name, rule): (u8, (Option<&str>, Option<u8>))| match rule {
            (Some(id), Some(content)) => file(&format!("{name}.yaml"), id, &content.to_string()),
            (Some(id), None) => broken_naming(&format!("{name}.yaml"), id),
            (None, _) => broken(&format!("{name}.yaml")),
        };
        entries.into_iter().map(named).collect()
    })
}

fn any_table() -> impl Strategy<Value = Vec<RuleHeader>> {
    let entry = (0..6u8, 0..2u8, prop::bool::ANY);
    prop::collection::btree_map(prop::sample::select(vec!["AA", "aa", "Aa", "B", "D"]), entry, 0..5).prop_map(
        |entries| {
            let named = |(id, (path, content, own)): (&str, (u8, u8, bool))| {
                row(id, &format!("{path}.yaml"), &content.to_string(), if own { OWNER } else { "git" })
            };
            entries.into_iter().map(named).collect()
        },
    )
}

proptest! {
    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_do(files in messy_directory(), rows in any_table()) {
        let first = plan(&files, &rows, OWNER);
        let second = plan(&files, &carry_out(&first, &rows), OWNER);
        prop_assert!(second.is_empty(), "{first:?} then {second:?}");
        prop_assert_eq!(first.conflicts, second.conflicts);
    }

    #[test]
    fn two_steps_end_where_one_ends(a in directory(6, 3), b in directory(6, 3), c in directory(6, 3)) {
        let start = carry_out(&plan(&a, &[], OWNER), &[]);
        let direct = carry_out(&plan(&c, &start, OWNER), &start);
        let half = carry_out(&plan(&b, &start, OWNER), &start);
        let stepped = carry_out(&plan(&c, &half, OWNER), &half);
        prop_assert_eq!(direct, stepped);
    }

    #[test]
    fn the_last_valid_row_of_an_invalid_file_stays(files in messy_directory(), rows in any_table()) {
        let after = carry_out(&plan(&files, &rows, OWNER), &rows);
        let is_invalid = |row: &&RuleHeader| files.iter().any(|file| *file.0 == *row.source_path && file.1.is_err());
        for row in rows.iter().filter(|row| row.is_owned_by(OWNER)).filter(is_invalid) {
            prop_assert!(after.contains(row), "{row:?}");
        }
    }

    #[test]
    fn the_rule_that_an_invalid_file_names_stays(files in messy_directory(), rows in any_table()) {
        let after = carry_out(&plan(&files, &rows, OWNER), &rows);
        for id in files.iter().filter_map(|file| file.1.as_ref().err()?.as_ref()) {
            let holds = |table: &[RuleHeader]| table.iter().any(|row| row.rule_id.eq_ignore_ascii_case(id.as_str()));
            prop_assert!(!holds(&rows) || holds(&after), "{id}");
        }
    }

    #[test]
    fn rows_of_others_without_a_file_are_never_touched(files in messy_directory(), rows in any_table()) {
        let after = carry_out(&plan(&files, &rows, OWNER), &rows);
        for row in rows.iter().filter(|row| !row.is_owned_by(OWNER)) {
            let claimed = files.iter().filter_map(|file| file.1.as_ref().ok())
                .any(|rule| rule.rule_id.folded() == row.rule_id.to_ascii_lowercase());
            prop_assert!(claimed || after.contains(row), "{row:?}");
        }
    }
}
