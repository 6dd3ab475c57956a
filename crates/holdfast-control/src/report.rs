//! What a node tells the coordinator of the servers, whole each time: a report that is lost costs time
//! and nothing else.
//!
//! Servers and instances go by their names, since nodes may run different configurations for a while.
//!
//! What was added since the first version comes after the rest of a message: nodes of that version do not
//! look there, and from them there is nothing.

use holdfast_engine::health::votes::{Calls, Cause, Opinion};
use holdfast_engine::replicated::Origin;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Everything that one node has to say.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Its generation in the group.
    pub(crate) generation: u64,
    pub(crate) servers: Vec<ServerPart>,
    /// What its calls say of servers' instances that its checks find healthy. Comes after the rest.
    #[serde(skip)]
    pub(crate) calls: Vec<(String, String, Calls)>,
    /// What breakers of single tools have to say, where they have anything: by server and tool. Comes after that.
    #[serde(skip)]
    pub(crate) tools: Vec<(String, String, BreakerPart)>,
    /// Servers that do not move by its configuration: its calls go to all of their instances, whatever was agreed on.
    /// Comes after that.
    #[serde(skip)]
    pub(crate) balanced: Vec<String>,
}

/// What it says of a server.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ServerPart {
    pub(crate) name: String,
    /// Generation and step of the failover that its calls go by.
    pub(crate) follows: (u64, u32),
    pub(crate) breaker: BreakerPart,
    pub(crate) instances: Vec<InstancePart>,
}

/// What it says of an instance.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct InstancePart {
    pub(crate) id: String,
    /// None: it has no evidence yet.
    pub(crate) vote: Option<VotePart>,
    pub(crate) breaker: BreakerPart,
    /// Its calls that are there.
    pub(crate) running: u64,
    /// When one of its calls was last answered, in milliseconds by the group's clock; 0: never.
    pub(crate) answered_at: u64,
}

/// A vote without who and when.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct VotePart {
    pub(crate) opinion: Opinion,
    /// By all its evidence, 0 to 1.
    pub(crate) score: f64,
    pub(crate) cause: Cause,
    /// By its own checks alone.
    pub(crate) own: Option<f64>,
    /// How old its last checks are, in milliseconds.
    pub(crate) age: u64,
    /// Good checks in a row.
    pub(crate) good: u32,
    /// When the first sign of trouble was seen, in milliseconds since the Unix epoch; 0: none.
    pub(crate) bad_since: u64,
}

/// What its breaker has to say of the server; nothing of the node's own network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct BreakerPart {
    /// It is open, or half-open again, by the server's fault.
    pub(crate) opened: bool,
    /// When it last opened so, in milliseconds since the Unix epoch.
    pub(crate) opened_at: u64,
    pub(crate) calls: u32,
    pub(crate) failed: u32,
}

/// What a node tells of itself: places in `Level::ALL`, and of what it does about that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct NodePart {
    pub(crate) level: u8,
    pub(crate) measure: u8,
    /// The version of the configuration that it runs; 0: none, or it does not say. Comes after the rest.
    #[serde(skip)]
    pub(crate) runs: u64,
    /// Which commands of the log it can read (`replicated::READS`); 0: those of the first version, or it does
    /// not say. Comes after that.
    #[serde(skip)]
    pub(crate) reads: u32,
}

/// What the coordinator answers to what a node tells of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Allowed {
    /// The node may step aside.
    pub(crate) aside: bool,
    /// What these members all read (`replicated::READS`), by what each has told of this life. Comes after the rest.
    #[serde(skip)]
    pub(crate) all_read: (u32, Vec<Origin>),
}

/// What the coordinator answers: what the others say of each instance.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Others {
    /// By their own checks.
    pub(crate) scores: Vec<(String, String, Vec<f64>)>,
    /// By their calls. Comes after the rest.
    #[serde(skip)]
    pub(crate) calls: Vec<(String, String, Calls)>,
}

/// What the others say of one instance.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) scores: Vec<f64>,
    pub(crate) calls: Vec<Calls>,
}

/// Whose breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Of<'a> {
    /// All of a server's.
    Server,
    Instance(&'a str),
    /// One of its tools', which has one of its own.
    Tool(&'a str),
}

/// A message with something after it.
pub(crate) trait Longer: Serialize + DeserializeOwned {
    /// What comes after it, in the order in which it was added.
    fn more(&mut self) -> Vec<&mut dyn Part>;
}

/// Something that comes after a message.
pub(crate) trait Part {
    /// Appends it to a message.
    fn write(&self, message: Vec<u8>) -> postcard::Result<Vec<u8>>;

    /// Reads it from where a message goes on; what comes after it.
    fn read<'a>(&mut self, rest: &'a [u8]) -> postcard::Result<&'a [u8]>;
}

impl<T: Serialize + DeserializeOwned> Part for T {
    fn write(&self, message: Vec<u8>) -> postcard::Result<Vec<u8>> {
        postcard::to_extend(self, message)
    }

    fn read<'a>(&mut self, rest: &'a [u8]) -> postcard::Result<&'a [u8]> {
        let (read, rest) = postcard::take_from_bytes(rest)?;
        *self = read;
        Ok(rest)
    }
}

// === impl Report ===

impl Report {
    pub(crate) fn server(&self, name: &str) -> Option<&ServerPart> {
        self.servers.iter().find(|it| it.name == name)
    }

    /// Whether its calls of a server go by what the group has agreed on.
    pub(crate) fn moves(&self, server: &str) -> bool {
        !self.balanced.iter().any(|it| it == server)
    }

