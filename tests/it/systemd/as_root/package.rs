//! The Debian package: its content, and what remains after its removal and after root's commands.

use std::process::Command;

use super::{installed, package, python_package, save_rule};
use crate::support::swarm::text;

#[test]
#[ignore = "needs root and lintian"]
fn lintian_finds_neither_an_error_nor_a_warning() {
    for package in [package(), &python_package()] {
        let found = Command::new("lintian").arg("--allow-root").arg(package).output().unwrap();
        let said = (text(&found.stdout), found.status.success());
        assert_eq!(said, (String::new(), true), "{}", text(&found.stderr));
    }
    let changelog = include_str!("../../../../packaging/debian/changelog");
    assert!(changelog.starts_with(concat!("rulesyncd (", env!("CARGO_PKG_VERSION"), "-")));
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn its_documents_lead_to_what_is_there_and_its_python_client_follows_the_rules() {
    let container = installed();
    let documents = container.sh("find /usr/share/doc/rulesyncd -name '*.md'");
    let mut links = 0;
    for document in documents.lines() {
        let folder = document.rsplit_once('/').unwrap().0;
        let markdown = std::fs::read_to_string(container.path(document)).unwrap();
        for link in markdown.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.contains("://") || target.is_empty() {
                continue;
            }
            let path = if target.starts_with('/') { target.to_owned() } else { format!("{folder}/{target}") };
            assert!(container.try_sh(&format!("test -e {path}")).status.success(), "{document}: {link}");
            links += 1;
        }
    }
    assert!(links > 8, "{links}");
    for file in [
        "protocol.md",
        "changelog.gz",
        "changelog.Debian.gz",
        "copyright",
        "sbom.cdx.json",
        "third-party-notices.txt.gz",
    ] {
        container.sh(&format!("test -s /usr/share/doc/rulesyncd/{file}"));
    }
    for unit in ["rulesyncd-master.service", "rulesyncd-worker.service", "rulesyncd-worker.socket"] {
        for page in container.property(unit, "Documentation").split_whitespace() {
            let page =
                page.trim_matches('"').strip_prefix("man:").unwrap_or_else(|| panic!("{unit}: {page}"));
            let (name, section) = page.trim_end_matches(')').split_once('(').unwrap();
            container.sh(&format!("man -P cat {section} {name} > /dev/null"));
        }
    }
    let manual = container.sh("man -P cat 5 rulesyncd.yaml");
    for setting in rulesyncd::config::SETTINGS {
        assert!(manual.contains(&format!("{}:", setting.name())), "{}: {manual}", setting.key);
    }

    save_rule(&container, "A", 1);
    container.sh("systemctl start rulesyncd-master rulesyncd-worker");
    container.wait_for("systemctl show -P StatusText rulesyncd-worker", "1 rule in sync");
    container.put(&python_package(), "/home/python3-rulesyncd.deb");
    container.sh("dpkg -i /home/python3-rulesyncd.deb");
    let heard = container.sh(
        "timeout 60 python3 - <<'END'
import asyncio, importlib.metadata
from rulesyncd import RuleState, RuleStore

async def main():
    async with RuleStore() as store:
        print([rule.rule_id for rule in await store.load_compiled()])
        print((await store.set_state('A', RuleState('disabled'))).state, importlib.metadata.version('rulesyncd'))

asyncio.run(main())
END",
    );
    assert_eq!(heard, format!("['A']\ndisabled {}\n", env!("CARGO_PKG_VERSION")));
    container
        .sh("test -d /usr/lib/python3/dist-packages/rulesyncd/__pycache__; dpkg --purge python3-rulesyncd");
    container.sh("test ! -e /usr/lib/python3/dist-packages/rulesyncd");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_purge_leaves_nothing_of_the_package_and_names_what_is_the_operators() {
    let container = installed();
    let left = "find /etc /run /usr /var/lib -xdev -name '*rulesyncd*'; \
                getent passwd | grep rulesyncd || true; getent group | grep rulesyncd || true";
    let said = container.sh("dpkg --purge rulesyncd 2>&1");
    assert!(!said.contains("stays"), "{said}");
    assert_eq!(container.sh(left), "");

    container.sh("dpkg -i /home/rulesyncd.deb; systemctl start rulesyncd-master rulesyncd-worker");
    save_rule(&container, "A", 1);
    container.wait_for("systemctl show -P StatusText rulesyncd-worker", "1 rule in sync");
    // A cache that was set aside is none of the operator's, nor is the newest release that a worker with trust saw.
    container.sh("systemctl stop rulesyncd-worker; cd /var/lib/rulesyncd-worker; test -f catalogue.ndjson
         cp catalogue.ndjson catalogue.ndjson.corrupt; cp catalogue.ndjson catalogue.ndjson.floor");
    let said = container.sh("dpkg --purge rulesyncd 2>&1");
    assert!(
        said.contains("what you made stays: /etc/rulesyncd/rules /etc/rulesyncd /var/lib/rulesyncd"),
        "{said}"
    );
    container.sh(
        "test -f /etc/rulesyncd/rules/A.yaml; test -f /var/lib/rulesyncd/rules.db; test ! -e /run/rulesyncd
         test ! -e /var/lib/rulesyncd-worker; test ! -e /etc/rulesyncd/master.yaml
         test $(stat -c %U /var/lib/rulesyncd/rules.db) != UNKNOWN",
    );
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn what_root_synchronises_first_the_service_writes_afterwards() {
    let container = installed();
    save_rule(&container, "A", 1);
    container.sh("rulesyncd sync");
    let owners = container.sh("stat -c '%n %U' /var/lib/rulesyncd /var/lib/rulesyncd/*");
    let owner = owners.split_whitespace().nth(1).unwrap();
    assert_ne!(owner, "root");
    assert!(owners.contains("rules.db.lock") && owners.lines().all(|line| line.ends_with(owner)), "{owners}");
    container.sh("systemctl start rulesyncd-master");
    container.wait_for("systemctl show -P StatusText rulesyncd-master", "1 rule in sync");
    save_rule(&container, "A", 2);
    container.wait_for("rulesyncd why A", "2");
    container.sh(
        "rulesyncd state set A disabled && systemctl restart rulesyncd-master && rulesyncd state clear A",
    );
    save_rule(&container, "B", 1);
    container.wait_for("systemctl show -P StatusText rulesyncd-master", "2 rules in sync");
}
