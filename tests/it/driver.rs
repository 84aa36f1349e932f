//! A faulty or hostile database server only costs freshness: whatever the driver makes of its replies, both daemons
//! survive, and the stream, the requests and the signals are served.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::forged::{Forged, Says, message, resident};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Daemon, Subscriber, Swarm, wait_for};

/// How long a request may take while the driver is in trouble: the median of many, on a busy machine too. The driver
/// is given up after a second.
const AT_ONCE: Duration = Duration::from_millis(500);

/// How long any request may take, and a stop.
const SOON: Duration = Duration::from_secs(10);

/// How often the daemons are measured while the fault lasts.
const BETWEEN_SAMPLES: Duration = Duration::from_millis(20);

const PANICKED: &str = "the database's driver panicked at ";

/// A master and a worker with a database that replies as the test wants.
struct Deceived {
    forged: Forged,
    swarm: Swarm,
    master: Daemon,
    worker: Daemon,
    _server: Server,
}

impl Deceived {
    async fn by(kind: Kind) -> Self {
        let server = Server::start(kind, &[]).await;
        server.create("rules").await;
        let forged = Forged::before(&server);
        let swarm = Swarm::on(forged.address("rules"));
        swarm.save("R1.yaml", rule_text("R1", 1));
        let quick = |command: &mut std::process::Command| {
            command.env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "1s");
        };
        let (master, worker) = (swarm.daemon("master", quick), swarm.daemon("worker", quick));
        wait_for("the first rule", || (swarm.subscribe().snapshot().len() == 1).then_some(()));
        Self { forged, swarm, master, worker, _server: server }
    }

    /// Makes the database send this until both daemons have noticed, and checks them meanwhile.
    fn hear(&self, says: Says) {
        let noticed = |daemon: &Daemon| daemon.count_in_log(" ERROR ");
        let before = (noticed(&self.master), noticed(&self.worker));
        self.forged.say(says.clone());
        let (begun, mut waits) = (Instant::now(), [Vec::new(), Vec::new()]);
        while begun.elapsed() < Duration::from_secs(5)
            || noticed(&self.master) == before.0
            || noticed(&self.worker) == before.1
        {
            assert!(begun.elapsed() < Duration::from_secs(60), "not noticed: {says:?}");
            let asked = Instant::now();
            let mut subscriber = self.swarm.subscribe();
            assert_eq!(subscriber.snapshot_of_one(), "R1");
            waits[0].push(asked.elapsed());
            let asked = Instant::now();
            assert_eq!(status(&self.swarm.path("master.sock"))["mode"], "master");
            waits[1].push(asked.elapsed());
            std::thread::sleep(BETWEEN_SAMPLES);
        }
        for (who, mut waits) in ["a subscriber", "who asked the master"].into_iter().zip(waits) {
            waits.sort_unstable();
            let (middle, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
            assert!(middle < AT_ONCE && longest < SOON, "{who} waited for {middle:?}, at most {longest:?}");
        }
        assert!(self.forged.deceived() > 0, "the daemons were told the truth");
        for (daemon, before) in [(&self.master, before.0), (&self.worker, before.1)] {
            let memory = resident(daemon.pid());
            assert!(memory < 128 * 1024, "{memory} KiB: {}", daemon.log());
            // A record when the outage begins, and when its cause changes, but not for each try.
            assert!(noticed(daemon) <= before + 3, "{}", daemon.log());
            assert!(daemon.log().lines().count() < 100, "{}", daemon.log());
            assert!(!daemon.log().contains("panicked at /"), "{}", daemon.log());
        }
    }

    fn says_that_the_driver_panicked(&self) {
        let worker = &status(&self.swarm.socket())["database"];
        assert_eq!(worker["state"], "down", "{worker}");
        for status in [worker, &status(&self.swarm.path("master.sock"))] {
            assert!(status["driver_failures"].as_u64().unwrap() > 0, "{status}");
            let why = status["last_error"].as_str().unwrap();
            assert!(why.contains(PANICKED), "{why}");
        }
    }

    /// Makes the database reply correctly again: both daemons recover.
    fn recover(&self, version: i32) {
        let mut subscriber = self.swarm.subscribe();
        subscriber.snapshot();
        self.forged.say(Says::TheTruth);
        self.swarm.save("R1.yaml", rule_text("R1", version));
        assert_eq!(subscriber.change()["rule_version"], version);
    }

    /// Both daemons handle a signal while the database sends this.
    fn stop_under(self, says: Says) {
        self.hear(says);
        for daemon in [self.master, self.worker] {
            let begun = Instant::now();
            daemon.stop();
            assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
        }
    }
}

