//! What is logged has no control characters: much of it was written by others, in rows, in names of files, in what
//! a server says.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Debug;

use tracing::Subscriber;
use tracing::field::{Field, FieldSet, Value, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::paint::{sanitize, sanitize_lines, shorten};

/// No value of a record is longer, in bytes, before its control characters are escaped.
const LONGEST: usize = 16 << 10;

/// A layer that sees each text of a record sanitized and shortened, whatever form it then writes it in.
pub(super) struct Sanitized<L> {
    layer: L,
    sanitize: fn(&str) -> Cow<'_, str>,
}

impl<L> Sanitized<L> {
    /// Each text is one line.
    pub(super) fn new(layer: L) -> Self {
        Self { layer, sanitize }
    }

    /// Texts keep their lines.
    pub(super) fn of_lines(layer: L) -> Self {
        Self { layer, sanitize: sanitize_lines }
    }

    fn values(&self, fields: &FieldSet, record: impl FnOnce(&mut Values<'_>)) -> Vec<Option<Box<dyn Value>>> {
        let mut values = Values { fields, sanitize: self.sanitize, values: Vec::new() };
        values.values.resize_with(fields.len(), || None);
        record(&mut values);
        values.values
    }
}

impl<S, L> Layer<S> for Sanitized<L>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    L: Layer<S>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let metadata = attributes.metadata();
        let values = self.values(metadata.fields(), |values| attributes.record(values));
        let values: Vec<_> = values.iter().map(Option::as_deref).collect();
        let values = metadata.fields().value_set_all(&values);
        self.layer.on_new_span(&Attributes::new(metadata, &values), id, context);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(fields) = context.metadata(id).map(tracing::Metadata::fields) else { return };
        let values = self.values(fields, |values| record.record(values));
        let values: Vec<_> = values.iter().map(Option::as_deref).collect();
        self.layer.on_record(id, &Record::new(&fields.value_set_all(&values)), context);
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let values = self.values(metadata.fields(), |values| event.record(values));
        let values: Vec<_> = values.iter().map(Option::as_deref).collect();
        let values = metadata.fields().value_set_all(&values);
        self.layer.on_event(&tracing::Event::new(metadata, &values), context);
    }
}

/// The values of a record, in the order of its fields.
struct Values<'a> {
    fields: &'a FieldSet,
    sanitize: fn(&str) -> Cow<'_, str>,
    values: Vec<Option<Box<dyn Value>>>,
}

impl Values<'_> {
    fn add(&mut self, field: &Field, value: impl Value + 'static) {
        if self.fields.contains(field)
            && let Some(place) = self.values.get_mut(field.index())
        {
            *place = Some(Box::new(value));
        }
    }
}

/// Numbers and truths stay as they are.
macro_rules! unchanged {
    ($($record:ident: $type:ty),+) => {$(
        fn $record(&mut self, field: &Field, value: $type) {
            self.add(field, value);
        }
    )+};
}

impl Visit for Values<'_> {
    unchanged!(record_f64: f64, record_i64: i64, record_u64: u64, record_i128: i128, record_u128: u128, record_bool: bool);

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, (self.sanitize)(&shorten(value, LONGEST)).into_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.record_str(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What a layer behind sees, in words.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
            attributes.record(&mut self.clone());
        }

        fn on_record(&self, _: &Id, record: &Record<'_>, _: Context<'_, S>) {
            record.record(&mut self.clone());
        }

        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            event.record(&mut self.clone());
        }
    }

    impl Visit for Seen {
        fn record_u64(&mut self, field: &Field, value: u64) {
            self.0.lock().unwrap().push(format!("{field}: the number {value}"));
        }

        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.0.lock().unwrap().push(format!("{field}: {value:?}"));
        }

        fn record_str(&mut self, field: &Field, value: &str) {
            self.0.lock().unwrap().push(format!("{field}: {value}"));
        }
    }

    fn seen_by(layer: fn(Seen) -> Sanitized<Seen>, log: impl FnOnce()) -> Vec<String> {
        let seen = Seen::default();
        let subscriber = tracing_subscriber::registry().with(layer(seen.clone()));
        tracing::subscriber::with_default(subscriber, log);
        seen.0.lock().unwrap().clone()
    }

    #[test]
    fn every_text_of_a_record_and_of_a_span_is_sanitized_and_a_number_stays_one() {
        let hostile = "a\n\u{1b}\u{9b}\u{202e}";
        let seen = seen_by(Sanitized::new, || {
            let error = std::io::Error::other(hostile);
            let error: &(dyn Error + 'static) = &error;
            tracing::info!(number = 1_u64, text = hostile, by = %hostile, error, "it says {hostile}");
            let span = tracing::info_span!("span", text = hostile, later = tracing::field::Empty);
            span.record("later", hostile);
        });
        let harmless = r"a\n\u001b\u009b\u202e";
        let texts = ["text", "by", "error"].map(|name| format!("{name}: {harmless}"));
        let [text, by, error] = texts;
        let message = format!("message: it says {harmless}");
        let later = format!("later: {harmless}");
        assert_eq!(seen, [message, "number: the number 1".to_owned(), text.clone(), by, error, text, later]);
    }

    #[test]
    fn lines_stay_where_they_may_and_a_text_has_an_end() {
        let seen = seen_by(Sanitized::of_lines, || {
            tracing::info!("a\nb\u{9b}");
            tracing::info!("{}", "x".repeat(1 << 20));
        });
        assert_eq!(seen[0], "message: a\nb\\u009b");
        assert!(
            seen[1].len() < LONGEST + 100 && seen[1].ends_with("… (1032192 bytes more)"),
            "{}",
            seen[1].len()
        );
    }
}
