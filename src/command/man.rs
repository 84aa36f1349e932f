//! `rulesyncd man`: manual pages.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::{Failure, Outcome};
use crate::config::{SECTIONS, SETTINGS};

/// Write the manual pages, one for each command and one for the configuration, into a directory
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The directory, which must exist
    dir: PathBuf,
}

pub(crate) fn run(args: ManArgs, definition: clap::Command) -> Outcome {
    let page = args.dir.join("rulesyncd.yaml.5");
    clap_mangen::generate_to(definition, &args.dir)
        .and_then(|()| std::fs::write(page, configuration().to_roff()))
        .with_context(|| format!("cannot write manual pages into {}", args.dir.display()))
        .map_err(Failure::Environment)
}

/// The manual page of the configuration files, rulesyncd.yaml(5).
fn configuration() -> Roff {
    let mut page = Roff::new();
    page.control("TH", ["rulesyncd.yaml", "5", "", concat!("rulesyncd ", env!("CARGO_PKG_VERSION"))]);
    page.control("SH", ["NAME"]);
    page.text([roman("rulesyncd.yaml - the configuration of rulesyncd's master and worker")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([italic("/etc/rulesyncd/master.yaml")]);
    page.control("br", []);
    page.text([italic("/etc/rulesyncd/worker.yaml")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("A YAML file of sections, each with keys. Later ones win: defaults, the file, the environment, flags. \
               Every key has a variable of the environment. An unknown key is an error. Durations are written \
               250ms, 1s, 5m; sizes 256KiB. "),
        bold("rulesyncd config master"),
        roman(" prints the values in effect, and where each comes from."),
    ]);
    for section in SECTIONS {
        page.control("SH", [*section]);
        for setting in SETTINGS.iter().filter(|setting| setting.section() == *section) {
            page.control("TP", []);
            let default = setting.default.map_or_else(|| roman("(not set)"), italic);
            page.text([bold(format!("{}:", setting.name())), roman(" "), default]);
            let variables = setting.variables().collect::<Vec<_>>().join(", ");
            page.text([roman(format!("{} [{variables}]", setting.help()))]);
        }
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([roman("rulesyncd(1), rulesyncd-master(1), rulesyncd-worker(1), rulesyncd-config(1)")]);
    page
}
