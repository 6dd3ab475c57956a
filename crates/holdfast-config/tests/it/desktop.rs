//! `mcpServers` files as desktop clients keep them.

use holdfast_config::{ExposeSecret as _, Transport};

use crate::{good, problem};

#[test]
fn the_usual_file_is_taken_as_it_is() {
    let config = good(
        r#"{
	"mcpServers": {
		"files": {
			"command": "npx",
			"args": ["-y", "@modelcontextprotocol/server-filesystem", "/some dir", "\ud83d\ude00 \u00e9"],
			"env": {"TOKEN": "t", "DEBUG": ""}
		},
		"x": {"type": "http", "url": "https://x.example.com/mcp", "headers": {"Authorization": "Bearer b"}},
		"old": {"type": "sse", "url": "http://127.0.0.1:9/sse"},
		"stream": {"type": "streamable-http", "url": "http://127.0.0.1:9/mcp"},
		"socket": {"type": "ws", "url": "ws://127.0.0.1:9/mcp"},
		"bare": {"url": "http://127.0.0.1:9/mcp"}
	}
}"#,
    );
    assert!(config.notices.is_empty(), "{:?}", config.notices);
    let Transport::Stdio(files) = &config.servers["files"].transport else { panic!() };
    assert_eq!(files.args[2..], ["/some dir", "😀 é"]);
    assert_eq!(files.env["TOKEN"].expose_secret(), "t");
    let x = &config.servers["x"];
    assert_eq!(x.headers["authorization"].expose_secret(), "Bearer b");
    assert!(matches!(&x.transport, Transport::Http { .. }));
    assert!(matches!(&config.servers["old"].transport, Transport::Sse { .. }));
    assert!(matches!(&config.servers["stream"].transport, Transport::Http { .. }));
    assert!(matches!(&config.servers["socket"].transport, Transport::WebSocket { .. }));
    assert!(matches!(&config.servers["bare"].transport, Transport::Http { .. }));
}

#[test]
fn what_clients_keep_beside_is_named_and_left_alone() {
    let config = good(
        r#"{"globalShortcut": "x", "mcpServers": {"a": {"command": "b", "disabled": false,
           "autoApprove": ["t"], "alwaysAllow": [], "timeout": 60, "frobnicate": {"x": 1}}}}"#,
    );
    assert_eq!(config.notices.len(), 2, "{:#?}", config.notices);
    assert!(config.notices[0].contains("autoApprove, alwaysAllow, timeout, frobnicate"));
    assert!(config.notices[1].contains("globalShortcut"));
}

#[test]
fn a_server_that_is_switched_off_is_left_out() {
    let config =
        good(r#"{"mcpServers": {"a": {"command": "b", "disabled": true}, "c": {"command": "d"}}}"#);
    assert_eq!(config.servers.keys().collect::<Vec<_>>(), ["c"]);
    assert!(config.notices[0].contains("switched off"));
    let all = r#"{"mcpServers": {"a": {"command": "b", "disabled": true}}}"#;
    assert!(problem(all).found.contains("no server is left"));
}

#[test]
fn mistakes_are_still_found() {
    let near = problem(r#"{"mcpServers": {"a": {"command": "b", "argz": []}}}"#);
    assert_eq!(
        (near.key.as_str(), near.cure.as_str()),
        ("mcpServers.a.argz", "did you mean args?")
    );
    assert_eq!(problem(r#"{"mcpServers": {"a b": {"command": "c"}}}"#).cure, "write a-b");
    assert!(problem(r#"{"mcpServers": {"a": {}}}"#).found.contains("without url"));
    assert!(problem(r#"{"mcpServers": {"a": {"type": "stdio"}}}"#).found.contains("command"));
    assert!(
        problem(r#"{"mcpServers": {"a": {"type": "tcp", "url": "http://a"}}}"#)
            .found
            .contains("tcp")
    );
    assert!(problem(r#"{"mcpServers": {}}"#).found.contains("no server"));
}

#[test]
fn both_forms_stand_in_one_file() {
    let config = good(
        "listen: { address: \"127.0.0.1:1\" }\nservers: { a: { command: b } }\n\
         mcpServers: { c: { command: d } }\n",
    );
    assert_eq!(config.servers.len(), 2);
    let twice = "servers: { a: { command: b } }\nmcpServers: { a: { command: d } }\n";
    assert!(problem(twice).found.contains("under servers too"));
    // With a section of our own it is our file, and an unknown key is a mistake.
    let ours = "log: {}\nglobalShortcut: x\nmcpServers: { c: { command: d } }\n";
    assert_eq!(problem(ours).key, "globalShortcut");
}
