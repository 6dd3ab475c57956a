//! Heads that say again what the last one on their connection has said.
//!
//! A client that keeps its connection sends nearly the same head with every request, and a server with every
//! answer: what differs is the length of the body, the second of the date, and where a balancer is between
//! them the id that it gives each request, and whose session it is. To read such a head field by field, and to
//! make a map of it, was a fifth of a call's instructions (`docs/performance.md`). So a connection remembers
//! its last head, byte by byte. One that is the same but for those values means the same but for them; it is
//! compared instead of read, and the map is copied.
//!
//! Nothing is guessed: a gap takes a value that every reader ends in the same place (digits only, a word of
//! visible characters, or as many of them and spaces as a date has), and around the gaps not a byte may differ.
//! What is kept is bounded, and copied, so that it holds no buffer that something else was read into.

use std::ops::Range;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::headers::is_of_one_request;

/// A longer head is read each time.
const LONGEST: usize = 2048;

/// As well one of more fields: their map has a place of some hundred bytes for each.
const MOST: usize = 32;

/// Digits of a length.
const LONGEST_LENGTH: usize = 19;

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
const DATE_LENGTH: usize = 29;

/// Characters of a word: the balancers' ids have 32 to 80.
const LONGEST_WORD: usize = 256;

/// Values that may differ in one head: its length, its date, and so many words less two. Of those of more words
/// the rest may not.
const GAPS: usize = 6;

/// A field, by the place of its value in the head.
pub(super) type Field = (HeaderName, Range<usize>);

/// The last head on a connection, and once it has come twice what it means: its fields and an `M`.
#[derive(Debug)]
pub(super) struct Last<M> {
    head: Vec<u8>,
    /// Counts the heads that were remembered.
    number: u64,
    /// Counts the dates and words that one came with.
    version: u64,
    /// Where values stand that may differ, in their order.
    gaps: Vec<Gap>,
    known: Option<(HeaderMap, M)>,
}

#[derive(Clone, Debug)]
struct Gap {
    what: What,
    name: HeaderName,
    at: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Length,
    Date,
    Word,
}

/// A head that is the same as the last one but for what stands in the gaps, by places in its own bytes.
#[derive(Clone, Debug)]
pub(super) struct Same {
    /// Its bytes.
    pub(super) head: usize,
    gaps: [Range<usize>; GAPS],
    /// The digits of its `Content-Length`, if it has one.
    pub(super) length: Option<Range<usize>>,
}

// === impl What ===

impl What {
    fn of(name: &HeaderName) -> Option<Self> {
        match *name {
            CONTENT_LENGTH => Some(Self::Length),
            DATE => Some(Self::Date),
            _ => is_of_one_request(name).then_some(Self::Word),
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
            Self::Word => {
                let word = bytes.iter().take(LONGEST_WORD).take_while(|it| it.is_ascii_graphic());
                Some(word.count()).filter(|many| *many > 0)
            }
        }
    }
}

// === impl Last ===

impl<M> Default for Last<M> {
    fn default() -> Self {
        Self { head: Vec::new(), number: 0, version: 0, gaps: Vec::new(), known: None }
    }
}

impl<M> Last<M> {
    /// Whether what is known is what a head at the front of `bytes` means.
    pub(super) fn same(&self, bytes: &[u8]) -> Option<Same> {
        self.known.as_ref()?;
        self.compare(bytes)
    }

    /// What the last head is known by: all that are the same as it have this number, and differ in their
    /// `Content-Length` and in [words](Self::words) alone. `None`: they may differ in more.
    pub(super) fn number(&self) -> Option<u64> {
        let dated = self.gaps.iter().any(|gap| gap.what == What::Date);
        (!dated).then_some(self.number)
    }

    /// The fields of one request that a head has which is the same, by the places of their values in it.
    pub(super) fn words<'a>(
        &'a self,
        same: &'a Same,
    ) -> impl Iterator<Item = (&'a HeaderName, Range<usize>)> {
        let gaps = self.gaps.iter().zip(&same.gaps);
        gaps.filter(|(gap, _)| gap.what == What::Word).map(|(gap, at)| (&gap.name, at.clone()))
    }

    fn compare(&self, bytes: &[u8]) -> Option<Same> {
        // How far both have been compared.
        let (mut own, mut at) = (0, 0);
        let (mut gaps, mut length) = ([const { 0..0 }; GAPS], None);
        for (gap, range) in self.gaps.iter().zip(&mut gaps) {
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

    /// What a head means that is the same, and its version: of the last head that was read, those of one differ in
    /// their `Content-Length` alone. The values in its gaps are remembered from here on.
    pub(super) fn known(&mut self, bytes: &[u8], same: &Same) -> Option<(&HeaderMap, &M, u64)> {
        let (headers, meaning) = self.known.as_mut()?;
        for (index, new) in same.gaps.iter().enumerate().take(self.gaps.len()) {
            let gap = &mut self.gaps[index];
            let (value, old) = (&bytes[new.clone()], gap.at.clone());
            if self.head[old.clone()] == *value {
                continue;
            }
            self.version += u64::from(gap.what != What::Length);
            headers.insert(gap.name.clone(), HeaderValue::from_bytes(value).ok()?);
            gap.at = old.start..old.start + value.len();
            self.head.splice(old.clone(), value.iter().copied());
            let moved = |place: usize| place - old.end + old.start + value.len();
            for later in &mut self.gaps[index + 1..] {
                later.at = moved(later.at.start)..moved(later.at.end);
            }
        }
        Some((headers, meaning, self.version))
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
        self.known = None;
        self.gaps.clear();
        self.number += 1;
        self.head.clear();
        if head.len() > LONGEST || fields.len() > MOST {
            return;
        }
        self.head.extend_from_slice(head);
        let mut words = 0;
        for (name, at) in fields {
            let Some(what) = What::of(name) else { continue };
            let is_only = fields.iter().filter(|(other, _)| other == name).count() == 1;
            words += usize::from(is_only && what == What::Word);
            let has_room = what != What::Word || words <= GAPS - 2;
            if is_only && has_room && what.fits(&head[at.clone()]) == Some(at.len()) {
                self.gaps.push(Gap { what, name: name.clone(), at: at.clone() });
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

#[cfg(test)]
mod tests;
