//! Publishes signed releases, each as a whole or not at all. With trust on this takes the place of reconciling the
//! table with the directory file by file.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::super::log;
use super::{ReconcileError, Reconciler, Report};
use crate::clock::Timestamp;
use crate::directory::{Release, ReleaseFiles, ScanScope, Scanner, holds};
use crate::rule::plan::{self, Plan};
use crate::rule::{FoundManifest, RuleHeader};
use crate::store::{ManifestWrite, MasterSession, Scope, StoreError};
use crate::telemetry::metrics;
use crate::trust::{KeyDates, Manifest, Policy, ReleaseTime};

/// A release that is held back for less than this is not logged: a `git checkout` makes no noise.
const QUIET: Duration = Duration::from_secs(10);

/// The most names in the status.
const NAMED: usize = 10;

/// What the master publishes, and why not.
#[derive(Debug, Default)]
pub(super) struct Releases {
    /// The manifest in the database, if it verifies: nothing older is published.
    floor: Option<Manifest>,
    /// The release that the database holds; `None` before the first, and while none there verifies.
    published: Option<Release>,
    /// Why the directory's release is held back.
    held: Option<Held>,
    /// Files that no release lists.
    unlisted: Vec<String>,
    /// The release whose approaching end was logged.
    warned: Option<ReleaseTime>,
}

#[derive(Debug)]
struct Held {
    reason: String,
    since: Instant,
    is_logged: bool,
}

/// The release of a master, as `rulesyncd status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReleaseStatus {
    /// The version of the published release; `None` before the first.
    pub version: Option<String>,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// Who signed it.
    #[serde(default)]
    pub signers: Vec<String>,
    /// Why the release in the directory is held back; `None` while it is not.
    pub held_back: Option<String>,
    /// Rule files that the release does not list, at most ten.
    #[serde(default)]
    pub unlisted: Vec<String>,
}

impl Releases {
    fn hold(&mut self, reason: Option<String>) {
        match (&mut self.held, reason) {
            (Some(held), Some(reason)) => held.reason = reason,
            (held, Some(reason)) => *held = Some(Held { reason, since: Instant::now(), is_logged: false }),
            (held, None) => {
                if held.take().is_some_and(|held| held.is_logged) {
                    log::release_no_longer_held();
                }
            }
        }
    }

    /// When [`Releases::log`] has something to log; `None` if nothing is pending.
    fn log_in(&self) -> Option<Duration> {
        let held = self.held.as_ref().filter(|held| !held.is_logged)?;
        Some(QUIET.saturating_sub(held.since.elapsed()))
    }

    fn log(&mut self, now: Timestamp) {
        if let Some(held) = self.held.as_mut().filter(|held| !held.is_logged && held.since.elapsed() >= QUIET)
        {
            held.is_logged = true;
            log::release_held(&held.reason);
        }
        let Some(release) = &self.published else { return };
        let manifest = &release.signed.manifest;
        let (from, to) = (manifest.version.timestamp(), manifest.expires.timestamp());
        if to.since(now) < to.since(from) / 4
            && self.warned.replace(manifest.version) != Some(manifest.version)
        {
            log::release_ends(manifest.version, manifest.expires, to <= now);
        }
    }

    /// The release in the directory.
    ///
    /// # Errors
    /// Why it is held back.
    fn offered(
        &self,
        policy: &Policy,
        files: Result<ReleaseFiles, String>,
        scanner: &Scanner,
        now: Timestamp,
    ) -> Result<Release, String> {
        let files = files?;
        let is_published =
            self.floor.as_ref().is_some_and(|floor| floor.to_string().as_bytes() == files.manifest);
        let dates = if is_published { KeyDates::Ignored } else { KeyDates::At(now) };
        let release =
            files.verify(policy, now, dates).map_err(|why| format!("the release is held back: {why}"))?;
        let version = release.signed.manifest.version;
        let held = |why: String| format!("release of {version} held back: {why}");
        policy
            .admit(&release.signed.manifest, self.floor.as_ref())
            .map_err(|refusal| held(refusal.to_string()))?;
        release.compare(|path| scanner.file(path)?.rule()).map_err(held)?;
        Ok(release)
    }

