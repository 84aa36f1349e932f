//! Makes the table of ATT&CK that the program carries from MITRE's publications, and prints it:
//!
//! ```sh
//! cargo run --example attack_table -- enterprise-attack.json mobile-attack.json ics-attack.json > table
//! mv table src/rule/attack/attack.tsv
//! ```

use std::error::Error;
use std::io::{self, Write as _};
use std::{env, fs};

use rulesyncd::rule::attack::Attack;

fn main() -> Result<(), Box<dyn Error>> {
    let mut attack = Attack::built_in().clone();
    for bundle in env::args_os().skip(1) {
        attack.update_from_stix(&fs::read(bundle)?)?;
    }
    Ok(io::stdout().write_all(attack.to_table().as_bytes())?)
}
