//! `mcpServers` files as desktop clients keep them.

use holdfast_config::{ExposeSecret as _, File, Transport};

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
    let nothing = problem(r#"{"mcpServers": {"日本": {"command": "c"}}}"#);
    assert!(nothing.found.contains("is not a server's name"), "{nothing:?}");
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

#[test]
fn names_for_people_become_names_for_a_url() {
    let config = good(
        r#"{"mcpServers": {
            "My Server": {"command": "a"},
            "@scope/tools (beta)": {"command": "b"},
            "plain_Name-1": {"command": "c"},
            "日本": {"command": "d", "disabled": true}
        }}"#,
    );
    let names: Vec<&str> = config.servers.keys().map(String::as_str).collect();
    assert_eq!(names, ["my-server", "plain_Name-1", "scope-tools-beta"]);
    let said = r#"mcpServers.my-server: "My Server" is served at /mcp/my-server"#;
    assert!(config.notices.iter().any(|notice| notice == said), "{:?}", config.notices);
    let plain = config.notices.iter().any(|notice| notice.contains("plain_Name-1"));
    assert!(!plain, "what was kept is no news: {:?}", config.notices);
}

#[test]
fn names_that_become_the_same_are_both_named() {
    let twice = problem(
        r#"{"mcpServers": {"My Server": {"command": "a"}, "my server!": {"command": "b"}}}"#,
    );
    assert_eq!(twice.key, "mcpServers.my-server");
    assert_eq!(twice.found, r#""My Server" and "my server!" would both be served as my-server"#);
    let plain = r#"{"mcpServers": {"my-server": {"command": "a"}, "My Server": {"command": "b"}}}"#;
    assert!(problem(plain).found.contains(r#""my-server" and "My Server""#));
    let ours =
        "servers: { my-server: { command: a } }\nmcpServers: { My Server: { command: b } }\n";
    assert!(problem(ours).found.contains("under servers too"));
}

/// Secrets are found again by the path of their key, on every node.
#[test]
fn a_secret_of_a_renamed_server_stays_with_its_node() {
    let text = |token: &str| {
        format!(r#"{{"mcpServers": {{"My v1.5": {{"command": "a", "env": {{"T": "{token}"}}}}}}}}"#)
    };
    let none = |_: &str| None;
    let file = |token: &str| File::parse(&text(token), "test.json", &none).expect("no problem");
    let (one, other) = (file("one"), file("other"));
    assert_eq!(one.document.id(), other.document.id());
    assert!(!one.document.text().contains("one"), "{}", one.document.text());
    let config = other.with(&one.document, "version", [], &none).expect("no problem");
    let Transport::Stdio(server) = &config.servers["my-v1-5"].transport else { panic!() };
    assert_eq!(server.env["T"].expose_secret(), "other");
}
