//! The table as text: a line for each tactic or technique, with fields separated by tabs.

use std::fmt::Write as _;

use super::{Attack, Domain, Status, Tactic, Technique};

/// The header before the lines.
const HEADER: &str = "\
# MITRE ATT&CK techniques and tactics, facts extracted from the public STIX data of ATT&CK.
# (c) The MITRE Corporation. This work is reproduced and distributed with the permission of The MITRE Corporation.
# tactic: id, domain, name. technique: id, domain, status, revoked by, tactics, name. See LICENSE.txt.
";

/// Parses the output of [`Attack::to_table`]; other lines are ignored.
pub(super) fn read(text: &str) -> Attack {
    let mut attack = Attack::default();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields[..] {
            ["version", version] => version.clone_into(&mut attack.version),
            ["tactic", id, domain, name] => {
                let Some(domain) = Domain::from_word(domain) else { continue };
                attack.tactics.insert(id.to_owned(), Tactic { name: name.to_owned(), domain });
            }
            ["technique", id, domain, status, successor, tactics, name] => {
                let Some(domain) = Domain::from_word(domain) else { continue };
                let status = match status {
                    "revoked" => Status::Revoked(Some(successor.to_owned()).filter(|id| !id.is_empty())),
                    "deprecated" => Status::Deprecated,
                    _ => Status::Current,
                };
                let tactics = tactics.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect();
                let technique = Technique { name: name.to_owned(), domain, status, tactics };
                attack.techniques.insert(id.to_owned(), technique);
            }
            _ => {}
        }
    }
    attack
}

impl Attack {
    /// The table that is built into the program, sorted by id.
    pub fn to_table(&self) -> String {
        let mut text = format!("{HEADER}version\t{}\n", self.version);
        for (id, Tactic { name, domain }) in &self.tactics {
            let _ = writeln!(text, "tactic\t{id}\t{}\t{name}", domain.as_str());
        }
        for (id, Technique { name, domain, status, tactics }) in &self.techniques {
            let (status, successor) = match status {
                Status::Current => ("current", ""),
                Status::Deprecated => ("deprecated", ""),
                Status::Revoked(successor) => ("revoked", successor.as_deref().unwrap_or_default()),
            };
            let tactics = tactics.join(",");
            let domain = domain.as_str();
            let _ = writeln!(text, "technique\t{id}\t{domain}\t{status}\t{successor}\t{tactics}\t{name}");
        }
        text
    }
}
