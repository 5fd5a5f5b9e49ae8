//! Where the demo is watched: a terminal, redrawn in place and listening to keys, or plain lines.
//!
//! Dropping the screen gives the terminal back as it was.

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Write};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

/// Keys that wait to be looked at; more are dropped.
const WAITING: usize = 16;

/// Without a terminal, every so many renewals are printed.
const EVERY: u32 = 5;

const KEYS: &str =
    "k SIGTERM books-1   K SIGKILL books-2   m move the split of web   c control plane   q quit";

/// The screen.
pub(crate) struct Screen {
    is_terminal: bool,
    keys: Option<mpsc::Receiver<u8>>,
    before: Option<Termios>,
    renewals: u32,
}

impl Screen {
    /// Takes the terminal, if there is one. `keys`: whether to listen to it.
    pub(crate) fn open(keys: bool) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let mut screen = Self { is_terminal, keys: None, before: None, renewals: 0 };
        if keys && is_terminal && std::io::stdin().is_terminal() {
            screen.listen();
        }
        if is_terminal {
            print!("\x1b[?25l\x1b[2J");
        }
        screen
    }

    /// Reads single keys: nothing is echoed, and none waits for the end of a line.
    fn listen(&mut self) {
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(&stdin) else { return };
        let mut raw = before.clone();
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        if tcsetattr(&stdin, OptionalActions::Now, &raw).is_err() {
            return;
        }
        self.before = Some(before);
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            let mut stdin = tokio::io::stdin();
            while let Ok(key) = stdin.read_u8().await {
                if sender
                    .try_send(key)
                    .is_err_and(|error| matches!(error, mpsc::error::TrySendError::Closed(_)))
                {
                    return;
                }
            }
        });
        self.keys = Some(receiver);
    }

    /// The next key; waits for ever where nobody listens.
    pub(crate) async fn key(&mut self) -> Option<u8> {
        match &mut self.keys {
            Some(keys) => match keys.recv().await {
                Some(key) => Some(key),
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Shows the table and what happened last.
    pub(crate) fn show(&mut self, table: &str, told: &[&str], elapsed: Duration) {
        self.renewals += 1;
        let seconds = elapsed.as_secs();
        if !self.is_terminal {
            if self.renewals.is_multiple_of(EVERY) {
                println!("\nafter {seconds} s:\n{table}");
            }
            return;
        }
        let keys = if self.keys.is_some() { KEYS } else { "" };
        let frame = format!("weft demo, {seconds} s\n\n{table}\n{}\n\n{keys}\n", told.join("\n"));
        // Each line clears what the last frame left behind it, and the end what was below.
        let frame = frame.replace('\n', "\x1b[K\n");
        print!("\x1b[H{frame}\x1b[J");
        // Who closed the terminal does not watch.
        let _ = std::io::stdout().flush();
    }

    /// Says at once what happened, where it is not redrawn anyway.
    pub(crate) fn tell(&self, line: &str) {
        if !self.is_terminal {
            println!("{line}");
        }
    }

    /// Gives the terminal back.
    pub(crate) fn leave(&mut self) {
        if let Some(before) = self.before.take() {
            // A terminal that is gone needs nothing.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &before);
        }
        if std::mem::take(&mut self.is_terminal) {
            print!("\x1b[?25h");
            let _ = std::io::stdout().flush();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}