    fn status(&self) -> ReleaseStatus {
        let manifest = self.published.as_ref().map(|release| &release.signed.manifest);
        ReleaseStatus {
            version: manifest.map(|manifest| manifest.version.to_string()),
            expires: manifest.map(|manifest| manifest.expires.timestamp()),
            signers: self
                .published
                .as_ref()
                .map(|release| release.signed.signers.clone())
                .unwrap_or_default(),
            held_back: self.held.as_ref().map(|held| held.reason.clone()),
            unlisted: self.unlisted.clone(),
        }
    }
}

impl Reconciler {
    /// Publishes signed releases only, as this policy requires; `None` changes nothing.
    pub(crate) fn publish_releases(&mut self, policy: Option<Policy>) {
        self.policy = policy.or(self.policy.take());
    }

    /// What is published, and what is held back; `None` without trust.
    pub fn release(&self) -> Option<ReleaseStatus> {
        self.releases.as_ref().map(Releases::status)
    }

    /// Logs what has lasted long enough. Returns when to call it again, if it must be soon.
    pub(in crate::master) fn log_release(&mut self) -> Option<Duration> {
        let now = self.clock.now();
        let releases = self.releases.as_mut()?;
        releases.log(now);
        releases.log_in()
    }

    /// Makes the table equal to the directory's release, or, while that is held back, to the published one, as far as
    /// files still hold its bytes.
    pub(super) async fn publish(
        &mut self,
        session: &mut MasterSession,
        policy: Policy,
        scope: &ScanScope,
    ) -> Result<Report, ReconcileError> {
        let mut releases = self.releases.take().unwrap_or_default();
        let report = self.publish_with(session, &mut releases, &policy, scope).await;
        self.releases = Some(releases);
        report
    }

    async fn publish_with(
        &mut self,
        session: &mut MasterSession,
        releases: &mut Releases,
        policy: &Policy,
        scope: &ScanScope,
    ) -> Result<Report, ReconcileError> {
        // A release is compared as a whole, with every file and every row, at each wake-up: nothing less shows that
        // the rows are the published release while another one is held back, and which rows no list names. Only rule
        // files and `MANIFEST*` wake it, and under trust they change with a release, not edit by edit. Reading the rows
        // takes most of the time, and an edit without trust does not do it.
        let scope = if scope.is_all() { scope } else { &ScanScope::All };
        let changed = self.scan(scope).await?;
        self.file_log.note_changed(changed);
        let rows = metrics::timed("read_rows", session.rows(Scope::All)).await?;
        self.file_log.changes(&self.scanner, &rows);
        let now = self.clock.now();
        let stored = read_published(session, releases, policy, now).await?;
        let (directory, links) = (self.scanner.directory().to_owned(), self.config.follow_links_to.clone());
        let files = tokio::task::spawn_blocking(move || ReleaseFiles::read(&directory, &links)).await;
        let files = files.unwrap_or_else(|error| Err(error.to_string()));
        let joined = files.as_ref().map(ReleaseFiles::joined_signatures).unwrap_or_default();
        let offered = releases.offered(policy, files, &self.scanner, now);
        let (target, manifest, reason) = match (offered, &releases.published) {
            (Ok(release), _) => {
                let manifest = to_write(&release, joined, stored);
                (release, manifest, None)
            }
            (Err(reason), Some(published)) => (published.clone(), None, Some(reason)),
            (Err(reason), None) => {
                releases.hold(Some(reason));
                return Ok(Report::default());
            }
        };
        let listed: BTreeMap<&str, _> =
            target.list.rules().iter().map(|rule| (&*rule.source_path, rule)).collect();
        let unlisted = self.scanner.files().map(|(name, _)| name).filter(|name| !listed.contains_key(name));
        releases.unlisted = unlisted.take(NAMED).map(str::to_owned).collect();
        let plan = plan_release(&self.scanner, &target, &rows, &self.config.updated_by);
        let (is_whole, is_new) = (reason.is_none(), manifest.is_some());
        let mut report = Report { plan, ..Report::default() };
        let planned = report.plan.clone();
        let done = self.carry_out_release(session, &mut report, manifest).await;
        self.scanner.forget_texts();
        done?;
        let why = match (reason, report.why_not_published.take()) {
            (Some(reason), _) => Some(reason),
            (None, Some(why)) => {
                Some(format!("release of {} held back: {why}", target.signed.manifest.version))
            }
            (None, None) => None,
        };
        if is_whole && why.is_none() {
            if is_new {
                log::release_published(&target.signed, &planned);
            }
            releases.published = Some(target);
        }
        releases.hold(why);
        Ok(report)
    }

