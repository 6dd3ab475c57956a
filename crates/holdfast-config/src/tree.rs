//! YAML (and with it JSON) as a tree whose every node knows its line and column.
//!
//! The parser's events are used directly: serde would lose positions, stop at the first mistake,
//! and guess at types that only the field's reader knows. Scalars stay text. Aliases and `<<` merges are resolved here, under a budget, so that a file of
//! a few hundred bytes cannot ask for gigabytes.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use crate::problem::{Place, Problem};

/// Nodes in one file, aliases counted as often as they are used.
const MAX_NODES: usize = 100_000;
/// Nested lists and mappings. The deepest key of a configuration is at 6.
const MAX_DEPTH: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
    /// Whether a single value stands there without quotes, so that `5` may be meant as a number.
    pub(crate) plain: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Any other single value, as text: what it means is its reader's business.
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// What the file has in place of the key, where that is another name.
    pub(crate) written: Option<String>,
    pub(crate) key_place: Place,
    pub(crate) node: Node,
}

/// Reads one document. Duplicate keys are reported and dropped, so that the rest can be checked
/// too; a syntax error ends the reading and leaves no tree. `None` is also the empty file.
pub(crate) fn parse(text: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        depth: 0,
        problems,
    };
    match builder.document() {
        Ok(node) => node,
        Err(Stop(problem)) => {
            problems.push(*problem);
            None
        }
    }
}

/// The problem that ends the reading; boxed to keep results small.
struct Stop(Box<Problem>);

struct Builder<'t, 'p> {
    parser: Parser<'t, serde_saphyr::granit_parser::StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    depth: usize,
    problems: &'p mut Vec<Problem>,
}

