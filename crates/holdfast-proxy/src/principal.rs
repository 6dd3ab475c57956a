//! Who is calling.
//!
//! A principal is a named owner, not a key: two keys of one principal see the same sessions. What
//! is bound to a principal (sessions, event ids, caches) carries the digest of its name.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_config::{ApiKey, Auth};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A caller whose identity has been established.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    pub(crate) name: Arc<str>,
    pub(crate) digest: u64,
}

/// Establishes who is calling: the seam where other means than API keys will join.
#[derive(Debug)]
pub(crate) struct Authenticator {
    keys: Vec<(Principal, [u8; 32])>,
    anonymous: Principal,
    /// Calls a minute, and at once, of principals that have a rate of their own.
    rates: BTreeMap<u64, (u32, Option<u32>)>,
}

/// The request names nobody whom the gateway knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("an API key is needed: send it as Authorization: Bearer KEY or X-API-Key: KEY")]
    Missing,
    #[error("this API key is not known to the gateway")]
    Unknown,
}

// === impl Principal ===

impl Principal {
    pub(crate) fn named(name: &str) -> Self {
        let hash = Sha256::digest(name.as_bytes());
        let mut digest = [0; 8];
        digest.copy_from_slice(&hash[..8]);
        Self { name: Arc::from(name), digest: u64::from_be_bytes(digest) }
    }
}

// === impl Authenticator ===

impl Authenticator {
    pub(crate) fn new(auth: &Auth) -> Self {
        let keys =
            auth.keys.iter().map(|key| (Principal::named(&key.principal), key.sha256)).collect();
        let rate = |key: &ApiKey| {
            let digest = Principal::named(&key.principal).digest;
            Some((digest, (key.requests_per_minute?, key.burst)))
        };
        let rates = auth.keys.iter().filter_map(rate).collect();
        Self { keys, anonymous: Principal::named("anonymous"), rates }
    }

    /// Without keys everybody is one anonymous principal.
    pub(crate) fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether there is a key of this principal: who was let in by a key that is gone is not for ever.
    pub(crate) fn knows(&self, principal: &Principal) -> bool {
        match self.is_open() {
            true => *principal == self.anonymous,
            false => self.keys.iter().any(|(known, _)| known == principal),
        }
    }

    /// Calls a minute, and at once, of the principal with this digest; `None`: as everybody's.
    pub(crate) fn rate_of(&self, principal: u64) -> Option<(u32, Option<u32>)> {
        self.rates.get(&principal).copied()
    }

    /// Takes the key out of the headers: it is for the gateway alone.
    ///
    /// # Errors
    /// [`AuthError`] if keys are configured and the request carries none of them.
    pub(crate) fn authenticate(&self, headers: &mut HeaderMap) -> Result<Principal, AuthError> {
        if self.is_open() {
            return Ok(self.anonymous.clone());
        }
        let (key, header) = presented(headers).ok_or(AuthError::Missing)?;
        let digest = Sha256::digest(key);
        // The gateway's own key is nobody else's business, even where `Authorization` is forwarded.
        headers.remove(header);
        let mut found = None;
        // Every key is compared, so that the time tells nothing about which one was near.
        for (principal, known) in &self.keys {
            if bool::from(known.as_slice().ct_eq(digest.as_slice())) {
                found = Some(principal);
            }
        }
        found.cloned().ok_or(AuthError::Unknown)
    }
}

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The key that a request presents, and the header that it stands in.
fn presented(headers: &HeaderMap) -> Option<(&[u8], HeaderName)> {
    if let Some(value) = headers.get(API_KEY) {
        return Some((value.as_bytes(), API_KEY));
    }
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| (key.trim_ascii(), AUTHORIZATION))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticator() -> Authenticator {
        let key = |name: &str, secret: &str| ApiKey {
            principal: name.into(),
            sha256: Sha256::digest(secret.as_bytes()).into(),
            requests_per_minute: (name == "bob").then_some(30),
            burst: None,
        };
        Authenticator::new(&Auth {
            keys: vec![key("alice", "a-1"), key("alice", "a-2"), key("bob", "b-1")],
        })
    }

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn two_keys_of_one_principal_are_one_principal() {
        let auth = authenticator();
        let first = auth.authenticate(&mut with("authorization", "Bearer a-1")).unwrap();
        let second = auth.authenticate(&mut with("x-api-key", "a-2")).unwrap();
        assert_eq!(first, second);
        assert_ne!(first, auth.authenticate(&mut with("authorization", "bearer b-1")).unwrap());
    }

    #[test]
    fn a_principal_may_have_a_rate_of_its_own() {
        let auth = authenticator();
        let rate = |key| {
            let principal = auth.authenticate(&mut with("x-api-key", key)).unwrap();
            auth.rate_of(principal.digest)
        };
        assert_eq!(rate("b-1"), Some((30, None)));
        assert_eq!(rate("a-1"), None);
    }

    #[test]
    fn a_principal_is_known_as_long_as_it_has_a_key() {
        let (alice, nobody) = (Principal::named("alice"), Principal::named("anonymous"));
        assert!(authenticator().knows(&alice));
        assert!(!authenticator().knows(&Principal::named("carol")));
        assert!(!authenticator().knows(&nobody));
        let open = Authenticator::new(&Auth::default());
        assert!(open.knows(&nobody) && !open.knows(&alice));
    }

    #[test]
    fn the_key_goes_no_further_and_another_credential_does() {
        let auth = authenticator();
        let mut headers = with("x-api-key", "a-1");
        headers.insert(AUTHORIZATION, "Bearer for-the-server".parse().unwrap());
        auth.authenticate(&mut headers).unwrap();
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key(AUTHORIZATION));
        let mut headers = with("authorization", "Bearer a-1");
        auth.authenticate(&mut headers).unwrap();
        assert!(headers.is_empty());
    }

    #[test]
    fn what_is_not_a_known_key_is_refused() {
        let auth = authenticator();
        let refused = |mut headers: HeaderMap| auth.authenticate(&mut headers).unwrap_err();
        assert_eq!(refused(HeaderMap::new()), AuthError::Missing);
        assert_eq!(refused(with("authorization", "Basic a-1")), AuthError::Missing);
        assert_eq!(refused(with("authorization", "Bearer")), AuthError::Missing);
        assert_eq!(refused(with("authorization", "Bearer a-3")), AuthError::Unknown);
        assert_eq!(refused(with("x-api-key", "")), AuthError::Unknown);
    }

    #[test]
    fn without_keys_everybody_is_one() {
        let auth = Authenticator::new(&Auth::default());
        assert!(auth.is_open());
        assert_eq!(&*auth.authenticate(&mut HeaderMap::new()).unwrap().name, "anonymous");
    }
}
