//! The keys that may sign releases, and who could change their file.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{ConfigError, TrustConfig};
use crate::rulefile;
use crate::trust::{AllowedSigners, MAX_ALLOWED_SIGNERS, Policy};

/// Users other than the owner may write.
const OTHERS_WRITE: u32 = 0o022;

/// What a verifier requires, as its configuration says, and what is suspect about it.
#[derive(Debug, Clone)]
pub(crate) struct LoadedTrust {
    /// What it requires.
    pub(crate) policy: Policy,
    /// Sentences for the log.
    pub(crate) warnings: Vec<String>,
}

impl TrustConfig {
    /// Reads the file of allowed signers; `None` if none is named, so that trust is off.
    ///
    /// # Errors
    /// [`ConfigError`]: the file is missing, malformed, has no key, or others may write it; or a key of the section is
    /// missing. Trust is never off for that.
    pub(crate) fn load(&self) -> Result<Option<LoadedTrust>, ConfigError> {
        let Some(path) = &self.allowed_signers else {
            let others = [self.realm.is_some(), self.min_version.is_some()];
            return match others.contains(&true) {
                false => Ok(None),
                true => Err(ConfigError(
                    "trust.realm or trust.min_version is set without trust.allowed_signers: name the file of the keys \
                     that may sign, or remove the section"
                        .to_owned(),
                )),
            };
        };
        let of_file = |why: String| ConfigError(format!("trust.allowed_signers: {}: {why}", path.display()));
        let realm = self.realm.clone().ok_or_else(|| {
            ConfigError("trust.realm is not set: name the realm whose releases are accepted".to_owned())
        })?;
        let mut warnings = Vec::new();
        let text = read(path, &mut warnings).map_err(of_file)?;
        let signers = AllowedSigners::parse(&text).map_err(|error| of_file(error.to_string()))?;
        warnings.extend(signers.warnings.iter().map(|warning| format!("{}: {warning}", path.display())));
        if signers.principals() < self.threshold {
            return Err(of_file(format!(
                "it has {} principals that may sign releases, and trust.threshold is {}",
                signers.principals(),
                self.threshold
            )));
        }
        let (threshold, min_version) = (self.threshold, self.min_version);
        Ok(Some(LoadedTrust { policy: Policy { signers, realm, threshold, min_version }, warnings }))
    }
}

/// Reads the file if nobody but root and this user can write it.
fn read(path: &Path, warnings: &mut Vec<String>) -> Result<Vec<u8>, String> {
    let file = rulefile::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let (owner, mode, own) = (metadata.uid(), metadata.mode() & 0o7777, rustix::process::geteuid().as_raw());
    if owner != 0 && owner != own {
        return Err(format!("it belongs to the user {owner}, who could change it; `chown root` it"));
    }
    if mode & OTHERS_WRITE != 0 {
        return Err(format!("others than its owner may write it (mode {mode:04o}); `chmod 644` it"));
    }
    if owner != 0 {
        warnings.push(format!(
            "{} belongs to this daemon's own user, who could change the keys: `chown root` it",
            path.display()
        ));
    }
    let mut text = Vec::new();
    file.take(MAX_ALLOWED_SIGNERS as u64 + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}
