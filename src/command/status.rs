//! `rulesyncd status`: the state of the daemons of this host.

mod check;
pub(super) mod human;
mod prometheus;

use std::path::Path;

use clap::Args;
use serde_json::Value;

use super::common::Daemons;
use super::{Failure, Outcome};
use crate::client::{ClientError, ask};
use crate::clock::{Clock as _, SystemClock};
use crate::command::flags::{ConfigFlags, SocketFlags, prepare_quietly};
use crate::command::print::print;
use crate::config::ValueOrigin;
use crate::wire::Op;

/// Show the state of the daemons of this host
///
/// Without --socket, the command asks the master and the worker of the configuration, and shows those that run. A
/// daemon that does not answer within 5 s is named, with exit code 3.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rulesyncd status\n  rulesyncd status --check\n  \
                        rulesyncd status --format prometheus > /var/lib/prometheus/node-exporter/rulesyncd.prom\n\n\
                        --check ends with the exit codes of monitoring plugins: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    socket: SocketFlags,
    /// Print one line, whether all is well, and exit as a monitoring plugin
    ///
    /// A daemon must answer where its unit is enabled, its socket exists or the configuration names it.
    #[arg(long, conflicts_with_all = ["format", "json"])]
    check: bool,
    /// The format of the output.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Print one JSON object for each daemon, as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// The format of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Human,
    /// One JSON object for each daemon.
    Json,
    /// The metrics, for the textfile collector of Prometheus' node_exporter.
    Prometheus,
}

/// A daemon that was asked, and its answer.
#[derive(Debug)]
struct Asked {
    name: &'static str,
    /// Whether it should run on this host.
    is_expected: bool,
    answer: Result<Value, ClientError>,
}

pub(crate) fn run(args: StatusArgs) -> Outcome {
    if args.check {
        return match ask_all(args.socket, args.config) {
            Ok(asked) => check::report(&asked, SystemClock.now()),
            Err(failure) => check::cannot_tell(&failure),
        };
    }
    let asked = ask_all(args.socket, args.config)?;
    if args.format == Format::Prometheus {
        return print(&prometheus::render(&asked));
    }
    let is_json = args.json || args.format == Format::Json;
    let answered: Vec<&Value> = asked.iter().filter_map(|asked| asked.answer.as_ref().ok()).collect();
    if answered.is_empty() {
        let why = asked.iter().filter_map(|asked| asked.answer.as_ref().err()).map(ToString::to_string);
        return Err(environment!(why.collect::<Vec<_>>().join("\n")));
    }
    let show = if is_json { |status: &Value| format!("{status}\n") } else { human::human };
    let texts: Vec<String> = answered.into_iter().map(show).collect();
    print(&texts.join(if is_json { "" } else { "\n" }))?;
    // A daemon that is not here, or that this user may not ask, has not failed.
    let hung = asked.iter().filter_map(|asked| match &asked.answer {
        Err(error) if !matches!(error, ClientError::Connect { .. }) => {
            Some(format!("no answer: the {}: {error}", asked.name))
        }
        _ => None,
    });
    let hung: Vec<_> = hung.collect();
    if hung.is_empty() { Ok(()) } else { Err(environment!(hung.join("\n"))) }
}

/// Asks the daemon at the named socket, or both daemons of this host at once.
fn ask_all(socket: SocketFlags, config: ConfigFlags) -> Result<Vec<Asked>, Failure> {
    let is_one = socket.is_given();
    let config = prepare_quietly(socket.apply_to(config.flags()))?;
    Ok(super::block_on(super::Threads::None, async {
        if is_one {
            let answer = ask(&config.worker.socket, Op::Status {}).await;
            let is_master = answer.as_ref().is_ok_and(|status| status["mode"] == "master");
            let name = if is_master { "master" } else { "worker" };
            return vec![Asked { name, is_expected: true, answer }];
        }
        let Daemons { master, worker } = Daemons::ask(&config).await;
        let is_expected = |name: &'static str, key: &str, socket: &Path| {
            config.origin(key) != ValueOrigin::Default || socket.exists() || is_enabled(name)
        };
        vec![
            Asked {
                name: "master",
                is_expected: is_expected("master", "master.socket", &config.master.socket),
                answer: master,
            },
            Asked {
                name: "worker",
                is_expected: is_expected("worker", "worker.socket", &config.worker.socket),
                answer: worker,
            },
        ]
    })?)
}

/// Whether systemd starts the daemon on this host.
fn is_enabled(name: &str) -> bool {
    ["multi-user.target.wants", "sockets.target.wants"].iter().any(|wants| {
        ["service", "socket"].iter().any(|kind| {
            let link = format!("/etc/systemd/system/{wants}/rulesyncd-{name}.{kind}");
            Path::new(&link).symlink_metadata().is_ok()
        })
    })
}