impl Subscriber {
    /// Reads a snapshot of one rule, and returns its version.
    fn snapshot_of_one(&mut self) -> String {
        let rules = self.snapshot();
        assert_eq!(rules.len(), 1, "{rules:?}");
        rules[0]["rule_id"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn status(socket: &std::path::Path) -> Value {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(b"{\"op\":\"status\"}\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    let answer = wait_for("the answer", || {
        let line: Value = serde_json::from_str(&lines.next()?.unwrap()).unwrap();
        (line["type"] == "response").then_some(line)
    });
    answer["result"].clone()
}

/// An authentication request without a type: the driver reads past its end.
fn without_kind() -> Says {
    Says::Once(message(b'R', b""))
}

/// An error that ends before its number: the driver reads past its end.
fn half_an_error() -> Says {
    Says::Once(b"\x01\x00\x00\x00\xff".to_vec())
}

#[tokio::test]
#[ignore = "starts a server"]
async fn a_panic_of_the_driver_is_an_outage_on_postgres() {
    let deceived = Deceived::by(Kind::Postgres).await;
    deceived.hear(without_kind());
    deceived.says_that_the_driver_panicked();
    deceived.recover(2);
    deceived.stop_under(without_kind());
}

#[tokio::test]
#[ignore = "starts a server"]
async fn a_panic_of_the_driver_is_an_outage_on_mariadb() {
    let deceived = Deceived::by(Kind::MariaDb).await;
    deceived.hear(half_an_error());
    deceived.says_that_the_driver_panicked();
    deceived.recover(2);
    deceived.stop_under(half_an_error());
}

#[tokio::test]
#[ignore = "starts a server"]
async fn notices_without_end_starve_nobody_and_are_not_logged() {
    let deceived = Deceived::by(Kind::Postgres).await;
    let notice = message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mlook at me\0\0");
    deceived.hear(Says::Forever(notice.clone()));
    assert!(!deceived.worker.log().contains("look at me"));
    deceived.recover(2);
    deceived.stop_under(Says::Forever(notice));
}

#[tokio::test]
#[ignore = "starts a server"]
async fn rows_without_end_starve_nobody() {
    let deceived = Deceived::by(Kind::Postgres).await;
    deceived.hear(Says::RowsWithoutEnd);
    deceived.recover(2);
    deceived.stop_under(Says::RowsWithoutEnd);
}

#[tokio::test]
#[ignore = "starts a server"]
async fn a_command_says_in_one_line_that_the_driver_failed() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let forged = Forged::before(&server);
    forged.say(without_kind());
    let swarm = Swarm::on(forged.address("postgres"));
    for command in [&["state", "list"][..], &["sync"], &["state", "set", "R1", "disabled"], &["verify"]] {
        let ended = swarm.run(command);
        let told = String::from_utf8(ended.stderr).unwrap();
        assert_eq!((ended.status.code(), told.lines().count()), (Some(3), 1), "{command:?}: {told}");
        assert!(told.contains(PANICKED), "{told}");
    }
}

/// A poll may take longer than systemd's watchdog allows.
#[tokio::test]
#[ignore = "starts a server"]
async fn a_database_that_takes_its_time_is_no_daemon_that_hangs() {
    let server = Server::start(Kind::Postgres, &[]).await;
    server.create("rules").await;
    let forged = Forged::before(&server);
    let swarm = Swarm::on(forged.address("rules"));
    for number in 0..20 {
        swarm.save(&format!("R{number}.yaml"), rule_text(&format!("R{number}"), 1));
    }
    let watched = |mode: &str| {
        let notify = UnixDatagram::bind(swarm.path(&format!("{mode}.notify"))).unwrap();
        notify.set_nonblocking(true).unwrap();
        let daemon = swarm.daemon(mode, |command| {
            command
                .env("NOTIFY_SOCKET", swarm.path(&format!("{mode}.notify")))
                .env("WATCHDOG_USEC", "5000000");
            command
                .env("RULESYNCD_WORKER_FULL_SCAN_INTERVAL", "1s")
                .env("RULESYNCD_MASTER_RESCAN_INTERVAL", "1s");
            command.env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "1s");
        });
        (notify, daemon)
    };
    let daemons = [watched("master"), watched("worker")];
    wait_for("the rules", || (swarm.subscribe().snapshot().len() == 20).then_some(()));
    forged.say(Says::Slowly(Duration::from_millis(900)));
    let begun = Instant::now();
    let mut last = [begun; 2];
    while begun.elapsed() < Duration::from_secs(10) {
        for ((notify, daemon), last) in daemons.iter().zip(&mut last) {
            let mut message = [0; 4096];
            while let Ok(length) = notify.recv(&mut message) {
                if message[..length].starts_with(b"WATCHDOG=1") {
                    *last = Instant::now();
                }
            }
            assert!(last.elapsed() < Duration::from_secs(5), "no sign of life: {}", daemon.log());
        }
        std::thread::sleep(BETWEEN_SAMPLES);
    }
    assert!(forged.deceived() > 10, "no row came slowly");
}

/// Many long rows over a slow network: the statement lasts longer than an answer may take to begin.
#[tokio::test]
#[ignore = "starts a server"]
async fn a_first_load_over_a_slow_network_comes_to_its_end() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let master = Swarm::on(server.create("rules").await);
    for number in 0..40 {
        let id = format!("R{number}");
        let long = format!("{}description: {}\n", rule_text(&id, 1), "long ".repeat(12_000));
        master.save(&format!("{id}.yaml"), long);
    }
    master.succeed(&["sync"]);
    let forged = Forged::before(&server);
    forged.say(Says::Slowly(Duration::from_millis(100)));
    let swarm = Swarm::on(forged.address("rules"));
    let worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "1s");
    });
    wait_for("the rules", || (swarm.subscribe().snapshot().len() == 40).then_some(()));
    assert_eq!(worker.count_in_log(" ERROR "), 0, "{}", worker.log());
}
