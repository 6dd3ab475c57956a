//! No text makes the reader panic, and what it takes it takes alike every time.

use holdfast_config::File;
use proptest::prelude::*;

use crate::read;

const CLUSTER: [(&str, &str); 5] = [
    ("SESSION_STORE", "redis"),
    ("HA_CLUSTER_NODES", "a=h:1,b=h:2,c=h:3"),
    ("HA_NODE_ID", "a"),
    ("HOLDFAST_CLUSTER_SECRET", "0123456789abcdef0123456789abcdef"),
    ("HOLDFAST_DATA_DIR", "data"),
];

/// Texts that are nearly files of ours: the example with lines taken out, doubled, shifted and
/// changed reaches the readers of every section, where noise ends at the first bracket.
fn nearly() -> impl Strategy<Value = String> {
    const PARTS: &str = include_str!("parts.yaml");
    let lines: Vec<&'static str> = PARTS.lines().collect();
    let value = prop_oneof![
        Just(String::new()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("-1".to_owned()),
        Just("0".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("\"${\"".to_owned()),
        Just("5%".to_owned()),
        Just("1s".to_owned()),
        Just("[a, a]".to_owned()),
        Just("redis://:@,/@".to_owned()),
        "[ -~é\u{0}\n]{0,12}",
    ];
    let edit = (0..lines.len(), 0..4_u8, value);
    proptest::collection::vec(edit, 0..8).prop_map(move |edits| {
        let mut out: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        for (at, kind, value) in edits {
            let line = out[at].clone();
            out[at] = match (kind, line.split_once(": ")) {
                (0, _) => String::new(),
                (1, _) => format!("{line}\n{line}"),
                (2, _) => line.trim_start().to_owned(),
                (_, Some((key, _))) => format!("{key}: {value}"),
                (_, None) => value,
            };
        }
        out.join("\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_a_configuration_or_has_problems(text in "\\PC{0,200}") {
        if let Err(problems) = read(&text, &[]) {
            prop_assert!(!problems.is_empty());
        }
    }

    #[test]
    fn a_file_that_is_nearly_right_never_panics_the_reader(text in nearly()) {
        match read(&text, &[]) {
            Ok(config) => {
                prop_assert_eq!(config.difference(&config), vec![]);
                prop_assert_eq!(config.version(), read(&text, &[]).unwrap().version());
                // What a cluster agrees on of it is the same to the node that has the file.
                let file = File::parse(&text, "test", &|_| None).unwrap();
                let again = file.with(&file.document, "version 1", [], &|_| None);
                prop_assert_eq!(config.difference(&again.unwrap()), vec![]);
            }
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                let complete = |p: &holdfast_config::Problem| !p.found.is_empty() && !p.cure.is_empty();
                prop_assert!(problems.iter().all(complete), "{:#?}", problems);
            }
        }
    }

    #[test]
    fn any_variable_is_taken_or_has_a_problem(
        name in prop_oneof![
            Just("SESSION_STORE_URL"), Just("SESSION_STORE"), Just("CIRCUIT_BREAKER_TIMEOUT"),
            Just("HA_HEALTH_CHECK_INTERVAL"), Just("HA_CLUSTER_NODES"), Just("PORT"),
        ],
        value in prop_oneof!["\\PC{0,40}", "redis(s|\\+sentinel|\\+cluster)?://[a-z:@,/%0-9]{0,30}"],
    ) {
        let _ = read(crate::SERVERS, &[&[(name, value.as_str())][..], &CLUSTER].concat());
    }

    #[test]
    fn a_password_comes_out_of_its_url_as_it_went_in(password in "\\PC{1,24}") {
        let encoded: String = password.bytes().map(|b| format!("%{b:02x}")).collect();
        let text = format!(
            "sessions: {{ store: redis, url: \"redis://u:{encoded}@h\" }}\n{}", crate::SERVERS
        );
        let redis = read(&text, &CLUSTER).unwrap().sessions.redis.unwrap();
        let found = redis.password.unwrap();
        prop_assert_eq!(holdfast_config::ExposeSecret::expose_secret(&found), password.as_str());
    }
}

#[test]
fn the_parts_are_a_whole_file() {
    let text = include_str!("parts.yaml");
    let config = read(text, &[]).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(config.servers.len(), 3);
}
