//! From the directory to the table, and along the whole way.

use std::collections::HashMap;
use std::time::Duration;

use rand_pause::Pauses;

use crate::contest::{Contender, Figure, Goal, Unit};
use crate::host::{Host, Rules, Subscriber, rule_text};
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

/// From a saved file to the change at a subscriber, master and worker as two processes.
pub(crate) fn heard<'a>(
    rules: &'a Rules,
    databases: &'a Databases,
    backend: &'static str,
    count: usize,
) -> Figure<'a> {
    /// In the seconds after a load each poll reads it again.
    const AT_REST: Duration = Duration::from_secs(7);
    // MySQL is polled once a second.
    let saves = if backend == "mysql" { 10 } else { 100 };
    let mut hosts = HashMap::new();
    let mut hand = None;
    let mut version = 1;
    let mut pauses = Pauses::default();
    let name = format!("saved to heard, {count} rules, {backend}");
    let figure = Figure::new(name, Unit::Seconds, move |contender| {
        let Contender::Build(build) = contender else {
            let (_database, hand) = hand.get_or_insert_with(|| {
                let database = databases.fresh(backend);
                let directory = rules.directory(count);
                let hand = databases.block_on(async {
                    let mut hand = plain::hand(database.address()).await;
                    plain::written(directory.path(), &mut hand).await;
                    hand
                });
                (database, hand)
            });
            return (0..saves)
                .map(|_| {
                    version += 1;
                    pauses.next();
                    databases.block_on(plain::committed(hand, version))
                })
                .collect();
        };
        let (_database, own, host, subscriber) = hosts.entry(contender.clone()).or_insert_with(|| {
            let database = databases.fresh(backend);
            let own = tempfile::tempdir().unwrap();
            for number in 0..count {
                std::fs::write(own.path().join(format!("R{number:06}.yaml")), rule_text(number, 1)).unwrap();
            }
            let mut host = Host::on(build, own.path(), database.address().to_owned());
            host.run(&["sync"]);
            host.start("master");
            host.start("worker");
            host.wait_for_master();
            let mut subscriber = Subscriber::to(&host, r#"{"op":"subscribe"}"#);
            subscriber.until("snapshot_end");
            std::thread::sleep(AT_REST);
            (database, own, host, subscriber)
        });
        let beside = host.path("saved");
        (0..saves)
            .map(|_| {
                version += 1;
                pauses.next();
                std::fs::write(&beside, rule_text(version % count, version)).unwrap();
                let start = std::time::Instant::now();
                std::fs::copy(&beside, own.path().join(".new")).unwrap();
                std::fs::rename(
                    own.path().join(".new"),
                    own.path().join(format!("R{:06}.yaml", version % count)),
                )
                .unwrap();
                let change = subscriber.until("change");
                let took = start.elapsed().as_secs_f64();
                assert_eq!(change["rule_version"], version);
                took
            })
            .collect()
    });
    let figure = figure.rounds(3).quantiles(&[0.5, 0.99]);
    match (backend, count) {
        ("mysql", _) => figure,
        (_, 1_000) => figure.goal(Goal::Above(0.003)),
        ("sqlite", _) => figure.series("saved to heard", count),
        _ => figure,
    }
}

mod rand_pause {
    use std::time::Duration;

    /// Pauses of up to 20 ms, so that no save meets the same moment of anyone's timer.
    #[derive(Default)]
    pub(super) struct Pauses(u64);

    impl Pauses {
        pub(super) fn next(&mut self) {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_micros(1_000 + (self.0 >> 33) % 20_000));
        }
    }
}
