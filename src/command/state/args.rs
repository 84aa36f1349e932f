//! The flags of `rulesyncd state set` and `clear`, and the state that they describe.

use std::ffi::OsStr;
use std::time::Duration;

use clap::Args;
use clap_complete::{ArgValueCompleter, CompletionCandidate};

use super::super::Failure;
use super::super::completions::rule_ids;
use super::super::fleet::WaitFlags;
use super::choice::ChoiceArgs;
use crate::clock::Timestamp;
use crate::config::{duration, environment};
use crate::rule::{RuleState, StateKind};

/// Set the state of rules
///
/// All rules get the same state in one transaction: either every state is set, or none. Each is a change of its own
/// for subscribers. If there are several rules, they are printed first. The command asks before it changes several
/// rules that --where or standard input chooses; where there is no terminal, and with ids on standard input, it needs
/// --yes.
#[derive(Debug, Args)]
#[command(
    override_usage = "rulesyncd state set [OPTIONS] <ID>... <STATE>\n       \
                      rulesyncd state set [OPTIONS] --where <CONDITION> <STATE>",
    after_help = "Examples:\n  \
                  rulesyncd state set R0015 R0016 disabled --expires-in 4h --reason 'noisy on mail hosts'\n  \
                  rulesyncd state set --where technique=T1059 clipped --confidence-max 0.5\n  \
                  rulesyncd state set --where tactic=TA0007 --where name~miner disabled --yes\n  \
                  rulesyncd state set - disabled --yes < ids.txt"
)]
pub(super) struct SetArgs {
    /// The ids of the rules, or `-` for ids on standard input, one a line; then the state
    ///
    /// The states:
    /// - enabled: The rule counts, as without a state
    /// - disabled: The rule does not count
    /// - clipped: The rule counts with a confidence of at most --confidence-max, if that is given
    #[arg(value_name = "ID|STATE", required = true, verbatim_doc_comment, add = ArgValueCompleter::new(ids_and_states))]
    words: Vec<String>,
    #[command(flatten)]
    pub(super) choice: ChoiceArgs,
    /// The ceiling of the rules' confidence; one above 1 limits nothing, as does none
    #[arg(long, value_name = "NUMBER")]
    confidence_max: Option<f64>,
    /// End the state after this time, such as `4h`
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "expires_at")]
    expires_in: Option<Duration>,
    /// End the state at this time, such as `2026-05-01T07:25:09Z` or, in UTC, `2026-05-01 07:25:09`
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires_at: Option<Timestamp>,
    /// The reason, for other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Set the state although no such rule exists yet, or although it would have ended already
    #[arg(long)]
    pub(super) force: bool,
    /// Who sets it; by default the login name
    #[arg(long, value_name = "NAME")]
    set_by: Option<String>,
    #[command(flatten)]
    pub(super) wait: WaitFlags,
}

/// Clear the state of rules, so that they are enabled again
///
/// All states are cleared in one transaction. If there are several rules, they are printed first. The command asks
/// before it changes several rules that --where, --all-by or standard input chooses; where there is no terminal, and
/// with ids on standard input, it needs --yes.
#[derive(Debug, Args)]
#[command(
    override_usage = "rulesyncd state clear [OPTIONS] <ID>...\n       \
                      rulesyncd state clear [OPTIONS] --where <CONDITION>\n       \
                      rulesyncd state clear [OPTIONS] --all-by <NAME>",
    after_help = "Examples:\n  \
                  rulesyncd state clear R0015 R0016\n  \
                  rulesyncd state clear --all-by alice --yes\n  \
                  rulesyncd state list --json | jq -r 'select(.state == \"clipped\").rule_id' |\n    \
                  rulesyncd state clear - --yes"
)]
pub(super) struct ClearArgs {
    /// The ids of the rules, or `-` for ids on standard input, one a line
    #[arg(value_name = "ID", add = ArgValueCompleter::new(rule_ids))]
    pub(super) rule_ids: Vec<String>,
    /// Clear every state that this name has set, unless another one sets it meanwhile
    #[arg(long, value_name = "NAME")]
    pub(super) all_by: Option<String>,
    #[command(flatten)]
    pub(super) choice: ChoiceArgs,
    #[command(flatten)]
    pub(super) wait: WaitFlags,
}

/// States and rule ids, since the last word of `set` is a state.
fn ids_and_states(begin: &OsStr) -> Vec<CompletionCandidate> {
    let text = begin.to_string_lossy();
    let states = StateKind::ALL.iter().map(|kind| kind.as_str()).filter(|word| word.starts_with(&*text));
    states.map(CompletionCandidate::new).chain(rule_ids(begin)).collect()
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| format!("`{text}` is not a time; expected `2026-05-01T07:25:09Z`"))
}

impl SetArgs {
    /// The last word as a state, and the ids before it.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the last word is no state.
    pub(super) fn kind_and_ids(&self) -> Result<(StateKind, &[String]), Failure> {
        let (last, ids) = self.words.split_last().ok_or_else(|| usage!("no state is given"))?;
        let kind = last.parse().map_err(|_| {
            usage!("`{last}` is not a state; expected `enabled`, `disabled` or `clipped` after the ids")
        })?;
        Ok((kind, ids))
    }

    /// The requested state; `now` is the database's time, since its clock determines expiry.
    pub(super) fn state(&self, kind: StateKind, now: Timestamp) -> Result<RuleState, Failure> {
        let expires_at = self.expires_at.or_else(|| self.expires_in.map(|span| now.after(span)));
        let state = RuleState {
            state: kind,
            confidence_max: self.confidence_max,
            expires_at,
            reason: self.reason.clone(),
            set_by: Some(self.set_by.clone().unwrap_or_else(login_name)),
            set_at: None,
        };
        state.validate()?;
        if let Some(end) = state.expires_at.filter(|_| state.is_expired(now) && !self.force) {
            return Err(usage!(
                "the state would have ended already, at {end}, so nothing was set: the database's clock says {now}, and a \
                 time without an offset is UTC; with --force it is set nevertheless"
            ));
        }
        Ok(state)
    }
}

/// The user at the terminal: `sudo` names the original one; without a login, the name of the user's number.
fn login_name() -> String {
    let uid = rustix::process::geteuid().as_raw();
    ["SUDO_USER", "LOGNAME", "USER"]
        .into_iter()
        .find_map(environment)
        .or_else(|| name_of_user(&std::fs::read_to_string("/etc/passwd").ok()?, uid))
        .unwrap_or_else(|| format!("uid {uid}"))
}

/// The first name of a user in a passwd(5) file.
fn name_of_user(passwd: &str, uid: u32) -> Option<String> {
    let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    users.find(|fields| fields.get(2) == Some(&&*uid.to_string())).map(|fields| fields[0].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_number_has_its_first_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\nodd\nalice:x:1000:1000::/:\nally:x:1000:1000::/:\n";
        assert_eq!(name_of_user(passwd, 1_000).as_deref(), Some("alice"));
        assert_eq!(name_of_user(passwd, 100), None);
    }
}
