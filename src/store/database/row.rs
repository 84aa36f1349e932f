//! Rows as they are read.
//!
//! The statements cast every cell to text, whatever its column's type, so that no driver's types affect how an
//! existing table is read.

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};

use crate::clock::Timestamp;

/// A cell of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Text(String),
    /// Bytes that are not UTF-8, in a form that can be shown.
    NotUtf8(String),
}

impl Cell {
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(
            |error| Self::NotUtf8(String::from_utf8_lossy(error.as_bytes()).into_owned()),
            Self::Text,
        )
    }

    /// The text, also of a cell that is none, for a key that can be shown.
    pub(super) fn shown(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Text(text) | Self::NotUtf8(text) => text,
        }
    }
}

/// The rows of an answer that has at most `most`: a server that sends more may have no end of them.
pub(super) async fn few<R>(
    rows: impl Stream<Item = Result<R, sqlx::Error>>,
    most: usize,
) -> Result<Vec<R>, sqlx::Error> {
    let rows: Vec<R> = rows.take(most + 1).try_collect().await?;
    if rows.len() > most {
        return Err(sqlx::Error::Protocol(format!("the answer has more than {most} rows")));
    }
    Ok(rows)
}

/// A row whose cells a driver has as bytes.
pub(super) fn read<R: sqlx::Row>(row: &R) -> Result<Row, sqlx::Error>
where
    usize: sqlx::ColumnIndex<R>,
    for<'r> Option<Vec<u8>>: sqlx::Decode<'r, R::Database>,
{
    let cell = |index| {
        let cell: Option<Vec<u8>> = row.try_get_unchecked(index)?;
        Ok(cell.map_or(Cell::Null, Cell::from_bytes))
    };
    (0..row.len()).map(cell).collect::<Result<_, _>>().map(Row)
}

/// A row as it was read. Its columns are taken in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row(pub(super) Vec<Cell>);

/// Why a row cannot be read, for the log.
pub(super) type BadCell = String;

impl Row {
    /// The size in bytes.
    pub(super) fn memory(&self) -> usize {
        self.0.iter().map(|cell| size_of::<Cell>() + cell.shown().len()).sum()
    }

    /// Takes a cell that may be null.
    pub(super) fn optional(&mut self, index: usize, column: &str) -> Result<Option<String>, BadCell> {
        match self.0.get_mut(index).map(|cell| std::mem::replace(cell, Cell::Null)) {
            Some(Cell::Text(text)) => Ok(Some(text)),
            Some(Cell::NotUtf8(_)) => Err(format!("{column} is not UTF-8")),
            Some(Cell::Null) | None => Ok(None),
        }
    }

    /// Takes a cell that may not be null.
    pub(super) fn text(&mut self, index: usize, column: &str) -> Result<String, BadCell> {
        self.optional(index, column)?.ok_or_else(|| format!("{column} is null"))
    }

    pub(super) fn int(&mut self, index: usize, column: &str) -> Result<i64, BadCell> {
        let text = self.text(index, column)?;
        text.parse().map_err(|_| format!("{column} is `{}`; expected an integer", shortened(&text)))
    }

    /// Reads a time that may be null. PostgreSQL's infinite times are not times.
    pub(super) fn optional_time(&mut self, index: usize, column: &str) -> Result<Option<Timestamp>, BadCell> {
        let text = self.optional(index, column)?.filter(|text| text != "infinity");
        text.map(|text| read_time(&text, column)).transpose()
    }

    pub(super) fn time(&mut self, index: usize, column: &str) -> Result<Timestamp, BadCell> {
        read_time(&self.text(index, column)?, column)
    }

    /// Reads a number as the server prints it: the shortest decimal of a 32-bit column, so that 0.85 stays 0.85.
    pub(super) fn real(&mut self, index: usize, column: &str) -> Result<Option<f64>, BadCell> {
        let Some(text) = self.optional(index, column)? else { return Ok(None) };
        let number = text.parse();
        number.map(Some).map_err(|_| format!("{column} is `{}`; expected a number", shortened(&text)))
    }
}

fn read_time(text: &str, column: &str) -> Result<Timestamp, BadCell> {
    Timestamp::parse(text).ok_or_else(|| format!("{column} is `{}`; expected a time", shortened(text)))
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_the_server_prints_it() {
        for (found, read) in [
            ("0.85", 0.85),
            ("0.333333", 0.333_333),
            ("0.30000000000000004", 0.300_000_000_000_000_04),
            ("1", 1.0),
        ] {
            let mut row = Row(vec![Cell::Text(found.into())]);
            assert_eq!(row.real(0, "confidence_max"), Ok(Some(read)), "{found}");
        }
    }
}
