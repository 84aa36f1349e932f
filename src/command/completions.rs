//! `rulesyncd completions`: completion for shells, and rule ids for it.

use std::ffi::OsStr;
use std::time::Duration;

use clap::Args;
use clap_complete::CompletionCandidate;
use clap_complete::env::Shells;

use super::Outcome;
use crate::client::{ClientError, SocketClient};
use crate::command::print::print;
use crate::command::reading::Reading;
use crate::config::{Config, Flags, MasterConfig, SystemFiles};
use crate::rule;
use crate::rulefile::{self, LinkPolicy, Listing};
use crate::wire::Subscribe;

/// How long a worker may take to answer, since a person waits for the completion.
const WORKER_TIMEOUT: Duration = Duration::from_secs(1);

/// The most files that are read for ids.
const MOST_FILES: usize = 2_000;

/// Print the completion script for a shell
///
/// It completes commands, flags, their values, and the ids of the rules of this host's worker or, without a worker,
/// of its rules directory.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: rulesyncd completions bash > /usr/share/bash-completion/completions/rulesyncd"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: CompletionsArgs) -> Outcome {
    let shell = args.shell.to_string();
    let shells = Shells::builtins();
    let unknown = || usage!("there are no completions for {shell}");
    let mut script = Vec::new();
    let program = "rulesyncd";
    shells.completer(&shell).ok_or_else(unknown)?.write_registration(
        "COMPLETE",
        program,
        program,
        program,
        &mut script,
    )?;
    print(&String::from_utf8_lossy(&script))
}

/// The rule ids with this prefix; none if no daemon or directory has any.
pub(super) fn rule_ids(begin: &OsStr) -> Vec<CompletionCandidate> {
    let begin = begin.to_string_lossy();
    let flags = Flags { quiet: true, system_files: SystemFiles::Both, ..Flags::default() };
    let Ok(config) = Config::load(&flags) else { return Vec::new() };
    let asked = super::block_on(super::Threads::None, async {
        tokio::time::timeout(WORKER_TIMEOUT, ids_of_worker(&config.worker.socket)).await.ok()?.ok()
    });
    let ids = match asked {
        Ok(Some(ids)) => ids,
        _ => ids_of_directory(config.master),
    };
    ids.iter().filter(|id| id.starts_with(&*begin)).map(CompletionCandidate::new).collect()
}

async fn ids_of_worker(socket: &std::path::Path) -> Result<Vec<String>, ClientError> {
    let (_, served) = SocketClient::connect(socket).await?.snapshot(Subscribe::default()).await?;
    Ok(served.rules.into_keys().map(|id| id.to_string()).collect())
}

fn ids_of_directory(config: MasterConfig) -> Vec<String> {
    let directory = config.rules_dir.clone();
    let Ok(Listing { rules, .. }) = Listing::of(&directory) else { return Vec::new() };
    let Reading { limits, follow_links_to } = Reading::of(config);
    let links = LinkPolicy::new(&directory, &follow_links_to);
    let read = |name: &String| rulefile::read_within(&directory.join(name), limits.size, &links).ok();
    let texts = rules.iter().take(MOST_FILES).filter_map(read);
    texts.filter_map(|text| rule::rule_id_of(&text, &limits)).map(|id| id.to_string()).collect()
}
