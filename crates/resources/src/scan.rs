//! One look at the directory: which files there are, and the content of those that changed.
//!
//! Runs on a blocking thread for `directory.rs`. It follows no symbolic link out of the root, opens
//! nothing but regular files, and keeps no state of its own.

use crate::hash;
use crate::parse::{Parsed, TEXT_LIMIT, parse};
use crate::report::Finding;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Most files that are read; the rest is reported.
pub(crate) const FILE_LIMIT: usize = 100_000;
/// Most bytes of all files together: what keeps a directory of large files from filling the memory. 50,000 manifests
/// as people write them have 20 MiB, as `kubectl` prints them 64.
pub(crate) const TOTAL_LIMIT: u64 = 64 << 20;
/// Deepest directory below the root.
pub(crate) const DEPTH_LIMIT: usize = 32;
/// Most findings of one look.
const FINDING_LIMIT: usize = 1000;
/// A file that changed this short a time ago may change again without a visible difference.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What is known of a file from an earlier look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) hash: u64,
    stamp: Option<Stamp>,
}

/// Tells whether a file was touched, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of a file, if nothing can have happened to it unseen since.
    fn of(meta: &Metadata, now: SystemTime) -> Option<Self> {
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(meta.ctime()).ok()?);
        let settled = now.duration_since(changed).is_ok_and(|age| age > SETTLED_AFTER);
        settled.then(|| Self {
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// How thoroughly to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Depth {
    /// Files whose stamp is unchanged are not read.
    Changed,
    /// Every file is read.
    All,
}

/// What one file was found to be.
#[derive(Debug)]
pub(crate) enum Content {
    /// As it was.
    Same,
    /// Touched, but with the content that it had.
    Touched(Known),
    /// New or changed.
    New { parsed: Parsed, known: Known },
    /// There, but it cannot be read.
    Unreadable(String),
}

/// What one look found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Files by name relative to the root.
    pub(crate) files: BTreeMap<Arc<str>, Content>,
    /// Directories that could not be listed, relative to the root, with a `/` at the end; whatever was
    /// known below them is unknown now.
    pub(crate) unlisted: Vec<String>,
    /// What else is wrong.
    pub(crate) findings: Vec<Finding>,
}

/// Looks at a directory. The error means that the root itself cannot be listed.
pub(crate) fn scan(root: &Path, known: &BTreeMap<Arc<str>, Known>, depth: Depth) -> io::Result<Scan> {
    let root = root.canonicalize()?;
    let mut walk = Walk {
        root: &root,
        known,
        depth,
        now: SystemTime::now(),
        seen: BTreeSet::new(),
        total: 0,
        scan: Scan::default(),
    };
    walk.seen.insert(root.clone());
    walk.directory(&root, "", 0)?;
    Ok(walk.scan)
}

struct Walk<'a> {
    root: &'a Path,
    known: &'a BTreeMap<Arc<str>, Known>,
    depth: Depth,
    now: SystemTime,
    /// Real paths that were visited: links may lead to the same place twice, or around in a circle.
    seen: BTreeSet<PathBuf>,
    /// Bytes of the files so far.
    total: u64,
    scan: Scan,
}

