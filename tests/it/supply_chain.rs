//! What the package says that the program is made of.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::swarm::text;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

fn output(command: &mut Command) -> String {
    let output = command.current_dir(PROJECT).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
#[ignore = "needs target/venv with cyclonedx: tests/run"]
fn the_inventory_is_valid_and_names_what_is_compiled_in_with_its_licences() {
    let directory = tempfile::tempdir().unwrap();
    output(Command::new("packaging/inventory").arg(directory.path()));
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    let (inventory, notices) = (read("sbom.cdx.json"), read("third-party-notices.txt"));
    for text in [&inventory, &notices] {
        assert!(!text.contains(PROJECT), "it has a path of this machine");
    }

    let script = "import sys\nfrom cyclonedx.schema import SchemaVersion\n\
                  from cyclonedx.validation.json import JsonStrictValidator\n\
                  sys.exit(str(JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read()) or ''))";
    let python = Path::new(PROJECT).join("target/venv/bin/python");
    let valid =
        Command::new(python).args(["-c", script]).arg(directory.path().join("sbom.cdx.json")).output();
    assert_eq!(text(&valid.unwrap().stderr).trim(), "");

    let inventory: Value = serde_json::from_str(&inventory).unwrap();
    let components = inventory["components"].as_array().unwrap();
    let field = |component: &Value, name: &str| component[name].as_str().unwrap().to_owned();
    let told: BTreeSet<String> =
        components.iter().map(|it| format!("{}-{}", field(it, "name"), field(it, "version"))).collect();

    // The program itself says where its code came from: a panic names its file.
    let program = fs::read(env!("CARGO_BIN_EXE_rulesyncd")).unwrap();
    let program = String::from_utf8_lossy(&program);
    let sources = program.split("/registry/src/").skip(1).filter_map(|rest| rest.split('/').nth(1));
    let sources: BTreeSet<String> =
        sources.filter_map(|source| source.split('\0').next()).map(str::to_owned).collect();
    assert!(sources.len() > 100, "{sources:?}");
    assert_eq!(sources.difference(&told).collect::<Vec<_>>(), Vec::<&String>::new());

    let lock = fs::read_to_string(Path::new(PROJECT).join("Cargo.lock")).unwrap();
    for component in components {
        let (name, version) = (field(component, "name"), field(component, "version"));
        let checksum = component["hashes"][0]["content"].as_str().unwrap();
        let locked = lock
            .split("\n[[package]]\n")
            .find(|entry| entry.starts_with(&format!("name = \"{name}\"\nversion = \"{version}\"\n")));
        assert!(locked.unwrap().contains(&format!("checksum = \"{checksum}\"")), "{name} {version}");
        let licence = component["licenses"][0]["expression"].as_str().unwrap();
        assert!(notices.contains(&format!("\n{name} {version}: {licence}\n")), "{name} {version}");
    }
    for words in
        ["Permission is hereby granted, free of charge", "TERMS AND CONDITIONS FOR USE, REPRODUCTION"]
    {
        assert!(notices.contains(words), "the text of a licence is missing");
    }
}
