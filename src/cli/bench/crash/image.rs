//! A disk that loses its power: an ext4 file system in a file, behind a loop device.
//!
//! What the kernel keeps in its cache has not reached the file. So a copy of the file is what a disk has after a power
//! cut, for a disk that loses nothing of what it has taken. It needs the right to mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// How large the disk is; most of it is a hole in the file.
const BYTES: u64 = 1 << 30;

/// A mounted disk; unmounted when this is dropped.
pub struct Image {
    file: PathBuf,
    mount: PathBuf,
    is_mounted: bool,
}

impl Image {
    /// Makes a disk below this folder and mounts it there.
    ///
    /// # Errors
    /// The tools are not there, or may not be used.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        let mut image = Self { file: folder.join("disk"), mount: folder.join("mounted"), is_mounted: false };
        std::fs::create_dir(&image.mount).context("a folder to mount on")?;
        std::fs::File::create(&image.file)
            .and_then(|file| file.set_len(BYTES))
            .context("a file for the disk")?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image.file))?;
        image.mount().context("--power-cuts mounts a disk image, which needs root")?;
        Ok(image)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.mount
    }

    /// Copies what the disk has now.
    ///
    /// # Errors
    /// There is no room.
    pub fn copy(&self) -> anyhow::Result<()> {
        run(Command::new("cp").arg("--sparse=always").arg(&self.file).arg(self.copied()))
    }

    /// From here on the disk is that copy, at the same place. Nothing may have it open.
    ///
    /// # Errors
    /// It is in use, or the copy can't be mounted.
    pub fn go_back(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        std::fs::rename(self.copied(), &self.file).context("the copy of the disk")?;
        self.mount()
    }

    /// The disk stays mounted.
    pub fn keep(&mut self) {
        self.is_mounted = false;
    }

    fn copied(&self) -> PathBuf {
        self.file.with_extension("copy")
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.file).arg(&self.mount))?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(&self.mount))?;
        self.is_mounted = false;
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.is_mounted {
            // Whatever still has it open lets go of it later.
            Command::new("umount").arg("--lazy").arg(&self.mount).status().ok();
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}: {}", command.get_program().display(), said.trim());
    Ok(())
}
