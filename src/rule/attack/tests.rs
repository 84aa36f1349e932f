use super::*;

#[test]
fn the_built_in_table_is_whole_and_its_ids_are_shaped_as_ids() {
    let attack = Attack::built_in();
    assert_eq!(attack.version(), env!("ATTACK_VERSION"));
    assert!(attack.tactics.len() > 30 && attack.techniques.len() > 1_000);
    for (id, tactic) in &attack.tactics {
        assert!(is_tactic(id) && !tactic.name.is_empty(), "{id}");
    }
    for (id, technique) in &attack.techniques {
        assert!(is_technique(id) && !technique.name.is_empty(), "{id}");
        if technique.status == Status::Current {
            assert!(!technique.tactics.is_empty(), "{id} has no tactic");
        }
        for tactic in &technique.tactics {
            let tactic = attack.tactic(tactic).unwrap_or_else(|| panic!("{id} names {tactic}"));
            assert_eq!(tactic.domain, technique.domain, "{id}");
        }
        if let Status::Revoked(Some(next)) = &technique.status {
            assert!(attack.technique(next).is_some(), "{id} became {next}");
        }
    }
}

#[test]
fn what_is_written_is_read_alike() {
    let attack = Attack::built_in();
    assert_eq!(&table::read(&attack.to_table()), attack);
}

#[test]
fn a_revoked_technique_leads_to_the_one_that_is_current() {
    let attack = Attack::built_in();
    let (id, technique) = attack.successor("T1086").unwrap();
    assert_eq!((id, technique.name.as_str()), ("T1059.001", "PowerShell"));
    assert_eq!(attack.successor("T1059.001"), None);
    assert_eq!(attack.successor("T9999"), None);
}

#[test]
fn revocations_in_a_circle_lead_nowhere() {
    let line = |id, next| format!("technique\t{id}\tenterprise\trevoked\t{next}\tTA0001\tname\n");
    let attack = table::read(&(line("T0001", "T0002") + &line("T0002", "T0001")));
    assert_eq!(attack.successor("T0001"), None);
}

/// A bundle like MITRE's, with one object of each kind that is read.
const BUNDLE: &str = r#"{"type":"bundle","id":"bundle--1","objects":[
 {"type":"x-mitre-collection","id":"x-mitre-collection--1","name":"Enterprise ATT&CK","x_mitre_version":"99.0","modified":"2031-01-01T00:00:00Z"},
 {"type":"x-mitre-tactic","id":"x-mitre-tactic--1","name":"Discovery","x_mitre_shortname":"discovery","external_references":[{"source_name":"mitre-attack","external_id":"TA0007"}]},
 {"type":"attack-pattern","id":"attack-pattern--1","name":"New Way","kill_chain_phases":[{"kill_chain_name":"mitre-attack","phase_name":"discovery"}],"external_references":[{"source_name":"mitre-attack","external_id":"T9000"}]},
 {"type":"attack-pattern","id":"attack-pattern--2","name":"Old Way","revoked":true,"kill_chain_phases":[{"kill_chain_name":"mitre-attack","phase_name":"discovery"}],"external_references":[{"source_name":"mitre-attack","external_id":"T8000"}]},
 {"type":"relationship","id":"relationship--1","relationship_type":"revoked-by","source_ref":"attack-pattern--2","target_ref":"attack-pattern--1"},
 {"type":"marking-definition","id":"marking-definition--1","definition":{"statement":"…"}}]}"#;

#[test]
fn a_bundle_replaces_its_matrix_and_leaves_the_others() {
    let mut attack = Attack::built_in().clone();
    attack.update_from_stix(BUNDLE.as_bytes()).unwrap();
    assert_eq!(attack.version(), "99.0");
    assert_eq!(attack.technique("T9000").unwrap().tactics, ["TA0007"]);
    assert_eq!(attack.successor("T8000").unwrap().0, "T9000");
    // What the bundle does not contain is then unknown; another matrix is unchanged.
    assert_eq!(attack.technique("T1083"), None);
    assert!(attack.techniques.values().any(|technique| technique.domain == Domain::Mobile));
    assert_eq!(table::read(&attack.to_table()), attack);
}

#[test]
fn what_is_no_bundle_changes_nothing() {
    let mut attack = Attack::built_in().clone();
    let empty = br#"{"type":"bundle","objects":[]}"#;
    assert!(matches!(attack.update_from_stix(empty), Err(InvalidBundle::Empty)));
    assert!(matches!(attack.update_from_stix(b"[1,2]"), Err(InvalidBundle::Json(_))));
    assert_eq!(&attack, Attack::built_in());
}
