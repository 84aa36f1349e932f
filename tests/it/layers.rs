//! The rooms of `src` import what the table of layers in CONTRIBUTING allows, and nothing else; the files of a room
//! import each other in no circle.

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

fn is_test(path: &Path) -> bool {
    let names = ["tests", "tests.rs", "testing.rs", "laws.rs", "fuzzing.rs"];
    path.components().any(|part| names.iter().any(|name| part.as_os_str() == *name))
}

/// The code that is not a test's.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

/// The names after `crate::`, of code that is not a test's.
fn imports(text: &str) -> BTreeSet<String> {
    let code = without_tests(text);
    let names = code.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        rest[..end].to_owned()
    });
    names.collect()
}

/// The compiler does not look at a file that no module names, nor do the tests in it run.
#[test]
fn each_file_is_named_by_a_module() {
    let (mut files, mut unnamed) = (Vec::new(), Vec::new());
    sources(&root("src"), &mut files);
    sources(&root("tests/it"), &mut files);
    for file in files {
        let (directory, stem) = (file.parent().unwrap(), file.file_stem().unwrap().to_str().unwrap());
        // `mod.rs` is named in the directory above by its own directory.
        let (directory, name) = match stem {
            "lib" | "main" => continue,
            "mod" => (directory.parent().unwrap(), directory.file_name().unwrap().to_str().unwrap()),
            stem => (directory, stem),
        };
        let parents = ["mod.rs", "lib.rs", "main.rs"].map(|parent| directory.join(parent));
        let parents = parents.into_iter().chain([directory.with_extension("rs")]);
        let text: String = parents.filter_map(|parent| fs::read_to_string(parent).ok()).collect();
        if ![";", " {"].iter().any(|end| text.contains(&format!("mod {name}{end}"))) {
            unnamed.push(file);
        }
    }
    assert!(unnamed.is_empty(), "{unnamed:?}");
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
        let is_test = is_test(&path);
        let room = path
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        if is_test || ["lib", "main"].contains(&room.as_str()) {
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

/// A module's path from the crate's root.
type Module = Vec<String>;

/// Every path in the code that begins with `crate`, `self` or `super`; `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(code: &str) -> Vec<Module> {
    let code: String =
        code.lines().map(|line| line.split("//").next().unwrap()).flat_map(|line| [line, " "]).collect();
    let is_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut paths = Vec::new();
    for (start, _) in ["crate::", "self::", "super::"].iter().flat_map(|root| code.match_indices(root)) {
        let is_within = code[..start].ends_with(|c| is_of_a_word(c) || c == ':');
        if !is_within {
            // The paths that are open: one in a path, one more within each brace.
            let (mut open, mut here): (Vec<Module>, Module) = (Vec::new(), Vec::new());
            let mut rest = &code[start..];
            loop {
                let end = rest.find(|c| !is_of_a_word(c)).unwrap_or(rest.len());
                here.extend(Some(rest[..end].to_owned()).filter(|word| !word.is_empty()));
                rest = rest[end..].trim_start();
                if let Some(after) = rest.strip_prefix("::") {
                    rest = after.trim_start();
                    if let Some(after) = rest.strip_prefix('{') {
                        (open, rest) = ([open, vec![here.clone()]].concat(), after.trim_start());
                    }
                    continue;
                }
                paths.push(here);
                while let Some(after) = rest.strip_prefix('}').filter(|_| !open.is_empty()) {
                    (_, rest) = (open.pop(), after.trim_start());
                }
                match (open.last(), rest.strip_prefix(',')) {
                    (Some(outer), Some(after)) => (here, rest) = (outer.clone(), after.trim_start()),
                    _ => break,
                }
            }
        }
    }
    paths
}

/// The module, of those that there are, that a path in the module `here` leads to; `None` if it stays in `here`.
fn target(path: &[String], here: &Module, modules: &BTreeSet<Module>) -> Option<Module> {
    let ups = path.iter().take_while(|word| *word == "super").count();
    let base = if path[0] == "crate" { 0 } else { here.len() - ups };
    let whole: Module = here[..base].iter().chain(&path[ups.max(1)..]).cloned().collect();
    (base..=whole.len()).rev().map(|end| whole[..end].to_vec()).find(|module| modules.contains(module))
}

#[test]
fn a_path_leads_to_a_module() {
    let path = |text: &str| text.split("::").map(str::to_owned).collect::<Module>();
    let code = "use super::{a, b::{C, d::E}}; // crate::no\nuse crate::x::Y; let z = super::super::z();";
    let mut found: Vec<String> = paths(code).iter().map(|path| path.join("::")).collect();
    found.sort();
    assert_eq!(found, ["crate::x::Y", "super::a", "super::b::C", "super::b::d::E", "super::super::z"]);
    let modules = ["r", "r::b", "r::b::d", "x"].map(path).into();
    for (named, module) in [("super::b::d::E", "r::b::d"), ("super::a", "r"), ("crate::x::Y", "x")] {
        assert_eq!(target(&path(named), &path("r::c"), &modules), Some(path(module)), "{named}");
    }
}

/// Of two modules beside each other, each with all that is in it, at most one imports the other, even by way of others:
/// each can be read without what is built on it. A module and its own parts are one.
#[test]
fn the_parts_of_a_room_import_each_other_in_no_circle() {
    let mut files = Vec::new();
    sources(&root("src"), &mut files);
    let module = |file: &PathBuf| {
        let path = file.strip_prefix(root("src")).unwrap().with_extension("");
        let words = path.components().map(|part| part.as_os_str().to_str().unwrap().to_owned());
        words.filter(|word| word != "mod").collect::<Module>()
    };
    files.retain(|file| !is_test(file.strip_prefix(root("src")).unwrap()));
    let modules: BTreeSet<Module> = files.iter().map(module).collect();
    // By parent: which of its parts imports which other.
    let mut siblings: BTreeMap<Module, BTreeSet<(String, String)>> = BTreeMap::new();
    for file in &files {
        let here = module(file);
        for path in paths(without_tests(&fs::read_to_string(file).unwrap())) {
            let Some(there) = target(&path, &here, &modules) else { continue };
            let shared = here.iter().zip(&there).take_while(|(a, b)| a == b).count();
            if let (Some(from), Some(to)) = (here.get(shared), there.get(shared)) {
                siblings.entry(here[..shared].to_vec()).or_default().insert((from.clone(), to.clone()));
            }
        }
    }
    assert!(siblings.len() > 20, "the rooms and their parts were found: {siblings:?}");
    for (parent, mut arrows) in siblings {
        // What imports nothing that is left, or is imported by nothing that is left, is in no circle.
        loop {
            let ends = |end: fn(&(String, String)) -> &String| arrows.iter().map(end).cloned().collect();
            let (importing, imported): (BTreeSet<String>, BTreeSet<String>) =
                (ends(|it| &it.0), ends(|it| &it.1));
            let before = arrows.len();
            arrows.retain(|(from, to)| importing.contains(to) && imported.contains(from));
            if arrows.len() == before {
                break;
            }
        }
        let arrows: Vec<String> = arrows.iter().map(|(from, to)| format!("{from} -> {to}")).collect();
        assert!(arrows.is_empty(), "a circle in `{}`: {}", parent.join("::"), arrows.join(", "));
    }
}
