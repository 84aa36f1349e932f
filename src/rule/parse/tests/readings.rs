//! How the two versions of YAML read plain scalars.

use crate::rule::parse::scalar::{Reading, same, yaml_1_1, yaml_1_2};

#[test]
fn where_the_two_agree() {
    for (text, reading) in [
        ("", Reading::Null),
        ("~", Reading::Null),
        ("NULL", Reading::Null),
        ("true", Reading::Bool(true)),
        ("False", Reading::Bool(false)),
        ("0", Reading::Int(0)),
        ("-12", Reading::Int(-12)),
        ("+7", Reading::Int(7)),
        ("007", Reading::Int(7)),
        ("0x1F", Reading::Int(31)),
        ("1.", Reading::Float(1.0)),
        ("01.5", Reading::Float(1.5)),
        (".5", Reading::Float(0.5)),
        ("1.0e+3", Reading::Float(1000.0)),
        ("-1.5E-2", Reading::Float(-0.015)),
        (".inf", Reading::Float(f64::INFINITY)),
        ("-.INF", Reading::Float(f64::NEG_INFINITY)),
        (".NaN", Reading::Float(f64::NAN)),
        ("tRue", Reading::Text),
        ("y", Reading::Text),
        ("1.2.3", Reading::Text),
        ("T1083", Reading::Text),
        ("0:30", Reading::Text),
        ("1:60", Reading::Text),
        ("-", Reading::Text),
        ("1e", Reading::Text),
        ("0xg", Reading::Text),
        ("2026-5-17", Reading::Text),
        ("99999999999999999999999999999999999999999", Reading::HugeInt),
    ] {
        assert!(same(yaml_1_1(text), reading), "{text}: {:?} in YAML 1.1", yaml_1_1(text));
        assert!(same(yaml_1_2(text), reading), "{text}: {:?} in YAML 1.2", yaml_1_2(text));
    }
}

#[test]
fn where_they_do_not() {
    for (text, old, new) in [
        ("yes", Reading::Bool(true), Reading::Text),
        ("OFF", Reading::Bool(false), Reading::Text),
        ("010", Reading::Int(8), Reading::Int(10)),
        ("-010", Reading::Int(-8), Reading::Int(-10)),
        ("08", Reading::Text, Reading::Int(8)),
        ("0o10", Reading::Text, Reading::Int(8)),
        ("-0x1F", Reading::Int(-31), Reading::Text),
        ("0b101", Reading::Int(5), Reading::Text),
        ("1_000", Reading::Int(1000), Reading::Text),
        ("0_", Reading::Int(0), Reading::Text),
        ("0x_", Reading::Fails, Reading::Text),
        ("12:30:45", Reading::Int(45_045), Reading::Text),
        ("-1:30", Reading::Int(-90), Reading::Text),
        ("1:30.5", Reading::Float(90.5), Reading::Text),
        ("1_0.5", Reading::Float(10.5), Reading::Text),
        ("._5", Reading::Float(0.5), Reading::Text),
        ("._", Reading::Fails, Reading::Text),
        ("1e3", Reading::Text, Reading::Float(1000.0)),
        ("1.0e3", Reading::Text, Reading::Float(1000.0)),
        ("-.5", Reading::Text, Reading::Float(-0.5)),
        ("2026-05-17", Reading::Time, Reading::Text),
        ("2026-5-17 7:25:09.1 +01:30", Reading::Time, Reading::Text),
        ("2026-02-30", Reading::Fails, Reading::Text),
        ("2026-05-17T25:00:00Z", Reading::Fails, Reading::Text),
        ("<<", Reading::Merge, Reading::Text),
        ("=", Reading::Fails, Reading::Text),
    ] {
        assert!(same(yaml_1_1(text), old), "{text}: {:?} in YAML 1.1", yaml_1_1(text));
        assert!(same(yaml_1_2(text), new), "{text}: {:?} in YAML 1.2", yaml_1_2(text));
    }
}
