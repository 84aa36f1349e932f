//! Signed releases: which is published, which is held back, and which ends.

use crate::event;
use crate::plural::count;
use crate::rule::plan::Plan;
use crate::trust::{ReleaseTime, SignedManifest};

/// A release is held back for a while already: this is no `git checkout`.
pub(in crate::master) fn release_held(reason: &str) {
    tracing::error!(
        message_id = event::RELEASE_HELD,
        "{reason}; the rows stay those of the published release until the directory holds a whole signed release"
    );
}

pub(in crate::master) fn release_no_longer_held() {
    tracing::info!(message_id = event::RELEASE_HELD, "no release is held back any more");
}

pub(in crate::master) fn release_published(signed: &SignedManifest, plan: &Plan) {
    let (manifest, signers) = (&signed.manifest, signed.signers.join(", "));
    let (version, written, deleted) = (manifest.version.to_string(), plan.writes.len(), plan.deletes.len());
    tracing::info!(
        message_id = event::RELEASE_PUBLISHED,
        version,
        signers,
        written,
        deleted,
        "the release of {version}, signed by {signers}, is published: {} written, {deleted} deleted",
        count(written, "rule")
    );
}

/// A quarter of the lifetime is left, or less.
pub(in crate::master) fn release_ends(version: ReleaseTime, expires: ReleaseTime, is_over: bool) {
    let (version, verb) = (version.to_string(), if is_over { "expired" } else { "expires" });
    tracing::warn!(
        message_id = event::RELEASE_ENDS,
        version,
        "the published release of {version} {verb} at {expires}: make and sign it anew"
    );
}

/// Trust is off here, and the database holds a signed release.
pub(in crate::master) fn edits_are_not_signed() {
    tracing::warn!(
        message_id = event::RELEASE_HELD,
        "the database holds a signed release, and this master publishes without signatures: workers that verify will \
         not serve its edits; set `trust` as on the workers"
    );
}
