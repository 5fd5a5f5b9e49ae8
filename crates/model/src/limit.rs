//! A bound that the code obeys, told: one row of docs/limits.md.
//!
//! Each crate lists its own beside the constants that they are made of, so that no number is written twice; the
//! tests that write the document collect the lists. Nothing here enforces anything.

use std::fmt;
use std::time::Duration;

/// One bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What it is a bound on.
    pub of: &'static str,
    /// The bound; where it can be set, its default.
    pub bound: Bound,
    /// The flag or setting that changes it; `None`: it is fixed.
    pub setting: Option<&'static str>,
    /// What happens beyond it.
    pub beyond: &'static str,
    /// The series that shows it, or why there is none.
    pub metric: &'static str,
}

/// How much is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// So many.
    Count(u64),
    /// So many bytes.
    Bytes(u64),
    /// So long.
    Time(Duration),
    /// So many in so long.
    Rate(u64, Duration),
    /// In words: the number is another library's.
    Told(&'static str),
}

impl Limit {
    /// A fixed bound.
    pub const fn fixed(of: &'static str, bound: Bound, beyond: &'static str, metric: &'static str) -> Self {
        Self { of, bound, setting: None, beyond, metric }
    }

    /// The same with the flag or setting that changes it.
    #[must_use]
    pub const fn set_by(self, setting: &'static str) -> Self {
        Self { setting: Some(setting), ..self }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Bound::Count(count) => f.write_str(&grouped(count)),
            Bound::Bytes(bytes) if bytes >= 1 << 20 && bytes % (1 << 20) == 0 => {
                write!(f, "{} MiB", grouped(bytes >> 20))
            }
            Bound::Bytes(bytes) if bytes >= 1 << 10 && bytes % (1 << 10) == 0 => {
                write!(f, "{} KiB", grouped(bytes >> 10))
            }
            Bound::Bytes(bytes) => write!(f, "{} bytes", grouped(bytes)),
            Bound::Time(time) => span(f, time),
            Bound::Told(words) => f.write_str(words),
            Bound::Rate(count, time) => {
                write!(f, "{} in ", grouped(count))?;
                span(f, time)
            }
        }
    }
}

fn span(f: &mut fmt::Formatter<'_>, time: Duration) -> fmt::Result {
    match time.as_secs() {
        secs if secs >= 3600 && time == Duration::from_secs(secs / 3600 * 3600) => {
            write!(f, "{} h", secs / 3600)
        }
        _ => write!(f, "{time:?}"),
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_read_as_people_write_them() {
        let seconds = Duration::from_secs;
        for (bound, text) in [
            (Bound::Count(0), "0"),
            (Bound::Count(999), "999"),
            (Bound::Count(100_000), "100,000"),
            (Bound::Count(1_234_567), "1,234,567"),
            (Bound::Bytes(300), "300 bytes"),
            (Bound::Bytes(65_534), "65,534 bytes"),
            (Bound::Bytes(64 << 10), "64 KiB"),
            (Bound::Bytes(4 << 20), "4 MiB"),
            (Bound::Time(Duration::from_millis(20)), "20ms"),
            (Bound::Time(seconds(10)), "10s"),
            (Bound::Time(seconds(24 * 3600)), "24 h"),
            (Bound::Rate(1_000, seconds(10)), "1,000 in 10s"),
        ] {
            assert_eq!(bound.to_string(), text);
        }
    }
}
