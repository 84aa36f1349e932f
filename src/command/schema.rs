//! `rulesyncd schema`: JSON Schemas, for editors' completion and for clients.

use clap::{Args, ValueEnum};

use super::Outcome;
use crate::cli::print;
use crate::wire::event_schema;

/// Print a JSON Schema
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd schema event > event.schema.json")]
pub struct SchemaArgs {
    /// Of what
    #[arg(value_enum)]
    of: Of,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    /// A line that a worker sends to a subscriber
    Event,
}

pub(crate) fn run(args: SchemaArgs) -> Outcome {
    let schema = match args.of {
        Of::Event => event_schema(),
    };
    Ok(print(&format!("{:#}\n", schema.as_value()))?)
}
