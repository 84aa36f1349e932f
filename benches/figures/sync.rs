//! From the directory to the table.

use std::collections::HashMap;

use crate::contest::{Contender, Figure, Goal, Unit};
use crate::host::{Host, Rules};
use crate::plain;
use crate::servers::Databases;

/// A first `sync` into an empty table.
pub(crate) fn cold<'a>(
    rules: &'a Rules,
    databases: &'a Databases,
    backend: &'static str,
    count: usize,
) -> Figure<'a> {
    let figure =
        Figure::new(format!("cold sync, {count} rules, {backend}"), Unit::Seconds, move |contender| {
            let directory = rules.directory(count);
            let url = databases.fresh(backend);
            vec![match contender {
                Contender::Build(build) => {
                    Host::on(build, directory.path(), url.address().to_owned()).run(&["sync"])
                }
                Contender::Floor => databases.block_on(async {
                    let mut hand = plain::hand(url.address()).await;
                    plain::written(directory.path(), &mut hand).await
                }),
            }]
        });
    match (backend, count) {
        ("sqlite", 10_000) => figure.goal(Goal::Times(2.0)).series("cold sync", count),
        ("sqlite", _) => figure.series("cold sync", count),
        _ => figure,
    }
}

/// A `sync` that finds nothing to do, and remembers nothing: the floor compares all files with all rows.
pub(crate) fn unchanged<'a>(rules: &'a Rules, databases: &'a Databases, count: usize) -> Figure<'a> {
    let mut hosts: HashMap<Contender, Host> = HashMap::new();
    let mut written = None;
    Figure::new(format!("no-change sync, {count} rules"), Unit::Seconds, move |contender| {
        let directory = rules.directory(count);
        let Contender::Build(build) = contender else {
            let (_database, hand) = written.get_or_insert_with(|| {
                let database = databases.fresh("sqlite");
                let hand = databases.block_on(async {
                    let mut hand = plain::hand(database.address()).await;
                    plain::written(directory.path(), &mut hand).await;
                    hand
                });
                (database, hand)
            });
            return vec![databases.block_on(plain::compared(directory.path(), hand))];
        };
        let host = hosts.entry(contender.clone()).or_insert_with(|| {
            let host = Host::on_sqlite(build, directory.path());
            host.run(&["sync"]);
            host
        });
        vec![host.run(&["sync"])]
    })
}

/// The same, answered by the master that runs.
pub(crate) fn unchanged_beside_a_master(rules: &Rules, count: usize) -> Figure<'_> {
    let mut hosts: HashMap<Contender, Host> = HashMap::new();
    let name = format!("no-change sync, {count} rules, a master runs");
    let figure = Figure::new(name, Unit::Seconds, move |contender| {
        let directory = rules.directory(count);
        let Contender::Build(build) = contender else { return vec![plain::hashed(directory.path())] };
        let host = hosts.entry(contender.clone()).or_insert_with(|| {
            let mut host = Host::on_sqlite(build, directory.path());
            host.run(&["sync"]);
            host.start("master");
            host.wait_for_master();
            // The master's first poll reads everything.
            host.run(&["sync"]);
            host
        });
        vec![host.run(&["sync"])]
    });
    let figure = figure.series("no-change sync, a master runs", count);
    if count == 100_000 { figure.goal(Goal::AtMost(0.3)) } else { figure }
}
