//! The rules as heat maps: ATT&CK's matrices, with how many rules count in each technique.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::escape;
use crate::plural::{count, some_of};
use crate::rule::attack::{Attack, Domain};
use crate::rule::{CompiledRule, Emit, StateKind};

/// The most rules that a cell of the matrix names.
const NAMED: usize = 20;

/// The rules of one technique, sub-techniques included, in one tactic.
#[derive(Default)]
struct Cell<'f> {
    enabled: Vec<&'f str>,
    clipped: Vec<&'f str>,
    disabled: Vec<&'f str>,
}

impl Cell<'_> {
    fn total(&self) -> usize {
        self.enabled.len() + self.clipped.len() + self.disabled.len()
    }

    /// The class of the cell's colour: how many rules count.
    fn heat(&self) -> &'static str {
        match (self.enabled.len() + self.clipped.len(), self.total()) {
            (_, 0) => "heat0",
            (0, _) => "off",
            (1, _) => "heat1",
            (2..=3, _) => "heat2",
            (4..=7, _) => "heat3",
            _ => "heat4",
        }
    }
}

type Cells<'f> = BTreeMap<(&'f str, &'f str), Cell<'f>>;

/// Appends the matrices that have rules, and ATT&CK's first matrix in any case.
pub(super) fn matrices<'f>(html: &mut String, rules: &'f [CompiledRule], attack: &'f Attack) {
    let mut cells = Cells::new();
    for rule in rules {
        for Emit { tactic, technique_id, .. } in &rule.definition.emits {
            let cell = cells.entry((tactic, technique_id)).or_default();
            let list = match rule.state.state {
                StateKind::Enabled => &mut cell.enabled,
                StateKind::Clipped => &mut cell.clipped,
                StateKind::Disabled => &mut cell.disabled,
            };
            let id = rule.definition.rule_id.as_str();
            if !list.contains(&id) {
                list.push(id);
            }
        }
    }
    let number = |kind| rules.iter().filter(|rule| rule.state.state == kind).count();
    let _ = writeln!(
        html,
        "<h2>{}</h2>\n<p>{} enabled, {} clipped, {} disabled. A cell is a technique with its sub-techniques, and shows \
         how many rules count.</p>",
        count(rules.len(), "rule"),
        number(StateKind::Enabled),
        number(StateKind::Clipped),
        number(StateKind::Disabled)
    );
    *html += "<ul class=\"legend\">";
    for (class, text) in [
        ("heat0", "no rule"),
        ("off", "only disabled"),
        ("heat1", "1"),
        ("heat2", "2 to 3"),
        ("heat3", "4 to 7"),
        ("heat4", "8 or more"),
    ] {
        let _ = write!(html, "<li><span class=\"key {class}\"></span>{text}</li>");
    }
    *html += "</ul>\n";
    for domain in [Domain::Enterprise, Domain::Mobile, Domain::Ics] {
        let is_here = |tactic: &str| attack.tactic(tactic).is_some_and(|tactic| tactic.domain == domain);
        if domain == Domain::Enterprise || cells.keys().any(|(tactic, _)| is_here(tactic)) {
            matrix(html, domain, &mut cells, attack);
        }
    }
    // What is left has no place in a matrix of this version of ATT&CK.
    if !cells.is_empty() {
        *html += "<h3>In no matrix</h3>\n<div class=\"matrix\"><div class=\"tactic\">\n";
        for ((tactic, technique), found) in &cells {
            cell(html, &format!("{tactic} {technique}"), "", found);
        }
        *html += "</div></div>\n";
    }
}

/// One matrix; takes its cells out of `cells`.
fn matrix<'f>(html: &mut String, domain: Domain, cells: &mut Cells<'f>, attack: &'f Attack) {
    let _ = writeln!(
        html,
        "<h3>ATT&amp;CK {}, {}</h3>\n<div class=\"matrix\">",
        escape(attack.version()),
        domain.as_str()
    );
    for (tactic_id, tactic) in attack.tactics_of(domain) {
        let techniques = attack.techniques_of(tactic_id);
        let mut column = String::new();
        let mut covered = 0;
        for (technique_id, technique) in &techniques {
            let found = cells.remove(&(tactic_id, technique_id)).unwrap_or_default();
            covered += usize::from(found.total() > 0);
            cell(&mut column, technique_id, &technique.name, &found);
        }
        // A rule may name a technique that ATT&CK has in other tactics.
        let others: Vec<_> = cells.keys().filter(|(tactic, _)| *tactic == tactic_id).copied().collect();
        for key in others {
            let found = cells.remove(&key).unwrap_or_default();
            let name = attack.technique(key.1).map_or("", |technique| &technique.name);
            cell(&mut column, key.1, name, &found);
        }
        let _ = writeln!(
            html,
            "<div class=\"tactic\"><h4>{}<small>{} · {covered} of {}</small></h4>\n{column}</div>",
            escape(&tactic.name),
            escape(tactic_id),
            techniques.len()
        );
    }
    *html += "</div>\n";
}

fn cell(html: &mut String, id: &str, name: &str, found: &Cell<'_>) {
    let mut title = format!("{id} {name}");
    for (word, rules) in
        [("enabled", &found.enabled), ("clipped", &found.clipped), ("disabled", &found.disabled)]
    {
        if !rules.is_empty() {
            let _ = write!(title, "; {word}: {}", some_of(rules.iter(), NAMED, ", "));
        }
    }
    let counted = found.enabled.len() + found.clipped.len();
    let mut number = if found.total() == 0 { String::new() } else { counted.to_string() };
    for (rules, word) in [(&found.clipped, "clipped"), (&found.disabled, "disabled")] {
        if !rules.is_empty() {
            let _ = write!(number, ", {} {word}", rules.len());
        }
    }
    let _ = writeln!(
        html,
        "<div class=\"cell {}\" title=\"{}\"><b>{}</b> {}<i>{number}</i></div>",
        found.heat(),
        escape(&title),
        escape(id),
        escape(name)
    );
}
