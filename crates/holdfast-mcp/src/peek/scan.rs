//! The pass over an ordinary message, by hand instead of by serde's general machinery.
//!
//! It knows how to say yes and not why no. Whatever is out of the ordinary (an error, a member that is
//! there twice or is `null`, an escape in a name, very deep nesting) makes it give up, and serde's shapes
//! decide as if nobody had looked before. So a message is refused by one piece of code alone, and what is
//! taken here has to be taken there with the same result: properties and a fuzz target compare the two.

use std::borrow::Cow;

use super::shape::{Envelope, ErrorShape, MetaShape, ParamsShape, ResultShape, number};
use super::{Kind, Outline};
use crate::{
    lenient::{Lenient, Text},
    raw::Raw,
};

/// The envelope of an ordinary message; `None`: serde is to look at it.
pub(super) fn scan(text: &str) -> Option<Envelope<'_>> {
    let mut at = Cursor { text, bytes: text.as_bytes(), at: 0 };
    let mut envelope = Envelope::default();
    let mut has_params = false;
    at.space();
    at.members(|at, key| match key {
        "jsonrpc" => at.present(&mut envelope.jsonrpc),
        "id" => at.present(&mut envelope.id),
        "method" => at.present(&mut envelope.method),
        "params" => {
            once(&mut has_params)?;
            at.params(&mut envelope.params.0)
        }
        "result" if envelope.result.is_none() => {
            envelope.result = Some(Lenient(at.result()?));
            Some(())
        }
        "error" if envelope.error.is_none() => {
            envelope.error = Some(Lenient(at.error()?));
            Some(())
        }
        "result" | "error" => None,
        _ => at.value().map(drop),
    })?;
    at.space();
    (at.at == at.bytes.len()).then_some(envelope)
}

/// The outline of an ordinary message; `None`: [`scan`] or serde is to look at it.
pub(super) fn outline(text: &str) -> Option<Outline<'_>> {
    let mut at = Cursor { text, bytes: text.as_bytes(), at: 0 };
    let [mut version, mut id, mut method, mut progress] = [None; 4];
    let [mut has_params, mut has_result] = [false; 2];
    at.space();
    at.members(|at, key| match key {
        "jsonrpc" => at.present(&mut version),
        "id" => at.present(&mut id),
        "method" => at.present(&mut method),
        "params" => {
            once(&mut has_params)?;
            at.members(|at, key| match key {
                "progress" => at.filled(&mut progress),
                _ => at.value().map(drop),
            })
        }
        "result" => {
            once(&mut has_result)?;
            at.value()?.starts_with('{').then_some(())
        }
        "error" => None,
        _ => at.value().map(drop),
    })?;
    at.space();
    let Text(version) = version?;
    if at.at != at.bytes.len() || version.as_str() != "\"2.0\"" {
        return None;
    }
    let id = id.map(|Text(id)| id);
    if id.is_some_and(|id| !id.is_id()) {
        return None;
    }
    let kind = match (method, id, has_result) {
        (Some(_), Some(_), false) => Kind::Request,
        (Some(_), None, false) => Kind::Notification,
        (None, Some(_), true) => Kind::Response,
        _ => return None,
    };
    let method = match method {
        Some(Text(method)) => method.as_text()?,
        None => Cow::Borrowed(""),
    };
    // A response has no params, whatever it calls so.
    let progress = progress.filter(|_| kind != Kind::Response).and_then(number);
    Some(Outline { kind, id, method, is_error: false, progress })
}

/// Gives up the second time.
fn once(seen: &mut bool) -> Option<()> {
    (!std::mem::replace(seen, true)).then_some(())
}

/// A place in the text. After `None` it stands anywhere.
struct Cursor<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

// === impl Cursor: the shapes ===

impl<'a> Cursor<'a> {
    fn params(&mut self, shape: &mut ParamsShape<'a>) -> Option<()> {
        let mut has_meta = false;
        self.members(|at, key| {
            let slot = match key {
                "name" => &mut shape.name,
                "_meta" => {
                    once(&mut has_meta)?;
                    return at.meta(&mut shape.meta.0);
                }
                "uri" => &mut shape.uri,
                "taskId" => &mut shape.task_id,
                "cursor" => &mut shape.cursor,
                "protocolVersion" => &mut shape.protocol_version,
                "level" => &mut shape.level,
                "requestId" => &mut shape.request_id,
                "requestState" => &mut shape.request_state,
                "inputResponses" => &mut shape.input_responses,
                "progressToken" => &mut shape.progress_token,
                "progress" => &mut shape.progress,
                _ => return at.value().map(drop),
            };
            at.filled(slot)
        })
    }

    fn meta(&mut self, shape: &mut MetaShape<'a>) -> Option<()> {
        self.members(|at, key| {
            let slot = match key {
                "progressToken" => &mut shape.progress_token,
                "io.modelcontextprotocol/protocolVersion" => &mut shape.protocol_version,
                "io.modelcontextprotocol/clientCapabilities" => &mut shape.client_capabilities,
                "io.modelcontextprotocol/logLevel" => &mut shape.log_level,
                "io.modelcontextprotocol/subscriptionId" => &mut shape.subscription_id,
                _ => return at.value().map(drop),
            };
            at.filled(slot)
        })
    }

