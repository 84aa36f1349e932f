//! The rooms of `src` import what the table of layers in CONTRIBUTING allows, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The words between backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rooms in the table's order, each with what it may import.
fn table() -> Vec<(String, BTreeSet<String>)> {
    let contributing = fs::read_to_string(root("CONTRIBUTING.md")).unwrap();
    let (_, section) = contributing.split_once("\n## Layers\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (quoted(cells[1]).remove(0), quoted(cells[2]).into_iter().collect())
    })
    .collect()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The names after `crate::`, of code that is not a test's.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let names = code.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        rest[..end].to_owned()
    });
    names.collect()
}

#[test]
fn each_room_imports_what_the_table_of_layers_lets_it() {
    let table = table();
    let order: Vec<&str> = table.iter().map(|(room, _)| room.as_str()).collect();
    for (place, (room, allowed)) in table.iter().enumerate() {
        for other in allowed {
            assert!(
                order[..place].contains(&other.as_str()),
                "`{room}` imports `{other}`, which is not above it"
            );
        }
    }
    let mut files = Vec::new();
    sources(&root("src"), &mut files);
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let path = file.strip_prefix(root("src")).unwrap().to_owned();
        let is_test =
            path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")));
        let room = path
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        if is_test || ["fuzzing", "lib", "main", "testing"].contains(&room.as_str()) {
            continue;
        }
        let names = imports(&fs::read_to_string(&file).unwrap());
        let rooms = names.into_iter().filter(|name| order.contains(&name.as_str()) && *name != room);
        let rooms: Vec<String> = rooms.collect();
        used.entry(room).or_default().extend(rooms);
    }
    // The comparison finds a room that is missing from the table, or imports more or less than the table says.
    let expected: BTreeMap<String, BTreeSet<String>> = table.iter().cloned().collect();
    for room in used.keys().chain(expected.keys()) {
        assert_eq!(used.get(room), expected.get(room), "what `{room}` imports, and what the table says");
    }
}
