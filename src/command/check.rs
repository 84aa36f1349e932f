//! `rulesyncd check`: checks rules without a database, for editors, hooks and builds.

mod checked;
mod files;
mod fix;
mod junit;
mod report;
mod sarif;
mod settings;
mod watching;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};

use super::{Failure, Outcome};
use crate::clock::SystemClock;
use crate::command::flags::DatabaseFlags;
use crate::command::print::{print, print_done, print_error, write_stdout};
use crate::command::reading::Reading;
use crate::config::{Config, Flags};
use crate::plural::count;
use crate::rule::attack::Attack;
use crate::rule::{Code, Limits, RuleHeader};
use crate::store::Scope;
use checked::{CheckedFile, Rows};
use files::Target;
use report::Totals;
pub(super) use report::findings as render_findings;
use settings::{Level, Overrides, Settings};
use watching::Watching;

/// Validate rule files or directories, without a database
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  rulesyncd check /etc/rulesyncd/rules\n  rulesyncd check --strict --format github rules/R0001.yaml\n  rulesyncd check --explain ambiguous-value\n  rulesyncd check --fix --diff rules/\n  rulesyncd check --watch rules/\n  rulesyncd check --stdin-name rules/R0001.yaml --format json - < buffer\n\nWith the flag --database-url (the environment does not count here) a version that did not rise although the text changed is warned of, too.\n\nExit codes: 0 fine, 1 a rule is wrong, 2 usage, 3 a path could not be read, or not be fixed.\n\nmaster.max_rule_size and master.follow_links_to count as they are configured where this runs."
)]
pub(crate) struct CheckArgs {
    /// Rule files, or directories of them; `-` is standard input.
    #[arg(required_unless_present = "explain")]
    paths: Vec<PathBuf>,
    /// The format of the findings.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// The file name for standard input, for its findings and its settings.
    #[arg(long, value_name = "PATH")]
    stdin_name: Option<PathBuf>,
    /// Fix what is mechanical, then check: quote ambiguous values, replace tabs between values and in the indentation
    /// by spaces, and remove blanks around a rule's id, a byte order mark and CR at the ends of lines. PyYAML reads
    /// the same rule before and after. Each file is replaced atomically and keeps its mode and owner.
    #[arg(long, conflicts_with = "watch")]
    fix: bool,
    /// With --fix: show the differences and write nothing; exit code 1 if there are any.
    #[arg(long, requires = "fix")]
    diff: bool,
    /// Check again whenever a file changes, until the program is interrupted.
    #[arg(long)]
    watch: bool,
    /// Print only findings, without the summary at the end.
    #[arg(short, long)]
    quiet: bool,
    /// Treat warnings as errors.
    #[arg(long)]
    strict: bool,
    /// Treat findings of this code as errors, whatever the settings say; of --error, --warn and --off for one code
    /// the strictest applies. (--explain lists the codes.)
    #[arg(long, value_name = "CODE", value_parser = code_parser(), hide_possible_values = true)]
    error: Vec<Code>,
    /// Treat findings of this code as warnings.
    #[arg(long, value_name = "CODE", value_parser = code_parser(), hide_possible_values = true)]
    warn: Vec<Code>,
    /// Do not list findings of this code.
    #[arg(long, value_name = "CODE", value_parser = code_parser(), hide_possible_values = true)]
    off: Vec<Code>,
    /// Compare tactics and techniques with this publication of ATT&CK, a STIX bundle such as enterprise-attack.json,
    /// instead of the built-in table; once for each matrix.
    #[arg(long, value_name = "FILE")]
    attack: Vec<PathBuf>,
    /// Explain the code of a finding, and do nothing else.
    #[arg(long, value_name = "CODE", value_parser = code_parser())]
    explain: Option<Code>,
    // Only read, and only with this flag: `check` also runs where there is no database.
    #[command(flatten)]
    database: DatabaseFlags,
}

/// The format of the findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The lines of the files, with the places underlined.
    Human,
    /// One JSON object.
    Json,
    /// Annotations for a pull request, as GitHub's runners read them.
    Github,
    /// SARIF 2.1.0, for code scanners.
    Sarif,
    /// JUnit's XML: one test a file.
    Junit,
}

fn code_parser() -> impl clap::builder::TypedValueParser<Value = Code> {
    PossibleValuesParser::new(Code::ALL.iter().map(|code| code.as_str()))
        .try_map(|name| name.parse().map_err(|()| "no such code"))
}

impl CheckArgs {
    fn overrides(&self) -> Result<Overrides, Failure> {
        let flags = [(&self.off, Level::Off), (&self.warn, Level::Warning), (&self.error, Level::Error)];
        let levels =
            flags.into_iter().flat_map(|(codes, level)| codes.iter().map(move |&code| (code, level)));
        Overrides::new(levels, self.strict)
    }
}

