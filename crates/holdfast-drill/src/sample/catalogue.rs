//! What `tools/list` says.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::Sample;

/// How a tool is annotated, which decides how a gateway may repeat its calls.
#[derive(Clone, Copy)]
enum Nature {
    /// `readOnlyHint`.
    Read,
    /// `idempotentHint`.
    Idempotent,
    /// No annotation at all.
    Write,
}

struct Tool {
    name: &'static str,
    nature: Nature,
    description: &'static str,
    /// `name:type` pairs, with `!` for required ones.
    arguments: &'static str,
}

const TOOLS: [Tool; 19] = [
    tool("echo", Nature::Read, "Gives the text back", "text:string key:string"),
    tool("add", Nature::Read, "Adds two numbers", "a:number! b:number!"),
    tool(
        "slow",
        Nature::Read,
        "Sleeps and reports progress",
        "ms:integer steps:integer key:string",
    ),
    tool(
        "write",
        Nature::Write,
        "Counts its executions per key; answers after ms",
        "key:string! value:string ms:integer",
    ),
    tool("bump", Nature::Idempotent, "The same, but may be repeated", "key:string! ms:integer"),
    tool("big", Nature::Read, "Answers with a text of this size", "bytes:integer!"),
    tool("fail", Nature::Read, "Answers with isError", ""),
    tool("ask", Nature::Write, "Asks the user", "message:string rounds:integer"),
    tool("sample", Nature::Write, "Asks the client's model", "prompt:string"),
    tool("roots", Nature::Read, "Asks for the client's roots", ""),
    tool(
        "log",
        Nature::Read,
        "Sends log messages",
        "level:string text:string count:integer ms:integer",
    ),
    tool("level", Nature::Read, "The level below which log messages are not sent", ""),
    tool("unicode", Nature::Read, "A text with every kind of character", ""),
    tool("digits", Nature::Read, "Numbers and escapes that do not survive re-serialising", ""),
    tool("counter", Nature::Write, "Counts in the session", "handle:string"),
    tool("whoami", Nature::Read, "What the server knows of this client", ""),
    tool("touch", Nature::Write, "Changes drill://changing", ""),
    tool("toggle", Nature::Write, "Lists or hides the tool extra", ""),
    tool(
        "route",
        Nature::Read,
        "Mirrors its arguments in headers",
        "region:string priority:integer",
    ),
];

const EXTRA: Tool = tool("extra", Nature::Read, "Comes and goes", "");

const fn tool(
    name: &'static str,
    nature: Nature,
    description: &'static str,
    arguments: &'static str,
) -> Tool {
    Tool { name, nature, description, arguments }
}

pub(super) fn list(sample: &Sample) -> Vec<Value> {
    listed(sample).map(Tool::describe).collect()
}

pub(super) fn knows(sample: &Sample, name: &str) -> bool {
    listed(sample).any(|tool| tool.name == name)
}

/// The arguments of a tool that are mirrored in `Mcp-Param-*` headers, with the header's last part.
pub(super) fn mirrored(tool: &str) -> &'static [(&'static str, &'static str)] {
    match tool {
        "route" => &[("region", "Region"), ("priority", "Priority")],
        _ => &[],
    }
}

fn listed(sample: &Sample) -> impl Iterator<Item = &'static Tool> {
    let extra = sample.world.extra_tool.load(Ordering::Acquire);
    TOOLS.iter().chain(extra.then_some(&EXTRA))
}

impl Tool {
    fn describe(&self) -> Value {
        let mut schema = json!({ "type": "object", "properties": {} });
        let mut required = Vec::new();
        for argument in self.arguments.split_whitespace() {
            let Some((name, kind)) = argument.split_once(':') else { continue };
            if kind.ends_with('!') {
                required.push(name);
            }
            schema["properties"][name] = json!({ "type": kind.trim_end_matches('!') });
        }
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        for (argument, header) in mirrored(self.name) {
            schema["properties"][argument]["x-mcp-header"] = json!(header);
        }
        let mut tool = json!({
            "name": self.name, "description": self.description, "inputSchema": schema,
        });
        match self.nature {
            Nature::Read => tool["annotations"] = json!({ "readOnlyHint": true }),
            Nature::Idempotent => {
                tool["annotations"] = json!({ "readOnlyHint": false, "idempotentHint": true });
            }
            Nature::Write => {}
        }
        if self.name == "add" {
            tool["outputSchema"] = json!({
                "type": "object", "properties": { "sum": { "type": "number" } },
                "required": ["sum"],
            });
        }
        tool
    }
}
