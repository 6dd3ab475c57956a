//! The `Date` of responses (RFC 9110, section 6.6.1), made once a second and thread.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

thread_local! {
    static NOW: RefCell<(u64, [u8; 29])> = const { RefCell::new((u64::MAX, [0; 29])) };
}

/// Gives the present date to `write`, as it stands in the field.
pub(super) fn with_date(write: impl FnOnce(&[u8])) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    NOW.with_borrow_mut(|(of, text)| {
        if *of != seconds {
            (*of, *text) = (seconds, date(seconds));
        }
        write(text);
    });
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, of seconds since 1970.
fn date(seconds: u64) -> [u8; 29] {
    const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
    const MONTHS: [&[u8; 3]; 12] = [
        b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov",
        b"Dec",
    ];
    // A calendar whose years begin in March and whose eras of 400 years are all alike
    // (Hinnant, "chrono-compatible low-level date algorithms").
    let days = seconds / 86_400;
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let two = |number: u64| [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8];
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[..3].copy_from_slice(DAYS[(days % 7) as usize]);
    text[5..7].copy_from_slice(&two(day));
    text[8..11].copy_from_slice(MONTHS[(month - 1) as usize]);
    text[12..14].copy_from_slice(&two(year / 100));
    text[14..16].copy_from_slice(&two(year));
    let of_day = seconds % 86_400;
    text[17..19].copy_from_slice(&two(of_day / 3_600));
    text[20..22].copy_from_slice(&two(of_day / 60 % 60));
    text[23..25].copy_from_slice(&two(of_day % 60));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (1_798_761_600, "Fri, 01 Jan 2027 00:00:00 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(&date(seconds)), Ok(text));
        }
        with_date(|text| assert!(text.ends_with(b" GMT") && text.len() == 29));
    }
}