    /// What publishing the directory's release would write.
    pub(super) fn preview_release(&mut self, policy: Policy, rows: &[RuleHeader]) -> Report {
        let mut releases = self.releases.take().unwrap_or_default();
        let files = ReleaseFiles::read(self.scanner.directory(), &self.config.follow_links_to);
        let report = match releases.offered(&policy, files, &self.scanner, self.clock.now()) {
            Ok(release) => {
                releases.hold(None);
                let plan = plan_release(&self.scanner, &release, rows, &self.config.updated_by);
                Report { plan, ..Report::default() }
            }
            Err(reason) => {
                releases.hold(Some(reason));
                Report::default()
            }
        };
        self.releases = Some(releases);
        report
    }
}

/// Reads what the database holds, unless it is what is known. Returns part 0 if all of it verifies.
async fn read_published(
    session: &mut MasterSession,
    releases: &mut Releases,
    policy: &Policy,
    now: Timestamp,
) -> Result<Option<(Vec<u8>, String)>, StoreError> {
    let realm = policy.realm.to_string();
    let before = releases.published.take();
    releases.floor = None;
    let FoundManifest::Read { body, signatures } = session.published(realm.clone()).await? else {
        return Ok(None);
    };
    // The dates of a key count when a release is first accepted, which is when it is published.
    let verified = policy.verify(&body, &signatures, KeyDates::At(now));
    let verified = verified.or_else(|_| policy.verify(&body, &signatures, KeyDates::Ignored));
    let Ok(signed) = verified else { return Ok(None) };
    releases.floor = Some(signed.manifest.clone());
    let known = before.filter(|before| before.signed.manifest == signed.manifest);
    let list = match known {
        // Another program may have changed the parts, and only this master mends them.
        Some(known)
            if session.published_list(realm.clone(), known.list_text.len()).await?.as_deref()
                == Some(known.list_text.as_bytes()) =>
        {
            Some((known.list, known.list_text))
        }
        _ => {
            let list = session.published_list(realm, signed.manifest.list.bytes).await?.unwrap_or_default();
            signed.manifest.parse_list(&list).ok().map(|list| (list.clone(), list.to_text()))
        }
    };
    let Some((list, list_text)) = list else { return Ok(None) };
    releases.published = Some(Release { signed, list, list_text });
    Ok(Some((body, signatures)))
}

/// The manifest to write; `None` if the database holds it with these signatures.
fn to_write(release: &Release, joined: String, stored: Option<(Vec<u8>, String)>) -> Option<ManifestWrite> {
    let manifest = &release.signed.manifest;
    let body = manifest.to_string();
    if stored.is_some_and(|(stored, signatures)| stored == body.as_bytes() && signatures == joined) {
        return None;
    }
    Some(ManifestWrite {
        realm: manifest.realm.to_string(),
        version: manifest.version.to_string(),
        body,
        signatures: joined,
        list: release.list_text.clone(),
    })
}

/// The writes that make the rows equal to the release: those of listed rules whose files hold the listed bytes, and
/// the deletions of own rows that are not listed.
fn plan_release(scanner: &Scanner, release: &Release, rows: &[RuleHeader], owner: &str) -> Plan {
    let listed: BTreeMap<&str, _> =
        release.list.rules().iter().map(|rule| (&*rule.source_path, rule)).collect();
    let files = scanner.rules().filter(|(path, rule)| {
        rule.is_ok_and(|rule| listed.get(path).is_some_and(|listed| holds(listed, rule)))
    });
    let mut plan = plan::plan(files, rows, owner);
    plan.deletes.retain(|row| release.list.get(&row.rule_id).is_none());
    plan
}
