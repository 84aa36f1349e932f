//! The rows of a query in progress, read one by one or in pages.

use std::sync::Arc;
use std::task::Poll;

use futures_util::stream::{BoxStream, StreamExt as _};

use super::{Connection, Transport, bounded};
use crate::store::StoreError;
use crate::store::database::connector::Connector;
use crate::store::database::pages::Pages;
use crate::store::database::row::Row;

/// After a row of so many bytes its thread pauses.
const LONG_ROW: usize = 64 << 10;

/// The rows of a query in progress.
pub(in super::super) enum Rows<'c> {
    Stream(Stream<'c>),
    Pages(&'c mut Connection, Pages, &'static str),
    Ended,
}

impl Rows<'_> {
    pub(in super::super) async fn next(&mut self) -> Result<Option<Row>, StoreError> {
        loop {
            match self {
                Self::Ended => return Ok(None),
                Self::Stream(stream) => return stream.next().await,
                Self::Pages(connection, pages, what) => {
                    if let Some(row) = pages.pop() {
                        return Ok(Some(row));
                    }
                    let Some(query) = pages.next() else { return Ok(None) };
                    match connection.page(what, query).await {
                        Ok(Some(page)) => {
                            if pages.take(page) {
                                continue;
                            }
                        }
                        Err(error) if connection.is_broken() => return Err(error),
                        Ok(None) | Err(_) => {}
                    }
                }
            }
            if let Self::Pages(connection, pages, what) = std::mem::replace(self, Self::Ended) {
                *self = Self::Stream(connection.stream(what, pages.row_by_row()));
            }
        }
    }
}

/// Rows that the driver hands over one by one.
pub(in super::super) struct Stream<'c> {
    rows: BoxStream<'c, Result<Row, sqlx::Error>>,
    connector: &'c Arc<Connector>,
    transport: &'c mut Transport,
    what: &'static str,
}

impl<'c> Stream<'c> {
    pub(super) fn new(
        rows: BoxStream<'c, Result<Row, sqlx::Error>>,
        (connector, transport): (&'c Arc<Connector>, &'c mut Transport),
        what: &'static str,
    ) -> Self {
        Self { rows, connector, transport, what }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Row>, StoreError> {
        let rows = &mut self.rows;
        let next = std::future::poll_fn(|context| match rows.poll_next_unpin(context) {
            Poll::Ready(row) => Poll::Ready(row.transpose()),
            Poll::Pending => Poll::Pending,
        });
        let row = bounded(self.connector, self.transport, self.what, next).await?;
        // Rows that are always there leave the thread no pause, and a long one takes its reader a while.
        match &row {
            Some(row) if row.memory() > LONG_ROW => tokio::task::yield_now().await,
            _ => tokio::task::consume_budget().await,
        }
        Ok(row)
    }
}
