//! What the nodes of a cluster agree on of a configuration file, and what each keeps of its own.
//!
//! A [`Document`] is a file without what is one node's own or needs a restart, as text in one form: keys
//! sorted, comments and anchors gone. It is what goes through the cluster's log and lies in its history,
//! so it holds no secret's value:
//!
//! | in the file | in the document | on another node |
//! |---|---|---|
//! | `${NAME}`, also as `Bearer ${NAME}` | the same | that node's variable |
//! | a secret written out | `${file:KEY}` | what that node's own file has there |
//! | `https://docs/mcp?key=…` | `https://docs/mcp?${file:KEY}` | the same |
//! | a key that nobody reads | nothing | nothing |
//!
//! `${file:KEY}` is no reference that a file may hold, so it is never mistaken for one. A node takes a
//! secret from its own file only where the file says the same around it: a credential never goes to an
//! address for which it was not written. A file that had it earlier in the life of the process will do.

mod mask;
mod own;
mod render;

use std::fmt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::load::{grow, read_tree};
use crate::problem::{Problem, Problems};
use crate::tree::Node;
use crate::{Config, Env, Version};

/// The longest document, in bytes: what the cluster keeps of one value.
pub const MAX_DOCUMENT: usize = 256 * 1024;

/// What the nodes of a cluster agree on of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(String);

/// A configuration file that was read and has no problem.
pub struct File {
    /// What it says to this node, with the environment on top.
    pub config: Config,
    /// What a cluster agrees on of it.
    pub document: Document,
    /// SHA-256 of its bytes: names what was read.
    pub print: [u8; 32],
    tree: Option<Node>,
    /// The tree of the document.
    shared: Option<Node>,
}

// === impl Document ===

impl Document {
    /// One that [`Self::text`] was kept of.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// YAML, without any secret's value.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the text: files that mean the same to a cluster have the same.
    #[must_use]
    pub fn id(&self) -> Version {
        Version(Sha256::digest(&self.0).into())
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({})", self.id().short())
    }
}

// === impl File ===

impl File {
    /// Reads `text`. `origin` is what problems call it.
    ///
    /// # Errors
    /// All problems at once.
    pub fn parse(text: &str, origin: &str, env: Env<'_>) -> Result<Self, Problems> {
        let (tree, problems) = grow(text, origin)?;
        let (config, readings) = read_tree(tree.as_ref(), problems, origin, env)?;
        let shared = tree.as_ref().and_then(|tree| mask::shared(tree, &readings));
        let document = Document(render::text(shared.as_ref()));
        let print = Sha256::digest(text).into();
        Ok(Self { config, document, print, tree, shared })
    }

    /// What `document` says to the node whose file this is: with what is the node's own, with the
    /// secrets of this file or else of the first of `earlier` that has them, and with the environment.
    /// `name` is what problems call it.
    ///
    /// # Errors
    /// All problems at once; a secret that no file has is one.
    pub fn with<'f>(
        &'f self,
        document: &Document,
        name: &str,
        earlier: impl IntoIterator<Item = &'f Self>,
        env: Env<'_>,
    ) -> Result<Config, Problems> {
        let files: Vec<&Self> = std::iter::once(self).chain(earlier).collect();
        let (tree, mut problems) = grow(document.text(), name)?;
        let tree = tree.map(|tree| mask::resolve(&tree, &files, &mut problems));
        if !problems.is_empty() {
            return Err(Problems::new(name, problems));
        }
        let tree = own::merge(self.tree.as_ref().and_then(own::of), tree);
        read_tree(tree.as_ref(), Vec::<Problem>::new(), name, env).map(|(config, _)| config)
    }

    /// The file at `path`, or at `HOLDFAST_CONFIG` if there is none.
    ///
    /// # Errors
    /// All problems at once.
    pub fn read(path: Option<&Path>, env: Env<'_>) -> Result<Self, Problems> {
        crate::load::read(path, env)
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("document", &self.document).finish_non_exhaustive()
    }
}
