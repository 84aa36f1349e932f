//! Compresses the table of ATT&CK into the program, and reads its version for `--version`.
#![expect(
    clippy::disallowed_methods,
    reason = "cargo speaks through the environment, and this is no part of the program"
)]

use std::error::Error;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let table = "src/rule/attack/attack.tsv";
    println!("cargo::rerun-if-changed={table}");
    println!("cargo::rerun-if-changed=build.rs");
    let text = fs::read_to_string(table)?;
    let version = text.lines().find_map(|line| line.strip_prefix("version\t"));
    println!("cargo::rustc-env=ATTACK_VERSION={}", version.ok_or("the table has no version")?);
    let directory = env::var_os("OUT_DIR").ok_or("cargo names no directory for output")?;
    let packed = miniz_oxide::deflate::compress_to_vec(text.as_bytes(), 9);
    Ok(fs::write(Path::new(&directory).join("attack.tsv.deflate"), packed)?)
}
