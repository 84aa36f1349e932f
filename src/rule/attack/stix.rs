//! Reads MITRE's publication, a bundle of STIX 2.0 or 2.1 objects.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::{Attack, Domain, Status, Tactic, Technique};

/// Why a file is not a bundle of ATT&CK.
#[derive(Debug, thiserror::Error)]
pub enum InvalidBundle {
    /// It is not a bundle of STIX objects.
    #[error("not a STIX bundle: {0}")]
    Json(#[from] serde_json::Error),
    /// It is one, but contains no technique of ATT&CK.
    #[error(
        "a STIX bundle without a technique of ATT&CK; take enterprise-attack.json or one of its neighbours"
    )]
    Empty,
}

#[derive(Deserialize)]
struct Bundle {
    objects: Vec<Object>,
}

/// The needed fields of an object; all kinds have the same fields here.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Object {
    r#type: String,
    id: String,
    name: String,
    modified: String,
    revoked: bool,
    x_mitre_deprecated: bool,
    x_mitre_version: String,
    x_mitre_shortname: String,
    external_references: Vec<Reference>,
    kill_chain_phases: Vec<Phase>,
    relationship_type: String,
    source_ref: String,
    target_ref: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Reference {
    source_name: String,
    external_id: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Phase {
    kill_chain_name: String,
    phase_name: String,
}

/// The matrix that MITRE names by `source_name` or `kill_chain_name`.
fn domain(source: &str) -> Option<Domain> {
    match source {
        "mitre-attack" => Some(Domain::Enterprise),
        "mitre-mobile-attack" => Some(Domain::Mobile),
        "mitre-ics-attack" => Some(Domain::Ics),
        _ => None,
    }
}

impl Object {
    fn attack_id(&self) -> Option<(&str, Domain)> {
        let mut references = self.external_references.iter();
        references.find_map(|reference| Some((&*reference.external_id, domain(&reference.source_name)?)))
    }

    /// The matrix: newer bundles name every source `mitre-attack`, and only the kill chain distinguishes them.
    fn domain(&self) -> Option<Domain> {
        let chain = self.kill_chain_phases.iter().find_map(|phase| domain(&phase.kill_chain_name));
        chain.or_else(|| self.attack_id().map(|(_, domain)| domain))
    }
}

impl Attack {
    /// Reads one bundle, and replaces this table's content for the bundle's matrix; what the bundle does not contain
    /// is then unknown.
    ///
    /// # Errors
    /// [`InvalidBundle`]; the table is unchanged.
    pub fn update_from_stix(&mut self, bundle: &[u8]) -> Result<(), InvalidBundle> {
        let Bundle { objects } = serde_json::from_slice(bundle)?;
        let successors: HashMap<&str, &str> = objects
            .iter()
            .filter(|object| object.r#type == "relationship" && object.relationship_type == "revoked-by")
            .map(|object| (&*object.source_ref, &*object.target_ref))
            .collect();
        let ids: HashMap<&str, &str> =
            objects.iter().filter_map(|object| Some((&*object.id, object.attack_id()?.0))).collect();
        let of_type = |kind| objects.iter().filter(move |object| object.r#type == kind);

        let techniques: BTreeMap<String, &Object> = of_type("attack-pattern")
            .filter_map(|object| Some((object.attack_id()?.0.to_owned(), object)))
            .collect();
        let matrix = techniques.values().find_map(|object| object.domain()).ok_or(InvalidBundle::Empty)?;

        let mut short_names: HashMap<&str, &str> = HashMap::new();
        self.tactics.retain(|_, tactic| tactic.domain != matrix);
        for object in of_type("x-mitre-tactic").filter(|object| !object.revoked) {
            let Some((id, _)) = object.attack_id() else { continue };
            short_names.insert(&object.x_mitre_shortname, id);
            self.tactics.insert(id.to_owned(), Tactic { name: plain(&object.name), domain: matrix });
        }
        self.techniques.retain(|_, technique| technique.domain != matrix);
        for (id, object) in techniques {
            let successor = successors.get(&*object.id).and_then(|next| ids.get(next));
            let status = match object {
                Object { revoked: true, .. } => Status::Revoked(successor.map(|&id| id.to_owned())),
                Object { x_mitre_deprecated: true, .. } => Status::Deprecated,
                _ => Status::Current,
            };
            let tactics = object.kill_chain_phases.iter();
            let mut tactics: Vec<String> = tactics
                .filter_map(|phase| short_names.get(&*phase.phase_name).map(|&id| id.to_owned()))
                .collect();
            tactics.sort();
            let technique = Technique { name: plain(&object.name), domain: matrix, status, tactics };
            self.techniques.insert(id, technique);
        }
        self.version =
            of_type("x-mitre-collection").map(|object| &object.x_mitre_version).next().map_or_else(
                || {
                    // Bundles of STIX 2.0 name no version: their newest object gives their date.
                    let newest =
                        objects.iter().map(|object| object.modified.as_str()).max().unwrap_or_default();
                    format!("of {}", newest.get(..10).unwrap_or("an unknown day"))
                },
                |version| plain(version),
            );
        Ok(())
    }
}

/// A text that fits into a line of the table.
fn plain(text: &str) -> String {
    text.split(char::is_control).map(str::trim).collect::<Vec<_>>().join(" ")
}
