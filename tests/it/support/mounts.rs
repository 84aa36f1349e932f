//! File systems of the tests' own, unmounted when dropped. Only root may mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::swarm::text;

/// A file system that is mounted.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// A file system in memory, of so many bytes with a unit: `96m`.
    pub(crate) fn tmpfs(at: &Path, size: &str) -> Self {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at));
        Self(at.to_owned())
    }

    /// An ext4 whose inodes have no room for more than whole seconds; `image` is the file it lives in.
    pub(crate) fn ext4_of_whole_seconds(at: &Path, image: &Path) -> Self {
        run(Command::new("truncate").args(["-s", "32M"]).arg(image));
        run(Command::new("mkfs.ext4").args(["-q", "-I", "128", "-F"]).arg(image));
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at));
        Self(at.to_owned())
    }

    /// An overlay; `layers` is a directory, not on an overlay itself, that its layers live in.
    pub(crate) fn overlay(at: &Path, layers: &Path) -> Self {
        let layer = |name: &str| {
            let path = layers.join(name);
            std::fs::create_dir(&path).unwrap();
            path.display().to_string()
        };
        let options =
            format!("lowerdir={},upperdir={},workdir={}", layer("lower"), layer("upper"), layer("work"));
        run(Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}
