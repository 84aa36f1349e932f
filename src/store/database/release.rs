//! Signed releases: published as a whole, and read back.

use super::Database;
use super::connection::Connection;
use super::manifest::{self, ManifestWrite};
use super::rules::RuleTransaction;
use super::session::Session;
use super::sql::Purpose;
use super::writes::{Applied, RuleWrite, WRITING};
use crate::rule::FoundManifest;
use crate::store::StoreError;
use crate::store::transaction::{WriteSession as _, ensure_held, transact};
use crate::trust::Manifest;

/// The most rows that are named when a release could not be written.
const NAMED: usize = 10;

impl Database {
    /// Whether a signed release is published, for a master that does not publish any; `false` if its table is missing or
    /// may not be read.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn has_manifest(&self) -> Result<bool, StoreError> {
        self.ask("looking for a signed release", |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Read).await?;
            let is_filled = manifest::is_filled(&mut connection).await;
            connection.close().await;
            is_filled
        })
        .await
    }

    /// The realm of the published manifest. The inner error says why there is none.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn published_realm(&self) -> Result<Result<String, String>, StoreError> {
        self.ask("reading the signed release", |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Read).await?;
            let realm = match manifest::realm(&mut connection).await {
                Err(error) if !connection.is_broken() => Err(manifest::why_missing(&error)),
                realm => realm?.ok_or_else(|| "the table rulesyncd_manifest is empty".to_owned()),
            };
            connection.close().await;
            Ok(realm)
        })
        .await
    }

    /// The published manifest of a realm, and the bytes of its list if they are there. Nothing of it is verified.
    ///
    /// # Errors
    /// The database does not answer. A table that is missing or may not be read is [`FoundManifest::Missing`].
    pub async fn release(&self, realm: &str) -> Result<(FoundManifest, Option<Vec<u8>>), StoreError> {
        let realm = realm.to_owned();
        self.ask("reading the signed release", |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Read).await?;
            let found = match manifest::read(&mut connection, &realm).await {
                Err(error) if !connection.is_broken() => manifest::missing(&error),
                found => found?,
            };
            let list = match &found {
                FoundManifest::Read { body, .. } => {
                    Manifest::parse(body).ok().map(|manifest| manifest.list.bytes)
                }
                FoundManifest::Missing(_) | FoundManifest::Malformed(_) => None,
            };
            let list = match list {
                Some(bytes) => manifest::read_list(&mut connection, &realm, bytes).await?,
                None => None,
            };
            connection.close().await;
            Ok((found, list))
        })
        .await
    }
}

impl Session {
    pub(super) async fn published(&mut self, realm: &str) -> Result<FoundManifest, StoreError> {
        self.prepare_manifest_table().await?;
        let found = manifest::read(&mut self.connection, realm).await;
        found.map_err(|error| self.map_lock_lost(error))
    }

    pub(super) async fn published_list(
        &mut self,
        realm: &str,
        bytes: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let list = manifest::read_list(&mut self.connection, realm, bytes).await;
        list.map_err(|error| self.map_lock_lost(error))
    }

    async fn prepare_manifest_table(&mut self) -> Result<(), StoreError> {
        if !self.has_manifest_table {
            let prepared = manifest::prepare(&mut self.connection).await;
            prepared.map_err(|error| self.map_lock_lost(error))?;
            self.has_manifest_table = true;
        }
        Ok(())
    }

    pub(super) async fn publish(
        &mut self,
        writes: &[RuleWrite],
        manifest: Option<&ManifestWrite>,
    ) -> Result<Applied, StoreError> {
        match transact(self, &RuleTransaction { writes, premise: None, manifest }).await {
            Ok((rows, written)) => Ok(Applied { rows, written, ..Applied::default() }),
            // Between transactions: no row of it is to blame.
            Err(error @ StoreError::Conflict { .. }) => {
                Ok(Applied { rejected: vec![("the release".to_owned(), error)], ..Applied::default() })
            }
            Err(error @ (StoreError::RowRejected { .. } | StoreError::RowLocked { .. })) => {
                let mut rejected = self.rejected(writes).await?;
                if rejected.is_empty() {
                    rejected.push(("the release".to_owned(), error));
                }
                Ok(Applied { rejected, ..Applied::default() })
            }
            Err(error) => Err(error),
        }
    }

    /// Which of these rows the database rejects, or another session has locked. Nothing is written.
    async fn rejected(&mut self, writes: &[RuleWrite]) -> Result<Vec<(String, StoreError)>, StoreError> {
        let mut rejected = Vec::new();
        for write in writes {
            let written = async {
                self.begin().await?;
                ensure_held(self).await?;
                self.write_rows(std::slice::from_ref(write)).await
            };
            let written = written.await;
            let rolled_back = self.connection.run(WRITING, "ROLLBACK").await;
            match written {
                Ok(_) => rolled_back.map_err(|error| self.map_lock_lost(error))?,
                Err(
                    error @ (StoreError::RowRejected { .. }
                    | StoreError::RowLocked { .. }
                    | StoreError::Conflict { .. }),
                ) => {
                    rolled_back.map_err(|error| self.map_lock_lost(error))?;
                    rejected.push((write.rule_id().to_owned(), error));
                    if rejected.len() == NAMED {
                        break;
                    }
                }
                Err(error) => return Err(self.map_lock_lost(error)),
            }
        }
        Ok(rejected)
    }
}
