//! Numbers and times as people read them. Pure.

use time::OffsetDateTime;

/// The longest text that a narrow column takes as it is, and what stays of a longer one.
const MAX_SHOWN: usize = 28;
const START: usize = 16;
const END: usize = 8;

/// A count, with spaces between thousands.
pub(super) fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut out = String::with_capacity(digits.len() * 2);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A rate, with a digit behind the point where it is small.
pub(super) fn rate(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        small if small < 10.0 => format!("{small:.1}"),
        large => count(large),
    }
}

/// Bytes, in units of 1024.
pub(super) fn bytes(value: f64) -> String {
    let mut value = value.max(0.0);
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A short time.
pub(super) fn seconds(value: f64) -> String {
    match value {
        short if short < 1.0 => format!("{} ms", short * 1e3),
        long if long < 60.0 => format!("{long} s"),
        longer => format!("{} min", longer / 60.0),
    }
}

/// A long time, in its two largest units.
pub(super) fn span(seconds: u64) -> String {
    let units = [(24 * 3600, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let first = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(units.len() - 1);
    let part = |n: usize, rest: u64| format!("{} {}", rest / units[n].0, units[n].1);
    let rest = seconds % units[first].0;
    match units.get(first + 1) {
        // Of months, the hours are of no interest; of minutes, the seconds are not either.
        Some((size, _)) if rest >= *size && first < 2 && seconds < 100 * 24 * 3600 => {
            format!("{} {}", part(first, seconds), part(first + 1, rest))
        }
        _ => part(first, seconds),
    }
}

/// A moment in UTC, to the minute.
pub(super) fn moment(unix: u64) -> String {
    let at = i64::try_from(unix).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    let Some(at) = at else { return "–".to_owned() };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02} UTC",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute()
    )
}

/// Takes the middle out of a long text.
pub(super) fn short(text: &str) -> String {
    let length = text.chars().count();
    if length <= MAX_SHOWN {
        return text.to_owned();
    }
    let (start, end) = (text.chars().take(START), text.chars().skip(length - END));
    start.chain(['…']).chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [count(0.0), count(999.0), count(1_234_567.0)],
            ["0", "999", "1\u{202f}234\u{202f}567"]
        );
        assert_eq!([rate(0.0), rate(0.25), rate(1_234.0)], ["0", "0.2", "1\u{202f}234"]);
        assert_eq!([bytes(0.0), bytes(2048.0), bytes(5e9)], ["0 B", "2.0 KiB", "4.7 GiB"]);
        assert_eq!([seconds(0.025), seconds(2.5), seconds(600.0)], ["25 ms", "2.5 s", "10 min"]);
    }

    #[test]
    fn times_have_two_units_at_most() {
        let day = 24 * 3600;
        assert_eq!([span(0), span(61), span(3720)], ["0 s", "1 min", "1 h 2 min"]);
        assert_eq!(
            [span(day + 7200), span(90 * day), span(400 * day)],
            ["1 d 2 h", "90 d", "400 d"]
        );
        assert_eq!(moment(1_800_003_661), "2027-01-15 09:01 UTC");
    }

    #[test]
    fn long_texts_lose_their_middle_by_characters() {
        assert_eq!(short("key:short"), "key:short");
        assert_eq!(short(&"ä".repeat(40)), format!("{}…{}", "ä".repeat(16), "ä".repeat(8)));
    }
}
