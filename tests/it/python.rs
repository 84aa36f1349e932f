//! The Python client of `examples/python`, tested by Python against running daemons.

use std::path::Path;
use std::process::Command;

use crate::support::swarm::text;

#[test]
fn the_python_client_hears_what_it_should() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3")
        .args(["-X", "dev", "-B"])
        .arg(root.join("tests/python/test_rule_store.py"))
        .env("PYTHONPATH", root.join("examples/python"))
        .env("RULESYNCD_PROGRAM", env!("CARGO_BIN_EXE_rulesyncd"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}
