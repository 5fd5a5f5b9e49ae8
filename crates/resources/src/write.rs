//! Files written whole or not at all, and the manifests that the mesh itself puts beside the user's.
//!
//! `weft run` registers its program by [`Writer::write_object`]; `state.rs` uses the same way of
//! replacing a file. Nothing here reads manifests.

use crate::render::manifest;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use weft_model::object::{Key, Object};

/// What the names of files start with that the mesh writes by itself. Their objects come and go with
/// processes, so the guard against mass disappearance does not count them.
pub const OWN_FILE_PREFIX: &str = "weft-run-";

/// Writes and removes manifests in a directory.
#[derive(Clone, Debug)]
pub struct Writer {
    root: PathBuf,
}

impl Writer {
    /// Writes into the manifests' root, which must exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The file of an object: `weft-run-KIND-NAMESPACE-NAME.yaml`. Names of objects hold no `_`, so
    /// different objects have different files.
    pub fn path(&self, key: &Key) -> PathBuf {
        let kind = key.kind.name().to_ascii_lowercase();
        self.root.join(format!("{OWN_FILE_PREFIX}{kind}_{}_{}.yaml", key.namespace, key.name))
    }

    /// Writes an object's file, whole or not at all, over one of the same object. Blocks until it is on
    /// disk. Errors are those of the file system; a retry is safe.
    pub fn write_object(&self, object: &Object) -> io::Result<PathBuf> {
        let path = self.path(&object.key());
        let text = serde_saphyr::to_string(&manifest(object)).map_err(io::Error::other)?;
        let text = format!("# Written by weft; removed when its process ends.\n{text}");
        replace_file(&path, text.as_bytes(), 0o644)?;
        Ok(path)
    }

    /// Removes an object's file; tells whether there was one.
    pub fn remove_object(&self, key: &Key) -> io::Result<Removed> {
        match fs::remove_file(self.path(key)) {
            Ok(()) => {
                sync_directory(&self.root)?;
                Ok(Removed::Yes)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removed::WasNotThere),
            Err(error) => Err(error),
        }
    }
}

/// Whether a file was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It was.
    Yes,
    /// There was none.
    WasNotThere,
}

/// Whether a file is one that the mesh writes by itself, by its name relative to the root.
pub(crate) fn is_own(file: &str) -> bool {
    file.rsplit('/').next().is_some_and(|name| name.starts_with(OWN_FILE_PREFIX))
}

/// Replaces a file so that readers see the old content or the new one, and a crash leaves one of the
/// two. Blocks until it is on disk.
pub(crate) fn replace_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    // One process writes one file at a time; the number keeps two processes apart.
    let temporary = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The error that matters is the first; a leftover is hidden and replaced next time.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)?.sync_all()
}
