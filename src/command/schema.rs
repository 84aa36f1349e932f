//! `rulesyncd schema`: JSON Schemas, for editors' completion and for clients.

use clap::{Args, ValueEnum};

use super::Outcome;
use crate::command::print::print;
use crate::config::config_schema;
use crate::wire::event_schema;

/// The schema of a rule file; a test compares it with the parser.
const RULE: &str = include_str!("../../config/rule.schema.json");

/// Print a JSON Schema, for completion in editors and for clients
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd schema rule > rule.schema.json, and in a rule's first line:\n  \
                        # yaml-language-server: $schema=rule.schema.json")]
pub(crate) struct SchemaArgs {
    /// The subject of the schema
    #[arg(value_enum)]
    of: Of,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    /// A rule file
    Rule,
    /// A configuration file
    Config,
    /// A line that a worker sends to a subscriber
    Event,
}

pub(crate) fn run(args: SchemaArgs) -> Outcome {
    match args.of {
        Of::Rule => print(RULE),
        Of::Config => print(&format!("{:#}\n", config_schema())),
        Of::Event => print(&format!("{:#}\n", event_schema().as_value())),
    }
}
