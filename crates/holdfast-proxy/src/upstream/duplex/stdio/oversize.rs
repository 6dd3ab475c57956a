//! Finds out which call a message answers that is too large to be held.
//!
//! Without this a caller would wait for its timeout, since nobody could tell whose answer was dropped.
//! The scanner keeps a few bytes whatever the length: it follows strings and nesting, and looks at the
//! members of the outermost object only.

use bytes::Bytes;

/// Longer ids are not remembered.
const TOKEN: usize = 256;

#[derive(Default)]
pub(super) struct Scanner {
    length: u64,
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The key or the scalar value of the outermost object that is being read.
    token: Token,
    key: Key,
    id: Option<Box<str>>,
    has_method: bool,
    /// The message is a batch, or not an object at all.
    unusable: bool,
}

#[derive(Default)]
struct Token {
    text: Vec<u8>,
    /// Too long, or not a scalar.
    spoilt: bool,
}

#[derive(Default, PartialEq, Eq)]
enum Key {
    /// A key comes next.
    #[default]
    Expected,
    Id,
    Method,
    Other,
}

impl Scanner {
    /// Bytes seen.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        for &byte in bytes {
            if self.in_string {
                self.string_byte(byte);
            } else {
                self.byte(byte);
            }
        }
    }

    /// The error to give to the caller, if the message was the answer to a call.
    pub(super) fn answer(self, limit: usize) -> Option<Bytes> {
        let id = self.id.filter(|_| !self.has_method && !self.unusable)?;
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32603,"message":"the server's answer is larger than {limit} bytes, the gateway's limit"}}}}"#
        );
        Some(text.into())
    }

    fn string_byte(&mut self, byte: u8) {
        if self.depth == 1 {
            self.token.push(byte);
        }
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.in_string = false,
            _ => {}
        }
    }

    fn byte(&mut self, byte: u8) {
        if self.depth == 0 && !byte.is_ascii_whitespace() && byte != b'{' {
            self.unusable = true;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 {
                    self.token.push(byte);
                }
            }
            b'{' | b'[' => {
                self.token.spoilt |= self.depth == 1;
                self.depth = self.depth.saturating_add(1);
            }
            b'}' | b']' => {
                if self.depth == 1 {
                    self.member_ends();
                }
                self.depth = self.depth.saturating_sub(1);
            }
            b':' if self.depth == 1 => {
                self.key = match self.token.take().as_deref() {
                    Some("\"id\"") => Key::Id,
                    Some("\"method\"") => Key::Method,
                    _ => Key::Other,
                };
            }
            b',' if self.depth == 1 => self.member_ends(),
            _ if self.depth == 1 && !byte.is_ascii_whitespace() => self.token.push(byte),
            _ => {}
        }
    }

    fn member_ends(&mut self) {
        let value = self.token.take();
        match std::mem::take(&mut self.key) {
            Key::Id => self.id = value.filter(|text| is_id(text)),
            Key::Method => self.has_method = true,
            Key::Expected | Key::Other => {}
        }
    }
}

impl Token {
    fn push(&mut self, byte: u8) {
        if self.text.len() < TOKEN {
            self.text.push(byte);
        } else {
            self.spoilt = true;
        }
    }

    fn take(&mut self) -> Option<Box<str>> {
        let token = std::mem::take(self);
        let text = String::from_utf8(token.text).ok().filter(|_| !token.spoilt)?;
        Some(text.into())
    }
}

fn is_id(text: &str) -> bool {
    matches!(
        serde_json::from_str(text),
        Ok(serde_json::Value::String(_) | serde_json::Value::Number(_))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, id: Option<&str>) {
        for step in [1, 3, message.len()] {
            let mut scanner = Scanner::default();
            message.as_bytes().chunks(step).for_each(|chunk| scanner.push(chunk));
            assert_eq!(scanner.length(), message.len() as u64);
            let answer = scanner.answer(10);
            let found = answer.as_ref().map(|answer| {
                let value: serde_json::Value = serde_json::from_slice(answer).expect("JSON");
                value["id"].to_string()
            });
            assert_eq!(found.as_deref(), id, "{message}");
        }
    }

    #[test]
    fn the_id_is_found_wherever_it_stands() {
        check(r#"{"jsonrpc":"2.0","id":7,"result":{"id":9}}"#, Some("7"));
        check(
            r#"{"result":{"a":[{"id":9}],"b":"\"}{\\"},"jsonrpc":"2.0","id":"x\"y"}"#,
            Some(r#""x\"y""#),
        );
        check(r#" { "error" : { "code" : 1 } , "id" : 12 } "#, Some("12"));
    }

    #[test]
    fn what_is_no_answer_gets_none() {
        check(r#"{"jsonrpc":"2.0","id":7,"method":"roots/list"}"#, None);
        check(r#"{"method":"x","params":{"id":1}}"#, None);
        check(r#"{"id":null,"error":{}}"#, None);
        check(r#"{"id":{"a":1},"result":{}}"#, None);
        check(r#"[{"id":1,"result":{}}]"#, None);
        check(r#"log: {"id":1,"result":{}}"#, None);
    }

    #[test]
    fn an_endless_id_is_not_remembered() {
        let id = "x".repeat(4096);
        check(&format!(r#"{{"id":"{id}","result":1}}"#), None);
    }
}
