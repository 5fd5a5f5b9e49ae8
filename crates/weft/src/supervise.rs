//! Child processes: started on a leash, signalled, waited for, and never left behind.
//!
//! `weft run` supervises a program and its sidecar with it, `weft demo` a whole shop. A child on a leash gets
//! a signal from the kernel when the thread that started it ends, whatever ended that: so start children
//! from the main thread. Nothing here knows what the children do.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};

/// What a child gets when its parent is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leash {
    /// SIGTERM, so that it can end well.
    Term,
    /// SIGKILL.
    Kill,
}

impl Leash {
    /// As an argument of `weft leash`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Leash::Term => "term",
            Leash::Kill => "kill",
        }
    }

    /// Reads that argument.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Leash::Term, Leash::Kill].into_iter().find(|leash| leash.name() == text)
    }

    /// The signal.
    pub(crate) fn signal(self) -> Signal {
        match self {
            Leash::Term => Signal::TERM,
            Leash::Kill => Signal::KILL,
        }
    }
}

/// Which process group a child joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// The parent's: it keeps the terminal, and signals typed there reach it directly.
    Ours,
    /// One of its own, signalled as a whole.
    Own,
}

/// Which environment a child starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variables {
    /// The parent's.
    Inherited,
    /// None but those given.
    Fresh,
}

/// How to start a child.
pub(crate) struct Launch<'a> {
    /// This program's own file, which holds the leash.
    pub(crate) weft: &'a Path,
    /// The program.
    pub(crate) program: OsString,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// What it gets when we are gone.
    pub(crate) leash: Leash,
    /// Its process group.
    pub(crate) group: Group,
    /// Where its environment comes from.
    pub(crate) variables: Variables,
    /// Variables set on top.
    pub(crate) set: Vec<(String, OsString)>,
    /// The file its output is appended to; none: ours.
    pub(crate) output: Option<&'a Path>,
}

/// A running child. Dropping it kills it, with its group if it has one of its own.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: Pid,
    group: Group,
    over: bool,
}

impl Process {
    /// Starts a child. Errors are those of the system.
    pub(crate) fn start(launch: Launch<'_>) -> io::Result<Self> {
        let mut command = Command::new(launch.weft);
        command.arg("leash").arg(launch.leash.name()).arg(std::process::id().to_string());
        command.arg("--").arg(&launch.program).args(&launch.arguments);
        if launch.variables == Variables::Fresh {
            command.env_clear();
        }
        command.envs(launch.set).kill_on_drop(true);
        if launch.group == Group::Own {
            command.process_group(0).stdin(Stdio::null());
        }
        if let Some(path) = launch.output {
            let file = File::options().create(true).append(true).open(path)?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        let child = command.spawn()?;
        let raw = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = raw.ok_or_else(|| io::Error::other("the child ended at once"))?;
        Ok(Self { child, pid, group: launch.group, over: false })
    }

    /// Sends a signal to the child, or to its whole group. A child that is gone is no error.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.over {
            return;
        }
        // The only error possible is that nobody is there any more.
        let _ = match self.group {
            Group::Own => kill_process_group(self.pid, signal),
            Group::Ours => kill_process(self.pid, signal),
        };
    }

    /// Waits for its end. Dropping the future loses nothing.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.over = true;
        Ok(status)
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        self.over |= status.is_some();
        status
    }

    /// Asks it to end with SIGTERM and kills it after `grace`.
    pub(crate) async fn stop(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM);
        if let Ok(ended) = tokio::time::timeout(grace, self.wait()).await {
            return ended;
        }
        self.signal(Signal::KILL);
        self.wait().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// A child's end as our own: its status, or 128 and the signal's number, as shells tell it.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// A child's end for people.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_becomes_a_shells_status() {
        let check = |raw: i32, text: &str, code: ExitCode| {
            let status = ExitStatus::from_raw(raw);
            assert_eq!(describe(status), text);
            assert_eq!(format!("{:?}", exit_code(status)), format!("{code:?}"));
        };
        check(0, "ended with status 0", ExitCode::SUCCESS);
        check(7 << 8, "ended with status 7", ExitCode::from(7));
        check(15, "was ended by signal 15", ExitCode::from(143));
    }
}
