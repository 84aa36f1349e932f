//! Reads YAML files that are no rules. An error has no text of the file, which may be a secret.

use serde::de::DeserializeOwned;
use serde_yaml::Error;

/// The longest key that a message quotes.
const LONGEST_KEY: usize = 64;

/// Reads a document; `None` if it is empty.
///
/// # Errors
/// What is wrong and where, as `3:5: expected a mapping`, without a text of the document.
pub(crate) fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<Option<T>, String> {
    // Comments are not read: the parser would refuse a file that has many of them in a row.
    let options = serde_yaml::options! {
        leading_zero_numbers_as_strings: true,
        emit_comments: false,
        with_snippet: false,
    };
    serde_yaml::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map(|place| format!("{}:{}: ", place.line(), place.column()));
        place.unwrap_or_else(|| " ".to_owned()) + &why(error.without_snippet())
    })
}

/// What is wrong. Only the messages that are the same whatever the file has are taken from the parser.
fn why(error: &Error) -> String {
    match error {
        Error::DuplicateMappingKey { .. } => "this key is there a second time".to_owned(),
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            format!("expected {expected}")
        }
        Error::SerdeUnknownVariant { expected, .. } => format!("expected one of {}", expected.join(", ")),
        Error::SerdeUnknownField { expected, .. } => {
            format!("unknown key; known here are {}", expected.join(", "))
        }
        Error::Unexpected { expected, .. } => format!("expected {expected}"),
        Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing"),
        Error::UnknownAnchor { .. } => "an alias of nothing: quote a text that begins with `*`".to_owned(),
        Error::Eof { .. } => "the file ends too early".to_owned(),
        Error::MultipleDocuments { .. } => "expected one document, without `---` in it".to_owned(),
        // The scanner's, which have one character of the file at most.
        Error::Message { msg, .. } | Error::ExternalMessage { msg, .. } => msg.clone(),
        _ => {
            "this cannot be read as YAML; quote a text that begins with a sign such as `!` or `&`".to_owned()
        }
    }
}

/// Whether a message may quote this as a key: an address or another value that was written in a key's place is none.
pub(super) fn seems_a_key(text: &str) -> bool {
    let may_be_in_one = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    text.len() <= LONGEST_KEY && text.chars().all(may_be_in_one)
}
