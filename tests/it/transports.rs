//! Any client transport reaches any server transport of the same era, with everything a call can
//! do: lists, results, progress, and questions to the user in mid-call.

use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::duplex::Duplex;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message::{self, MODERN};
use crate::harness::sample::{ExecutionLog, Sample, stdio};

/// A modern `_meta` of a client that can be asked.
const ASKABLE: &str = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}},"progressToken":"p"}"#;

/// A gateway before one sample server, reached in one way.
struct World {
    gateway: Gateway,
    _sample: Option<Sample>,
    _log: ExecutionLog,
}

async fn behind(server: &str) -> World {
    let log = ExecutionLog::new();
    let sample = match server {
        "stdio" => None,
        _ => Some(Sample::start(&["--resumable"]).await),
    };
    let address = sample.as_ref().map(|sample| sample.address.to_string()).unwrap_or_default();
    let settings = match server {
        "http" => format!(r#"{{ url: "http://{address}/mcp" }}"#),
        "sse" => format!(r#"{{ url: "http://{address}/sse", transport: sse }}"#),
        "websocket" => format!(r#"{{ url: "ws://{address}/ws" }}"#),
        _ => stdio(&log, "transports"),
    };
    let gateway = Setup::new().server("main", &settings).start().await;
    World { gateway, _sample: sample, _log: log }
}

/// A client of any transport, reduced to what the story needs.
enum Wire {
    Http(Box<Client>),
    Duplex(Box<Duplex>),
}

impl Wire {
    async fn open(gateway: &Gateway, client: &str, modern: bool) -> Self {
        let version = if modern { MODERN } else { message::LEGACY };
        let mut duplex = match client {
            "http" if modern => return Self::Http(Box::new(Client::modern(gateway))),
            "http" => return Self::Http(Box::new(Client::legacy(gateway).initialized().await)),
            "websocket" => Duplex::websocket(gateway.address, "/mcp").await,
            _ => Duplex::sse(gateway.address, "/sse").await,
        };
        if !modern {
            let response = duplex.ask(&message::initialize(version)).await;
            assert_eq!(response["result"]["protocolVersion"], version, "{response}");
            duplex.send(&message::notification("notifications/initialized", "{}")).await;
        }
        Self::Duplex(Box::new(duplex))
    }

    /// Sends a request and answers what the server asks in between. Gives back the response and
    /// every notification before it.
    async fn run(&mut self, request: &str) -> (Value, Vec<Value>) {
        let id = serde_json::from_str::<Value>(request).expect("a request")["id"].clone();
        let mut before = Vec::new();
        match self {
            Self::Http(client) => {
                let posted = client.post(request).await;
                let mut stream = match posted {
                    crate::harness::client::Posted::Answer(answer) => {
                        return (answer.json(), before);
                    }
                    crate::harness::client::Posted::Stream(stream) => stream,
                };
                loop {
                    let message = stream.message().await.expect("a response before the end");
                    if message["id"] == id && message.get("method").is_none() {
                        return (message, before);
                    }
                    if let Some(answer) = answer_to(&message) {
                        assert_eq!(client.post(&answer).await.answer().status, 202);
                    }
                    before.push(message);
                }
            }
            Self::Duplex(duplex) => {
                duplex.send(request).await;
                loop {
                    let message = duplex.message().await.expect("the connection stays open");
                    if message["id"] == id && message.get("method").is_none() {
                        return (message, before);
                    }
                    if let Some(answer) = answer_to(&message) {
                        duplex.send(&answer).await;
                    }
                    before.push(message);
                }
            }
        }
    }
}

fn answer_to(message: &Value) -> Option<String> {
    message.get("method").filter(|_| message.get("id").is_some())?;
    assert_eq!(message["method"], "elicitation/create", "{message}");
    Some(message::result(&message["id"], r#"{"action":"accept","content":{"name":"Ada"}}"#))
}

fn call(modern: bool, id: u32, tool: &str, arguments: &Value, more: &Value) -> String {
    let mut params = json!({ "name": tool, "arguments": arguments });
    params["_meta"] = match modern {
        true => serde_json::from_str(ASKABLE).expect("JSON"),
        false => json!({ "progressToken": "p" }),
    };
    for (key, value) in more.as_object().into_iter().flatten() {
        params[key] = value.clone();
    }
    message::request(id, "tools/call", &params.to_string())
}

/// What every pair of transports has to carry.
async fn story(world: &World, client: &str, modern: bool) {
    let mut wire = Wire::open(&world.gateway, client, modern).await;
    let list = match modern {
        true => message::request(1, "tools/list", &format!(r#"{{"_meta":{ASKABLE}}}"#)),
        false => message::request(1, "tools/list", "{}"),
    };
    let (listed, _) = wire.run(&list).await;
    let tools =
        listed["result"]["tools"].as_array().unwrap_or_else(|| panic!("{client}: {listed}"));
    assert!(tools.iter().any(|tool| tool["name"] == "echo"), "{client}: {listed}");

    let text = "é 日本語 🛟 \u{2028} \"\\";
    let (echoed, _) =
        wire.run(&call(modern, 2, "echo", &json!({ "text": text }), &Value::Null)).await;
    assert_eq!(echoed["result"]["content"][0]["text"], text, "{client}: {echoed}");

    let arguments = json!({ "ms": 60, "steps": 3 });
    let (slept, before) = wire.run(&call(modern, 3, "slow", &arguments, &Value::Null)).await;
    assert!(slept.get("result").is_some(), "{client}: {slept}");
    let progress: Vec<&Value> =
        before.iter().filter(|it| it["method"] == "notifications/progress").collect();
    assert_eq!(progress.len(), 3, "{client}: {before:?}");
    assert!(progress.iter().all(|it| it["params"]["progressToken"] == "p"), "{client}: {before:?}");

    let (mut asked, _) = wire.run(&call(modern, 4, "ask", &json!({}), &Value::Null)).await;
    if modern {
        assert_eq!(asked["result"]["resultType"], "input_required", "{client}: {asked}");
        let more = json!({
            "requestState": asked["result"]["requestState"],
            "inputResponses": { "answer": { "action": "accept", "content": { "name": "Ada" } } },
        });
        asked = wire.run(&call(modern, 5, "ask", &json!({}), &more)).await.0;
    }
    assert!(asked.to_string().contains("Ada"), "{client}: {asked}");

    let (unknown, _) = wire.run(&call(modern, 6, "nonsense", &json!({}), &Value::Null)).await;
    assert_eq!(unknown["error"]["code"], -32602, "{client}: {unknown}");
}

async fn matrix(server: &str, modern: bool) {
    let world = behind(server).await;
    for client in ["http", "sse", "websocket"] {
        story(&world, client, modern).await;
    }
}

#[tokio::test]
async fn legacy_clients_reach_http() {
    matrix("http", false).await;
}

#[tokio::test]
async fn legacy_clients_reach_sse() {
    matrix("sse", false).await;
}

#[tokio::test]
async fn legacy_clients_reach_websocket() {
    matrix("websocket", false).await;
}

#[tokio::test]
async fn legacy_clients_reach_stdio() {
    matrix("stdio", false).await;
}

#[tokio::test]
async fn modern_clients_reach_http() {
    matrix("http", true).await;
}

#[tokio::test]
async fn modern_clients_reach_sse() {
    matrix("sse", true).await;
}

#[tokio::test]
async fn modern_clients_reach_websocket() {
    matrix("websocket", true).await;
}

#[tokio::test]
async fn modern_clients_reach_stdio() {
    matrix("stdio", true).await;
}

/// Digits and escapes arrive as the server wrote them, whatever carries them.
#[tokio::test]
async fn results_are_byte_for_byte_on_every_pair() {
    let exact =
        r#"{"big":123456789012345678901234567890.10,"tiny":1E-400,"zero":-0.0,"b":2,"a":1}"#;
    for server in ["http", "sse", "websocket", "stdio"] {
        let world = behind(server).await;
        let request = call(true, 1, "digits", &json!({}), &Value::Null);
        let http = Client::modern(&world.gateway).post(&request).await.answer().text();
        assert!(http.contains(exact), "http over {server}: {http}");
        for client in ["sse", "websocket"] {
            let mut duplex = match client {
                "sse" => Duplex::sse(world.gateway.address, "/sse").await,
                _ => Duplex::websocket(world.gateway.address, "/mcp").await,
            };
            duplex.send(&request).await;
            let text = duplex.text().await.expect("an answer");
            assert!(text.contains(exact), "{client} over {server}: {text}");
        }
    }
}

/// Many modern clients share one connection to the server: their equal ids and progress tokens
/// must not be mixed up.
#[tokio::test]
async fn equal_ids_of_many_clients_are_kept_apart() {
    for server in ["websocket", "stdio", "sse"] {
        let world = behind(server).await;
        let calls: Vec<_> = (0..20)
            .map(|number| {
                let client = Client::modern(&world.gateway);
                let request =
                    call(true, 1, "echo", &json!({ "text": number.to_string() }), &Value::Null);
                tokio::spawn(async move { client.post(&request).await.response().await })
            })
            .collect();
        for (number, call) in calls.into_iter().enumerate() {
            let response = call.await.unwrap();
            assert_eq!(response["id"], 1, "{server}: {response}");
            let text = &response["result"]["content"][0]["text"];
            assert_eq!(*text, number.to_string(), "{server}: {response}");
        }
    }
}

/// The session of an HTTP+SSE client is its connection.
#[tokio::test]
async fn a_message_to_a_connection_that_is_gone_is_404() {
    let world = behind("http").await;
    let address = world.gateway.address;
    let Duplex::Sse { endpoint, stream, .. } = Duplex::sse(address, "/sse").await else {
        unreachable!()
    };
    drop(stream);
    crate::harness::within("the end of the session", async {
        let ping = message::request(1, "ping", "{}");
        while crate::harness::duplex::post(address, &endpoint, &ping).await.status != 404 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let guessed = crate::harness::duplex::post(address, "/messages?session_id=x", "{}").await;
    assert!([400, 404].contains(&guessed.status), "{}", guessed.status);
}
