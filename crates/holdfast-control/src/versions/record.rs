//! What this node's file had when it was last looked at, kept across restarts: so that a file that was
//! changed while the node was away is told from one that the cluster has moved on from.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use holdfast_engine::configuration::Memory;

/// How the file is written. One without a format is written like this too.
const FORMAT: u32 = 1;

/// A file of a few words, or the memory of this process alone.
pub(super) struct Record {
    path: Option<PathBuf>,
    memory: Memory,
}

impl Record {
    /// What is kept in `folder`; without one, nothing is kept.
    pub(super) fn open(folder: Option<PathBuf>) -> Self {
        let path = folder.map(|folder| folder.join("configuration-seen"));
        let text = path.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let memory = text.map(|text| {
            read(&text).unwrap_or_else(|format| {
                tracing::warn!(
                    format,
                    "data_dir/configuration-seen was written by a later version of holdfast, in a \
                     format that this one cannot read: this node goes by the cluster's configuration, \
                     and `holdfast reload` here proposes its file"
                );
                Memory::default()
            })
        });
        Self { path, memory: memory.unwrap_or_default() }
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Changes it. What cannot be written is kept until the end of the process.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Memory)) {
        let before = self.memory.clone();
        change(&mut self.memory);
        if self.memory == before {
            return;
        }
        if let Err(error) = self.write() {
            tracing::warn!(%error, "what the configuration file had is not kept across a restart");
        }
    }

    fn write(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let beside = path.with_extension("new");
        let mut file = fs::File::create(&beside)?;
        let Memory { seen, agreed, offered } = &self.memory;
        writeln!(file, "format {FORMAT}\nagreed {agreed}")?;
        for (word, id) in [("seen", seen), ("offered", offered)] {
            if let Some(id) = id {
                writeln!(file, "{word} {id}")?;
            }
        }
        file.sync_all()?;
        fs::rename(&beside, path)
    }
}

/// What is no line of ours is as if it were not there. An error is the format, if that is not ours.
fn read(text: &str) -> Result<Memory, u32> {
    let find = |word: &str| {
        let values = text.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        values.map(str::trim).next()
    };
    let id = |word: &str| find(word).filter(|id| is_id(id)).map(str::to_owned);
    let format = find("format").and_then(|number| number.parse().ok());
    if let Some(format) = format.filter(|it| *it != FORMAT) {
        return Err(format);
    }
    let agreed = find("agreed").and_then(|number| number.parse().ok());
    Ok(Memory { seen: id("seen"), agreed: agreed.unwrap_or_default(), offered: id("offered") })
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
