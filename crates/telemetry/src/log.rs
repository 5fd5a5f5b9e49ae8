//! The log: where it goes, how it looks, what it holds, and changing that while running.
//!
//! `weft/main.rs` calls `start` once with what the settings say; the admin server reads and changes the
//! filter through `LogLevel`. Lines carry wall-clock time, because they are read beside other programs'
//! logs. Never reads the environment, never rotates files: whoever collects the output does.

use std::fmt;
use std::io::{self, IsTerminal};
use tracing::Dispatch;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The filter in force where nothing is set.
pub const DEFAULT_FILTER: &str = "warn,weft=info,hickory=error";

/// Longest filter that is accepted, in bytes: it may come over the network.
const MAX_FILTER_BYTES: usize = 4_096;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// Reads `plain` or `json`, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "plain" => Some(Format::Plain),
            "json" => Some(Format::Json),
            _ => None,
        }
    }
}

/// Where lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sink {
    /// Standard output, as the peer's.
    #[default]
    Stdout,
    /// Standard error, for commands whose output is for people or pipes.
    Stderr,
}

/// Why a filter was refused, or the log not started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The text is not a filter. The caller's fault; nothing changed.
    #[error("not a log filter: {0}")]
    Filter(String),
    /// The text is too long. The caller's fault; nothing changed.
    #[error("a log filter has at most {MAX_FILTER_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// The process has a log already: a mistake in the program.
    #[error("the log was started before")]
    StartedBefore,
}

/// Reads and changes the filter of a running log. Clones change the same one.
#[derive(Clone)]
pub struct LogLevel {
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogLevel {
    /// The filter in force, as text.
    pub fn current(&self) -> String {
        self.handle.with_current(EnvFilter::to_string).unwrap_or_default()
    }

    /// Puts another filter in force, at once and for all threads.
    ///
    /// # Errors
    /// When the text is no filter; then the old one stays.
    pub fn set(&self, text: &str) -> Result<(), LogError> {
        let filter = parse(text)?;
        // It fails only when the log itself is gone, and then there is nothing to set.
        let _ = self.handle.reload(filter);
        Ok(())
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogLevel").field(&self.current()).finish()
    }
}

/// Starts the process' log. A filter with mistakes does not keep the program from starting: its
/// sound directives are taken, and a warning names the mistake.
///
/// # Errors
/// `StartedBefore`, on a second call.
pub fn start(filter: &str, format: Format, sink: Sink) -> Result<LogLevel, LogError> {
    let (dispatch, level) = match sink {
        Sink::Stdout => build(filter, format, (io::stdout, io::stdout().is_terminal())),
        Sink::Stderr => build(filter, format, (io::stderr, io::stderr().is_terminal())),
    };
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| LogError::StartedBefore)?;
    if let Err(error) = parse(filter) {
        tracing::warn!(%error, in_force = level.current(), "the log filter has mistakes");
    }
    Ok(level)
}

/// A log that writes somewhere else and is not yet anybody's: for tests. The flag says whether colours
/// are understood there.
fn build<W>(filter: &str, format: Format, (writer, colours): (W, bool)) -> (Dispatch, LogLevel)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = parse(filter).unwrap_or_else(|_| parse_lossy(filter));
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let dispatch = match format {
        Format::Plain => Dispatch::new(registry.with(lines.with_ansi(colours))),
        Format::Json => Dispatch::new(registry.with(lines.json().with_ansi(false))),
    };
    (dispatch, LogLevel { handle })
}

fn parse(text: &str) -> Result<EnvFilter, LogError> {
    if text.len() > MAX_FILTER_BYTES {
        return Err(LogError::TooLong(text.len()));
    }
    EnvFilter::builder().parse(translate(text)).map_err(|error| LogError::Filter(error.to_string()))
}

/// Takes the sound directives of a text that is not sound as a whole.
fn parse_lossy(text: &str) -> EnvFilter {
    let sound = |directive: &&str| !directive.is_empty() && parse(directive).is_ok();
    let kept: Vec<&str> = text.split(',').map(str::trim).filter(sound).collect();
    parse(&kept.join(",")).unwrap_or_default()
}

/// What is set for the peer names its modules, `linkerd`; here they are called `weft`.
fn translate(text: &str) -> String {
    let rename = |directive: &str| match directive.trim().strip_prefix("linkerd") {
        Some(rest) if rest.is_empty() || rest.starts_with('=') => format!("weft{rest}"),
        _ => directive.trim().to_owned(),
    };
    text.split(',').map(rename).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn memory_log(filter: &str, format: Format) -> (Dispatch, LogLevel, Memory) {
        let memory = Memory::default();
        let writer = memory.clone();
        let (dispatch, level) = build(filter, format, (move || writer.clone(), false));
        (dispatch, level, memory)
    }

    #[test]
    fn lines_begin_with_the_time_of_day() {
        let (dispatch, _, memory) = memory_log("info", Format::Plain);
        tracing::dispatcher::with_default(&dispatch, || tracing::info!(port = 80, "listening"));
        let text = memory.text();
        let stamp = text.split_ascii_whitespace().next().unwrap();
        assert!(stamp.starts_with("20") && stamp.contains('T') && stamp.ends_with('Z'), "{text}");
        assert!(text.contains("INFO") && text.ends_with("listening port=80\n"), "{text}");
    }

    #[test]
    fn json_lines_are_objects_with_a_timestamp() {
        let (dispatch, _, memory) = memory_log("info", Format::Json);
        tracing::dispatcher::with_default(&dispatch, || tracing::info!(port = 80, "a \"b\""));
        let text = memory.text();
        assert!(
            text.starts_with("{\"timestamp\":\"20") && text.contains(r#""message":"a \"b\"","port":80"#),
            "{text}"
        );
    }

    #[test]
    fn the_filter_can_be_changed_and_a_bad_one_changes_nothing() {
        let (dispatch, level, memory) = memory_log("warn", Format::Plain);
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!("unseen");
            level.set("warn,weft=debug").unwrap();
            tracing::debug!(target: "weft_proxy::serve", "seen");
            assert!(matches!(level.set("warn,weft=loud"), Err(LogError::Filter(_))));
            assert!(matches!(level.set(&"a".repeat(5_000)), Err(LogError::TooLong(5_000))));
            tracing::debug!(target: "weft_proxy::serve", "seen too");
        });
        let text = memory.text();
        assert!(!text.contains("unseen") && text.contains("seen\n") && text.contains("seen too\n"), "{text}");
        assert_eq!(level.current(), "weft=debug,warn");
    }

    #[test]
    fn sound_directives_survive_bad_ones() {
        let (_dispatch, level, _) = memory_log("warn,weft=loud, weft_net=debug", Format::Plain);
        assert_eq!(level.current(), "weft_net=debug,warn");
    }

    #[test]
    fn a_filter_meant_for_the_peer_means_our_modules() {
        assert_eq!(translate("warn,linkerd=info,hickory=error"), DEFAULT_FILTER);
        assert_eq!(translate("linkerd_app=debug"), "linkerd_app=debug");
        assert_eq!(Format::parse("JSON"), Some(Format::Json));
        assert_eq!(Format::parse("xml"), None);
    }
}
