//! How records are written: one byte that names the form, then postcard.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StoreError;

/// The form that this version writes.
const FORM: u8 = 1;

pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Bytes, StoreError> {
    let start = vec![FORM];
    postcard::to_extend(record, start)
        .map(Bytes::from)
        .map_err(|error| StoreError::Malformed(error.to_string()))
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&FORM, rest)) => {
            postcard::from_bytes(rest).map_err(|error| StoreError::Malformed(error.to_string()))
        }
        Some((form, _)) => Err(StoreError::Malformed(format!(
            "it is of form {form}, and this version knows {FORM}: a newer node wrote it"
        ))),
        None => Err(StoreError::Malformed("it is empty".into())),
    }
}
