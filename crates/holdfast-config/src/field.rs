//! One value of the file, read as the type its key asks for.

use secrecy::SecretString;

use crate::context::{Context, Guard};
use crate::expand::{self, ExpandError};
use crate::problem::{Place, Problem};
use crate::section::Section;
use crate::tree::{Entry, Node, Value};

/// Characters of a value that a problem shows.
const SHOWN: usize = 60;

/// A value and the path of its key. Every reader reports what it does not like and returns
/// `None`, so that the caller keeps its default and goes on.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) path: String,
    pub(crate) node: &'a Node,
    secret: bool,
}

// === impl Field ===

impl<'a> Field<'a> {
    pub(crate) fn new(context: &'a Context<'a>, path: String, node: &'a Node) -> Self {
        context.located(&path, node.place.clone());
        Self { context, path, node, secret: false }
    }

    pub(crate) fn place(&self) -> Place {
        self.node.place.clone()
    }

    /// Reports `found` at this value.
    pub(crate) fn problem(&self, found: String, allowed: &str, cure: &str) {
        self.context.problem(Problem {
            place: self.place(),
            key: self.path.clone(),
            found,
            allowed: allowed.to_owned(),
            cure: cure.to_owned(),
        });
    }

    /// Reports that the value is not `what`.
    pub(crate) fn wrong(&self, what: &str, allowed: &str, cure: &str) {
        self.problem(format!("{} is not {what}", self.shown()), allowed, cure);
    }

    /// The value as it stands in the file, shortened; of a secret only its kind.
    pub(crate) fn shown(&self) -> String {
        match &self.node.value {
            Value::Null => "nothing".into(),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
            Value::Scalar(_) if self.secret => "this text (not shown)".into(),
            Value::Scalar(text) => quoted(text),
        }
    }

    /// The text as it stands in the file, its variables not put in; empty for anything else.
    pub(crate) fn raw(&self) -> &'a str {
        match &self.node.value {
            Value::Scalar(text) => text,
            Value::Null | Value::List(_) | Value::Map(_) => "",
        }
    }

    /// Text, with its variables put in.
    pub(crate) fn text(&self) -> Option<String> {
        let Value::Scalar(text) = &self.node.value else {
            self.wrong("text", "one value", "write a single value after the colon");
            return None;
        };
        match expand::expand(text, self.context.env) {
            Ok(text) => Some(text),
            Err(ExpandError::Missing(name)) => {
                self.problem(
                    format!("the environment variable {name} is not set"),
                    "a variable that is set, or one with a default",
                    &format!("set {name}, or write ${{{name}:-default}}"),
                );
                None
            }
            Err(ExpandError::Form) => {
                self.problem(
                    "`${` begins something that names no environment variable".into(),
                    "${NAME}, ${NAME:-default}, or $${ for the two characters themselves",
                    "name an environment variable: letters, digits and _",
                );
                None
            }
        }
    }

    /// A name of 1 to 128 characters without blanks at its ends and without controls.
    pub(crate) fn name(&self) -> Option<String> {
        let name = self.text()?;
        let fits = (1..=128).contains(&name.chars().count())
            && name.trim() == name
            && !name.chars().any(char::is_control);
        if !fits {
            let allowed = "1 to 128 characters, without blanks at its ends";
            self.wrong("a name", allowed, "write it as it is called there");
        }
        fits.then_some(name)
    }

    /// Text that no problem ever shows.
    pub(crate) fn secret(&self) -> Option<SecretString> {
        self.guard(Guard::Whole);
        let guarded = Self { secret: true, ..self.clone() };
        guarded.text().map(SecretString::from)
    }

    /// Marks the value as one that the nodes of a cluster do not tell each other, or part of it.
    pub(crate) fn guard(&self, guard: Guard) {
        self.context.guard(&self.path, guard);
    }

    /// The same value, shown by no problem.
    pub(crate) fn hidden(mut self) -> Self {
        self.secret = true;
        self
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self) -> Option<bool> {
        let text = self.text()?;
        match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            other => {
                let cure = match other {
                    "yes" | "on" | "1" => "write true",
                    "no" | "off" | "0" => "write false",
                    _ => "write true or false",
                };
                self.wrong("true or false", "true, false", cure);
                None
            }
        }
    }

    /// The value that one of the words stands for.
    pub(crate) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let cure = match crate::nearest::nearest(&text, &names) {
            Some(word) => format!("did you mean {word}?"),
            None => format!("write {}", names.first().copied().unwrap_or_default()),
        };
        self.problem(format!("{} is not known", self.shown()), &names.join(", "), &cure);
        None
    }

    /// The values of a list.
    pub(crate) fn items(&self) -> Option<Vec<Self>> {
        match &self.node.value {
            Value::Null => Some(Vec::new()),
            Value::List(list) => Some(
                list.iter()
                    .enumerate()
                    .map(|(n, node)| Field {
                        secret: self.secret,
                        ..Field::new(self.context, format!("{}[{n}]", self.path), node)
                    })
                    .collect(),
            ),
            Value::Scalar(_) | Value::Map(_) => {
                self.wrong(
                    "a list",
                    "a list",
                    "write it as [a, b], or as lines that begin with `- `",
                );
                None
            }
        }
    }

    /// The keys and values of a mapping whose keys are names that the operator chose.
    pub(crate) fn entries(&self) -> Option<Vec<(&'a Entry, Self)>> {
        match &self.node.value {
            Value::Null => Some(Vec::new()),
            Value::Map(map) => Some(
                map.iter()
                    .map(|entry| {
                        let path = join(&self.path, &entry.key);
                        (entry, Field::new(self.context, path, &entry.node))
                    })
                    .collect(),
            ),
            Value::Scalar(_) | Value::List(_) => {
                self.wrong("a mapping", "a mapping", "write it as lines of `name: value`");
                None
            }
        }
    }

    /// The value as a section with known keys.
    pub(crate) fn section(&self) -> Option<Section<'a>> {
        match &self.node.value {
            Value::Null => Some(Section::new(self.context, self.path.clone(), self.place(), &[])),
            Value::Map(map) => {
                Some(Section::new(self.context, self.path.clone(), self.place(), map))
            }
            Value::Scalar(_) | Value::List(_) => {
                self.wrong("a section", "a mapping", "write its keys indented below it");
                None
            }
        }
    }
}

/// `listen` and `tls` make `listen.tls`.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The text in quotes on one line, shortened.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"").replace("\\'", "'")
}
