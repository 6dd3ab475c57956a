//! Heads that say again what the last one on their connection has said.
//!
//! A client that keeps its connection sends nearly the same head with every request, and a server with every
//! answer: what differs is the length of the body, and the second of the date. To read such a head field by
//! field, and to make a map of it, was a fifth of a call's instructions (`docs/performance.md`). So a
//! connection remembers its last head, byte by byte. One that is the same but for those two values means the
//! same but for them; it is compared instead of read, and the map is copied.
//!
//! Nothing is guessed: a gap takes a value that every reader ends in the same place (digits only, or as many
//! visible characters as a date has), and around the gaps not a byte may differ. What is kept is bounded, and
//! copied, so that it holds no buffer that something else was read into.

use std::ops::Range;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// A longer head is read each time.
const LONGEST: usize = 2048;

/// As well one of more fields: their map has a place of some hundred bytes for each.
const MOST: usize = 32;

/// Digits of a length.
const LONGEST_LENGTH: usize = 19;

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
const DATE_LENGTH: usize = 29;

/// A field, by the place of its value in the head.
pub(super) type Field = (HeaderName, Range<usize>);

/// The last head on a connection, and once it has come twice what it means: its fields and an `M`.
#[derive(Debug)]
pub(super) struct Last<M> {
    head: Vec<u8>,
    /// Counts the heads that were remembered, and the dates that one came with.
    number: u64,
    /// Where values stand that may differ, in their order.
    gaps: [Option<Gap>; 2],
    known: Option<(HeaderMap, M)>,
}

#[derive(Clone, Debug)]
struct Gap {
    what: What,
    at: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Length,
    Date,
}

/// A head that is the same as the last one but for what stands in the gaps, by places in its own bytes.
#[derive(Clone, Debug)]
pub(super) struct Same {
    /// Its bytes.
    pub(super) head: usize,
    gaps: [Range<usize>; 2],
    /// The digits of its `Content-Length`, if it has one.
    pub(super) length: Option<Range<usize>>,
}

// === impl What ===

impl What {
    const fn name(self) -> HeaderName {
        match self {
            Self::Length => CONTENT_LENGTH,
            Self::Date => DATE,
        }
    }

    /// How many of these bytes are a value for such a gap.
    fn fits(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Length => {
                let digits = bytes.iter().take(LONGEST_LENGTH).take_while(|it| it.is_ascii_digit());
                Some(digits.count()).filter(|many| *many > 0)
            }
            Self::Date => {
                let date = bytes.get(..DATE_LENGTH)?;
                let ends = !date.starts_with(b" ") && !date.ends_with(b" ");
                (ends && date.iter().all(|it| matches!(it, b' '..=b'~'))).then_some(DATE_LENGTH)
            }
        }
    }
}

// === impl Last ===

impl<M> Default for Last<M> {
    fn default() -> Self {
        Self { head: Vec::new(), number: 0, gaps: [const { None }; 2], known: None }
    }
}

impl<M> Last<M> {
    /// Whether what is known is what a head at the front of `bytes` means.
    pub(super) fn same(&self, bytes: &[u8]) -> Option<Same> {
        self.known.as_ref()?;
        self.compare(bytes)
    }

    /// What the last head is known by: all that are the same as it have this number, and differ in their
    /// `Content-Length` alone. `None`: they may differ in more.
    pub(super) fn number(&self) -> Option<u64> {
        let dated = self.gaps.iter().flatten().any(|gap| gap.what == What::Date);
        (!dated).then_some(self.number)
    }

    fn compare(&self, bytes: &[u8]) -> Option<Same> {
        // How far both have been compared.
        let (mut own, mut at) = (0, 0);
        let (mut gaps, mut length) = ([0..0, 0..0], None);
        for (gap, range) in self.gaps.iter().flatten().zip(&mut gaps) {
            let between = &self.head[own..gap.at.start];
            let rest = bytes[at..].strip_prefix(between)?;
            at += between.len();
            *range = at..at + gap.what.fits(rest)?;
            if gap.what == What::Length {
                length = Some(range.clone());
            }
            (own, at) = (gap.at.end, range.end);
        }
        let end = &self.head[own..];
        let is_same = !self.head.is_empty() && bytes[at..].starts_with(end);
        is_same.then_some(Same { head: at + end.len(), gaps, length })
    }

    /// What a head means that is the same, and its number. The values in its gaps are remembered from here on;
    /// another date is another number.
    pub(super) fn known(&mut self, bytes: &[u8], same: &Same) -> Option<(&HeaderMap, &M, u64)> {
        let (headers, meaning) = self.known.as_mut()?;
        for (index, new) in same.gaps.iter().enumerate() {
            let Some(gap) = self.gaps[index].clone() else { break };
            let value = &bytes[new.clone()];
            if self.head[gap.at.clone()] == *value {
                continue;
            }
            self.number += u64::from(gap.what == What::Date);
            headers.insert(gap.what.name(), HeaderValue::from_bytes(value).ok()?);
            self.head.splice(gap.at.clone(), value.iter().copied());
            let moved = |place: usize| place - gap.at.end + gap.at.start + value.len();
            for later in self.gaps[index + 1..].iter_mut().flatten() {
                later.at = moved(later.at.start)..moved(later.at.end);
            }
            self.gaps[index] = Some(Gap { at: gap.at.start..gap.at.start + value.len(), ..gap });
        }
        Some((headers, meaning, self.number))
    }

    /// Remembers a head that has been read.
    pub(super) fn learn(
        &mut self,
        head: &[u8],
        fields: &[Field],
        meaning: impl FnOnce(&Bytes) -> Option<M>,
    ) {
        if self.known.is_none() && self.compare(head).is_some() {
            let kept = Bytes::copy_from_slice(head);
            self.remember(head, fields);
            self.known = map(&kept, fields.iter().cloned()).zip(meaning(&kept));
        } else {
            self.remember(head, fields);
        }
    }

    fn remember(&mut self, head: &[u8], fields: &[Field]) {
        (self.known, self.gaps) = (None, [const { None }; 2]);
        self.number += 1;
        self.head.clear();
        if head.len() > LONGEST || fields.len() > MOST {
            return;
        }
        self.head.extend_from_slice(head);
        let mut gaps = self.gaps.iter_mut();
        for (name, at) in fields {
            let what = match *name {
                CONTENT_LENGTH => What::Length,
                DATE => What::Date,
                _ => continue,
            };
            let is_only = fields.iter().filter(|(other, _)| other == name).count() == 1;
            if is_only
                && what.fits(&head[at.clone()]) == Some(at.len())
                && let Some(gap) = gaps.next()
            {
                *gap = Some(Gap { what, at: at.clone() });
            }
        }
    }
}

/// The map of fields whose values are parts of `bytes`. `None`: a value is none.
pub(super) fn map(
    bytes: &Bytes,
    fields: impl ExactSizeIterator<Item = Field>,
) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, at) in fields {
        headers.append(name, HeaderValue::from_maybe_shared(bytes.slice(at)).ok()?);
    }
    Some(headers)
}
