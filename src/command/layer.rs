//! `rulesyncd layer`: the rules as a layer of MITRE's ATT&CK Navigator.
//!
//! Format 4.5: <https://github.com/mitre-attack/attack-navigator/blob/master/layers/spec/v4.5/layerformat.md>

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::common::{choose_database, directory_store, open_database};
use super::{Failure, Outcome};
use crate::clock::SystemClock;
use crate::command::flags::{ConfigFlags, DatabaseFlags, prepare_quietly};
use crate::command::print::print;
use crate::plural::count;
use crate::rule::attack::{Attack, Domain};
use crate::rule::{CompiledRule, Emit, StateKind};
use crate::store::RuleStore as _;

/// A release of Navigator that reads format 4.5 and shows sub-techniques that have a score.
const NAVIGATOR: &str = "5.2.0";

/// The scores' colours, from a confidence of 0 to one of 1.
const COLOURS: [&str; 2] = ["#fee8c8", "#e34a33"];

/// Print the rules as a layer for MITRE's ATT&CK Navigator
///
/// A technique's score is the highest confidence, times 100, that an enabled rule has in it; a clipped rule counts with
/// its ceiling. A technique that only disabled rules have is disabled in the layer. Comments name the rules. A layer
/// shows one matrix.
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd layer > layer.json, and in Navigator: Open Existing Layer")]
pub(crate) struct LayerArgs {
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    database: DatabaseFlags,
    /// The matrix
    #[arg(long, value_enum, default_value_t = Domain::Enterprise)]
    matrix: Domain,
}

pub(crate) fn run(args: LayerArgs) -> Outcome {
    let config = prepare_quietly(args.database.apply_to(args.config.flags()))?;
    let rules = super::block_on(super::Threads::Database, async {
        let config = choose_database(config).await?;
        let clock = Arc::new(SystemClock);
        let rules = match directory_store(&config, clock.clone()) {
            Some(directory) => directory.load_compiled().await?,
            None => open_database(&config, clock).await?.load_compiled().await?,
        };
        Ok::<_, Failure>(rules)
    })??;
    let Layer { document, other_matrices } = layer(&rules, args.matrix, Attack::built_in());
    for (domain, techniques) in other_matrices {
        let domain = domain.as_str();
        tracing::warn!(
            "{} of the {domain} matrix left out: `rulesyncd layer --matrix {domain}` shows what is there",
            count(techniques, "technique")
        );
    }
    print(&format!("{document:#}\n"))
}

/// A layer, and what it cannot show.
struct Layer {
    document: Value,
    /// How many techniques, each counted once a tactic, are of other matrices.
    other_matrices: BTreeMap<Domain, usize>,
}

/// What the rules have in one technique, in the column of one tactic.
#[derive(Default)]
struct Cell {
    /// The highest confidence of an enabled rule; `None` if all are disabled.
    confidence: Option<f64>,
    /// A line for each rule.
    comments: Vec<String>,
}

fn layer(rules: &[CompiledRule], domain: Domain, attack: &Attack) -> Layer {
    let mut cells: BTreeMap<(&str, &str), Cell> = BTreeMap::new();
    for rule in rules {
        for emit in &rule.definition.emits {
            let cell = cells.entry((technique(emit), &emit.tactic)).or_default();
            let (confidence, comment) = effect(rule, emit.confidence);
            cell.confidence = cell.confidence.into_iter().chain(confidence).reduce(f64::max);
            if !cell.comments.contains(&comment) {
                cell.comments.push(comment);
            }
        }
    }
    let mut other_matrices = BTreeMap::new();
    let mut techniques = Vec::new();
    for ((id, tactic), cell) in cells {
        match matrix_of(id, tactic, attack) {
            found if found == domain => techniques.push(entry(id, tactic, &cell, attack)),
            other => *other_matrices.entry(other).or_default() += 1,
        }
    }
    let disabled = rules.iter().filter(|rule| rule.state.state == StateKind::Disabled).count();
    let document = json!({
        "name": format!("rulesyncd, {}", count(rules.len(), "rule")),
        "description": format!(
            "{}, {disabled} of them disabled. Score: the highest confidence of an enabled rule, times 100.",
            count(rules.len(), "rule")
        ),
        "domain": format!("{}-attack", domain.as_str()),
        "versions": {
            "attack": attack.version().split('.').next(),
            "navigator": NAVIGATOR,
            "layer": "4.5",
        },
        "techniques": techniques,
        "gradient": { "colors": COLOURS, "minValue": 0, "maxValue": 100 },
        "layout": { "layout": "side", "showName": true, "showID": true, "expandedSubtechniques": "annotated" },
    });
    Layer { document, other_matrices }
}

/// The sub-technique if there is one.
fn technique(emit: &Emit) -> &str {
    emit.sub_technique_id.as_deref().unwrap_or(&emit.technique_id)
}

/// The confidence with which a rule counts, `None` if it is disabled, and a comment that names it.
fn effect(rule: &CompiledRule, written: f64) -> (Option<f64>, String) {
    let (id, name, state) = (&rule.definition.rule_id, &rule.definition.name, &rule.state);
    let comment = format!("{id} {name}: {written}");
    match state.state {
        StateKind::Enabled => (Some(written), comment),
        StateKind::Disabled => (None, format!("{comment}, {}", state.summary())),
        StateKind::Clipped => {
            let most = state.confidence_max.map_or(written, |ceiling| ceiling.min(written));
            (Some(most), format!("{comment}, {}", state.summary()))
        }
    }
}

/// The matrix of a technique, else of the tactic; an id that ATT&CK does not have is taken for the first matrix.
fn matrix_of(technique: &str, tactic: &str, attack: &Attack) -> Domain {
    let of_technique = attack.technique(technique).map(|technique| technique.domain);
    of_technique.or_else(|| Some(attack.tactic(tactic)?.domain)).unwrap_or(Domain::Enterprise)
}

fn entry(id: &str, tactic: &str, cell: &Cell, attack: &Attack) -> Value {
    let mut entry = json!({ "techniqueID": id, "comment": cell.comments.join("\n") });
    if let Some(tactic) = attack.tactic(tactic) {
        // Navigator knows a tactic by MITRE's short name.
        entry["tactic"] = json!(tactic.name.to_lowercase().replace(' ', "-"));
    }
    match cell.confidence {
        Some(confidence) => entry["score"] = json!((confidence * 100.0).round() as u8),
        None => entry["enabled"] = json!(false),
    }
    entry
}
