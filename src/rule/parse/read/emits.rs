//! Reads what a rule emits: tactics, techniques, confidence.

use super::values::{Expected, Values};
use super::{NodeId, NodeKind};
use crate::rule::attack::{self, Attack, Domain, Status, Tactic, Technique};
use crate::rule::parse::findings::Quoted;
use crate::rule::{Code, Emit};

const NEEDED: [&str; 3] = ["tactic", "technique_id", "confidence"];
const OPTIONAL: [&str; 1] = ["sub_technique_id"];

/// Reads the list; compares ids with `attack` if it is given.
pub(super) fn read(values: &mut Values<'_, '_>, node: NodeId, attack: Option<&Attack>) -> Option<Vec<Emit>> {
    let mut matrix = None;
    let emits: Vec<Option<Emit>> = values.list(node, true, |values, node| {
        let emit = emit(values, node, attack)?;
        if let Some(attack) = attack {
            one_matrix(values, node, attack, &emit, &mut matrix);
        }
        Some(emit)
    })?;
    emits.into_iter().collect()
}

fn emit(values: &mut Values<'_, '_>, node: NodeId, attack: Option<&Attack>) -> Option<Emit> {
    if !matches!(values.node(node).kind, NodeKind::Mapping(_)) {
        return values.wrong_type(node, Expected::Mapping);
    }
    let fields = values.fields(node, &NEEDED, &OPTIONAL);
    let tactic = values.field(&fields, "tactic", |values, node| {
        attack_id(values, node, attack::is_tactic, "a tactic's id is like `TA0007`")
    });
    let tactic_is = tactic.as_deref().filter(|id| attack::is_tactic(id));
    if let (Some(attack), Some(id)) = (attack, tactic_is) {
        values.field(&fields, "tactic", |values, node| known_tactic(values, node, attack, id));
    }
    let technique_id = values.field(&fields, "technique_id", |values, node| {
        let id =
            attack_id(values, node, attack::is_technique, "a technique's id is like `T1083` or `T1548.001`")?;
        if let Some(attack) = attack.filter(|_| attack::is_technique(&id)) {
            known_technique(values, node, attack, &id, tactic_is);
        }
        Some(id)
    });
    let sub_technique_id = values.field(&fields, "sub_technique_id", |values, node| {
        let sub = values.text_or_null(node)?;
        match (&sub, &technique_id) {
            (Some(sub), Some(technique)) if !sub.starts_with(technique.as_str()) => {
                let message =
                    format!("{} does not begin with its technique's id, `{technique}`", Quoted(sub));
                values.add(Code::SubTechnique, node, message);
                return None;
            }
            (Some(sub), _) if !attack::is_sub_technique(sub) => {
                values.add(
                    Code::AttackId,
                    node,
                    format!("{} is not shaped like a sub-technique's id, `T1548.001`", Quoted(sub)),
                );
            }
            (Some(sub), _) => {
                if let Some(attack) = attack.filter(|_| technique_id.as_ref() != Some(sub)) {
                    known_technique(values, node, attack, sub, tactic_is);
                }
            }
            (None, _) => {}
        }
        Some(sub)
    });
    let confidence = values.field(&fields, "confidence", confidence);
    Some(Emit {
        technique_id: technique_id?,
        sub_technique_id: sub_technique_id.flatten(),
        tactic: tactic?,
        confidence: confidence?,
    })
}

fn attack_id(
    values: &mut Values<'_, '_>,
    node: NodeId,
    shaped: fn(&str) -> bool,
    expected: &str,
) -> Option<String> {
    let id = values.text(node)?;
    if !shaped(&id) {
        let message = format!("{} is not shaped like ATT&CK's ids: {expected}", Quoted(&id));
        values.add(Code::AttackId, node, message);
    }
    Some(id)
}

fn confidence(values: &mut Values<'_, '_>, node: NodeId) -> Option<f64> {
    if let NodeKind::Plain(text) | NodeKind::Text(text) = &values.node(node).kind
        && let Some(share) = share(text)
    {
        let message = format!("expected a number from 0 to 1, found {}", Quoted(text));
        values.advise(Code::OutOfRange, node, message, format!("{share}?"));
        return None;
    }
    let number = values.number(node)?;
    if (0.0..=1.0).contains(&number) {
        return Some(number);
    }
    values.add(Code::OutOfRange, node, format!("expected a number from 0 to 1, found {number}"));
    None
}

