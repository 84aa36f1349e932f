//! `rulesyncd manifest sign`: `ssh-keygen` signs, so that agents and security keys work.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use super::files::write;
use crate::command::print::print_done;
use crate::command::{Failure, Outcome};
use crate::config::{Config, environment};
use crate::directory::{MANIFEST_SIG, ReleaseFiles};
use crate::trust::{MAX_SIGNATURE, MAX_SIGNATURES, Manifest, NAMESPACE, Signature};

/// The keys that are tried where none is named, in `~/.ssh`.
const DEFAULT_KEYS: [&str; 4] = ["id_ed25519", "id_ecdsa", "id_ed25519_sk", "id_ecdsa_sk"];

/// Add a signature to the MANIFEST of a directory
///
/// `ssh-keygen` signs. The file of a public key is enough where an agent holds the private one; a security key asks
/// for a touch. A second signature of the same key replaces the first.
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd manifest sign rules --key ~/.ssh/id_ed25519.pub")]
pub(super) struct SignArgs {
    /// The directory that holds the rules
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The file of the private key, or of the public key where an agent holds the private one; by default
    /// ~/.ssh/id_ed25519, id_ecdsa, id_ed25519_sk or id_ecdsa_sk
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

pub(super) fn run(args: &SignArgs, config: &Config) -> Outcome {
    let files = ReleaseFiles::read(&args.directory, &config.master.follow_links_to);
    let files = files.map_err(|why| environment!(why))?;
    let manifest = Manifest::parse(&files.manifest);
    let checked = manifest.and_then(|manifest| manifest.parse_list(&files.list).map(|_| manifest));
    let manifest = checked
        .map_err(|why| usage!("MANIFEST is not signed: {why}; `rulesyncd manifest make` makes it anew"))?;
    let key = key(args)?;
    let text = ssh_keygen(&key, &files.manifest)?;
    let not_one =
        |why: String| environment!("ssh-keygen made no signature that counts with {}: {why}", key.display());
    // Without a terminal ssh-keygen may succeed and have signed nothing.
    let signature = Signature::parse(text.as_bytes()).map_err(|why| not_one(why.to_string()))?;
    signature.verify(&files.manifest).map_err(|why| not_one(format!("it {why}")))?;
    if text.len() > MAX_SIGNATURE {
        return Err(not_one(format!("it has {} bytes; at most {MAX_SIGNATURE} are possible", text.len())));
    }
    let name = name(&files, &signature)?;
    write(&args.directory, &name, text.as_bytes())?;
    let done = format!("{name} signs the release of {} with {}\n", manifest.version, key.display());
    print_done(&done, &done)
}

/// The key that signs.
fn key(args: &SignArgs) -> Result<PathBuf, Failure> {
    if let Some(key) = &args.key {
        return match fs::metadata(key) {
            Ok(_) => Ok(key.clone()),
            Err(error) => Err(usage!("--key {}: {error}", key.display())),
        };
    }
    // Without an absolute path the keys would be those of the directory that is worked in, which may be another's.
    let home = environment("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let home = home
        .ok_or_else(|| usage!("HOME does not name a directory that could have a key: name one with --key"))?;
    let keys = DEFAULT_KEYS.iter().map(|name| home.join(".ssh").join(name));
    let mut found = keys.flat_map(|key| [key.clone(), key.with_extension("pub")]).filter(|key| key.is_file());
    found.next().ok_or_else(|| usage!("no key is in {}: name one with --key", home.join(".ssh").display()))
}

/// Pipes the manifest through `ssh-keygen`. (With the name of a file it would ask whether to overwrite a signature.)
fn ssh_keygen(key: &Path, manifest: &[u8]) -> Result<String, Failure> {
    let failed = |why: String| environment!("ssh-keygen: {why}");
    let mut command = Command::new("ssh-keygen");
    command.args(["-Y", "sign", "-n", NAMESPACE, "-f"]).arg(key);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| failed(format!("{error}; install OpenSSH's client")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it ended already, it said why.
        stdin.write_all(manifest).ok();
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("it did not sign with {} ({})", key.display(), output.status)));
    }
    String::from_utf8(output.stdout).map_err(|_| failed("it printed no text".to_owned()))
}

/// The name of the signature's file: that of the same key's older one, or the first free one.
fn name(files: &ReleaseFiles, signature: &Signature) -> Result<String, Failure> {
    let of_key =
        |text: &String| Signature::parse(text.as_bytes()).is_ok_and(|other| other.key == signature.key);
    if let Some((name, _)) = files.signatures.iter().find(|(_, text)| of_key(text)) {
        return Ok(name.clone());
    }
    let names = (0..MAX_SIGNATURES).map(|number| match number {
        0 => MANIFEST_SIG.to_owned(),
        number => format!("{MANIFEST_SIG}.{number}"),
    });
    let is_free = |name: &String| !files.signatures.contains_key(name) && !files.ignored.contains_key(name);
    let full = || usage!("there are {MAX_SIGNATURES} signatures already");
    names.into_iter().find(is_free).ok_or_else(full)
}
