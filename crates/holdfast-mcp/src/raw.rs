//! JSON text as it stands in a body.
//!
//! The gateway never re-serialises what it passes on, so a value that it must compare, store or
//! replace (a request id, a progress token, `requestState`) is kept as the characters the sender
//! wrote. `1.0`, `1` and `1e0` are three different ids to us, as they are to a client that looks
//! its pending calls up by text, and a 20-digit integer keeps its digits.

use std::{borrow::Cow, fmt, ops::Range};

/// One JSON value, borrowed from the body it was found in. Never empty, no surrounding white space.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Raw<'a>(pub(crate) &'a str);

impl<'a> Raw<'a> {
    /// The value's JSON text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Where the value stands in `body`, for [`crate::splice::splice`].
    ///
    /// # Panics
    /// When the value was not peeked from `body` itself: an edit at a guessed place would corrupt
    /// the message, and only a mistake in the calling code can lead here.
    #[must_use]
    pub fn range_in(self, body: &[u8]) -> Range<usize> {
        let start = (self.0.as_ptr() as usize).checked_sub(body.as_ptr() as usize);
        match start.and_then(|start| Some(start..start.checked_add(self.0.len())?)) {
            Some(range) if range.end <= body.len() => range,
            _ => panic!("a JSON value is only found in the body that it was peeked from"),
        }
    }

    /// A copy that outlives the body.
    #[must_use]
    pub fn to_owned_text(self) -> Box<str> {
        self.0.into()
    }

    /// The string's value; `None` when this is no JSON string, or one that no Rust string can hold
    /// (a lone surrogate). Borrowed unless the text contains an escape.
    #[must_use]
    pub fn as_text(self) -> Option<Cow<'a, str>> {
        let inner = self.0.strip_prefix('"')?.strip_suffix('"')?;
        if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
            return Some(Cow::Borrowed(inner));
        }
        serde_json::from_str(self.0).ok().map(Cow::Owned)
    }

    /// Whether the value is JSON's `null`.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// Whether the value may be a request id: a string or a number.
    #[must_use]
    pub fn is_id(self) -> bool {
        matches!(self.0.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9'))
    }
}

impl fmt::Display for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_from_strings_only() {
        assert!(matches!(Raw("\"a b\"").as_text(), Some(Cow::Borrowed("a b"))));
        assert_eq!(Raw(r#""\u00e9\"\\""#).as_text().as_deref(), Some("\u{e9}\"\\"));
        assert_eq!(Raw("\"\"").as_text().as_deref(), Some(""));
        for other in ["1", "null", "[\"a\"]", "{}", r#""\ud800""#] {
            assert_eq!(Raw(other).as_text(), None, "{other}");
        }
    }

    #[test]
    fn ids_are_strings_and_numbers() {
        for id in ["\"\"", "0", "-1", "9.5e3"] {
            assert!(Raw(id).is_id(), "{id}");
        }
        for other in ["null", "true", "[1]", "{}"] {
            assert!(!Raw(other).is_id(), "{other}");
        }
        assert!(Raw("null").is_null() && !Raw("\"null\"").is_null());
    }

    #[test]
    fn a_place_is_counted_from_the_bodys_start() {
        let body = String::from("[1, \"x\"]");
        assert_eq!(Raw(&body[4..7]).range_in(body.as_bytes()), 4..7);
        assert_eq!(Raw(&body[4..7]).to_string(), "\"x\"");
        assert_eq!(format!("{:?}", Raw(&body[4..7])), "Raw(\"x\")");
        assert_eq!(&*Raw(&body[4..7]).to_owned_text(), "\"x\"");
        // Neither a value before the body nor one that ends beyond it.
        let within = &body.as_bytes()[2..6];
        for outside in [&body[1..2], &body[4..7]] {
            assert!(std::panic::catch_unwind(|| Raw(outside).range_in(within)).is_err());
        }
    }
}
