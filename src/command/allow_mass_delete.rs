//! `rulesyncd allow-mass-delete`: the deletions that this host's worker holds back.

use clap::Args;

use super::Outcome;
use crate::client::ask;
use crate::command::flags::{ConfigFlags, SocketFlags, prepare_quietly};
use crate::command::print::print_done;
use crate::wire::Op;

/// Let this host's worker follow the deletions that it holds back
///
/// A worker holds back deletions of more than `worker.max_delete` of its rules, and shows them in `status`. To carry
/// out the deletions that a master holds back, use `sync --allow-mass-delete`. Only root and the worker's own user
/// may run this.
#[derive(Debug, Args)]
#[command(after_help = "Example: sudo rulesyncd allow-mass-delete --socket /run/rulesyncd/events.sock")]
pub(crate) struct AllowMassDeleteArgs {
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    socket: SocketFlags,
}

pub(crate) fn run(args: AllowMassDeleteArgs) -> Outcome {
    let config = prepare_quietly(args.socket.apply_to(args.config.flags()))?;
    let socket = config.worker.socket;
    let answer = super::block_on(super::Threads::None, ask(&socket, Op::AllowMassDelete {}))??;
    let unreadable = || {
        environment!(
            "this program cannot read the worker's answer, which may be of another version: restart the worker; \
             `rulesyncd status` shows what it still holds back"
        )
    };
    let deleted = answer["deleted"].as_u64().ok_or_else(unreadable)?;
    let done = match deleted {
        0 => "no deletion is held back\n".to_owned(),
        1 => "1 deletion was held back, and is followed\n".to_owned(),
        _ => format!("{deleted} deletions were held back, and are followed\n"),
    };
    print_done(&done, &done)
}
