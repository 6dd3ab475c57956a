//! Durations, sizes and shares as people write them: `250ms`, `1h`, `4MiB`, `0.1` or `10%`.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// Why a text is not a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// A number that lacks its unit.
    NoUnit,
    /// Anything else.
    Form,
}

/// `0`, or a whole number and one of ms, s, m, h, d.
pub(crate) fn duration(text: &str) -> Result<Duration, Bad> {
    quantity(text, &DURATIONS).map(Duration::from_millis)
}

/// `0`, or a whole number and one of B, KiB, MiB, GiB, KB, MB, GB.
pub(crate) fn size(text: &str) -> Result<u64, Bad> {
    quantity(text, &SIZES)
}

/// A decimal number, or whole or broken percents: `0.1`, `10%`, `2.5%`.
pub(crate) fn share(text: &str) -> Option<f64> {
    let text = text.trim();
    match text.strip_suffix('%') {
        // Through the text and not by a division, so that 7% is what 0.07 is.
        Some(percents) => format!("{}e-2", digits(percents.trim_end())?).parse().ok(),
        None => decimal(text),
    }
}

/// A decimal number: `-1.5`, `300`.
pub(crate) fn decimal(text: &str) -> Option<f64> {
    let text = text.trim();
    digits(text.strip_prefix('-').unwrap_or(text))?;
    text.parse().ok()
}

/// The text, if it is digits with at most one dot among them.
fn digits(text: &str) -> Option<&str> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let all = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (text.len() <= 32 && all(whole) && all(fraction)).then_some(text)
}

/// The shortest way to write it that [`duration`] reads back.
pub(crate) fn show_duration(value: Duration) -> String {
    let millis = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 { "0s".into() } else { show(millis, &DURATIONS) }
}

/// The shortest way to write it that [`size`] reads back, in powers of 1024.
pub(crate) fn show_size(value: u64) -> String {
    show(value, &SIZES[..4])
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Result<u64, Bad> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let number: u64 = number.parse().map_err(|_| Bad::Form)?;
    match (number, unit) {
        (0, "") => return Ok(0),
        (_, "") => return Err(Bad::NoUnit),
        _ => {}
    }
    let (_, factor) =
        units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or(Bad::Form)?;
    number.checked_mul(*factor).ok_or(Bad::Form)
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    let largest =
        units.iter().rev().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor));
    match largest {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => format!("{value}{}", units[0].0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration(" 5 m "), Ok(Duration::from_secs(300)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("30"), Err(Bad::NoUnit));
        for bad in ["", "s", "-1s", "1.5s", "1e3s", "5 apples", "99999999999999999999s"] {
            assert_eq!(duration(bad), Err(Bad::Form), "{bad}");
        }
        assert_eq!(duration("18446744073709551615d"), Err(Bad::Form));
    }

    #[test]
    fn sizes() {
        assert_eq!(size("4MiB"), Ok(4 << 20));
        assert_eq!(size("4mb"), Ok(4_000_000));
        assert_eq!(size("10B"), Ok(10));
        assert_eq!(size("10"), Err(Bad::NoUnit));
        assert_eq!(size("10TiB"), Err(Bad::Form));
    }

    #[test]
    fn shares_and_decimals() {
        assert_eq!(share("0.1"), Some(0.1));
        assert_eq!(share("7%"), Some(0.07));
        assert_eq!(share("2.5 %"), Some(0.025));
        assert_eq!(share("1"), Some(1.0));
        assert_eq!(decimal("-1.5"), Some(-1.5));
        for bad in ["", "%", ".5", "5.", "1e3", "nan", "inf", "-5%", "+1", "1.2.3", "ten", "0x1"] {
            assert_eq!(share(bad), None, "{bad}");
        }
        assert_eq!(decimal(&"9".repeat(400)), None);
    }

    #[test]
    fn what_is_shown_reads_back() {
        for millis in [0, 1, 250, 1_000, 90_000, 3_600_000, 86_400_000, 299_000] {
            let value = Duration::from_millis(millis);
            assert_eq!(duration(&show_duration(value)), Ok(value));
        }
        for bytes in [0, 1, 1000, 1024, 1 << 20, (1 << 30) + 1] {
            assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
        assert_eq!(show_size(4 << 20), "4MiB");
    }
}
