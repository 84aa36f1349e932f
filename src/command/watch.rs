//! `rulesyncd watch`: follow the stream and print it.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap_complete::ArgValueCompleter;

use super::Outcome;
use super::completions::rule_ids;
use crate::client::{ClientError, Event, Line, SocketClient, Subscriber, ask};
use crate::command::flags::{ConfigFlags, SocketFlags, prepare};
use crate::command::print::write_stdout;
use crate::config::{Flags, SystemFiles};
use crate::paint::{Paint, sanitize};
use crate::plural::count;
use crate::rule::{ChangeKind, CompiledRule, Definition, RuleId, RuleState};
use crate::wire::{ChangeLine, Cursor, NewValue, Op, ServerLine, SnapshotReason, Subscribe};
use crate::worker::WorkerStatus;

/// Follow the rules of a worker and print what changes
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rulesyncd watch --kind state\n  rulesyncd watch --from 41            # a change as it is printed, of the worker's present run\n  rulesyncd watch --json --from 0198c0de-…:41"
)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    socket: SocketFlags,
    /// Print the lines of the stream unchanged
    #[arg(long)]
    json: bool,
    /// Resume after this change: the number that `watch` prints for it, alone or with the worker's epoch before it
    #[arg(long, value_name = "[EPOCH:]SEQ", conflicts_with = "once")]
    from: Option<ResumeFrom>,
    /// Print the snapshot and exit
    #[arg(long)]
    once: bool,
    /// Only these rules
    #[arg(long = "rule", value_name = "ID", add = ArgValueCompleter::new(rule_ids))]
    rule_ids: Vec<RuleId>,
    /// Only changes of this kind
    #[arg(long = "kind", value_name = "KIND", value_parser = kind_parser())]
    kinds: Vec<ChangeKind>,
}

/// Where to resume.
#[derive(Debug, Clone)]
enum ResumeFrom {
    /// After this change of this epoch.
    Cursor(Cursor),
    /// After this change of the worker's present epoch.
    Number(u64),
}

impl std::str::FromStr for ResumeFrom {
    type Err = <Cursor as std::str::FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::Number).or_else(|_| text.parse().map(Self::Cursor))
    }
}

impl ResumeFrom {
    async fn cursor(self, socket: &Path) -> Result<Cursor, ClientError> {
        match self {
            Self::Cursor(cursor) => Ok(cursor),
            Self::Number(seq) => {
                let status: WorkerStatus = serde_json::from_value(ask(socket, Op::Status {}).await?)
                    .map_err(|error| ClientError::Protocol(error.to_string()))?;
                Ok(Cursor { epoch: status.stream.epoch, seq })
            }
        }
    }
}

fn kind_parser() -> impl TypedValueParser<Value = ChangeKind> {
    let kinds = [ChangeKind::Definition, ChangeKind::State];
    let words = [
        PossibleValue::new(kinds[0].as_str()).help("What a rule says, and its end"),
        PossibleValue::new(kinds[1].as_str()).help("What an operator says of a rule"),
    ];
    PossibleValuesParser::new(words)
        .try_map(move |word| kinds.into_iter().find(|kind| kind.as_str() == word).ok_or("no such kind"))
}

pub(crate) fn run(args: WatchArgs) -> Outcome {
    let flags = Flags { quiet: true, system_files: SystemFiles::Worker, ..args.config.flags() };
    let config = prepare(&args.socket.apply_to(flags))?;
    let mut subscribe = Subscribe {
        cursor: None,
        kinds: (!args.kinds.is_empty()).then_some(args.kinds),
        rule_ids: (!args.rule_ids.is_empty()).then_some(args.rule_ids),
        follow: !args.once,
    };
    let show = |line: &Line| {
        let text = if args.json { Some(format!("{}\n", line.text)) } else { human(&line.line) };
        text.map_or(Ok(()), |text| write_stdout(&text))
    };
    let path = config.worker.socket;
    super::block_on(super::Threads::None, async {
        if args.once {
            return once(&path, subscribe, show).await;
        }
        if let Some(from) = args.from {
            subscribe.cursor = Some(from.cursor(&path).await?);
        }
        let mut subscriber = Subscriber::new(path.clone(), subscribe);
        let mut has_line = false;
        loop {
            match subscriber.next().await? {
                Event::Line(line) => {
                    has_line = true;
                    show(&line)?;
                }
                Event::Disconnected(error) if !has_line => return Err(error.into()),
                Event::Disconnected(error) => tracing::warn!("{error}; connecting again"),
            }
        }
    })?
}