    fn result(&mut self) -> Option<ResultShape<'a>> {
        let mut shape = ResultShape::default();
        let mut has_meta = false;
        self.members(|at, key| {
            let slot = match key {
                "protocolVersion" => &mut shape.protocol_version,
                "resultType" => &mut shape.result_type,
                "requestState" => &mut shape.request_state,
                "taskId" => &mut shape.task_id,
                "nextCursor" => &mut shape.next_cursor,
                "_meta" => {
                    once(&mut has_meta)?;
                    return at.meta(&mut shape.meta.0);
                }
                _ => return at.value().map(drop),
            };
            at.filled(slot)
        })?;
        Some(shape)
    }

    fn error(&mut self) -> Option<ErrorShape<'a>> {
        let mut shape = ErrorShape::default();
        self.members(|at, key| {
            let slot = match key {
                "code" => &mut shape.code,
                "message" => &mut shape.message,
                _ => return at.value().map(drop),
            };
            at.filled(slot)
        })?;
        Some(shape)
    }

    /// A member that is there whatever its value is.
    fn present(&mut self, slot: &mut Option<Text<'a>>) -> Option<()> {
        if slot.is_some() {
            return None;
        }
        *slot = Some(Text(Raw(self.value()?)));
        Some(())
    }

    /// A member for which `null` would be absence.
    fn filled(&mut self, slot: &mut Option<Text<'a>>) -> Option<()> {
        if self.byte()? == b'n' {
            return None;
        }
        self.present(slot)
    }
}

// === impl Cursor: JSON (RFC 8259) ===

impl<'a> Cursor<'a> {
    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        if self.byte()? != byte {
            return None;
        }
        self.at += 1;
        Some(())
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.byte() {
            self.at += 1;
        }
    }

    /// Steps over an object and has `member` step over the value of each of its members.
    #[inline]
    fn members(&mut self, mut member: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        self.space();
        if self.byte()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = self.plain_string()?;
            self.colon()?;
            member(self, key)?;
            self.space();
            let byte = self.byte()?;
            self.at += 1;
            match byte {
                b',' => self.space(),
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn colon(&mut self) -> Option<()> {
        self.space();
        self.take(b':')?;
        self.space();
        Some(())
    }

    /// Steps over any value; its text.
    fn value(&mut self) -> Option<&'a str> {
        let start = self.at;
        match self.byte()? {
            b'"' => self.string()?,
            b'{' | b'[' => self.nested()?,
            _ => self.scalar()?,
        }
        self.text.get(start..self.at)
    }

    /// Steps over an array or an object without recursion.
    fn nested(&mut self) -> Option<()> {
        // A bit for each that is open, of an object 1, below a first 1.
        let mut open = 1u128;
        loop {
            match self.byte()? {
                bracket @ (b'{' | b'[') => {
                    if open.leading_zeros() == 0 {
                        return None;
                    }
                    let is_object = bracket == b'{';
                    open = open << 1 | u128::from(is_object);
                    self.at += 1;
                    self.space();
                    match self.byte()? {
                        b'}' if is_object => {}
                        b']' if !is_object => {}
                        _ => {
                            if is_object {
                                self.name()?;
                            }
                            continue;
                        }
                    }
                }
                b'"' => self.string()?,
                _ => self.scalar()?,
            }
            // Behind a value, or at the end of what has none.
            loop {
                self.space();
                let byte = self.byte()?;
                self.at += 1;
                match (byte, open & 1 == 1) {
                    (b',', is_object) => {
                        self.space();
                        if is_object {
                            self.name()?;
                        }
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        open >>= 1;
                        if open == 1 {
                            return Some(());
                        }
                    }
                    _ => return None,
                }
            }
        }
    }

    /// A member's name and the colon behind it.
    fn name(&mut self) -> Option<()> {
        self.string()?;
        self.colon()
    }

    /// A string without escapes; its content.
    fn plain_string(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let start = self.at;
        self.skip_plain()?;
        let end = self.at;
        self.take(b'"')?;
        self.text.get(start..end)
    }

    fn string(&mut self) -> Option<()> {
        self.take(b'"')?;
        loop {
            self.skip_plain()?;
            let byte = self.byte()?;
            self.at += 1;
            match byte {
                b'"' => return Some(()),
                b'\\' => self.escape()?,
                // A control character.
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        let byte = self.byte()?;
        self.at += 1;
        match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.bytes.get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    /// On to the next quote, backslash or control character.
    fn skip_plain(&mut self) -> Option<()> {
        const ONES: u64 = u64::MAX / 255;
        const HIGH: u64 = ONES << 7;
        let mut rest = &self.bytes[self.at..];
        // Eight bytes at a time: the lowest bit that is set is right, those above it may not be.
        while let Some((chunk, behind)) = rest.split_first_chunk::<8>() {
            let word = u64::from_le_bytes(*chunk);
            let zero = |word: u64| word.wrapping_sub(ONES) & !word;
            let control = word.wrapping_sub(ONES * 0x20) & !word;
            let quote = zero(word ^ (ONES * u64::from(b'"')));
            let backslash = zero(word ^ (ONES * u64::from(b'\\')));
            let special = (control | quote | backslash) & HIGH;
            if special != 0 {
                self.at = self.bytes.len() - rest.len() + special.trailing_zeros() as usize / 8;
                return Some(());
            }
            rest = behind;
        }
        let found = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        self.at = self.bytes.len() - rest.len() + found;
        Some(())
    }

    /// A number, `true`, `false` or `null`.
    fn scalar(&mut self) -> Option<()> {
        let literal = match self.byte()? {
            b't' => "true",
            b'f' => "false",
            b'n' => "null",
            _ => return self.number(),
        };
        self.bytes[self.at..].starts_with(literal.as_bytes()).then_some(())?;
        self.at += literal.len();
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        if self.byte()? == b'-' {
            self.at += 1;
        }
        match self.byte()? {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// One digit at least.
    fn digits(&mut self) -> Option<()> {
        let digits = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        (digits > 0).then_some(())
    }
}