/// The intended value of a confidence in percent or with a comma: `90`, `90%`, `0,9`. `None` if it is neither.
fn share(text: &str) -> Option<f64> {
    if let Some((whole, part)) = text.split_once(',')
        && matches!(whole, "0" | "1")
    {
        return format!("{whole}.{part}").parse().ok();
    }
    let percent: f64 = text.strip_suffix('%').unwrap_or(text).trim_end().parse().ok()?;
    ((2.0..=100.0).contains(&percent) || text.ends_with('%')).then_some(percent / 100.0)
}

fn known_tactic(values: &mut Values<'_, '_>, node: NodeId, attack: &Attack, id: &str) -> Option<()> {
    if attack.tactic(id).is_none() {
        let message = format!("ATT&CK {} has no tactic `{id}`", attack.version());
        values.add(Code::AttackUnknown, node, message);
    }
    Some(())
}

/// Compares a technique or sub-technique with ATT&CK, and with the tactic in the same mapping.
fn known_technique(
    values: &mut Values<'_, '_>,
    node: NodeId,
    attack: &Attack,
    id: &str,
    tactic: Option<&str>,
) {
    let Some(technique) = attack.technique(id) else {
        let message = format!("ATT&CK {} has no technique `{id}`", attack.version());
        return values.add(Code::AttackUnknown, node, message);
    };
    let name = &technique.name;
    match &technique.status {
        Status::Current => {}
        Status::Deprecated => {
            let message = format!("ATT&CK advises against `{id}` ({name}): it is deprecated");
            values.add(Code::AttackDeprecated, node, message);
        }
        Status::Revoked(_) => {
            let message = format!("ATT&CK {} has revoked `{id}` ({name})", attack.version());
            return match attack.successor(id) {
                Some((next, successor)) => {
                    let help = format!("it is now `{next}` ({})", successor.name);
                    values.advise(Code::AttackRevoked, node, message, help);
                }
                None => values.add(Code::AttackRevoked, node, message),
            };
        }
    }
    if let Some((tactic_id, tactic)) = tactic.and_then(|id| Some((id, attack.tactic(id)?)))
        && !technique.tactics.iter().any(|tactic| tactic == tactic_id)
    {
        another_tactic(values, node, attack, (id, technique), (tactic_id, tactic));
    }
}

fn another_tactic(
    values: &mut Values<'_, '_>,
    node: NodeId,
    attack: &Attack,
    (id, technique): (&str, &Technique),
    (tactic_id, tactic): (&str, &Tactic),
) {
    if technique.domain != tactic.domain {
        let message = format!(
            "`{id}` ({}) is of the {} matrix, `{tactic_id}` ({}) of the {} matrix",
            technique.name,
            technique.domain.as_str(),
            tactic.name,
            tactic.domain.as_str()
        );
        return values.add(Code::AttackDomain, node, message);
    }
    let tactics = technique.tactics.iter().map(|id| match attack.tactic(id) {
        Some(tactic) => format!("{id} ({})", tactic.name),
        None => id.clone(),
    });
    let tactics = tactics.collect::<Vec<_>>().join(" or ");
    let message =
        format!("`{id}` ({}) belongs to {tactics}, not to {tactic_id} ({})", technique.name, tactic.name);
    values.add(Code::AttackTactic, node, message);
}

/// Adds a finding if the techniques of one rule are of two matrices.
fn one_matrix(
    values: &mut Values<'_, '_>,
    node: NodeId,
    attack: &Attack,
    emit: &Emit,
    first: &mut Option<(String, Domain)>,
) {
    let Some(technique) = attack.technique(&emit.technique_id) else { return };
    match first {
        None => *first = Some((emit.technique_id.clone(), technique.domain)),
        Some((_, domain)) if *domain == technique.domain => {}
        Some((other, domain)) => {
            let message = format!(
                "`{}` is of the {} matrix, `{other}` of the same rule of the {} matrix",
                emit.technique_id,
                technique.domain.as_str(),
                domain.as_str()
            );
            values.add(Code::AttackDomain, node, message);
        }
    }
}
