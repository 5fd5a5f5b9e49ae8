//! The texts of manifests that stand for numbers: times, Go durations, Kubernetes quantities. Pure.
//!
//! Used by `kinds.rs` and `profile.rs`, and the other way round by `render.rs`.

use std::time::Duration;

/// Reads an RFC 3339 time as seconds since 1970; fractions are dropped. `None` if it is none.
pub(crate) fn seconds_since_epoch(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let mut parts = date.split('-');
    let (year, month, day) =
        (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let (time, rest) = rest.split_at_checked(8)?;
    let mut parts = time.split(':');
    let (hour, minute, second) =
        (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let month_days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=month_days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
            sign * (digits(hours, 2)? * 3600 + digits(minutes, 2)? * 60)
        }
    };
    Some(days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, counting years from March so that the leap
/// day comes last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Writes seconds since 1970 as RFC 3339, in UTC.
pub(crate) fn timestamp(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Reads a duration as Go writes it: `300ms`, `1.5s`, `1m30s`, `0`. `None` if it is none or negative.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let length = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, unit) = rest.split_at(length);
        let number: f64 = number.parse().ok()?;
        let length = unit.chars().take_while(|c| c.is_alphabetic()).map(char::len_utf8).sum();
        let (unit, next) = unit.split_at(length);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * seconds;
        rest = next;
    }
    // Go counts nanoseconds; the sum of decimal parts is rounded to them.
    Duration::try_from_secs_f64(total).ok().map(|d| {
        let nanos = (total * 1e9).round();
        if nanos < 1.8e19 { Duration::from_nanos(nanos as u64) } else { d }
    })
}

/// Reads a Kubernetes quantity in thousandths, rounded up: `1` → 1000, `500m` → 500, `1.5` → 1500,
/// `2k` → 2000000. `None` if it is none, negative, or too large.
pub(crate) fn quantity_milli(text: &str) -> Option<u64> {
    let length = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = text.split_at(length);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        _ => match suffix.strip_prefix(['e', 'E'])?.parse::<i32>() {
            Ok(exponent) => 10f64.powi(exponent),
            Err(_) => return None,
        },
    };
    let milli = (number * factor * 1000.0 - 1e-6).ceil().max(0.0);
    (milli <= 1e15).then_some(milli as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_1970_and_back() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29T12:34:56Z", Some(1_709_210_096)),
            ("2024-02-29T12:34:56.789Z", Some(1_709_210_096)),
            ("2024-02-29T13:34:56+01:00", Some(1_709_210_096)),
            ("1969-12-31T23:59:59Z", Some(-1)),
            ("2100-02-29T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-01-01", None),
            ("2024-01-01T00:00:00", None),
            ("2024-01-01T24:00:00Z", None),
            ("äöüäöüäö", None),
            ("", None),
        ] {
            assert_eq!(seconds_since_epoch(text), expected, "{text}");
        }
        for seconds in [0, -1, 951_782_400, 1_709_210_096, 4_102_444_800, -62_135_596_800] {
            assert_eq!(seconds_since_epoch(&timestamp(seconds)), Some(seconds));
        }
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, expected) in [
            ("300ms", Some(300)),
            ("1.5s", Some(1500)),
            ("1m30s", Some(90_000)),
            ("1h", Some(3_600_000)),
            ("0", Some(0)),
            ("1500us", Some(1)),
            ("1s500", None),
            ("10", None),
            ("-1s", None),
            ("s", None),
            ("", None),
            ("1d", None),
            ("99999999999999999999999h", None),
        ] {
            assert_eq!(go_duration(text).map(|d| d.as_millis()), expected, "{text}");
        }
    }

    #[test]
    fn quantities_are_thousandths() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("0", Some(0)),
            ("500m", Some(500)),
            ("1.5", Some(1500)),
            ("2k", Some(2_000_000)),
            ("1Ki", Some(1_024_000)),
            ("1e2", Some(100_000)),
            ("0.1m", Some(1)),
            ("-1", None),
            ("x", None),
            ("", None),
            ("1e99", None),
        ] {
            assert_eq!(quantity_milli(text), expected, "{text}");
        }
    }
}
