//! What is wrong with a configuration, said so that it can be mended without a manual.

use std::fmt;

/// One mistake: where it is, what was found, what is allowed, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// The path of the key: `servers.files.timeout`. Empty for the file as a whole.
    pub key: String,
    /// What was found, as a clause: `"5 apples" is not a duration`. Never a secret's value.
    pub found: String,
    /// What would be accepted.
    pub allowed: String,
    /// What to do about it.
    pub cure: String,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file as a whole.
    File,
    /// A position in the file; both count from 1, columns in characters.
    At {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// An environment variable.
    Variable(&'static str),
}

/// Everything that is wrong with a configuration: at least one problem, in the file's order.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Problems {
    /// The file's name as the operator gave it.
    pub origin: String,
    /// Never empty.
    pub list: Vec<Problem>,
}

// === impl Problem ===

impl Problem {
    /// The line and column, where there are any.
    pub fn position(&self) -> Option<(usize, usize)> {
        match self.place {
            Place::At { line, column } => Some((line, column)),
            Place::File | Place::Variable(_) => None,
        }
    }

    /// `holdfast.yaml:3:7`, or `HA_MODE in the environment`.
    pub fn location(&self, origin: &str) -> String {
        match &self.place {
            Place::File => origin.to_owned(),
            Place::At { line, column } => format!("{origin}:{line}:{column}"),
            Place::Variable(name) => format!("environment variable {name}"),
        }
    }
}

// === impl Problems ===

impl Problems {
    pub(crate) fn new(origin: &str, mut list: Vec<Problem>) -> Self {
        list.sort_by(|a, b| a.place.cmp(&b.place));
        Self { origin: origin.to_owned(), list }
    }

    /// One problem with the file as a whole.
    pub(crate) fn whole(origin: &str, found: String, allowed: &str, cure: &str) -> Self {
        let (allowed, cure) = (allowed.to_owned(), cure.to_owned());
        let problem = Problem { place: Place::File, key: String::new(), found, allowed, cure };
        Self { origin: origin.to_owned(), list: vec![problem] }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            let location = problem.location(&self.origin);
            match problem.key.as_str() {
                "" => writeln!(f, "{location}: {}", problem.found)?,
                key => writeln!(f, "{location}: {key}: {}", problem.found)?,
            }
            writeln!(f, "    allowed: {}", problem.allowed)?;
            writeln!(f, "    cure:    {}", problem.cure)?;
        }
        match self.list.len() {
            1 => write!(f, "1 problem"),
            n => write!(f, "{n} problems"),
        }
    }
}
