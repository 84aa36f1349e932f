//! `rulesyncd check`: rules are judged without a database, for editors, hooks and builds.

mod files;
mod judge;
mod report;
mod settings;

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};

use super::{Failure, Outcome};
use crate::cli::DatabaseFlags;
use crate::clock::SystemClock;
use crate::config::{Config, Flags};
use crate::rule::Code;
use crate::rule::attack::Attack;
use crate::store::{Database, RowSummary, Scope};
use judge::Rows;
use report::Summary;
pub(super) use report::findings as render_findings;
use settings::{Level, Overrides, Settings};

/// Validate rule files or directories, without a database
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  rulesyncd check /etc/rulesyncd/rules\n  rulesyncd check --strict --format github rules/R0001.yaml\n  rulesyncd check --explain ambiguous-value\n\nWith the flag --database-url (the environment does not count here) a version that did not rise although the text changed is warned of, too.\n\nExit codes: 0 fine, 1 a rule is wrong, 2 usage, 3 a path could not be read."
)]
pub struct CheckArgs {
    /// Rule files, or directories of them.
    #[arg(required_unless_present = "explain")]
    paths: Vec<PathBuf>,
    /// How findings are written.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Take warnings for errors.
    #[arg(long)]
    strict: bool,
    /// Take findings of this code for errors, whatever the settings say; of --error, --warn and
    /// --off for one code the strictest counts.
    #[arg(long, value_name = "CODE", value_parser = code_parser())]
    error: Vec<Code>,
    /// Take findings of this code for warnings.
    #[arg(long, value_name = "CODE", value_parser = code_parser())]
    warn: Vec<Code>,
    /// Do not list findings of this code.
    #[arg(long, value_name = "CODE", value_parser = code_parser())]
    off: Vec<Code>,
    /// Hold tactics and techniques against this publication of ATT&CK, a STIX bundle such as
    /// enterprise-attack.json, instead of the table that the program carries; once for each matrix.
    #[arg(long, value_name = "FILE")]
    attack: Vec<PathBuf>,
    /// Explain a code that a finding has, and do nothing else.
    #[arg(long, value_name = "CODE", value_parser = code_parser())]
    explain: Option<Code>,
    // Read only, and only where the flag is there: `check` is for places without a database.
    #[command(flatten)]
    database: DatabaseFlags,
}

/// How findings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The lines of the files, with the places underlined.
    Human,
    /// One JSON object.
    Json,
    /// Annotations for a pull request, as GitHub's runners read them.
    Github,
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

/// Checks, and prints what was found.
///
/// # Errors
/// [`Failure::Wrong`] when a rule is refused, [`Failure::Environment`] when a path could not be
/// read; then the rest was checked and told all the same.
pub fn run(args: &CheckArgs) -> Outcome {
    if let Some(code) = args.explain {
        return print(code.explanation().as_bytes());
    }
    let rows = rows(args.database.clone())?;
    let attack = attack(&args.attack)?;
    let mut settings = Settings::new(args.overrides()?);
    let judged = judge::judge_all(&files::collect(&args.paths), &attack, &rows, &mut settings)?;
    let summary = Summary::of(&judged);
    let output = match args.format {
        Format::Human => report::human(&judged, &summary),
        Format::Json => report::json(&judged, &summary),
        Format::Github => report::github(&judged),
    };
    print(output.as_bytes())?;
    if summary.unreadable > 0 {
        let what = if summary.unreadable == 1 { "path" } else { "paths" };
        return Err(Failure::Environment(anyhow::anyhow!("{} {what} could not be read", summary.unreadable)));
    }
    if summary.errors > 0 { Err(Failure::Wrong) } else { Ok(()) }
}

/// The facts of ATT&CK: the program's, as far as no file has the same matrix.
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

/// What the database has, if one is given.
fn rows(database: DatabaseFlags) -> Result<Rows, Failure> {
    let flags = database.over(Flags { quiet: true, ..Flags::default() });
    if flags.database_url.is_none() {
        return Ok(Rows::new());
    }
    let config = Config::load(&flags)?;
    let rows = super::block_on(async {
        let database = Database::open(&config.database, Arc::new(SystemClock)).await?;
        database.rows(Scope::All).await
    })??;
    let folded = |row: &RowSummary| row.rule_id.to_ascii_lowercase();
    Ok(rows.iter().map(|row| (folded(row), (row.rule_version, row.content))).collect())
}

/// Prints; who closes the pipe early has seen enough.
fn print(output: &[u8]) -> Outcome {
    let stdout = io::stdout().lock();
    // Colour goes to a terminal alone, and `NO_COLOR` is obeyed: both are anstream's to know.
    let plain = !stdout.is_terminal();
    let mut stdout = anstream::AutoStream::new(
        stdout,
        if plain { anstream::ColorChoice::Never } else { anstream::ColorChoice::Auto },
    );
    match stdout.write_all(output).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
