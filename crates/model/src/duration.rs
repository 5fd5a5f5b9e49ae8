//! The duration grammar of settings, annotations and request headers: a whole number and a unit.

use std::time::Duration;

/// Reads `10ms`, `3s`, `2m`, `1h`, `7d` or `0`. Blanks around it are ignored; fractions, compound
/// values and a number without unit (other than 0) are refused with `None`.
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "" if number == 0 => 1,
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// Writes a duration in the same grammar, in the largest unit that is exact.
pub fn format(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (size, unit) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(parse(text), expected.map(Duration::from_millis), "{text}");
    }

    #[test]
    fn durations_are_a_number_and_a_unit() {
        check("10ms", Some(10));
        check(" 3s ", Some(3000));
        check("2m", Some(120_000));
        check("1h", Some(3_600_000));
        check("1d", Some(86_400_000));
        check("0", Some(0));
        check("10", None);
        check("1.5s", None);
        check("1m30s", None);
        check("-1s", None);
        check("", None);
        check("99999999999999999999d", None);
        check("18446744073709551615d", None);
    }

    #[test]
    fn durations_are_written_in_the_largest_exact_unit() {
        for text in ["10ms", "3s", "2m", "90s", "1h", "7d", "0ms"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
    }
}