impl<'t> Builder<'t, '_> {
    fn document(&mut self) -> Result<Option<Node>, Stop> {
        loop {
            match self.event()? {
                (Event::StreamStart | Event::DocumentStart(..), _) => {}
                (Event::StreamEnd, _) => return Ok(None),
                (event, span) => {
                    let node = self.node(event, span)?;
                    return self.end().map(|()| Some(node));
                }
            }
        }
    }

    /// Only one document may follow.
    fn end(&mut self) -> Result<(), Stop> {
        loop {
            match self.event()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(..), span) => {
                    return Err(stop(
                        place(&span),
                        "a second YAML document begins here".into(),
                        "one document",
                        "remove the `---` line and what follows, or merge both documents",
                    ));
                }
                _ => {}
            }
        }
    }

    fn event(&mut self) -> Result<(Event<'t>, Span), Stop> {
        loop {
            match self.parser.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(event),
                Some(Err(error)) => return Err(syntax(&error)),
                None => return Ok((Event::StreamEnd, Span::default())),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, Stop> {
        self.count(1, &span)?;
        let at = place(&span);
        let anchor = event.anchor_id();
        let mut plain = false;
        let value = match event {
            Event::Scalar(text, style, _, tag) => {
                plain = is_plain(style, tag.as_deref());
                scalar(text, plain)
            }
            Event::SequenceStart(..) => {
                self.deeper(&span)?;
                let list = self.list()?;
                self.depth -= 1;
                Value::List(list)
            }
            Event::MappingStart(..) => {
                self.deeper(&span)?;
                let map = self.map()?;
                self.depth -= 1;
                Value::Map(map)
            }
            Event::Alias(id) => {
                let Some(target) = self.anchors.get(&id).cloned() else {
                    return Err(stop(
                        at,
                        "an alias (`*name`) stands inside what it names".into(),
                        "an alias of something complete",
                        "write the value out",
                    ));
                };
                self.count(size(&target), &span)?;
                plain = target.plain;
                target.value
            }
            _ => Value::Null,
        };
        let node = Node { place: at, value, plain };
        if let Some(id) = anchor.filter(|id| *id != 0) {
            self.anchors.insert(id, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self) -> Result<Vec<Node>, Stop> {
        let mut list = Vec::new();
        loop {
            match self.event()? {
                (Event::SequenceEnd | Event::StreamEnd, _) => return Ok(list),
                (event, span) => list.push(self.node(event, span)?),
            }
        }
    }

    fn map(&mut self) -> Result<Vec<Entry>, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = match self.event()? {
                (Event::MappingEnd | Event::StreamEnd, _) => break,
                other => other,
            };
            let key = self.node(event, span)?;
            let (event, span) = self.event()?;
            let node = self.node(event, span)?;
            let Some(text) = key_text(&key) else {
                self.problems.push(problem(
                    key.place,
                    "a key that is a list or a mapping".into(),
                    "keys that are words",
                    "quote the key if its text begins with `{`, `[` or `?`",
                ));
                continue;
            };
            if text == "<<" {
                self.merge(node, &mut merged);
            } else if let Some(first) = entries.iter().find(|entry| entry.key == text) {
                let line = match first.key_place {
                    Place::At { line, .. } => format!("line {line}"),
                    Place::File | Place::Variable(_) => "above".into(),
                };
                self.problems.push(Problem {
                    place: key.place,
                    key: text,
                    found: format!("this key stands here a second time (first: {line})"),
                    allowed: "each key once".into(),
                    cure: "keep one of the two".into(),
                });
            } else {
                entries.push(Entry { key: text, written: None, key_place: key.place, node });
            }
        }
        for entry in merged {
            if entries.iter().all(|own| own.key != entry.key) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// `<<: *base` or `<<: [*a, *b]`; what is written out in the mapping itself wins.
    fn merge(&mut self, node: Node, into: &mut Vec<Entry>) {
        match node.value {
            Value::Map(entries) => into.extend(entries),
            Value::List(list) if list.iter().all(|n| matches!(n.value, Value::Map(_))) => {
                for node in list {
                    self.merge(node, into);
                }
            }
            _ => self.problems.push(problem(
                node.place,
                "`<<` does not merge a mapping".into(),
                "a mapping or a list of mappings",
                "name a mapping: `<<: *base`",
            )),
        }
    }

    fn deeper(&mut self, span: &Span) -> Result<(), Stop> {
        self.depth += 1;
        if self.depth <= MAX_DEPTH {
            return Ok(());
        }
        Err(stop(
            place(span),
            format!("more than {MAX_DEPTH} lists and mappings inside one another"),
            "a few levels",
            "check that this is a Holdfast configuration",
        ))
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), Stop> {
        self.nodes += nodes;
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        Err(stop(
            place(span),
            format!("more than {MAX_NODES} values, aliases counted as often as they are used"),
            "a smaller file",
            "check that this is a Holdfast configuration",
        ))
    }
}

fn is_plain(style: ScalarStyle, tag: Option<&Tag>) -> bool {
    let text_tag = tag.is_some_and(|tag| tag.core_suffix() == Some("str"));
    style == ScalarStyle::Plain && !text_tag
}

fn scalar(text: Cow<'_, str>, plain: bool) -> Value {
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
        _ => Value::Scalar(text.into_owned()),
    }
}

fn key_text(key: &Node) -> Option<String> {
    match &key.value {
        Value::Scalar(text) => Some(text.clone()),
        Value::Null => Some("null".into()),
        Value::List(_) | Value::Map(_) => None,
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Null | Value::Scalar(_) => 1,
        Value::List(list) => 1 + list.iter().map(size).sum::<usize>(),
        Value::Map(map) => 1 + map.iter().map(|entry| 1 + size(&entry.node)).sum::<usize>(),
    }
}

fn place(span: &Span) -> Place {
    Place::At { line: span.start.line().max(1), column: span.start.col() + 1 }
}

fn syntax(error: &ScanError) -> Stop {
    let at = Place::At { line: error.marker().line().max(1), column: error.marker().col() + 1 };
    let found = format!("this is not YAML: {}", error.info());
    let tab = error.info().contains("tab");
    let cure = if tab {
        "indent with blanks, never with tabs"
    } else {
        "check the indentation, colons, quotes and brackets here and on the line before"
    };
    stop(at, found, "YAML 1.2 or JSON", cure)
}

fn problem(place: Place, found: String, allowed: &str, cure: &str) -> Problem {
    Problem { place, key: String::new(), found, allowed: allowed.into(), cure: cure.into() }
}

fn stop(place: Place, found: String, allowed: &str, cure: &str) -> Stop {
    Stop(Box::new(problem(place, found, allowed, cure)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<Node>, Vec<Problem>) {
        let mut problems = Vec::new();
        let node = parse(text, &mut problems);
        (node, problems)
    }

    fn map(text: &str) -> Vec<Entry> {
        let (node, problems) = read(text);
        assert!(problems.is_empty(), "{problems:?}");
        match node.map(|node| node.value) {
            Some(Value::Map(map)) => map,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_node_knows_its_line_and_column() {
        let entries = map("a: 1\nbc:\n  - x\n  - {d: \"e\"}\n");
        assert_eq!(entries[0].node.place, Place::At { line: 1, column: 4 });
        assert_eq!(entries[1].key_place, Place::At { line: 2, column: 1 });
        let Value::List(list) = &entries[1].node.value else { panic!() };
        assert_eq!(list[0].place, Place::At { line: 3, column: 5 });
        let Value::Map(inner) = &list[1].value else { panic!() };
        assert_eq!(inner[0].node.place, Place::At { line: 4, column: 9 });
    }

    #[test]
    fn json_with_tabs_and_escapes_is_read() {
        let entries = map("{\n\t\"a\": \"x\\/\\u00e9\\n\",\n\t\"b\": [1, true, null]\n}\n");
        let Value::Scalar(text) = &entries[0].node.value else { panic!() };
        assert_eq!(text, "x/é\n");
        let Value::List(list) = &entries[1].node.value else { panic!() };
        assert!(matches!(list[2].value, Value::Null));
    }

    #[test]
    fn a_duplicate_key_is_reported_and_the_rest_is_kept() {
        let (node, problems) = read("a: 1\nb: 2\na: 3\n");
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].place, Place::At { line: 3, column: 1 });
        let Some(Node { value: Value::Map(map), .. }) = node else { panic!() };
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn aliases_and_merges_are_resolved() {
        let entries = map("base: &b {x: 1, y: 2}\nc:\n  <<: *b\n  y: 3\n");
        let Value::Map(c) = &entries[1].node.value else { panic!() };
        let keys: Vec<_> = c.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["y", "x"]);
        let Value::Scalar(text) = &c[0].node.value else { panic!() };
        assert_eq!(text, "3");
    }

    #[test]
    fn aliases_that_multiply_meet_the_budget() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let m = n - 1;
            text.push_str(&format!("a{n}: &a{n} [*a{m},*a{m},*a{m},*a{m},*a{m},*a{m},*a{m}]\n"));
        }
        let (node, problems) = read(&text);
        assert!(node.is_none());
        assert!(problems[0].found.contains("aliases counted"), "{problems:?}");
    }

    #[test]
    fn depth_is_bounded_and_syntax_errors_have_a_place() {
        assert!(read(&"[".repeat(5000)).0.is_none());
        let nested = format!("{}{}", "[".repeat(80), "]".repeat(80));
        assert!(read(&nested).1[0].found.contains("inside one another"));
        let (node, problems) = read("a: [1, 2\nb: 3\n");
        assert!(node.is_none());
        assert!(matches!(problems[0].place, Place::At { line: 1.., .. }));
    }

    #[test]
    fn nothing_is_no_tree_and_two_documents_are_a_problem() {
        assert!(read("").0.is_none());
        assert!(read("# only a comment\n").0.is_none());
        assert_eq!(read("a: 1\n---\nb: 2\n").1.len(), 1);
    }
}
