//! The ledger of join tokens that were for one use and have been used.
//!
//! Only `token` calls it. The ledger is a file of lines, `expiry id`, appended and synced before a token counts
//! as redeemed, so that a restart forgets nothing; ids whose token has expired are dropped. Each call reads the
//! file under a lock: redemptions are rare, and two processes may share the file. A damaged file refuses all.

use crate::private::{self, FileError, Readers};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Unexpired ids kept; a guess: a token lives a day, and nobody starts more workloads a day by hand.
pub(crate) const MAX_SPENT: usize = 50_000;

/// Expired lines tolerated before the file is written anew.
const MAX_STALE: usize = 256;

const FILE: &str = "spent-tokens";
const LOCK: &str = "spent-tokens.lock";

/// Where burnt ids are remembered.
#[derive(Debug)]
pub(crate) struct Spent {
    path: PathBuf,
    lock: PathBuf,
}

/// Why an id could not be burnt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unburnt {
    #[error("it has been used")]
    Already,
    #[error("more than {MAX_SPENT} unexpired tokens have been used; wait until some expire")]
    Full,
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the ledger's lock: {0}")]
    Lock(io::Error),
}

struct Records<'a> {
    /// Lines of unexpired ids, each with its newline.
    alive: Vec<&'a str>,
    stale: usize,
    /// The last line was cut by a crash before its token counted as redeemed.
    torn: bool,
}

impl Spent {
    /// The ledger of a directory. Nothing is read yet.
    pub(crate) fn of(directory: &Path) -> Self {
        Self { path: directory.join(FILE), lock: directory.join(LOCK) }
    }

    /// Notes that `id` is used, and returns once that is on the disk. Blocks.
    pub(crate) fn burn(&self, id: &str, expires: SystemTime, now: SystemTime) -> Result<(), Unburnt> {
        // Opened each time: a lock belongs to the open file, and threads must exclude each other, too. It is
        // released when the file is closed, at the end.
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.lock);
        let lock: File = lock.map_err(Unburnt::Lock)?;
        lock.lock().map_err(Unburnt::Lock)?;
        let text = match private::read(&self.path, Readers::Owner) {
            Err(error) if error.is_missing() => String::new(),
            other => other?,
        };
        let records = parse(&text, seconds(now)).map_err(|why| FileError::content(&self.path, why))?;
        if records
            .alive
            .iter()
            .any(|line| line.split_once(' ').is_some_and(|(_, known)| known.trim_end() == id))
        {
            return Err(Unburnt::Already);
        }
        if records.alive.len() >= MAX_SPENT {
            return Err(Unburnt::Full);
        }
        let line = format!("{} {id}\n", seconds(expires));
        if text.is_empty() || records.torn || records.stale > MAX_STALE {
            private::replace(&self.path, &(records.alive.concat() + &line))?;
        } else {
            self.append(&line).map_err(|error| FileError::Io { path: self.path.clone(), error })?;
        }
        Ok(())
    }

    fn append(&self, line: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        file.write_all(line.as_bytes())?;
        file.sync_data()
    }
}

fn parse(text: &str, now: u64) -> Result<Records<'_>, String> {
    let mut records = Records { alive: Vec::new(), stale: 0, torn: false };
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if !line.ends_with('\n') {
            records.torn = true;
            break;
        }
        let expires = line.split_once(' ').and_then(|(expires, _)| expires.parse::<u64>().ok());
        match expires {
            Some(expires) if expires >= now => records.alive.push(line),
            Some(_) => records.stale += 1,
            None => return Err(format!("line {} is damaged", number + 1)),
        }
    }
    Ok(records)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
