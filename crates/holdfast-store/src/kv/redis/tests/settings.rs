//! What is not used, and how that is said.

use std::collections::HashMap;
use std::path::PathBuf;

use holdfast_config::{HostPort, Redis, RedisTls, Topology};

use super::servers::{FREE_PORT, Server, Watched, cluster};
use super::{any, open, sentinel, standalone};
use crate::contract::record;
use crate::{Store, StoreError};

/// Why a store is refused at the start.
async fn refused(settings: Redis) -> String {
    match Store::redis(settings, any()).await {
        Err(StoreError::Unavailable(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn settings_that_lose_data_are_refused_by_name_and_with_their_cure() {
    let server = Server::spawn(&[
        "--appendonly",
        "no",
        "--save",
        "",
        "--maxmemory",
        "100mb",
        "--maxmemory-policy",
        "allkeys-lru",
    ]);
    let settings = standalone(server.address());
    let reason = refused(settings.clone()).await;
    for part in [
        "maxmemory-policy is allkeys-lru",
        "set maxmemory-policy noeviction",
        "appendonly is no and save is empty",
        "set appendonly yes",
        "sessions.redis.allow_unsafe: true",
        &format!("127.0.0.1:{}", server.port),
    ] {
        assert!(reason.contains(part), "\"{part}\" is not in: {reason}");
    }
    let opened = open(Redis { allow_unsafe: true, ..settings.clone() }).await;
    opened.store.create(record(1)).await.unwrap();
    drop(opened);
    server.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).unwrap();
    server.ask(&["CONFIG", "SET", "appendonly", "yes"]).unwrap();
    open(settings).await.store.create(record(2)).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_user_or_database_is_said_so_and_never_shown() {
    let server = Server::start(&["--requirepass", "right-horse"]);
    let mut settings = standalone(server.address());
    let reason = refused(settings.clone()).await;
    assert!(reason.contains("refuses the user name or password"), "{reason}");
    settings.password = Some("wrong-horse".to_owned().into());
    let reason = refused(settings.clone()).await;
    assert!(reason.contains("refuses the user name or password"), "{reason}");
    assert!(!reason.contains("horse"), "{reason}");
    settings.password = Some("right-horse".to_owned().into());
    settings.database = 99;
    let reason = refused(settings.clone()).await;
    assert!(reason.contains("no such database"), "{reason}");
    settings.database = 3;
    let opened = open(settings.clone()).await;
    opened.store.create(record(1)).await.unwrap();
    assert!(!format!("{opened:?}").contains("horse"));
}

#[tokio::test]
async fn a_user_with_few_rights_suffices_and_what_could_not_be_checked_is_no_reason_to_refuse() {
    let server = Server::start(&[]);
    let user = |user: &str| {
        let words = ["ACL", "SETUSER"].into_iter().chain(user.split_whitespace());
        server.ask(&words.collect::<Vec<_>>()).unwrap();
    };
    user(
        "gateway on >secret ~holdfast:* ~{holdfast:* &holdfast:* -@all +@read +@write +@scripting \
         +@connection +info +wait +publish +subscribe +time",
    );
    let mut settings = standalone(server.address());
    settings.username = Some("gateway".to_owned());
    settings.password = Some("secret".to_owned().into());
    let opened = open(settings.clone()).await;
    opened.store.create(record(1)).await.unwrap();
    opened.store.put_hints("files", "hints".into()).await.unwrap();
    // One who may not write is refused by Redis, and that is no matter of waiting.
    user("reader on >secret ~* &* -@all +@read +@connection +info +evalsha +eval +subscribe +time");
    settings.username = Some("reader".to_owned());
    let opened = Store::redis(settings, any()).await;
    match opened {
        Ok(opened) => {
            let error = opened.store.create(record(2)).await.unwrap_err();
            assert!(!matches!(error, StoreError::Exists | StoreError::Gone), "{error}");
        }
        Err(error) => assert!(error.to_string().contains("NOPERM"), "{error}"),
    }
}

#[tokio::test]
async fn what_is_another_kind_of_server_is_named() {
    let (watched, nodes) =
        tokio::task::spawn_blocking(|| (Watched::start(&[]), cluster(&[]))).await.unwrap();
    let (replica, sentinel) = (watched.data[1].address(), watched.sentinels[0].address());
    let reason = refused(standalone(replica)).await;
    assert!(reason.contains("is a replica of 127.0.0.1:"), "{reason}");
    let reason = refused(standalone(sentinel.clone())).await;
    assert!(reason.contains("is a Sentinel and keeps no data"), "{reason}");
    let reason = refused(standalone(nodes[0].address())).await;
    assert!(reason.contains("is a node of a Redis Cluster"), "{reason}");
    let sentinels = |address: HostPort, master: &str| {
        Redis::new(Topology::Sentinel { sentinels: vec![address], master: master.into() })
    };
    let reason = refused(sentinels(watched.data[0].address(), "mymaster")).await;
    assert!(reason.contains("is no Sentinel"), "{reason}");
    let reason = refused(sentinels(sentinel, "other")).await;
    assert!(reason.contains("watches no master of the name \"other\""), "{reason}");
    let plain = Topology::Cluster { nodes: vec![watched.data[0].address()] };
    let reason = refused(Redis::new(plain)).await;
    assert!(reason.contains("is no node of a Redis Cluster"), "{reason}");
    // Failovers of a cluster lose what was not passed on.
    let unsafe_ = Redis {
        replicas_to_acknowledge: 0,
        ..Redis::new(Topology::Cluster { nodes: vec![nodes[0].address()] })
    };
    let reason = refused(unsafe_).await;
    assert!(reason.contains("replicas_to_acknowledge is 0"), "{reason}");
}

#[tokio::test]
async fn a_user_without_rights_is_refused_by_name_and_with_the_cure() {
    let server = Server::start(&[]);
    let rights = [
        ("nothing", &["~*", "&*", "-@all", "+@connection", "+info", "+config|get"][..]),
        ("other_keys", &["~another:*", "&*", "+@all"]),
        ("no_scripts", &["~*", "&*", "+@all", "-@scripting"]),
        ("no_wait", &["~*", "&*", "+@all", "-wait"]),
    ];
    for (name, rules) in rights {
        server.ask(&[&["ACL", "SETUSER", name, "on", ">secret"][..], rules].concat()).unwrap();
        let settings = Redis {
            username: Some(name.to_owned()),
            password: Some("secret".to_owned().into()),
            replicas_to_acknowledge: 1,
            ..standalone(server.address())
        };
        let reason = refused(settings).await;
        assert!(reason.contains("NOPERM") && reason.contains("redis/start.sh"), "{name}: {reason}");
    }
}

#[tokio::test]
async fn replicas_that_redis_itself_wants_are_missed_before_anything_is_written() {
    let server = Server::start(&["--min-replicas-to-write", "1"]);
    let store = open(standalone(server.address())).await.store;
    let reason = store.health().await.unwrap_err();
    assert!(reason.contains("0 replicas of Redis are in step"), "{reason}");
    assert!(reason.contains("min-replicas-to-write is 1"), "{reason}");
}

#[tokio::test]
async fn tls_on_one_side_alone_is_named() {
    let certificates = Certificates::make("alone");
    let server = Server::start(&certificates.options());
    let plain_to_tls = standalone(server.met_at());
    let tls_to_plain =
        Redis { tls: Some(certificates.tls("ca.pem")), ..standalone(server.address()) };
    for (settings, hint) in [(plain_to_tls, "rediss://"), (tls_to_plain, "redis://")] {
        let store = Store::redis(settings, any()).await.unwrap().store;
        let reason = store.health().await.unwrap_err();
        assert!(reason.starts_with("Redis is away: ") && reason.contains(hint), "{reason}");
        assert_eq!(store.operations().takes_writes(), Some(false));
    }
    let store = open(standalone(server.address())).await.store;
    assert_eq!(store.operations().takes_writes(), Some(true));
}

#[tokio::test]
async fn tls_checks_the_server_and_shows_the_nodes_own_certificate() {
    let certificates = Certificates::make("one");
    let server = Server::start(&certificates.options());
    let mut settings = standalone(server.met_at());
    settings.tls = Some(certificates.tls("ca.pem"));
    open(settings.clone()).await.store.create(record(1)).await.unwrap();
    settings.tls = Some(certificates.tls("other.pem"));
    let reason = refused(settings.clone()).await;
    assert!(reason.contains("TLS") && reason.contains("sessions.redis.tls"), "{reason}");
    settings.tls = Some(certificates.tls("none.pem"));
    let reason = refused(settings).await;
    assert!(reason.contains("none.pem"), "{reason}");
}

#[tokio::test]
async fn sentinels_and_the_primaries_that_they_name_are_reached_over_tls() {
    let certificates = Certificates::make("sentinel");
    let watched = {
        let options = certificates.options().map(str::to_owned);
        let start = move || {
            let options = [&options.each_ref().map(String::as_str)[..], &TLS_AMONG_THEM].concat();
            Watched::start_with(&options, &options)
        };
        tokio::task::spawn_blocking(start).await.unwrap()
    };
    let settings = Redis { tls: Some(certificates.tls("ca.pem")), ..sentinel(&watched) };
    let opened = open(settings.clone()).await;
    opened.store.create(record(1)).await.unwrap();
    let stranger = Redis { tls: Some(certificates.tls("other.pem")), ..settings };
    let reason = refused(stranger).await;
    assert!(reason.contains("TLS") && reason.contains("sessions.redis.tls"), "{reason}");
}

#[tokio::test]
async fn the_nodes_of_a_cluster_are_reached_over_tls() {
    let certificates = Certificates::make("cluster");
    let nodes = {
        let options = certificates.options().map(str::to_owned);
        let start = move || {
            let options = options.each_ref().map(String::as_str);
            cluster(&[&options[..], &["--tls-cluster", "yes"]].concat())
        };
        tokio::task::spawn_blocking(start).await.unwrap()
    };
    let topology = Topology::Cluster { nodes: vec![nodes[0].met_at()] };
    let settings = Redis {
        replicas_to_acknowledge: 0,
        allow_unsafe: true,
        tls: Some(certificates.tls("ca.pem")),
        ..Redis::new(topology)
    };
    let store = open(settings).await.store;
    // Over all three: those that the first one names are met over TLS as well.
    for key in 0..30_u128 {
        store.create(record(key)).await.unwrap();
    }
}

/// Primary, replicas and Sentinels talk to one another over TLS as well.
const TLS_AMONG_THEM: [&str; 2] = ["--tls-replication", "yes"];

/// Certificates in a directory that ends with the value: an authority's, a server's and a client's of it, and
/// one of an authority that nobody knows.
struct Certificates {
    directory: PathBuf,
    /// `server.pem`, `server.key`, `ca.pem`.
    shown: [String; 3],
}

impl Certificates {
    fn make(name: &str) -> Self {
        let name = format!("holdfast-store-tls-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let path = |name: &str| directory.join(name);
        let (ca, ca_key) = authority();
        let issuer = rcgen::Issuer::from_params(&ca.1, &ca_key);
        std::fs::write(path("ca.pem"), ca.0.pem()).unwrap();
        for (name, host) in [("server", "127.0.0.1"), ("client", "gateway")] {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            std::fs::write(path(&format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        std::fs::write(path("other.pem"), authority().0.0.pem()).unwrap();
        let shown = ["server.pem", "server.key", "ca.pem"]
            .map(|name| path(name).to_str().unwrap().to_owned());
        Self { directory, shown }
    }

    /// A server's.
    fn options(&self) -> [&str; 8] {
        let [certificate, key, ca] = self.shown.each_ref().map(String::as_str);
        [
            "--tls-port",
            FREE_PORT,
            "--tls-cert-file",
            certificate,
            "--tls-key-file",
            key,
            "--tls-ca-cert-file",
            ca,
        ]
    }

    /// A node's, which trusts this authority.
    fn tls(&self, ca: &str) -> RedisTls {
        let path = |name: &str| Some(self.directory.join(name));
        RedisTls { ca: path(ca), client_cert: path("client.pem"), client_key: path("client.key") }
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

type Authority = ((rcgen::Certificate, rcgen::CertificateParams), rcgen::KeyPair);

fn authority() -> Authority {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "a test's authority");
    let certificate = params.self_signed(&key).unwrap();
    ((certificate, params), key)
}

/// What a session costs in Redis, by Redis' own reckoning. Shown with
/// `cargo nextest run -p holdfast-store bytes_of_a_session --no-capture`.
#[tokio::test]
async fn bytes_of_a_session_in_redis() {
    const SESSIONS: u128 = 1000;
    let (server, opened) = super::one().await;
    // What a client of an SDK sends.
    let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"sampling":{},"roots":{"listChanged":true}},"clientInfo":{"name":"example-client","version":"1.2.3"}}}"#;
    let deadline = Some(opened.store.now() + 3_600_000);
    let used = || -> u64 { server.info("used_memory_dataset").unwrap().parse().unwrap() };
    let before = used();
    for key in 0..SESSIONS {
        // As random as ids are.
        let key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let mut session = record(key);
        session.initialize = initialize.into();
        session.binding.server_session = Some("3f2b8c1e-6a54-4d9b-9a0e-5f0c7d1e2b3a".into());
        session.deadline = deadline;
        opened.store.create(session).await.unwrap();
    }
    let each = u64::try_from(SESSIONS).unwrap();
    let total = (used() - before) / each;
    let mut usage = HashMap::new();
    let mut cursor = "0".to_owned();
    loop {
        let reply = server.ask(&["SCAN", &cursor, "COUNT", "1000"]).unwrap();
        let (next, keys): (String, Vec<Vec<u8>>) = redis::from_redis_value(reply).unwrap();
        for key in keys {
            let name = if key.ends_with(b"due") { "due" } else { "entries" };
            let client = redis::Client::open(("127.0.0.1", server.port)).unwrap();
            let mut connection = client.get_connection().unwrap();
            let bytes: u64 =
                redis::cmd("MEMORY").arg("USAGE").arg(key).query(&mut connection).unwrap();
            *usage.entry(name).or_insert(0) += bytes;
        }
        if next == "0" {
            break;
        }
        cursor = next;
    }
    let entries = usage["entries"] / each;
    let index = usage["due"] / each;
    println!(
        "bytes of an idle session in Redis: {entries} its entry, {index} its deadline in the index"
    );
    println!("(MEMORY USAGE over {SESSIONS} sessions; used_memory_dataset grew by {total} each)");
    assert!(entries + index < 1024, "{entries} + {index}");
}
