//! What a file and an environment become: through the public API, one mistake at a time.

mod cluster;
mod defaults;
mod desktop;
mod document;
mod documented;
mod environment;
mod example;
mod mistakes;
mod programs;
mod properties;
mod redis;
mod reload;
mod resilience;
mod resilience_mistakes;
mod secrets;
mod taking_effect;

use holdfast_config::{Config, Problem};

/// A server, so that a test can be about something else.
const SERVERS: &str = "servers: { docs: { url: \"http://127.0.0.1:3001/mcp\" } }\n";

/// Reads `text` under an environment of `NAME=value` words.
fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    let env = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    holdfast_config::parse(text, "test.yaml", &env).map_err(|problems| problems.list)
}

/// The configuration of a file without problems.
#[track_caller]
fn good(text: &str) -> Config {
    read(text, &[]).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The only problem of a file.
#[track_caller]
fn problem(text: &str) -> Problem {
    match read(text, &[]) {
        Ok(config) => panic!("no problem: {config:#?}"),
        Err(mut problems) if problems.len() == 1 => problems.remove(0),
        Err(problems) => panic!("several: {problems:#?}"),
    }
}
