//! JSON-RPC messages as the sample server sees them.
//!
//! A request's id is kept as the text that came in, so that `1.0`, `1e3` or a number beyond 64 bits
//! goes back digit for digit; that is what a test of a gateway wants to see.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// A message of a client.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    /// JSON text; `None` for notifications and where it was null.
    pub(super) id: Option<String>,
    /// `None` for responses.
    pub(super) method: Option<String>,
    /// Null when absent.
    pub(super) params: Value,
    pub(super) result: Option<Value>,
    pub(super) error: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Notification,
    Response,
}

/// The body of a POST, or one line or frame.
#[derive(Debug)]
pub(super) enum Incoming {
    One(Message),
    Batch(Vec<Message>),
}

/// A JSON-RPC error, and the status that it has over modern HTTP.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: i64,
    pub(super) message: String,
    pub(super) data: Option<Value>,
    pub(super) status: u16,
}

/// A result: a value, or text where a value could not carry the digits.
#[derive(Clone, Debug)]
pub(super) enum Output {
    Value(Value),
    Text(String),
}

pub(super) type Outcome = Result<Output, Failure>;

#[derive(Deserialize)]
struct Parsed<'a> {
    jsonrpc: Option<String>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<String>,
    params: Option<Value>,
    result: Option<Value>,
    error: Option<Value>,
}

// === impl Incoming ===

impl Incoming {
    /// # Errors
    /// -32700 for what is not JSON, -32600 for JSON that is not JSON-RPC; both with status 400.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let text: &RawValue = serde_json::from_slice(body)
            .map_err(|error| Failure::new(-32700, format!("Parse error: {error}")).status(400))?;
        if !text.get().starts_with('[') {
            return Message::parse(text.get()).map(Self::One);
        }
        let elements: Vec<&RawValue> = serde_json::from_str(text.get())
            .map_err(|error| Failure::new(-32700, format!("Parse error: {error}")).status(400))?;
        if elements.is_empty() {
            return Err(Failure::invalid_request("the batch is empty"));
        }
        elements
            .iter()
            .map(|element| Message::parse(element.get()))
            .collect::<Result<_, _>>()
            .map(Self::Batch)
    }
}

// === impl Message ===

impl Message {
    fn parse(text: &str) -> Result<Self, Failure> {
        let parsed: Parsed<'_> = serde_json::from_str(text)
            .map_err(|error| Failure::invalid_request(&error.to_string()))?;
        if parsed.jsonrpc.as_deref() != Some("2.0") {
            return Err(Failure::invalid_request("jsonrpc is not \"2.0\""));
        }
        if parsed.id.is_some_and(|id| {
            !id.get().starts_with(['"', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
        }) {
            return Err(Failure::invalid_request("the id is neither a string nor a number"));
        }
        if parsed.method.is_none() && parsed.result.is_none() && parsed.error.is_none() {
            return Err(Failure::invalid_request("neither a method nor a result nor an error"));
        }
        Ok(Self {
            id: parsed.id.map(|id| id.get().to_owned()),
            method: parsed.method,
            params: parsed.params.unwrap_or_default(),
            result: parsed.result,
            error: parsed.error,
        })
    }

    pub(super) fn kind(&self) -> Kind {
        match (&self.method, &self.id) {
            (Some(_), Some(_)) => Kind::Request,
            (Some(_), None) => Kind::Notification,
            (None, _) => Kind::Response,
        }
    }

    pub(super) fn method(&self) -> &str {
        self.method.as_deref().unwrap_or_default()
    }

    /// `params.name` of a tool call or a prompt.
    pub(super) fn name(&self) -> Option<&str> {
        self.params["name"].as_str()
    }

    /// The version that the body claims in `_meta`.
    pub(super) fn claimed_version(&self) -> Option<&str> {
        self.params["_meta"][super::modern::META_VERSION].as_str()
    }
}

// === impl Failure ===

impl Failure {
    pub(super) fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None, status: 200 }
    }

    pub(super) fn invalid_request(message: &str) -> Self {
        Self::new(-32600, format!("Invalid Request: {message}")).status(400)
    }

    pub(super) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }

    pub(super) fn method_not_found(method: &str) -> Self {
        Self::new(-32601, format!("Method not found: {method}")).status(404)
    }

    pub(super) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(super) fn data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// The message, for a request whose id is this JSON text (`null` when it could not be read).
    pub(super) fn render(&self, id: &str) -> String {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
    }
}

// === impl Output ===

impl From<Value> for Output {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

/// The response to the request whose id is this JSON text.
pub(super) fn response(id: &str, outcome: &Outcome) -> String {
    match outcome {
        Ok(Output::Value(result)) => {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
        }
        Ok(Output::Text(result)) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
        Err(failure) => failure.render(id),
    }
}

pub(super) fn notification(method: &str, params: &Value) -> String {
    if params.is_null() {
        return json!({ "jsonrpc": "2.0", "method": method }).to_string();
    }
    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Message {
        match Incoming::parse(text.as_bytes()).unwrap() {
            Incoming::One(message) => message,
            Incoming::Batch(_) => panic!("{text} is no batch"),
        }
    }

    #[test]
    fn ids_keep_their_digits() {
        for id in ["1", "1.0", "-7e3", "123456789012345678901234567890", r#""a\u00e9""#] {
            let message = one(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#));
            assert_eq!(message.kind(), Kind::Request);
            let text = response(&message.id.unwrap(), &Ok(json!({}).into()));
            assert_eq!(text, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
        }
    }

    #[test]
    fn what_is_no_message_is_refused_with_the_right_code() {
        for (text, code) in [
            ("{", -32700),
            ("1", -32600),
            ("[]", -32600),
            (r#"{"id":1,"method":"x"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#, -32600),
            (r#"[{"jsonrpc":"2.0","method":"x"},7]"#, -32600),
        ] {
            assert_eq!(Incoming::parse(text.as_bytes()).unwrap_err().code, code, "{text}");
        }
    }
}
