//! When a setting takes effect: what docs/configuration.md says is what a comparison says.

use std::collections::BTreeMap;

use holdfast_config::{Change, When};

use crate::{SERVERS, good};

/// The rows of the table: patterns of keys, and what is said of them.
fn rows() -> BTreeMap<Vec<String>, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let text = std::fs::read_to_string(path).expect("the documentation");
    let (_, section) = text.split_once("| take effect | settings |").expect("the table");
    let mut rows = BTreeMap::new();
    for line in section.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let (effect, keys) = line[1..].split_once('|').expect("two columns");
        for key in keys.split(',') {
            let key = key.trim().trim_end_matches('|').trim().trim_matches('`');
            let effect = effect.trim().to_owned();
            assert!(rows.insert(segments(key), effect).is_none(), "{key} is there twice");
        }
    }
    rows
}

fn segments(key: &str) -> Vec<String> {
    let bare = |part: &str| part.split('[').next().unwrap_or_default().to_owned();
    key.split('.').map(bare).collect()
}

/// What the most particular row that fits says of a key.
fn said<'a>(rows: &'a BTreeMap<Vec<String>, String>, key: &str) -> Option<&'a str> {
    let key = segments(key);
    let fits = |row: &&Vec<String>| {
        row.len() <= key.len() && row.iter().zip(&key).all(|(row, part)| row == "*" || row == part)
    };
    let row = rows.keys().filter(fits).max_by_key(|row| row.len())?;
    rows.get(row).map(String::as_str)
}

/// Every change between a configuration that has everything and one that has nothing, and back.
fn changes() -> Vec<Change> {
    let parts = include_str!("parts.yaml");
    // Of the same server, since one that comes or goes is one change.
    let main = SERVERS.replace("docs", "main");
    let (full, bare) = (good(parts), good(&main));
    let listen = good(&format!(
        "listen: {{ address: \"127.0.0.1:1\", workers: 3, idle_timeout: 9s }}\nadmin: {{ address: \"127.0.0.1:2\" }}\nlog: {{ format: json, level: warn }}\nnode: {{ id: other }}\nreload: {{ watch: false }}\n{main}"
    ));
    let pairs = [(&full, &bare), (&bare, &full), (&bare, &listen), (&full, &listen)];
    pairs.iter().flat_map(|(old, new)| old.difference(new)).collect()
}

#[test]
fn the_documentation_says_of_every_setting_when_it_takes_effect() {
    let rows = rows();
    let changes = changes();
    assert!(changes.len() > 100, "{}", changes.len());
    for Change { key, when, .. } in &changes {
        let said = said(&rows, key).unwrap_or_else(|| panic!("no row of the table is about {key}"));
        let with_restart = said.starts_with("with a restart");
        assert_eq!(with_restart, *when == When::Restart, "{key}: it says \"{said}\"");
    }
    for key in good(include_str!("parts.yaml")).canonical().lines() {
        let key = key.split(' ').next().unwrap_or_default();
        assert!(said(&rows, key).is_some(), "no row of the table is about {key}");
    }
}

#[test]
fn every_row_that_asks_for_a_restart_is_about_a_setting_that_needs_one() {
    let changes = changes();
    for (row, said) in rows().iter().filter(|(_, said)| said.starts_with("with a restart")) {
        let about = |change: &&Change| segments(&change.key).starts_with(row);
        let found = changes.iter().filter(about).any(|change| change.when == When::Restart);
        // Certificates would have to be there, and no file of a test has two ways to name its store.
        let unseen = ["tls", "url"].iter().any(|last| row.last().is_some_and(|it| it == last));
        assert!(found || unseen, "{}: {said}", row.join("."));
    }
}
