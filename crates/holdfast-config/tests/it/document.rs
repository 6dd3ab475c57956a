//! What the nodes of a cluster agree on of a file, and what another node makes of it.

use std::sync::Arc;

use holdfast_config::{Config, Document, ExposeSecret as _, File, Problems};

use crate::SERVERS;

type Variables<'a> = &'a [(&'a str, &'a str)];

fn env<'a>(variables: Variables<'a>) -> impl Fn(&str) -> Option<String> + 'a {
    |name| variables.iter().find(|it| it.0 == name).map(|it| it.1.to_owned())
}

#[track_caller]
fn file(text: &str, variables: Variables<'_>) -> File {
    File::parse(text, "test.yaml", &env(variables)).unwrap_or_else(|p| panic!("{p}\n{text}"))
}

/// What a node whose file is `own` makes of the document of `theirs`.
fn on(own: &str, theirs: &str, variables: Variables<'_>) -> Result<Config, Problems> {
    let (own, theirs) = (file(own, variables), file(theirs, variables));
    own.with(&theirs.document, "version 2", [], &env(variables))
}

const FILE: &str = "\
# token: a-secret-in-a-comment
x-common: &common { timeout: 5s, tier: 2 }
node: { id: a, secret: 0123456789abcdef0123456789abcdef, data_dir: /tmp }
listen: { address: \"127.0.0.1:1\", idle_timeout: 2m }
admin: { token: sixteen-or-more-characters }
notify:
  - { url: \"https://hooks.example/T0/secret-path\", events: [config] }
  - { url: \"https://hooks.example/${HOOK}\" }
reload: { watch: false }
servers:
  docs:
    <<: *common
    url: \"http://docs/mcp?key=hunter2\"
    headers: { Authorization: hunter2, X-Key: \"Bearer ${TOKEN}\", X-Default: \"${T:-hunter2}\" }
    tools: { a.b: read, \"say \\\"x\\\"\": { effect: write } }
    health: { checks: [ { type: tool, tool: q, arguments: { n: 1, s: \"1\", l: [], b: ~ } } ] }
  files: { command: sh, args: [\"-c\", \"echo: 'a'\\n\"], env: { TOKEN: hunter2, EMPTY: ~ } }
";

/// A hook's address is a credential; what is left of it when its end and its query come from variables is
/// none.
#[test]
fn the_path_of_a_hook_is_shown_only_if_what_tells_hooks_apart_is_a_variable() {
    let shown = |path: &str| {
        let text = format!(
            "notify: [{{ url: \"https://hooks.example{path}\" }}]\nservers: {{ a: {{ url: \"http://a/\" }} }}"
        );
        let all: Variables<'_> = &[("A", "a"), ("B", "b")];
        let document = file(&text, all).document.text().to_owned();
        let url = document.lines().find_map(|line| line.trim().strip_prefix("- url: "));
        let url = url.unwrap_or_else(|| panic!("{document}")).trim_matches('"').to_owned();
        url.strip_prefix("https://hooks.example").expect("the host").to_owned()
    };
    for open in
        ["/${A}", "/services/${A}", "/T0/${A}/", "/${A}/x/${B}", "/${A}?key=${B}", "/?key=${A}"]
    {
        assert_eq!(shown(open), open);
    }
    for partly in [
        "/T0/secret",
        "/${A}/secret",
        "/secret?team=${A}",
        "/${A}?key=secret",
        "/${A}?a=${B}&key=secret",
        "/x${A}",
        "/${A:-secret}",
        "/?key=secret",
    ] {
        assert_eq!(shown(partly), "/${file:notify[0].url}", "{partly}");
    }
}

const DOCUMENT: &str = "\
admin:
  token: \"${file:admin.token}\"
listen:
  idle_timeout: 2m
notify:
  - events:
      - config
    url: \"https://hooks.example/${file:notify[0].url}\"
  - url: \"https://hooks.example/${HOOK}\"
servers:
  docs:
    headers:
      Authorization: \"${file:servers.docs.headers.Authorization}\"
      X-Default: \"${file:servers.docs.headers.X-Default}\"
      X-Key: \"Bearer ${TOKEN}\"
    health:
      checks:
        - arguments:
            n: 1
            s: \"1\"
            l: []
            b: null
          tool: q
          type: tool
    tier: 2
    timeout: 5s
    tools:
      a.b: read
      \"say \\\"x\\\"\":
        effect: write
    url: \"http://docs/mcp?${file:servers.docs.url}\"
  files:
    args:
      - \"-c\"
      - \"echo: 'a'\\n\"
    command: sh
    env:
      EMPTY: null
      TOKEN: \"${file:servers.files.env.TOKEN}\"
";

const VARIABLES: Variables<'static> = &[("TOKEN", "t0k3n"), ("HOOK", "h00k")];

#[test]
fn a_document_holds_what_nodes_share_and_no_secret() {
    let file = file(FILE, VARIABLES);
    assert_eq!(file.document.text(), DOCUMENT);
}

#[test]
fn a_node_makes_the_same_of_its_own_document() {
    let file = file(FILE, VARIABLES);
    let config = file.with(&file.document, "version 1", [], &env(VARIABLES)).expect("good");
    assert_eq!(file.config.difference(&config), []);
    let arguments = |config: &Config| format!("{:?}", config.servers["docs"].health.checks);
    assert_eq!(arguments(&file.config), arguments(&config));
    assert_eq!(config.servers["docs"].headers["authorization"].expose_secret(), "hunter2");
}

#[test]
fn files_that_mean_the_same_have_the_same_document() {
    let id = |text: &str| file(text, VARIABLES).document.id();
    let other = FILE.replace("id: a,", "region: eu, id: b,").replace("127.0.0.1:1", "0.0.0.0:5");
    for secret in ["hunter2", "secret-path", "sixteen-or-more", "0123456789abcdef0"] {
        let changed = other.replace(secret, "another-one-12345");
        assert_eq!(id(FILE), id(&changed), "{secret}");
    }
    let order = "servers: { docs: { timeout: 5s, url: \"http://a/\" } }\nlog: { level: info }\n";
    let turned = "log: {level: info}\nservers: {docs: {url: 'http://a/', timeout: \"5s\"}} # x\n";
    assert_eq!(id(order), id(turned));
    assert_ne!(id(order), id(&turned.replace("5s", "6s")));
}

#[test]
fn what_is_a_nodes_own_stays() {
    let own = format!(
        "node: {{ id: b, region: eu }}\nlisten: {{ address: \"127.0.0.1:9\" }}\n\
                       log: {{ format: json }}\n{SERVERS}"
    );
    let theirs = "node: { id: a }\nlog: { level: debug }\nlisten: { address: \"127.0.0.1:1\", \
                  idle_timeout: 2m }\nservers: { new: { url: \"http://new/\" } }\n";
    let config = on(&own, theirs, &[]).expect("good");
    assert_eq!(
        (config.node.id.as_str(), config.node.regions.as_slice()),
        ("b", &["eu".to_owned()][..])
    );
    assert_eq!(config.listen.address.port(), 9);
    assert_eq!(config.listen.idle_timeout.as_secs(), 120);
    assert_eq!(config.log.format, holdfast_config::LogFormat::Json);
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.servers.keys().collect::<Vec<_>>(), ["new"]);
}

#[test]
fn variables_are_those_of_the_node() {
    let theirs = "servers: { a: { url: \"http://${HOST}/\", headers: { K: \"${KEY}\" } } }\n";
    let document = file(theirs, &[("HOST", "one"), ("KEY", "1")]).document;
    let own = file(SERVERS, &[]);
    let made = |variables| own.with(&document, "version 2", [], &env(variables));
    let config = made(&[("HOST", "two"), ("KEY", "2")]).expect("good");
    assert_eq!(config.servers["a"].instances()[0].url.to_string(), "http://two/");
    assert_eq!(config.servers["a"].headers["k"].expose_secret(), "2");
    let problems = made(&[("HOST", "two")]).expect_err("KEY is missing");
    let said = problems.to_string();
    assert!(
        said.contains("version 2:4:10: servers.a.headers.K: the environment variable KEY"),
        "{said}"
    );
}

fn with_header(url: &str, value: &str) -> String {
    format!("servers: {{ a: {{ url: \"{url}\", headers: {{ K: {value} }} }} }}\n")
}

#[test]
fn a_secret_is_taken_from_the_nodes_own_file() {
    let config = on(&with_header("http://a/", "mine"), &with_header("http://a/", "theirs"), &[]);
    assert_eq!(config.expect("good").servers["a"].headers["k"].expose_secret(), "mine");
}

#[test]
fn a_secret_goes_nowhere_else_than_where_the_file_sends_it() {
    for own in [
        with_header("http://b/", "mine"),
        with_header("http://a/?x=1", "mine"),
        SERVERS.to_owned(),
        with_header("http://a/", "mine").replace("a:", "b:"),
    ] {
        let problems = on(&own, &with_header("http://a/", "theirs"), &[]).expect_err(&own);
        let said = problems.to_string();
        assert!(
            said.contains("servers.a.headers.K: a secret that stood in another file"),
            "{said}"
        );
        assert!(said.contains("${NAME}") && !said.contains("theirs"), "{said}");
    }
    let hook = |event: &str| {
        format!("{SERVERS}notify: [{{ url: \"https://h/secret\", events: [{event}] }}]\n")
    };
    assert!(on(&hook("node"), &hook("config"), &[]).is_err());
    assert!(on(&hook("config"), &hook("config"), &[]).is_ok());
}

#[test]
fn what_is_in_a_list_is_found_by_what_it_says() {
    let hook = |host: &str, secret: &str| {
        format!("{{ url: \"https://{host}/{secret}\", secret: \"{secret}-0123456789abcdef\" }}")
    };
    let hooks = |hooks: &[String]| format!("{SERVERS}notify: [ {} ]\n", hooks.join(", "));
    let seen = |config: &Config| -> Vec<(String, String)> {
        let secret = |it: &holdfast_config::Webhook| it.secret.clone().expect("it is signed");
        let all = config.notify.iter();
        all.map(|it| (it.url.to_string(), secret(it).expose_secret().to_owned())).collect()
    };
    let pair = |host: &str, secret: &str| {
        (format!("https://{host}/{secret}"), format!("{secret}-0123456789abcdef"))
    };
    // In another order each keeps its own; two at one host go by their order.
    let mine = hooks(&[hook("a", "a1"), hook("b", "b1"), hook("a", "a2")]);
    let theirs = hooks(&[hook("b", "x"), hook("a", "y"), hook("a", "z")]);
    let config = on(&mine, &theirs, &[]).expect("good");
    assert_eq!(seen(&config), [pair("b", "b1"), pair("a", "a1"), pair("a", "a2")]);
    // One more at a host is one that this node has no secret for.
    let more = hooks(&[hook("a", "w"), hook("a", "x"), hook("a", "y")]);
    let said = on(&mine, &more, &[]).expect_err("there are two").to_string();
    assert!(said.contains("notify[2].url: a secret that stood in another file"), "{said}");
    assert!(!said.contains("notify[1]"), "{said}");
}

#[test]
fn the_order_of_a_servers_instances_hides_no_secret() {
    let instances = |first: &str, second: &str, key: &str| {
        let of = |id: &str| format!("{{ id: {id}, url: \"http://{id}/?key={key}-{id}\" }}");
        let list = format!("[ {}, {} ]", of(first), of(second));
        format!("servers: {{ s: {{ headers: {{ K: {key} }}, instances: {list} }} }}\n")
    };
    let (mine, theirs) = (instances("a", "b", "mine"), instances("b", "a", "theirs"));
    let config = on(&mine, &theirs, &[]).expect("good");
    let server = &config.servers["s"];
    let urls: Vec<String> = server.instances().iter().map(|it| it.url.to_string()).collect();
    assert_eq!(urls, ["http://b/?key=mine-b", "http://a/?key=mine-a"]);
    assert_eq!(server.headers["k"].expose_secret(), "mine");
    assert!(on(&mine, &instances("a", "c", "theirs"), &[]).is_err());
}

#[test]
fn what_has_no_effect_beside_a_servers_address_stays_where_it_is() {
    let text = r#"{"mcpServers": {
        "a": {"url": "http://a/", "serverUrl": "https://u:hunter2@a/", "httpUrl": "http://a/?k=hunter2",
              "env": ["K=hunter2"], "args": ["hunter2"]},
        "b": {"url": "http://b/", "env": "K=hunter2", "command": "sh hunter2", "type": "http"},
        "c": {"command": "sh", "url": "http://c/?k=hunter2", "headers": ["K: hunter2"]}}}"#;
    let file = file(text, &[]);
    let shown = file.document.text();
    assert!(!shown.contains("hunter2"), "{shown}");
    let config = file.with(&file.document, "version 1", [], &env(&[])).expect("good");
    assert_eq!(file.config.difference(&config), []);
    // A node whose file has nothing of it takes it over all the same.
    let plain = r#"{"mcpServers": {"a": {"url": "http://a/"}}}"#;
    let other = on(plain, text, &[]).expect("good");
    assert_eq!(other.servers.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
}

/// What a node starts with is what it has agreed on with nobody else.
#[test]
fn the_order_of_names_in_an_answer_is_no_change() {
    let text = r#"servers: { a: { url: "http://a/", tools: { look: read },
        fallback: { static: { isError: false, content: [ { type: text, text: later, annotations: { z: 1, a: 2 } } ] } },
        health: { checks: [ { type: tool, tool: look, arguments: { n: 1, b: 2 } } ] } } }"#;
    let file = file(text, &[]);
    let config = file.with(&file.document, "version 1", [], &env(&[])).expect("good");
    assert_eq!(file.config.difference(&config), []);
}

#[test]
fn an_earlier_file_of_the_node_will_do_and_the_newest_is_taken_first() {
    let old = Arc::new(file(&with_header("http://a/", "old"), &[]));
    let new = file(SERVERS, &[]);
    let document = Document::new(old.document.text().to_owned());
    let config = new.with(&document, "version 1", [&*old], &env(&[])).expect("good");
    assert_eq!(config.servers["a"].headers["k"].expose_secret(), "old");
    let newer = file(&with_header("http://a/", "newer"), &[]);
    let config = new.with(&document, "version 1", [&newer, &*old], &env(&[])).expect("good");
    assert_eq!(config.servers["a"].headers["k"].expose_secret(), "newer");
}

#[test]
fn what_a_desktop_client_keeps_beside_a_server_stays_there() {
    let text = r#"{"theme": "dark", "mcpServers": {
        "a": {"command": "sh", "env": {"K": "hunter2"}, "oauth": {"secret": "hunter2"}},
        "b": {"url": "http://b/", "disabled": true}}}"#;
    let file = file(text, &[]);
    let shown = file.document.text();
    assert!(!shown.contains("hunter2") && !shown.contains("oauth") && !shown.contains("theme"));
    let config = file.with(&file.document, "version 1", [], &env(&[])).expect("good");
    assert_eq!(file.config.difference(&config), []);
}

#[test]
fn the_examples_survive_their_documents() {
    let cluster = [
        ("HA_NODE_ID", "gateway-1"),
        ("HOLDFAST_DATA_DIR", "data"),
        ("HOLDFAST_CLUSTER_SECRET", "0123456789abcdef0123456789abcdef"),
    ];
    for (name, variables) in [("holdfast.yaml", &[][..]), ("cluster.yaml", &cluster)] {
        let path = format!("{}/../../config/{name}", env!("CARGO_MANIFEST_DIR"));
        let file = file(&std::fs::read_to_string(path).expect("the example"), variables);
        let config = file.with(&file.document, "version 1", [], &env(variables)).expect("good");
        assert_eq!(file.config.difference(&config), [], "{name}");
    }
}
