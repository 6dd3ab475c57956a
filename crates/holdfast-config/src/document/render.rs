//! A tree as YAML: the same tree gives the same text, and the text gives the tree.

use crate::json::{is_literal_text, quote};
use crate::tree::{Node, Value};

/// The text; empty for no tree.
pub(super) fn text(node: Option<&Node>) -> String {
    let mut out = String::new();
    if let Some(node) = node {
        block(node, 0, &mut out);
    }
    out
}

/// A value that begins on a line of its own.
fn block(node: &Node, indent: usize, out: &mut String) {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            for (n, entry) in entries.iter().enumerate() {
                if n > 0 {
                    blanks(indent, out);
                }
                scalar(&entry.key, false, out);
                out.push(':');
                beside(&entry.node, indent + 2, out);
            }
        }
        Value::List(items) if !items.is_empty() => {
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    blanks(indent, out);
                }
                out.push('-');
                if is_block(item) {
                    out.push(' ');
                    block(item, indent + 2, out);
                } else {
                    beside(item, indent + 2, out);
                }
            }
        }
        _ => {
            single(node, out);
            out.push('\n');
        }
    }
}

/// A value after its key.
fn beside(node: &Node, indent: usize, out: &mut String) {
    if is_block(node) {
        out.push('\n');
        blanks(indent, out);
        block(node, indent, out);
    } else {
        out.push(' ');
        single(node, out);
        out.push('\n');
    }
}

fn is_block(node: &Node) -> bool {
    match &node.value {
        Value::Map(entries) => !entries.is_empty(),
        Value::List(items) => !items.is_empty(),
        Value::Null | Value::Scalar(_) => false,
    }
}

fn single(node: &Node, out: &mut String) {
    match &node.value {
        Value::Null => out.push_str("null"),
        Value::Scalar(text) => scalar(text, node.plain, out),
        Value::List(_) => out.push_str("[]"),
        Value::Map(_) => out.push_str("{}"),
    }
}

/// A number or `true` stays what it was, with or without quotes; other text has quotes where it needs
/// them.
fn scalar(text: &str, plain: bool, out: &mut String) {
    let bare = if is_literal_text(text) { plain } else { is_word(text) };
    if bare { out.push_str(text) } else { quote(text, out) }
}

fn is_word(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "_./-@%+:".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    begins
        && !text.ends_with(':')
        && text.chars().all(inside)
        && !matches!(text.to_ascii_lowercase().as_str(), "null" | "true" | "false")
}

fn blanks(count: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', count));
}
