//! Values that are an amount of something: counts, times, sizes and shares, each within its range.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::field::Field;
use crate::units::{self, Bad};

impl Field<'_> {
    /// A whole number in `range`.
    pub(crate) fn count(&self, range: &RangeInclusive<u64>) -> Option<u64> {
        let text = self.text()?;
        let (least, most) = (range.start(), range.end());
        let allowed = format!("a whole number from {least} to {most}");
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(count) if digits && range.contains(&count) => Some(count),
            Ok(count) if digits => {
                let cure = format!("write {}", count.clamp(*least, *most));
                self.problem(format!("{count} is out of range"), &allowed, &cure);
                None
            }
            // A number too large for any range.
            Err(_) if digits => {
                self.problem(
                    "the number is out of range".into(),
                    &allowed,
                    &format!("write {most}"),
                );
                None
            }
            _ => {
                self.wrong("a whole number", &allowed, "write digits only");
                None
            }
        }
    }

    /// A share in `range`, as a decimal number or in percent.
    pub(crate) fn share(&self, range: &RangeInclusive<f64>) -> Option<f64> {
        let text = self.text()?;
        let (least, most) = (range.start(), range.end());
        let allowed = format!("{least} to {most}, or {}% to {}%", least * 100.0, most * 100.0);
        match units::share(&text) {
            Some(share) if range.contains(&share) => Some(share),
            Some(share) => {
                let cure = format!("write {}", share.clamp(*least, *most));
                self.problem(format!("{} is out of range", self.shown()), &allowed, &cure);
                None
            }
            None => {
                let cure = format!("write something like {}", 0.1_f64.clamp(*least, *most));
                self.wrong("a share", &allowed, &cure);
                None
            }
        }
    }

    /// A decimal number in `range`.
    pub(crate) fn decimal(&self, range: &RangeInclusive<f64>) -> Option<f64> {
        let text = self.text()?;
        let (least, most) = (range.start(), range.end());
        let allowed = format!("a number from {least} to {most}");
        match units::decimal(&text) {
            Some(number) if range.contains(&number) => Some(number),
            Some(number) => {
                let cure = format!("write {}", number.clamp(*least, *most));
                self.problem(format!("{} is out of range", self.shown()), &allowed, &cure);
                None
            }
            None => {
                self.wrong("a number", &allowed, "write digits, with a dot for what is below 1");
                None
            }
        }
    }

    /// A duration in `range`.
    pub(crate) fn duration(&self, range: &RangeInclusive<Duration>) -> Option<Duration> {
        let unit = Unit {
            name: "a duration",
            units: "ms, s, m, h or d",
            with_unit: |number| format!("{number}s or {number}ms"),
            example: || example_duration(range),
            read: units::duration,
            show: units::show_duration,
        };
        self.amount(range, unit)
    }

    /// A number of bytes in `range`.
    pub(crate) fn size(&self, range: &RangeInclusive<u64>) -> Option<u64> {
        let unit = Unit {
            name: "a size",
            units: "B, KiB, MiB or GiB",
            with_unit: |number| format!("{number}B, {number}KiB or {number}MiB"),
            example: || "512KiB or 4MiB".to_owned(),
            read: units::size,
            show: units::show_size,
        };
        self.amount(range, unit)
    }

    /// A whole number with a unit, in `range`.
    fn amount<T: Copy + Ord>(
        &self,
        range: &RangeInclusive<T>,
        unit: Unit<T, impl Fn() -> String>,
    ) -> Option<T> {
        let text = self.text()?;
        let show = unit.show;
        let allowed = format!(
            "{} to {}, as a whole number and {}",
            show(*range.start()),
            show(*range.end()),
            unit.units
        );
        match (unit.read)(&text) {
            Ok(value) if range.contains(&value) => return Some(value),
            Ok(value) => {
                let cure = format!("write {}", show(value.clamp(*range.start(), *range.end())));
                self.problem(format!("{} is out of range", self.shown()), &allowed, &cure);
            }
            Err(Bad::NoUnit) => {
                let cure = format!("write {}", (unit.with_unit)(text.trim()));
                self.problem(format!("{} has no unit", self.shown()), &allowed, &cure);
            }
            Err(Bad::Form) => {
                let cure = format!("write something like {}", (unit.example)());
                self.wrong(unit.name, &allowed, &cure);
            }
        }
        None
    }
}

/// How an amount is written that has a unit.
struct Unit<T, E> {
    name: &'static str,
    units: &'static str,
    /// A number that lacks its unit, with those that are likely.
    with_unit: fn(&str) -> String,
    example: E,
    read: fn(&str) -> Result<T, Bad>,
    show: fn(T) -> String,
}

fn example_duration(range: &RangeInclusive<Duration>) -> String {
    let middle = [250, 5_000, 30_000, 3_600_000].map(Duration::from_millis);
    let example = middle.into_iter().find(|value| range.contains(value));
    units::show_duration(example.unwrap_or_else(|| *range.start()))
}
