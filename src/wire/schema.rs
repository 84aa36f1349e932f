//! The JSON Schema of the stream's lines, for clients.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::ServerLine;
use crate::clock::Timestamp;
use crate::rule::{CatalogueDigest, ContentDigest, RuleId};

/// The JSON Schema of every line that the server sends.
pub(crate) fn event_schema() -> Schema {
    schemars::schema_for!(ServerLine)
}

/// A text with a form of its own.
macro_rules! text_schema {
    ($type:ty, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

text_schema!(RuleId, "RuleId", { "type": "string", "pattern": "^[A-Za-z0-9_-]{1,255}$" });
text_schema!(Timestamp, "Timestamp", {
    "type": "string",
    "format": "date-time",
    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z$"
});
text_schema!(ContentDigest, "ContentDigest", { "type": "string", "pattern": "^[0-9a-f]{64}$" });
text_schema!(CatalogueDigest, "CatalogueDigest", { "type": "string", "pattern": "^[0-9a-f]{64}$" });
