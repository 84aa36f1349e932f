//! Writes `config/master.yaml` and `config/worker.yaml` from the declarations of the keys:
//! `cargo run --example configuration_files`.

use std::fs;
use std::io;
use std::path::Path;

use rulesyncd::config::commented_file;

fn main() -> io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for section in ["master", "worker"] {
        fs::write(directory.join(section).with_extension("yaml"), commented_file(section))?;
    }
    Ok(())
}
