//! A value of the file as JSON: arguments of a tool, a result that never changes.
//!
//! YAML leaves open what an unquoted `5` is. Here it is a number, as in JSON; `"5"` is text.

use crate::field::Field;
use crate::tree::{Node, Value};

/// In which order the members of a JSON object come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Written,
    ByName,
}

impl Field<'_> {
    /// A mapping as a JSON object, its variables put in. In the order in which it is written: a server may go
    /// by that.
    pub(crate) fn json_object(&self) -> Option<String> {
        self.object(Order::Written)
    }

    /// The same by name, as it stands in what nodes agree on: in another order it is no other value.
    pub(crate) fn sorted_json_object(&self) -> Option<String> {
        self.object(Order::ByName)
    }

    fn object(&self, order: Order) -> Option<String> {
        if !matches!(self.node.value, Value::Map(_)) {
            self.wrong("a mapping", "a mapping: a JSON object", "write { name: value }");
            return None;
        }
        let mut out = String::new();
        self.write(order, &mut out)?;
        Some(out)
    }

    fn write(&self, order: Order, out: &mut String) -> Option<()> {
        match &self.node.value {
            Value::Null => out.push_str("null"),
            Value::Scalar(_) => {
                let text = self.text()?;
                if is_literal(self.node, &text) { out.push_str(&text) } else { quote(&text, out) }
            }
            Value::List(_) => {
                out.push('[');
                for (n, item) in self.items()?.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    item.write(order, out)?;
                }
                out.push(']');
            }
            Value::Map(_) => {
                out.push('{');
                let mut entries = self.entries()?;
                if order == Order::ByName {
                    entries.sort_by(|(a, _), (b, _)| a.key.cmp(&b.key));
                }
                for (n, (entry, field)) in entries.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    quote(&entry.key, out);
                    out.push(':');
                    field.write(order, out)?;
                }
                out.push('}');
            }
        }
        Some(())
    }
}

/// `true`, `false`, or a number as JSON writes it.
fn is_literal(node: &Node, text: &str) -> bool {
    node.plain && is_literal_text(text)
}

/// The same of a text that has no quotes.
pub(crate) fn is_literal_text(text: &str) -> bool {
    matches!(text, "true" | "false") || is_number(text)
}

/// `-?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?`
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let exponent = exponent.map(|exponent| exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

pub(crate) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::tree;

    #[track_caller]
    fn check(yaml: &str, json: &str) {
        let env = |name: &str| (name == "N").then(|| "7".to_owned());
        let context = Context::new(&env);
        let node = tree::parse(yaml, &mut Vec::new()).expect("YAML");
        let field = Field::new(&context, "x".into(), &node);
        assert_eq!(field.json_object().as_deref(), Some(json));
    }

    #[test]
    fn what_has_no_order_of_its_own_comes_by_name() {
        let context = Context::new(&|_| None);
        let yaml = "{ c: { z: 1, a: 2 }, b: [ 2, 1, { d: 1, c: 2 } ] }";
        let node = tree::parse(yaml, &mut Vec::new()).expect("YAML");
        let field = Field::new(&context, "x".into(), &node);
        let sorted = r#"{"b":[2,1,{"c":2,"d":1}],"c":{"a":2,"z":1}}"#;
        assert_eq!(field.sorted_json_object().as_deref(), Some(sorted));
        let written = r#"{"c":{"z":1,"a":2},"b":[2,1,{"d":1,"c":2}]}"#;
        assert_eq!(field.json_object().as_deref(), Some(written));
    }

    #[test]
    fn values_become_what_json_calls_them() {
        check("{ query: RETURN 1, n: 1, s: \"1\" }", r#"{"query":"RETURN 1","n":1,"s":"1"}"#);
        check("{ a: [true, 'true', null, ~, \"\"] }", r#"{"a":[true,"true",null,null,""]}"#);
        check(
            "{ a: { b: -1.5e3, c: 01, d: .5, e: 0x1F, f: 1. } }",
            r#"{"a":{"b":-1.5e3,"c":"01","d":".5","e":"0x1F","f":"1."}}"#,
        );
        check("{ a: \"q\\\"\\\\\\n\\u0001é\" }", "{\"a\":\"q\\\"\\\\\\n\\u0001é\"}");
        check("{ a: \"${N}\", b: \"$${N}\" }", r#"{"a":"7","b":"${N}"}"#);
        check("{ b: yes, c: 1e, d: \"\" }", r#"{"b":"yes","c":"1e","d":""}"#);
        check("a: ${N}", r#"{"a":7}"#);
        check("a: &x 5\nb: *x", r#"{"a":5,"b":5}"#);
        check("{}", "{}");
    }
}
