//! What a `tools/list` answer says about repeating its tools.
//!
//! The hints decide whether a call that was sent may be sent again, so this is its own parse, made
//! only of such answers, and it errs on the safe side: a hint that is not exactly `true` is not
//! given, and a tool that is listed twice gets what both entries allow.
//!
//! Spec: 2025-03-26 and later, schema `ToolAnnotations`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::lenient::{Lenient, Text};

/// One tool's hints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToolHint {
    /// The tool.
    pub name: String,
    /// `annotations.readOnlyHint` is `true`.
    pub read_only: bool,
    /// `annotations.idempotentHint` is `true`.
    pub idempotent: bool,
}

/// The hints of every tool in the answer, by name. Empty when the body is no such answer: a failed
/// `tools/list` says nothing about tools.
#[must_use]
pub fn tool_hints(answer: &[u8]) -> Vec<ToolHint> {
    // Strings that are stepped over are not checked for UTF-8 one by one.
    let Ok(text) = std::str::from_utf8(answer) else { return Vec::new() };
    let Ok(answer) = serde_json::from_str::<Lenient<AnswerShape<'_>>>(text) else {
        return Vec::new();
    };
    let mut hints: BTreeMap<String, ToolHint> = BTreeMap::new();
    for Lenient(tool) in answer.0.result.0.tools.unwrap_or_default() {
        let Some(name) = tool.name.and_then(|Text(raw)| raw.as_text()) else { continue };
        let read_only = is_true(tool.annotations.0.read_only_hint);
        let idempotent = is_true(tool.annotations.0.idempotent_hint);
        hints
            .entry(name.clone().into_owned())
            .and_modify(|hint| {
                hint.read_only &= read_only;
                hint.idempotent &= idempotent;
            })
            .or_insert_with(|| ToolHint { name: name.into_owned(), read_only, idempotent });
    }
    hints.into_values().collect()
}

#[derive(Deserialize, Default)]
struct AnswerShape<'a> {
    #[serde(default, borrow)]
    result: Lenient<ResultShape<'a>>,
}

#[derive(Deserialize, Default)]
struct ResultShape<'a> {
    #[serde(default, borrow)]
    tools: Option<Vec<Lenient<ToolShape<'a>>>>,
}

#[derive(Deserialize, Default)]
struct ToolShape<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(default, borrow)]
    annotations: Lenient<AnnotationsShape<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct AnnotationsShape<'a> {
    #[serde(borrow)]
    read_only_hint: Option<Text<'a>>,
    #[serde(borrow)]
    idempotent_hint: Option<Text<'a>>,
}

fn is_true(hint: Option<Text<'_>>) -> bool {
    hint.is_some_and(|Text(raw)| raw.as_str() == "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(tools: &str) -> Vec<(String, bool, bool)> {
        let answer = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":{tools},"x":[]}}}}"#);
        tool_hints(answer.as_bytes())
            .into_iter()
            .map(|hint| (hint.name, hint.read_only, hint.idempotent))
            .collect()
    }

    #[test]
    fn only_true_is_a_hint() {
        let tools = r#"[
            {"name":"a","annotations":{"readOnlyHint":true,"idempotentHint":false,"title":"A"}},
            {"name":"b","annotations":{"idempotentHint":true}},
            {"name":"c\u0041","inputSchema":{"name":"z"}},
            {"name":"d","annotations":{"readOnlyHint":"true","idempotentHint":1}},
            {"name":"e","annotations":null},
            {"name":"f","annotations":[true]},
            {"name":5,"annotations":{"readOnlyHint":true}},
            {"annotations":{"readOnlyHint":true}},
            "text"
        ]"#;
        let expected = [
            ("a", true, false),
            ("b", false, true),
            ("cA", false, false),
            ("d", false, false),
            ("e", false, false),
            ("f", false, false),
        ];
        assert_eq!(hints(tools), expected.map(|(name, r, i)| (name.to_owned(), r, i)));
    }

    #[test]
    fn a_tool_listed_twice_gets_what_both_allow() {
        let tools = r#"[
            {"name":"a","annotations":{"readOnlyHint":true,"idempotentHint":true}},
            {"name":"a","annotations":{"idempotentHint":true}}
        ]"#;
        assert_eq!(hints(tools), [("a".to_owned(), false, true)]);
        let tools = r#"[
            {"name":"a","annotations":{"readOnlyHint":true}},
            {"name":"a","annotations":{"readOnlyHint":true,"idempotentHint":true}}
        ]"#;
        assert_eq!(hints(tools), [("a".to_owned(), true, false)]);
    }

    #[test]
    fn other_answers_say_nothing() {
        for answer in [
            "",
            "[]",
            "{}",
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#,
            r#"{"result":{"tools":null}}"#,
            r#"{"result":{"tools":{}}}"#,
            r#"{"result":[{"tools":[{"name":"a"}]}]}"#,
            r#"{"result":{"tools":[{"name":"a","annotations":{"readOnlyHint":true,"readOnlyHint":false}}]}}"#,
        ] {
            assert_eq!(tool_hints(answer.as_bytes()), [], "{answer}");
        }
        let not_text = b"{\"x\":\"\xff\",\"result\":{\"tools\":[{\"name\":\"a\"}]}}";
        assert_eq!(tool_hints(not_text), []);
    }
}
