//! What an instance is known by beyond one configuration and one node.
//!
//! A session's record, and what is sealed for clients, outlive the configuration under which they were
//! made, and other nodes read them. So they name an instance by a number that is made of what it is, its
//! id and its address, and never by its place in the file: a configuration that lists another one before
//! it, or a node that has a newer file, means the same by it. An instance whose address has changed is
//! another one.

use holdfast_config::Transport;
use holdfast_engine::balance::seed;

/// The mark of an instance with this id at this place.
pub(crate) fn mark_of(id: &str, place: &str) -> u32 {
    let hash = seed(&format!("{id}\n{place}"));
    // 0 is no instance.
    ((hash >> 32) as u32).max(1)
}

/// The mark of the only instance of a server that is a connection. What may hold a secret is left out.
pub(super) fn only(transport: &Transport) -> u32 {
    let place = match transport {
        Transport::Http { .. } => String::new(),
        Transport::Sse { url } => format!("sse {url}"),
        Transport::WebSocket { url } => format!("websocket {url}"),
        Transport::Stdio(process) => {
            let cwd = process.cwd.as_deref().map(std::path::Path::to_string_lossy);
            format!("stdio {} {:?} {cwd:?}", process.command, process.args)
        }
    };
    mark_of("default", &place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_its_id_and_its_address() {
        let a = mark_of("a", "http://127.0.0.1:1/mcp");
        assert_eq!(a, mark_of("a", "http://127.0.0.1:1/mcp"));
        // The same on every node and in every build: records are read by others.
        assert_eq!(a, 3_097_110_185);
        assert_ne!(a, mark_of("b", "http://127.0.0.1:1/mcp"));
        assert_ne!(a, mark_of("a", "http://127.0.0.1:2/mcp"));
    }
}
