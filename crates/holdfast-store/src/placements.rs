//! Placements: which node runs what runs only once.

use holdfast_engine::replicated::{Expect, KvEntry, Origin};

use crate::encode::{Malformed, decode, encode};
use crate::kv::NotWritten;
use crate::{Store, StoreError, keys};

const FORMAT: u8 = 1;

/// How often a claim is decided anew because another node's came first.
const TRIES: usize = 8;

impl Store {
    /// Who holds a place: whoever had it and may still hold it, else `me` from now on. `may_hold` says
    /// whether a node that is named in the store still counts.
    ///
    /// # Errors
    /// What the group says. A place that another node holds is known without the group; Redis is asked.
    ///
    /// # Cancel safety
    /// Cancelled, the place may be ours.
    pub async fn claim(
        &self,
        name: &str,
        me: Origin,
        may_hold: &(dyn Fn(Origin) -> bool + Sync),
    ) -> Result<Origin, StoreError> {
        let key = keys::placement(name);
        let mut found = self.kv.get_followed(&key).await?;
        for _ in 0..TRIES {
            let expect = match &found {
                None => Expect::Absent,
                Some(entry) => {
                    let holder = read(entry)?;
                    if holder == me || may_hold(holder) {
                        return Ok(holder);
                    }
                    Expect::Revision(entry.revision)
                }
            };
            let value = encode(FORMAT, self.serial(), &me)?;
            self.operations.durable.inc();
            match self.kv.put(key.clone(), value, expect, None).await {
                Ok(_) => return Ok(me),
                Err(NotWritten::Mismatch(now)) => found = now,
                Err(NotWritten::Failed(error)) => return Err(error),
            }
        }
        Err(StoreError::Unavailable("other nodes keep claiming the place".to_owned()))
    }

    /// Gives a place up, if it is held by `me`.
    ///
    /// # Errors
    /// What the group says.
    pub async fn release(&self, name: &str, me: Origin) -> Result<(), StoreError> {
        let key = keys::placement(name);
        let Some(entry) = self.kv.get(&key).await? else { return Ok(()) };
        if read(&entry)? != me {
            return Ok(());
        }
        self.operations.durable.inc();
        match self.kv.delete(key, Expect::Revision(entry.revision)).await {
            Err(NotWritten::Failed(error)) => Err(error),
            // Another node has it now.
            Err(NotWritten::Mismatch(_)) | Ok(()) => Ok(()),
        }
    }
}

fn read(entry: &KvEntry) -> Result<Origin, Malformed> {
    decode(FORMAT, &entry.value)
}
