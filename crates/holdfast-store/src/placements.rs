//! Placements: which node runs the one process of a server that all nodes share.

use holdfast_engine::replicated::{Expect, Origin};

use crate::kv::PutError;
use crate::{Store, StoreError, encoding, keys};

impl Store {
    /// Claims a place for `me` unless a node holds it that may still act. Returns who holds it.
    ///
    /// # Errors
    /// Those of a store that is away.
    pub async fn claim(
        &self,
        name: &str,
        me: Origin,
        acts: &(dyn Fn(Origin) -> bool + Send + Sync),
    ) -> Result<Origin, StoreError> {
        let key = keys::placement(name);
        let mut found = self.kv.get(&key).await?;
        loop {
            let expect = match &found {
                None => Expect::Absent,
                Some(entry) => {
                    let holder: Origin = encoding::decode(&entry.value)?;
                    if holder == me || acts(holder) {
                        return Ok(holder);
                    }
                    Expect::Revision(entry.revision)
                }
            };
            match self.kv.put(key.clone(), encoding::encode(&me)?, expect, None).await {
                Ok(_) => return Ok(me),
                Err(PutError::Mismatch(there)) => found = there,
                Err(PutError::Failed(error)) => return Err(error),
            }
        }
    }
}
