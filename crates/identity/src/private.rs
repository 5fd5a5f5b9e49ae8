//! Files that hold secrets: read only when nobody else may read them, written whole or not at all.
//!
//! Used by `authority`, `token`, `spent`, `join` and `keys`. A file appears under its name only once its bytes are on
//! the disk, and one that must never be overwritten is not, also when two processes start at the same time.
//! Everything here blocks on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes of any secret file that are read; the largest that we write is far smaller.
const MAX_FILE: u64 = 8 << 20;

/// Why a secret file could not be read or written. The fault of the machine's setup; the advice is in the text.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its answer.
        #[source]
        error: io::Error,
    },
    /// Others could have read the secret, so it may be known.
    #[error(
        "{}: mode {mode:03o} lets others read this secret; if nobody has, `chmod 600` it, else replace it",
        .path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not what it should be. It is left as it is: only a person can tell what it was.
    #[error("{}: {problem}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, without quoting the secret.
        problem: String,
    },
}

impl FileError {
    /// Whether the file simply does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, FileError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }

    pub(crate) fn content(path: &Path, problem: impl Into<String>) -> Self {
        FileError::Content { path: path.to_owned(), problem: problem.into() }
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| FileError::Io { path: path.to_owned(), error }
    }
}

/// Who besides the owner may be able to read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Nobody: our own files.
    Owner,
    /// The group too: files that an orchestrator mounts for us.
    Group,
    /// Anybody: not a secret.
    Anybody,
}

/// Whether [`create`] found the name free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    New,
    AlreadyThere,
}

/// Reads a text file whose readers are limited.
pub(crate) fn read(path: &Path, readers: Readers) -> Result<String, FileError> {
    let bytes = read_bytes(path, readers)?;
    String::from_utf8(bytes).map_err(|_| FileError::content(path, "not UTF-8"))
}

/// Reads a file whose readers are limited. The permissions are those of the file that is read, also when its
/// name changes meanwhile.
pub(crate) fn read_bytes(path: &Path, readers: Readers) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(FileError::io(path))?;
    let meta = file.metadata().map_err(FileError::io(path))?;
    if !meta.is_file() {
        return Err(FileError::content(path, "not a regular file"));
    }
    let mode = meta.permissions().mode() & 0o777;
    let forbidden = match readers {
        Readers::Owner => 0o077,
        Readers::Group => 0o037,
        Readers::Anybody => 0,
    };
    if mode & forbidden != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(FileError::io(path))?;
    if read as u64 > MAX_FILE {
        return Err(FileError::content(path, "larger than any file of this kind"));
    }
    Ok(bytes)
}

/// Writes a new file of mode 0600 unless one of that name exists; that one is never touched.
pub(crate) fn create(path: &Path, text: &str) -> Result<Created, FileError> {
    let draft = Draft::write(path, text)?;
    // A link, unlike a rename, fails when the name is taken.
    let created = match fs::hard_link(&draft.path, path) {
        Ok(()) => Created::New,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Created::AlreadyThere,
        Err(error) => return Err(FileError::io(path)(error)),
    };
    drop(draft);
    sync_directory(path)?;
    Ok(created)
}

/// Writes a file of mode 0600 in place of whatever has that name.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), FileError> {
    let draft = Draft::write(path, text)?;
    fs::rename(&draft.path, path).map_err(FileError::io(path))?;
    std::mem::forget(draft); // the name is gone already
    sync_directory(path)
}

/// Makes a directory that only we may enter, with its parents, unless it exists.
pub(crate) fn directory(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::io(path))
}

/// A complete file under a name that nobody looks for; removed when dropped.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn write(target: &Path, text: &str) -> Result<Self, FileError> {
        let name = target.file_name().ok_or_else(|| FileError::content(target, "not a file name"))?;
        let mut draft = std::ffi::OsString::from(".");
        draft.push(name);
        // Only to differ from other writers: the file is opened so that an existing one is never used.
        draft.push(format!(".{:016x}.new", fastrand::u64(..)));
        let draft = Draft { path: target.with_file_name(draft) };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft.path)
            .map_err(FileError::io(target))?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(FileError::io(target))?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the new name durable.
fn sync_directory(path: &Path) -> Result<(), FileError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(FileError::io(path))
}
