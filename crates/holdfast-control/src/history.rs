//! What happened, on the disk of a node that runs alone: its group of one forgets everything when the
//! process ends, and people want to know afterwards why it did.
//!
//! A file of lines, one event each, that is only ever appended to; it is written anew, in one step, when
//! it has become twice as long as what is kept. An event that has grown is written once more, and takes the place of
//! what it was. A line that cannot be read (the last one of a process that
//! died over it, or what a later version wrote) is as if it were not there.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use holdfast_engine::replicated::{ServerEvent, ServerHappened};

/// How many events are kept: as many as can be asked for.
const KEPT: usize = 1_000;

/// The events of this process and of those before it.
pub(crate) struct History {
    path: PathBuf,
    file: File,
    /// The last [`KEPT`], oldest first.
    events: VecDeque<ServerEvent>,
    /// Lines in the file.
    lines: usize,
    /// Whether it was told that nothing can be written.
    told: bool,
}

// === impl History ===

impl History {
    /// What is kept in this folder, which is made if it is missing.
    ///
    /// # Errors
    /// The system's, where it can be neither read nor written.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join("events");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let (mut events, mut unread) = (VecDeque::new(), 0_usize);
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<ServerEvent>(line) {
                Ok(event) => push(&mut events, event),
                Err(_) => unread += 1,
            }
        }
        if unread > 0 {
            let file = path.display();
            tracing::warn!(%file, lines = unread, "some of what happened before cannot be read, and is left out");
        }
        // Begins whole: what is torn is gone from here on.
        let file = write_anew(&path, &events)?;
        Ok(Self { lines: events.len(), path, file, events, told: false })
    }

    /// The events, oldest first.
    pub(crate) fn events(
        &self,
    ) -> impl DoubleEndedIterator<Item = &ServerEvent> + ExactSizeIterator {
        self.events.iter()
    }

    /// Keeps these, too. What cannot be written is kept until the end of the process.
    pub(crate) fn add<'e>(&mut self, events: impl Iterator<Item = &'e ServerEvent>) {
        for event in events {
            push(&mut self.events, event.clone());
            let written = self.write(event);
            match written {
                Ok(()) => self.told = false,
                Err(error) if !self.told => {
                    self.told = true;
                    tracing::warn!(
                        file = %self.path.display(),
                        %error,
                        "what happens is not kept beyond this process"
                    );
                }
                Err(_) => {}
            }
        }
    }

    fn write(&mut self, event: &ServerEvent) -> io::Result<()> {
        if self.lines >= 2 * KEPT {
            self.file = write_anew(&self.path, &self.events)?;
            self.lines = self.events.len();
            return Ok(());
        }
        self.file.write_all(&line(event)?)?;
        self.lines += 1;
        Ok(())
    }
}

fn push(events: &mut VecDeque<ServerEvent>, event: ServerEvent) {
    let grows = |it: &ServerEvent| matches!(it.what, ServerHappened::Lost { .. });
    let same = |it: &&mut ServerEvent| it.index == event.index && grows(it);
    if let Some(known) = events.iter_mut().rev().find(same).filter(|_| grows(&event)) {
        *known = event;
        return;
    }
    if events.len() == KEPT {
        events.pop_front();
    }
    events.push_back(event);
}

fn line(event: &ServerEvent) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}

/// A file with these events, which is open for more.
fn write_anew(path: &Path, events: &VecDeque<ServerEvent>) -> io::Result<File> {
    let beside = path.with_extension("new");
    let mut text = Vec::new();
    for event in events {
        text.extend(line(event)?);
    }
    fs::write(&beside, text)?;
    fs::rename(&beside, path)?;
    OpenOptions::new().append(true).open(path)
}

#[cfg(test)]
mod tests {
    use holdfast_engine::replicated::ServerHappened;

    use super::*;

    fn event(index: u64) -> ServerEvent {
        ServerEvent {
            index,
            at: index,
            server: String::new(),
            instance: String::new(),
            generation: 0,
            what: ServerHappened::Noted,
            evidence: format!("\"{index}\"\n"),
        }
    }

    fn indices(history: &History) -> Vec<u64> {
        history.events().map(|it| it.index).collect()
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("holdfast-history-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_happened_is_there_again_and_a_torn_line_is_not() {
        let folder = Folder::new("torn");
        let mut history = History::open(&folder.0).unwrap();
        history.add([event(1), event(2), event(3)].iter());
        drop(history);
        let path = folder.0.join("events");
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        let mut history = History::open(&folder.0).unwrap();
        assert_eq!(indices(&history), [1, 2]);
        history.add([event(4)].iter());
        drop(history);
        let history = History::open(&folder.0).unwrap();
        assert_eq!(history.events().next(), Some(&event(1)));
        assert_eq!(indices(&history), [1, 2, 4]);
    }

    #[test]
    fn what_an_outage_cost_in_the_end_is_what_is_kept() {
        let folder = Folder::new("grows");
        let lost = |index, moved| {
            let what = ServerHappened::Lost { outage: 1, unknown: 0, oldest: 0, moved };
            ServerEvent { what, ..event(index) }
        };
        let mut history = History::open(&folder.0).unwrap();
        history.add([event(1), event(2), lost(2, 0), event(3), lost(2, 7), lost(4, 1)].iter());
        let expected = [event(1), event(2), lost(2, 7), event(3), lost(4, 1)];
        let all = |history: &History| history.events().cloned().collect::<Vec<_>>();
        assert_eq!(all(&history), expected);
        drop(history);
        assert_eq!(all(&History::open(&folder.0).unwrap()), expected);
    }

    #[test]
    fn the_file_stays_bounded() {
        let folder = Folder::new("bounded");
        let mut history = History::open(&folder.0).unwrap();
        let (most, last) = (2 * KEPT as u64, 5 * KEPT as u64);
        for index in 1..=last {
            history.add([event(index)].iter());
            let lines = history.lines as u64;
            assert!(lines <= most, "{lines} lines");
        }
        let text = fs::read_to_string(folder.0.join("events")).unwrap();
        assert_eq!(text.lines().count(), history.lines);
        drop(history);
        let expected: Vec<u64> = (last - KEPT as u64 + 1..=last).collect();
        assert_eq!(indices(&History::open(&folder.0).unwrap()), expected);
    }
}