impl Walk<'_> {
    fn directory(&mut self, path: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            match entry.file_name().into_string() {
                Ok(name) => names.push((name, entry.file_type()?.is_dir())),
                Err(name) => self.find(prefix, &name.to_string_lossy(), "its name is not UTF-8"),
            }
        }
        names.sort();
        for (name, is_directory) in names {
            if is_skipped(&name) {
                continue;
            }
            let relative = format!("{prefix}{name}");
            if let Err(error) = self.entry(&path.join(&name), &relative, is_directory, depth) {
                match error.kind() {
                    // Gone between listing and reading.
                    io::ErrorKind::NotFound => {}
                    _ => self.find("", &relative, &error.to_string()),
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, relative: &str, is_directory: bool, depth: usize) -> io::Result<()> {
        // What is neither a directory nor named like a manifest is not even looked at, unless it is a
        // link that may lead to a directory.
        let is_manifest = is_manifest(relative);
        let is_link = !is_directory && fs::symlink_metadata(path)?.file_type().is_symlink();
        if !is_directory && !is_manifest && !is_link {
            return Ok(());
        }
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if is_link && error.kind() == io::ErrorKind::NotFound => {
                if is_manifest {
                    self.find("", relative, "it is a link to nothing");
                }
                return Ok(());
            }
            Err(error) if is_manifest => return self.unreadable(relative, &error),
            Err(error) => return Err(error),
        };
        if !real.starts_with(self.root) {
            self.find("", relative, "it is a link that leaves the manifests' root; it is not followed");
            return Ok(());
        }
        let meta = fs::metadata(&real)?;
        if meta.is_dir() {
            if !self.seen.insert(real.clone()) {
                return Ok(());
            }
            if depth >= DEPTH_LIMIT {
                self.find("", relative, &format!("it is more than {DEPTH_LIMIT} directories deep"));
                return Ok(());
            }
            let prefix = format!("{relative}/");
            if let Err(error) = self.directory(&real, &prefix, depth + 1) {
                self.find("", relative, &format!("it cannot be listed: {error}"));
                self.scan.unlisted.push(prefix);
            }
            return Ok(());
        }
        if !is_manifest || !self.seen.insert(real.clone()) {
            return Ok(());
        }
        if !meta.is_file() {
            self.find("", relative, "it is not a regular file");
            return Ok(());
        }
        if self.scan.files.len() >= FILE_LIMIT {
            self.find("", relative, &format!("there are more than {FILE_LIMIT} files; it is left out"));
            return Ok(());
        }
        match self.file(&real, relative, &meta) {
            Ok(content) => drop(self.scan.files.insert(relative.into(), content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return self.unreadable(relative, &error),
        }
        Ok(())
    }

    fn unreadable(&mut self, relative: &str, error: &io::Error) -> io::Result<()> {
        self.scan.files.insert(relative.into(), Content::Unreadable(error.to_string()));
        Ok(())
    }

    fn file(&mut self, real: &Path, relative: &str, meta: &Metadata) -> io::Result<Content> {
        // One that is too large by itself takes nothing from the others.
        let size = if meta.len() > TEXT_LIMIT as u64 { 0 } else { meta.len() };
        if self.total.saturating_add(size) > TOTAL_LIMIT {
            return Ok(Content::Unreadable(format!("all files together have more than {TOTAL_LIMIT} bytes")));
        }
        self.total += size;
        let known = self.known.get(relative);
        let stamp = Stamp::of(meta, self.now);
        if self.depth == Depth::Changed && stamp.is_some() && known.is_some_and(|k| k.stamp == stamp) {
            return Ok(Content::Same);
        }
        let mut bytes = Vec::new();
        File::open(real)?.take(TEXT_LIMIT as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > TEXT_LIMIT {
            return Ok(Content::Unreadable(format!("it is larger than {TEXT_LIMIT} bytes")));
        }
        let hash = hash::of(&bytes);
        if known.is_some_and(|k| k.hash == hash) {
            return Ok(Content::Touched(Known { hash, stamp }));
        }
        let Ok(text) = String::from_utf8(bytes) else {
            return Ok(Content::Unreadable("it is not UTF-8".into()));
        };
        Ok(Content::New { parsed: parse(&relative.into(), &text), known: Known { hash, stamp } })
    }

    fn find(&mut self, prefix: &str, name: &str, message: &str) {
        if self.scan.findings.len() < FINDING_LIMIT {
            self.scan.findings.push(Finding {
                file: format!("{prefix}{name}").into(),
                line: 0,
                object: String::new(),
                field: String::new(),
                message: message.to_owned(),
            });
        }
    }
}

/// Names that are skipped whatever they are (§8.3).
fn is_skipped(name: &str) -> bool {
    name.starts_with('.')
        || name.ends_with('~')
        || name.ends_with(".swp")
        || name.ends_with(".tmp")
        || name == "kustomization.yaml"
}

fn is_manifest(name: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}