/// Checks, and prints the findings.
///
/// # Errors
/// [`Failure::CheckFailed`] if a rule has an error, [`Failure::Environment`] if a path cannot be read or fixed; all
/// other paths are checked.
pub(crate) fn run(args: &CheckArgs) -> Outcome {
    if let Some(code) = args.explain {
        return print(code.explanation());
    }
    if args.stdin_name.is_some() && !args.paths.iter().any(|path| files::is_stdin(path)) {
        return Err(usage!("--stdin-name names standard input, which is the path `-`"));
    }
    if (args.fix || args.watch) && args.paths.iter().any(|path| files::is_passed(path)) {
        return Err(usage!("standard input can neither be fixed nor watched"));
    }
    if args.watch && matches!(args.format, Format::Sarif | Format::Junit) {
        let reason = "a report for other programs has an end; leave out --watch, or write findings as `human`, `json` \
                      or `github`";
        return Err(usage!(reason));
    }
    if args.fix && args.diff {
        return show_fixes(args);
    }
    let attack = attack(&args.attack)?;
    if args.watch {
        return watch(args, &attack);
    }
    let reading = Reading::as_configured();
    let targets = files::collect(&args.paths, args.stdin_name.as_deref(), &reading);
    let (mut fixed, mut not_fixed) = (Vec::new(), 0);
    if args.fix {
        for fix in fix::fixes(&targets, &reading.limits) {
            match fix.write() {
                Ok(()) => fixed.push(fix.path),
                Err(error) => {
                    not_fixed += 1;
                    print_error(&error);
                }
            }
        }
    }
    let checked = check_all(args, &targets, &reading.limits, &attack)?;
    let done = count(fixed.len(), "file") + " fixed";
    let summary = Totals::of(&checked, fixed);
    let report = write(args, &checked, &summary);
    if args.fix { print_done(&report, &done) } else { print(&report) }?;
    ensure_all_read(summary.unreadable)?;
    if not_fixed > 0 {
        return Err(environment!("{} could not be fixed", count(not_fixed, "file")));
    }
    if summary.errors > 0 { Err(Failure::CheckFailed) } else { Ok(()) }
}

fn check_all(
    args: &CheckArgs,
    targets: &[Target],
    limits: &Limits,
    attack: &Attack,
) -> Result<Vec<CheckedFile>, Failure> {
    let rows = rows(args.database.clone())?;
    let mut settings = Settings::new(args.overrides()?);
    checked::check_all(targets, limits, attack, &rows, &mut settings)
}

fn write(args: &CheckArgs, checked: &[CheckedFile], summary: &Totals) -> String {
    match args.format {
        Format::Human => report::human(checked, summary, args.quiet),
        Format::Json => report::json(checked, summary),
        Format::Github => report::github(checked),
        Format::Sarif => sarif::report(checked),
        Format::Junit => junit::report(checked, summary),
    }
}

/// # Errors
/// So many paths could not be read.
pub(super) fn ensure_all_read(unreadable: usize) -> Outcome {
    if unreadable == 0 {
        return Ok(());
    }
    let what = count(unreadable, "path");
    Err(environment!("{what} could not be read"))
}

/// Prints what `--fix` would do.
fn show_fixes(args: &CheckArgs) -> Outcome {
    let reading = Reading::as_configured();
    let targets = files::collect(&args.paths, None, &reading);
    let (mut any, mut unreadable) = (false, 0);
    for target in &targets {
        match fix::fix(target, &reading.limits) {
            Ok(Some(fix)) => {
                any = true;
                print(&fix.diff())?;
            }
            Ok(None) => {}
            Err(why) => {
                unreadable += 1;
                print_error(&anyhow::Error::msg(why));
            }
        }
    }
    ensure_all_read(unreadable)?;
    if any { Err(Failure::CheckFailed) } else { Ok(()) }
}

/// Checks, and checks again whenever something changed; prints if the findings or the texts differ. Returns only
/// errors; a settings file that is half written is reported, and checked again.
fn watch(args: &CheckArgs, attack: &Attack) -> Outcome {
    let mut shown = None;
    loop {
        // Changes during the check are noticed after it.
        let watching = Watching::start(&args.paths).map_err(Failure::Environment)?;
        let reading = Reading::as_configured();
        match check_all(args, &files::collect(&args.paths, None, &reading), &reading.limits, attack) {
            Ok(checked) if shown.as_ref() != Some(&checked) => {
                let report = write(args, &checked, &Totals::of(&checked, Vec::new()));
                let first = shown.replace(checked).is_none();
                let gap = if first || args.format != Format::Human { "" } else { "\n" };
                write_stdout(&format!("{gap}{report}"))?;
            }
            Ok(_) => {}
            Err(failure) => failure.message().into_iter().for_each(print_error),
        }
        watching.wait();
    }
}

/// The ATT&CK table: the built-in one, except for matrices that a file has.
fn attack(files: &[PathBuf]) -> Result<Cow<'static, Attack>, Failure> {
    let mut attack = Cow::Borrowed(Attack::built_in());
    for file in files {
        let environment =
            |error: anyhow::Error| Failure::Environment(error.context(file.display().to_string()));
        let bundle = std::fs::read(file).map_err(|error| environment(error.into()))?;
        attack.to_mut().update_from_stix(&bundle).map_err(|error| environment(error.into()))?;
    }
    Ok(attack)
}

/// The database's rows, if a database is given.
fn rows(database: DatabaseFlags) -> Result<Rows, Failure> {
    let flags = database.apply_to(Flags { quiet: true, ..Flags::default() });
    if flags.database_url.is_none() {
        return Ok(Rows::new());
    }
    let config = Config::load(&flags)?;
    let rows = super::block_on(super::Threads::Database, async {
        let database = super::common::open_database(&config, Arc::new(SystemClock)).await?;
        database.rows(Scope::All).await
    })??;
    let folded = |row: &RuleHeader| row.rule_id.to_ascii_lowercase();
    Ok(rows.iter().map(|row| (folded(row), (row.rule_version, row.content_sha256))).collect())
}
