//! Tables, and a model made of `serde_json::Value` that shares no code with the peek.

use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::scan::{outline as scan_outline, scan};
use super::{Kind, Outline, Peek, PeekError, outline, peek, peek_by_serde};
use crate::raw::Raw;

fn ok(body: &str) -> Peek<'_> {
    peek(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"))
}

fn refused(body: &str) -> PeekError {
    match peek(body.as_bytes()) {
        Err(error) => error,
        Ok(peek) => panic!("{body}: {peek:?}"),
    }
}

fn text(raw: Option<Raw<'_>>) -> Option<&str> {
    raw.map(Raw::as_str)
}

#[test]
fn a_request_shows_what_routing_needs() {
    let body = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"add","arguments":{"name":"x","uri":"y"},"_meta":{"progressToken":"p","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"info","io.modelcontextprotocol/subscriptionId":9}}}"#;
    let peek = ok(body);
    assert_eq!(peek.kind, Kind::Request);
    assert_eq!(text(peek.id), Some("7"));
    assert_eq!(peek.method, "tools/call");
    assert_eq!(peek.params.name.as_deref(), Some("add"));
    assert_eq!(peek.params.uri, None, "arguments are not params");
    assert_eq!(text(peek.params.progress_token), Some("\"p\""));
    assert_eq!(peek.params.claimed_version.as_deref(), Some("2026-07-28"));
    assert!(peek.params.has_client_capabilities && peek.params.log_level);
    assert_eq!(text(peek.params.subscription_id), Some("9"));
    assert!(!peek.result.present && !peek.is_error);
}

#[test]
fn other_params_are_found_where_they_stand() {
    let body = r#"{"jsonrpc":"2.0","method":"x","params":{"uri":"u","taskId":"t","cursor":"c","protocolVersion":"v","level":"debug","requestId":"r","requestState":{"a":1},"inputResponses":{},"progressToken":1,"progress":0.5}}"#;
    let params = ok(body).params;
    assert_eq!(params.uri.as_deref(), Some("u"));
    assert_eq!(params.task_id.as_deref(), Some("t"));
    assert_eq!(params.cursor.as_deref(), Some("c"));
    assert_eq!(params.protocol_version.as_deref(), Some("v"));
    assert_eq!(text(params.level), Some("\"debug\""));
    assert_eq!(text(params.request_id), Some("\"r\""));
    assert_eq!(text(params.request_state), Some(r#"{"a":1}"#));
    assert!(params.has_input_responses);
    assert_eq!(text(params.progressed_token), Some("1"));
    assert_eq!(text(params.progress_token), None, "that is the one in _meta");
    assert_eq!(params.progress, Some(0.5));
}

#[test]
fn a_result_shows_what_sessions_and_streams_need() {
    let body = r#"{"id":"a","result":{"protocolVersion":"2025-11-25","resultType":"task","requestState":"s","taskId":"t","nextCursor":"n","_meta":{"io.modelcontextprotocol/subscriptionId":"sub"}},"jsonrpc":"2.0"}"#;
    let peek = ok(body);
    assert_eq!((peek.kind, peek.method.as_ref(), peek.is_error), (Kind::Response, "", false));
    assert_eq!(text(peek.id), Some("\"a\""));
    let result = peek.result;
    assert!(result.present && result.next_cursor);
    assert_eq!(result.protocol_version.as_deref(), Some("2025-11-25"));
    assert_eq!(result.result_type.as_deref(), Some("task"));
    assert_eq!(text(result.request_state), Some("\"s\""));
    assert_eq!(result.task_id.as_deref(), Some("t"));
    assert_eq!(text(result.subscription_id), Some("\"sub\""));
}

#[test]
fn an_error_shows_its_code_and_message() {
    let peek = ok(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no \u0041"}}"#);
    assert!(peek.is_error && !peek.result.present);
    assert_eq!(peek.error_code, Some(-32000));
    assert_eq!(peek.error_message.as_deref(), Some("no A"));
    assert_eq!(text(peek.id), Some("null"));
    assert_eq!(ok(r#"{"jsonrpc":"2.0","error":{}}"#).id, None);
    assert_eq!(ok(r#"{"jsonrpc":"2.0","id":1,"error":"odd"}"#).error_code, None);
}

#[test]
fn strings_are_borrowed_unless_they_are_escaped() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a\nb","uri":"plain","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let peek = ok(body);
    assert!(matches!(peek.method, Cow::Borrowed(_)));
    assert!(matches!(peek.params.uri, Some(Cow::Borrowed(_))));
    assert!(matches!(peek.params.claimed_version, Some(Cow::Borrowed(_))));
    assert!(matches!(&peek.params.name, Some(Cow::Owned(name)) if name == "a\nb"));
}

#[test]
fn unknown_methods_members_and_types_pass() {
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"vendor/thing"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[1,{"name":"n"}]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":null}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"name":5,"uri":{},"_meta":[1],"progress":"5"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"name":1e999,"progress":1e999}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"name":"\ud800","_meta":{"io.modelcontextprotocol/protocolVersion":7}}}"#,
        r#"{"extra":{"id":1,"id":2},"jsonrpc":"2.0","id":1,"method":"x","future":[]}"#,
        r#" {"jsonrpc" : "2.0" , "id" : -0.5e1 , "method" : "x" } "#,
        "\n{\"jsonrpc\":\"2.0\",\"id\":\"\",\"method\":\"x\"}\r\n\t",
        r#"{"\u006asonrpc":"2.0","id":1,"m\u0065thod":"x"}"#,
        r#"{"jsonrpc":"\u0032.0","id":1,"method":"x"}"#,
    ] {
        let peek = ok(body);
        assert_eq!(peek.kind, Kind::Request, "{body}");
        assert_eq!(peek.params.name, None, "{body}");
        assert_eq!(peek.params.progress, None, "{body}");
        assert_eq!(peek.params.claimed_version, None, "{body}");
    }
    for result in ["null", "5", "1.5", "-1", "true", "\"s\"", "[]", "{}", r#"{"x":[{}]}"#] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
        assert!(ok(&body).result.present, "{body}");
    }
}

#[test]
fn null_members_count_as_absent_but_a_null_result_does_not() {
    let params = ok(
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"requestState":null,"inputResponses":null,"level":null,"_meta":{"progressToken":null,"io.modelcontextprotocol/logLevel":null}}}"#,
    )
    .params;
    assert!(params.request_state.is_none() && params.level.is_none());
    assert!(params.progress_token.is_none() && !params.has_input_responses && !params.log_level);
    assert!(!ok(r#"{"jsonrpc":"2.0","id":1,"result":{"nextCursor":null}}"#).result.next_cursor);
    // Some servers write both members always.
    assert!(!ok(r#"{"jsonrpc":"2.0","id":1,"result":{},"error":null}"#).is_error);
    assert!(ok(r#"{"jsonrpc":"2.0","id":1,"result":null}"#).result.present);
}

#[test]
fn numbers_keep_their_digits() {
    for id in ["1", "1.0", "1e0", "-0", "123456789012345678901234567890", "0.1000"] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"x"}}"#);
        let peek = ok(&body);
        assert_eq!(text(peek.id), Some(id));
        let range = peek.id.expect("an id").range_in(body.as_bytes());
        assert_eq!(&body[range], id);
    }
}

#[test]
fn what_is_no_message_is_refused_with_a_reason() {
    let not_rpc = [
        (r"{}", "\"jsonrpc\""),
        (r#"{"id":1,"method":"x"}"#, "\"jsonrpc\""),
        (r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#, "\"jsonrpc\""),
        (r#"{"jsonrpc":2.0,"id":1,"method":"x"}"#, "\"jsonrpc\""),
        (r#"{"jsonrpc":null,"id":1,"method":"x"}"#, "\"jsonrpc\""),
        (r#"{"jsonrpc":"2.0"}"#, "none of"),
        (r#"{"jsonrpc":"2.0","id":1}"#, "none of"),
        (r#"{"jsonrpc":"2.0","id":1,"error":null}"#, "none of"),
        (r#"{"jsonrpc":"2.0","id":1,"method":null}"#, "must be a string"),
        (r#"{"jsonrpc":"2.0","id":1,"method":5}"#, "must be a string"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#, "must be a string"),
        (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, "both"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"x","result":{}}"#, "method and an answer"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"x","error":{}}"#, "method and an answer"),
        (r#"{"jsonrpc":"2.0","result":{}}"#, "needs an \"id\""),
    ];
    for (body, part) in not_rpc {
        let error = refused(body);
        assert!(matches!(error, PeekError::NotJsonRpc(_)), "{body}: {error:?}");
        assert!(error.to_string().contains(part), "{body}: {error}");
        assert_eq!(error.code(), -32600);
    }
    for id in ["null", "true", "[]", "{}", "[1]"] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"x"}}"#);
        assert_eq!(refused(&body), PeekError::BadId);
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":1}}"#);
        assert_eq!(refused(&body), PeekError::BadId);
    }
    assert_eq!(refused(r#"{"jsonrpc":"2.0","id":[],"error":{}}"#), PeekError::BadId);
    for bare in ["1", "\"x\"", "null", "true", " 1.5 ", "-1"] {
        assert_eq!(refused(bare), PeekError::NotObject, "{bare}");
        assert!(!refused(bare).is_batch(), "{bare}");
    }
    for not_json in
        ["", " ", "{", "{]", "nul", "{\"a\":1,}", "{} {}", "{\"a\":\"\u{1}\"}", "\u{feff}{}"]
    {
        let error = refused(not_json);
        assert!(matches!(error, PeekError::NotJson(_)), "{not_json:?}: {error:?}");
        assert_eq!(error.code(), -32700);
    }
    let error = refused(" \n[{}]");
    assert!(error == PeekError::Batch && error.is_batch());
    assert!(error.to_string().contains("2025-03-26"));
}

#[test]
fn bytes_that_are_no_text_are_refused_wherever_they_stand() {
    for body in [
        &b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\",\"params\":{\"arguments\":\"\xff\"}}"[..],
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xc3\x28\"}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\"}\xf0\x9f",
    ] {
        assert!(matches!(peek(body), Err(PeekError::NotUtf8(_))));
    }
}

#[test]
fn a_member_that_is_read_may_be_there_once() {
    for (body, name) in [
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}"#, "id"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"x","method":"y"}"#, "method"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"x","\u006dethod":"y"}"#, "method"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{},"params":{}}"#, "params"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"name":"a","name":"b"}}"#, "name"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{},"_meta":{}}}"#, "_meta"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"progressToken":1,"progressToken":2}}}"#,
            "progressToken",
        ),
        (r#"{"jsonrpc":"2.0","id":1,"result":{"taskId":"a","taskId":"b"}}"#, "taskId"),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"code":2}}"#, "code"),
    ] {
        let error = refused(body);
        let PeekError::DuplicateKey(text) = &error else { panic!("{body}: {error:?}") };
        assert!(text.starts_with(&format!("`{name}` at line 1")), "{body}: {text}");
        assert_eq!(error.code(), -32600);
    }
}

#[test]
fn nesting_as_deep_as_a_body_can_be_is_stepped_over() {
    let depth = 1_000_000;
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"arguments":{open}{close}}}}}"#
    );
    assert_eq!(ok(&body).kind, Kind::Request);
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{open}{close}}}"#);
    assert_eq!(ok(&body).kind, Kind::Request);
    assert!(matches!(refused(&format!(r#"{{"jsonrpc":{open}"#)), PeekError::NotJson(_)));
}

#[test]
#[should_panic(expected = "only found in the body")]
fn a_value_of_another_body_has_no_place_in_this_one() {
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"x"}"#.to_vec();
    let copy = body.clone();
    let _ = peek(&body).unwrap().id.unwrap().range_in(&copy);
}

// === Against a model made of `serde_json::Value` ===

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9f64).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        "[\"\\\\\n\u{1}a]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            object(inner),
        ]
    })
}

fn object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        4 => prop::sample::select(vec![
            "name", "uri", "taskId", "cursor", "protocolVersion", "level", "requestId",
            "requestState", "inputResponses", "progressToken", "progress", "_meta", "resultType",
            "nextCursor", "code", "message", "io.modelcontextprotocol/protocolVersion",
            "io.modelcontextprotocol/clientCapabilities", "io.modelcontextprotocol/logLevel",
            "io.modelcontextprotocol/subscriptionId",
        ])
        .prop_map(str::to_owned),
        1 => "\\PC{0,6}",
    ];
    prop::collection::btree_map(key, value, 0..6)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn message() -> impl Strategy<Value = Value> {
    let member = || prop_oneof![2 => object(object(value())), 1 => value()];
    let id = prop_oneof![4 => any::<u32>().prop_map(Value::from), 3 => "[a-z\"]{0,5}".prop_map(Value::from), 1 => value()];
    let method = prop_oneof![5 => "[a-z/\\\\]{0,9}".prop_map(Value::from), 1 => value()];
    (
        prop_oneof![9 => Just(json!("2.0")), 1 => value()],
        prop::option::weighted(0.8, id),
        prop::option::weighted(0.6, method),
        prop::option::weighted(0.6, member()),
        prop::option::weighted(0.3, member()),
        prop::option::weighted(0.2, member()),
        prop::option::of(value()),
    )
        .prop_map(|(jsonrpc, id, method, params, result, error, extra)| {
            let mut map = Map::from_iter([("jsonrpc".to_owned(), jsonrpc)]);
            for (key, value) in [
                ("id", id),
                ("method", method),
                ("params", params),
                ("result", result),
                ("error", error),
                ("extra", extra),
            ] {
                map.extend(value.map(|value| (key.to_owned(), value)));
            }
            Value::Object(map)
        })
}

/// Whether JSON-RPC 2.0, as the module states it, takes the message.
fn is_message(message: &Value) -> bool {
    let is_id = |id: &Value| id.is_string() || id.is_number();
    let id = message.get("id");
    let error = message.get("error").filter(|error| !error.is_null());
    if message["jsonrpc"] != "2.0" {
        return false;
    }
    match (message.get("method"), message.get("result"), error) {
        (Some(method), None, None) => method.is_string() && id.is_none_or(is_id),
        (None, Some(_), None) => id.is_some_and(is_id),
        (None, None, Some(_)) => id.is_none_or(|id| is_id(id) || id.is_null()),
        _ => false,
    }
}

fn same(raw: Option<Raw<'_>>, body: &[u8], model: Option<&Value>) -> bool {
    let model = model.filter(|value| !value.is_null()).map(Value::to_string);
    raw.is_none_or(|raw| &body[raw.range_in(body)] == raw.as_str().as_bytes())
        && raw.map(Raw::as_str) == model.as_deref()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn agrees_with_the_model(message in message(), pretty in any::<bool>()) {
        let body = if pretty { serde_json::to_vec_pretty(&message) } else { serde_json::to_vec(&message) };
        let body = body.unwrap();
        let peeked = peek(&body);
        prop_assert_eq!(peeked.is_ok(), is_message(&message), "{:?}", peeked);
        let Ok(peek) = peeked else { return Ok(()) };

        let text = |value: &Value| value.as_str().map(str::to_owned);
        let id = |value: &Value| (value.is_string() || value.is_number()).then(|| value.clone());
        let params = &message["params"];
        let meta = &params["_meta"];
        let result = &message["result"];
        let expected = message.get("id").map(Value::to_string);
        prop_assert_eq!(peek.id.map(Raw::as_str), expected.as_deref());
        prop_assert_eq!(peek.method.as_ref(), message["method"].as_str().unwrap_or(""));
        prop_assert_eq!(peek.result.present, message.get("result").is_some());
        prop_assert_eq!(peek.error_code, message["error"]["code"].as_i64());
        prop_assert_eq!(peek.error_message.map(Cow::into_owned), text(&message["error"]["message"]));
        if peek.kind != Kind::Response {
            prop_assert_eq!(peek.params.name.map(Cow::into_owned), text(&params["name"]));
            prop_assert_eq!(peek.params.task_id.map(Cow::into_owned), text(&params["taskId"]));
            prop_assert_eq!(
                peek.params.claimed_version.map(Cow::into_owned),
                text(&meta["io.modelcontextprotocol/protocolVersion"])
            );
            prop_assert_eq!(
                peek.params.has_client_capabilities,
                meta["io.modelcontextprotocol/clientCapabilities"].is_object()
            );
            // Pretty printing moves the inside of an object, so those are compared compact only.
            if !pretty {
                prop_assert!(same(peek.params.request_state, &body, params.get("requestState")));
                prop_assert!(same(peek.params.level, &body, params.get("level")));
            }
            let token = id(&meta["progressToken"]);
            prop_assert!(same(peek.params.progress_token, &body, token.as_ref()));
            let token = id(&params["progressToken"]);
            prop_assert!(same(peek.params.progressed_token, &body, token.as_ref()));
            let request = id(&params["requestId"]);
            prop_assert!(same(peek.params.request_id, &body, request.as_ref()));
            prop_assert_eq!(peek.params.progress, params["progress"].as_f64());
        } else {
            prop_assert_eq!(peek.result.task_id.map(Cow::into_owned), text(&result["taskId"]));
            prop_assert_eq!(peek.result.next_cursor, !result["nextCursor"].is_null());
            let subscription = id(&result["_meta"]["io.modelcontextprotocol/subscriptionId"]);
            prop_assert!(same(peek.result.subscription_id, &body, subscription.as_ref()));
        }
    }

    /// An edit of the id leaves a message that differs in its id alone.
    #[test]
    fn a_spliced_id_is_the_only_difference(message in message(), new in "[a-z\"\\\\\u{e9}]{0,6}") {
        let body = serde_json::to_vec(&message).unwrap();
        let Ok(peek) = peek(&body) else { return Ok(()) };
        let Some(id) = peek.id else { return Ok(()) };
        let new = Value::from(new);
        let spliced = crate::splice(&body, &[(id.range_in(&body), new.to_string().as_bytes())]);
        let mut expected = message;
        expected["id"] = new;
        prop_assert_eq!(&spliced[..], serde_json::to_vec(&expected).unwrap());
    }

    #[test]
    fn takes_nothing_that_is_not_json(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if peek(&bytes).is_ok() {
            prop_assert!(serde_json::from_slice::<Value>(&bytes).is_ok());
        }
    }
}

// === The scan against serde ===

/// Both say the same, word for word.
fn assert_agree(body: &[u8]) {
    let (scanned, by_serde) = (peek(body), peek_by_serde(body));
    let text = String::from_utf8_lossy(body);
    assert_eq!(format!("{scanned:?}"), format!("{by_serde:?}"), "{text}");
    match (outline(body), scanned) {
        (Ok(_), Err(PeekError::DuplicateKey(_))) => {}
        (outline, peek) => assert_eq!(outline, peek.map(Outline::from), "{text}"),
    }
}

#[test]
fn ordinary_messages_need_no_serde() {
    for body in [
        r#"{"jsonrpc":"2.0","id":1000000001,"method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"x","version":"1"},"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"arguments":{"bytes":64},"name":"echo"}}"#,
        r#" { "jsonrpc" : "2.0" , "method" : "notifications/progress" , "params" : { "progressToken" : "t" , "progress" : -1.5e+3 , "x" : [ ] } } "#,
        r#"{"jsonrpc":"2.0","id":"a\"b\u00e9","result":{"content":[{"type":"text","text":"\\ \n \ud800"}],"isError":false,"n":[null,true,[[{}]],{"\"":0}]}}"#,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"no","data":{"a":[1]}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#,
        r#"{"a":{},"jsonrpc":"2.0","id":1,"method":"x","params":{}}"#,
    ] {
        assert!(scan(body).is_some(), "{body}");
        assert_eq!(scan_outline(body).is_some(), !body.contains("\"error\""), "{body}");
        assert_agree(body.as_bytes());
    }
}

#[test]
fn what_is_out_of_the_ordinary_is_left_to_serde() {
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(128), "]".repeat(128));
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"name":null}}"#,
        r#"{"jsonrpc":"2.0","id":1,"\u006dethod":"x"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":1e999}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":null,"result":{}}"#,
        &deep,
    ] {
        assert!(scan(body).is_none(), "{body}");
        assert_agree(body.as_bytes());
    }
}

#[test]
fn every_number_and_escape_is_judged_as_serde_judges_it() {
    for value in [
        "0",
        "-0",
        "00",
        "01",
        "-",
        "-a",
        "1.",
        "1.0",
        ".5",
        "1e5",
        "1E+5",
        "1e",
        "1e+",
        "+1",
        "1.e1",
        "0x1",
        "1_0",
        "tru",
        "true",
        "truex",
        "nul",
        "null",
        "nulll",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u123g\"",
        "\"\\uABCD\"",
        "\"\\\"",
        "\"\u{7f}\"",
        "\"\u{1f}\"",
        "\"\u{20}\"",
        "\"é\"",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "[}",
        "{]",
        "[1}",
        "{\"a\":1]",
        "{1:1}",
        "[[[[",
        "]]",
        "{\"a\":{\"b\":[{}]}}",
        "NaN",
        "'a'",
        "",
    ] {
        for body in [
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"arguments":{value}}}}}"#),
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"name":{value},"uri":"u"}}}}"#
            ),
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"_meta":{value}}}}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":{value},"method":"x"}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":1,"result":{value}}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":1,"error":{value}}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","other":{value}}} "#),
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x"}}{value}"#),
        ] {
            assert_agree(body.as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// A message with some places of it changed: most are no JSON any more, and some are other JSON.
    #[test]
    fn the_scan_agrees_with_serde(
        message in message(),
        pretty in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, "[\\[\\]{},:\"\\\\0-9eE.+\\-ntfu \u{1}\u{e9}]{0,3}"), 0..3),
    ) {
        let mut body = match pretty {
            true => serde_json::to_string_pretty(&message),
            false => serde_json::to_string(&message),
        }.unwrap();
        for (place, gone, new) in edits {
            let at = place.index(body.len() + 1);
            let end = (at + usize::from(gone)).min(body.len());
            if body.is_char_boundary(at) && body.is_char_boundary(end) {
                body.replace_range(at..end, &new);
            }
        }
        assert_agree(body.as_bytes());
    }

    #[test]
    fn the_scan_takes_no_noise(noise in "[\\[\\]{},:\"\\\\01e.\\-ntru ]{0,24}") {
        assert_agree(noise.as_bytes());
        let inside = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"arguments":{noise}}}}}"#);
        assert_agree(inside.as_bytes());
    }
}
