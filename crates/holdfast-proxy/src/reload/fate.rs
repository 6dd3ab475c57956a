//! What becomes of each server when one configuration follows another. Pure.
//!
//! | its way | and then |
//! |---|---|
//! | it is new | it begins |
//! | an HTTP server that keeps an instance (id and URL), or a connection to the same place | it goes on: breakers, health, pools, what was learnt; sessions stay where they are bound, unless that instance goes |
//! | every instance, or the way to it, is another | it begins anew, and its sessions move there with their next call |
//! | it is gone | it ends: its sessions end with it |

use std::collections::BTreeMap;

use holdfast_config::{Config, ExposeSecret, Server, Stdio, Transport};

/// What becomes of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was not there before.
    Begins,
    /// It is reached as before, at least at one instance.
    GoesOn,
    /// It is reached elsewhere, or in another way.
    BeginsAnew,
    /// It is not there any more.
    Ends,
}

/// The fate of every server of either configuration.
pub(crate) fn fates(old: &Config, new: &Config) -> BTreeMap<String, Fate> {
    let mut fates: BTreeMap<String, Fate> =
        old.servers.keys().map(|name| (name.clone(), Fate::Ends)).collect();
    for (name, server) in &new.servers {
        let fate = match old.servers.get(name) {
            None => Fate::Begins,
            Some(before) if is_reached_as(before, server) => Fate::GoesOn,
            Some(_) => Fate::BeginsAnew,
        };
        fates.insert(name.clone(), fate);
    }
    fates
}

fn is_reached_as(old: &Server, new: &Server) -> bool {
    match (&old.transport, &new.transport) {
        (Transport::Http { instances: old }, Transport::Http { instances: new }) => {
            new.iter().any(|it| old.iter().any(|old| old.id == it.id && old.url == it.url))
        }
        (Transport::Sse { url: old }, Transport::Sse { url: new })
        | (Transport::WebSocket { url: old }, Transport::WebSocket { url: new }) => old == new,
        (Transport::Stdio(old), Transport::Stdio(new)) => is_same_process(old, new),
        _ => false,
    }
}

/// Whether a process that was started by the one is as good as one that the other would start.
fn is_same_process(old: &Stdio, new: &Stdio) -> bool {
    let Stdio { command, args, env, cwd, stop_grace } = new;
    let same_env = old.env.len() == env.len()
        && old.env.iter().zip(env).all(|((old_name, old), (name, new))| {
            old_name == name && old.expose_secret() == new.expose_secret()
        });
    same_env
        && old.command == *command
        && old.args == *args
        && old.cwd == *cwd
        && old.stop_grace == *stop_grace
}