/// Shows one snapshot. Does not wait for a worker that does not answer, or has none.
async fn once(path: &Path, subscribe: Subscribe, show: impl Fn(&Line) -> Outcome) -> Outcome {
    let nothing_loaded = || {
        environment!(
            "the worker has loaded nothing from its database yet, nor from its cache: `rulesyncd status` says how its \
             database is"
        )
    };
    let mut connection = SocketClient::connect(path).await?;
    connection.send(Op::Subscribe(subscribe)).await?;
    let (mut greeted, mut begun) = (false, false);
    loop {
        let line = match connection.next_soon().await {
            // The worker runs, and its next heartbeat comes too late.
            Err(ClientError::Timeout(_)) if greeted && !begun => return Err(nothing_loaded()),
            line => line?.ok_or(ClientError::Closed)?,
        };
        show(&line)?;
        match line.line {
            ServerLine::Hello { .. } => greeted = true,
            ServerLine::SnapshotBegin { .. } => begun = true,
            ServerLine::SnapshotEnd { .. } => return Ok(()),
            // If there is a snapshot, it comes before any heartbeat.
            ServerLine::Heartbeat { .. } if !begun => return Err(nothing_loaded()),
            ServerLine::Error { code, message, .. } => {
                return Err(ClientError::Refused { code, message }.into());
            }
            _ => {}
        }
    }
}

/// A line for people; `None` if it shows nothing.
pub(crate) fn human(line: &ServerLine) -> Option<String> {
    let text = match line {
        ServerLine::SnapshotBegin { epoch, seq, rules, reason, .. } => {
            let why = match reason {
                SnapshotReason::Initial => "",
                SnapshotReason::EpochChanged => ": the worker is another run",
                SnapshotReason::Compacted => ": the changes since are no longer kept",
                SnapshotReason::Lagged => ": too many changes were not read in time",
            };
            let (rules, epoch) = (count(*rules, "rule"), sanitize(epoch.as_str()));
            Paint::Dim.on(format!("{rules} after change {epoch}:{seq}{why}")) + "\n"
        }
        ServerLine::Rule(rule) => {
            format!("  {}{}\n", definition(&rule.new_value), state(&rule.new_value.state))
        }
        ServerLine::State { rule_id, new_value } => {
            format!("  {} (no rule){}\n", sanitize(rule_id.as_str()), state(new_value))
        }
        ServerLine::Change(change) => human_change(change),
        ServerLine::Error { message, .. } => Paint::Bad.on(sanitize(message)) + "\n",
        ServerLine::Hello { .. }
        | ServerLine::SnapshotEnd { .. }
        | ServerLine::Heartbeat { .. }
        | ServerLine::Response { .. } => return None,
    };
    Some(text)
}

fn human_change(change: &ChangeLine) -> String {
    let time = change.emitted_at.to_string();
    let time = time.get(11..23).unwrap_or(&time);
    let mut text = format!("{}  ", Paint::Dim.on(format_args!("{time} {:>6}", change.seq)));
    let rule_id = sanitize(change.rule_id.as_str());
    let _ = match (change.change_kind, &change.new_value) {
        (ChangeKind::Definition, Some(NewValue::Rule(rule))) => {
            let by = change.updated_by.as_deref().unwrap_or("?");
            let from = change.source_path.as_deref().unwrap_or("?");
            let origin = Paint::Dim.on(format!("from {} by {}", sanitize(from), sanitize(by)));
            write!(text, "{}  {}  {origin}", Paint::Good.on("written"), definition(rule))
        }
        (ChangeKind::State, Some(NewValue::State(new))) => {
            let how = if change.auto_revert == Some(true) { "expired" } else { "state  " };
            let back = if *new == RuleState::default() { "  enabled again" } else { "" };
            write!(text, "{}  {rule_id}{back}{}", Paint::Warn.on(how), state(new))
        }
        _ => write!(text, "{}  {rule_id}", Paint::Bad.on("deleted")),
    };
    text.push('\n');
    text
}

fn definition(rule: &CompiledRule) -> String {
    let Definition { rule_id, rule_version, name, .. } = &rule.definition;
    format!("{} v{rule_version}  {}", Paint::Bold.on(rule_id), sanitize(name))
}

/// A state in words; empty for the default.
fn state(state: &RuleState) -> String {
    if *state == RuleState::default() {
        return String::new();
    }
    let (word, summary) = (state.state.as_str(), state.summary());
    format!("  {}{}", Paint::Warn.on(word), sanitize(&summary[word.len()..]))
}