    /// What a breaker of a server has to say, if the node has it.
    pub(crate) fn breaker(&self, server: &str, of: Of<'_>) -> Option<BreakerPart> {
        match of {
            Of::Server => Some(self.server(server)?.breaker),
            Of::Instance(id) => Some(self.server(server)?.instance(id)?.breaker),
            Of::Tool(tool) => {
                let known = self.tools.iter().find(|it| (&*it.0, &*it.1) == (server, tool));
                known.map(|(.., breaker)| *breaker)
            }
        }
    }
}

impl ServerPart {
    pub(crate) fn instance(&self, id: &str) -> Option<&InstancePart> {
        self.instances.iter().find(|it| it.id == id)
    }
}

impl Longer for Report {
    fn more(&mut self) -> Vec<&mut dyn Part> {
        vec![&mut self.calls, &mut self.tools, &mut self.balanced]
    }
}

impl Longer for NodePart {
    fn more(&mut self) -> Vec<&mut dyn Part> {
        vec![&mut self.runs, &mut self.reads]
    }
}

impl Longer for Allowed {
    fn more(&mut self) -> Vec<&mut dyn Part> {
        vec![&mut self.all_read]
    }
}

impl Longer for Others {
    fn more(&mut self) -> Vec<&mut dyn Part> {
        vec![&mut self.calls]
    }
}

/// [`encode`], with what comes after it.
pub(crate) fn encode_long<T: Longer>(mut value: T) -> Result<Vec<u8>, String> {
    let mut message = encode(&value)?;
    for part in value.more() {
        message = part.write(message).map_err(|error| error.to_string())?;
    }
    Ok(message)
}

/// Reads what [`encode_long`] wrote, or that of an earlier version did, which knew less to add, or of a later one.
pub(crate) fn decode_long<T: Longer>(bytes: &[u8]) -> Result<T, String> {
    let read = postcard::take_from_bytes::<T>(bytes).map_err(|error| error.to_string());
    let (mut value, mut rest) = read?;
    for part in value.more() {
        if rest.is_empty() {
            break;
        }
        rest = part.read(rest).map_err(|error| error.to_string())?;
    }
    Ok(value)
}

/// As one node tells another.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    postcard::to_stdvec(value).map_err(|error| error.to_string())
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_way_and_garbage_is_refused() {
        let vote = VotePart { score: 0.25, bad_since: 7, own: Some(0.0), ..VotePart::default() };
        let instance =
            InstancePart { id: "a".into(), vote: Some(vote), running: 3, ..Default::default() };
        let server = ServerPart {
            name: "docs".into(),
            follows: (2, 3),
            instances: vec![instance],
            ..Default::default()
        };
        let calls = vec![("docs".into(), "a".into(), Calls::Fail(Cause::BreakerOpen))];
        let breaker = BreakerPart { opened: true, opened_at: 5, calls: 9, failed: 6 };
        let tools = vec![("docs".into(), "write".into(), breaker)];
        let balanced = vec!["wiki".to_owned()];
        let report = Report { generation: 4, servers: vec![server], calls, tools, balanced };
        let bytes = encode_long(report.clone()).unwrap();
        assert_eq!(decode_long(&bytes), Ok(report.clone()));
        // An earlier version does not see the end, and says none.
        let last = Report { balanced: Vec::new(), ..report };
        let before = Report { tools: Vec::new(), ..last.clone() };
        let earlier = Report { calls: Vec::new(), ..before.clone() };
        assert_eq!(decode::<Report>(&bytes), Ok(earlier.clone()));
        let first = encode(&earlier).unwrap();
        assert_eq!(decode_long(&first), Ok(earlier));
        let second = Part::write(&before.calls, first.clone()).unwrap();
        assert_eq!(decode_long(&second), Ok(before));
        let third = Part::write(&last.tools, second.clone()).unwrap();
        assert_eq!(decode_long(&third), Ok(last));
        let ends = [first.len(), second.len(), third.len()];
        for end in (0..bytes.len()).filter(|end| !ends.contains(end)) {
            assert!(decode_long::<Report>(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    /// Nodes of three versions understand each other as far as each knows.
    #[test]
    fn what_was_added_later_comes_after_what_was_added_before() {
        let part = NodePart { level: 1, measure: 2, runs: 300, reads: 1 };
        let bytes = encode_long(part).unwrap();
        assert_eq!(decode_long(&bytes), Ok(part));
        let (_, more) = postcard::take_from_bytes::<NodePart>(&bytes).unwrap();
        assert_eq!(decode::<u64>(more), Ok(300), "as a node of the version before reads it");
        let before = &bytes[..bytes.len() - 1];
        assert_eq!(decode_long(before), Ok(NodePart { reads: 0, ..part }));
        let first = &before[..2];
        assert_eq!(decode_long(first), Ok(NodePart { runs: 0, reads: 0, ..part }));
        let later = [&bytes[..], &[7, 7]].concat();
        assert_eq!(decode_long(&later), Ok(part));
        let all_read = (2, vec![Origin { node: 7, generation: 3 }]);
        let allowed = Allowed { aside: true, all_read };
        let bytes = encode_long(allowed.clone()).unwrap();
        assert_eq!(decode_long(&bytes), Ok(allowed));
        assert_eq!(decode::<bool>(&bytes), Ok(true), "as the version before reads it");
        let before = encode(&true).unwrap();
        assert_eq!(decode_long(&before), Ok(Allowed { aside: true, ..Allowed::default() }));
    }
}
