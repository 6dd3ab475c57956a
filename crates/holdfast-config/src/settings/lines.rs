//! Settings as they are collected.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::HttpUrl;
use crate::field::join;
use crate::json::quote;
use crate::units::{show_duration, show_size};

/// The value of one setting.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Setting {
    shown: String,
    /// What is not shown, kept only to be compared.
    hidden: Option<String>,
}

/// Settings by key.
#[derive(Default)]
pub(super) struct Lines {
    path: String,
    list: BTreeMap<String, Setting>,
}

// === impl Setting ===

impl Setting {
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }
}

// === impl Lines ===

impl Lines {
    pub(super) fn finish(self) -> BTreeMap<String, Setting> {
        self.list
    }

    /// What `write` adds goes below `key`.
    pub(super) fn below(&mut self, key: &str, write: impl FnOnce(&mut Self)) {
        let below = join(&self.path, key);
        let path = std::mem::replace(&mut self.path, below);
        write(self);
        self.path = path;
    }

    /// The same for the items of a list.
    pub(super) fn each<T>(&mut self, key: &str, items: &[T], write: impl Fn(&T, &mut Self)) {
        for (n, item) in items.iter().enumerate() {
            self.below(&format!("{key}[{n}]"), |lines| write(item, lines));
        }
    }

    pub(super) fn put(&mut self, key: &str, value: impl Display) {
        let setting = Setting { shown: value.to_string(), hidden: None };
        self.list.insert(join(&self.path, key), setting);
    }

    pub(super) fn maybe(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    /// Text that may hold anything: quoted, so that it stays one line and no other's.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        let mut quoted = String::new();
        quote(value, &mut quoted);
        self.put(key, quoted);
    }

    pub(super) fn maybe_text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    pub(super) fn time(&mut self, key: &str, value: Duration) {
        self.put(key, show_duration(value));
    }

    pub(super) fn size(&mut self, key: &str, value: usize) {
        self.put(key, show_size(value as u64));
    }

    /// A list whose order means something.
    pub(super) fn list<T: Display>(&mut self, key: &str, values: impl IntoIterator<Item = T>) {
        let mut out = String::from("[");
        for (n, value) in values.into_iter().enumerate() {
            if n > 0 {
                out.push_str(", ");
            }
            quote(&value.to_string(), &mut out);
        }
        out.push(']');
        if out.len() > 2 {
            self.put(key, out);
        }
    }

    pub(super) fn secret(&mut self, key: &str, value: Option<&SecretString>) {
        if let Some(value) = value {
            self.partly(key, "(a secret)".to_owned(), value.expose_secret().to_owned());
        }
    }

    /// An address; what stands after `?` may be a secret.
    pub(super) fn url(&mut self, key: &str, url: &HttpUrl) {
        let full = url.to_string();
        match full.split_once('?') {
            Some((before, _)) => self.partly(key, format!("{before}?…"), full.clone()),
            None => self.put(key, full),
        }
    }

    /// An address whose path is as good as a secret: it lets anyone post there.
    pub(super) fn hook(&mut self, key: &str, url: &HttpUrl) {
        let full = url.to_string();
        let (scheme, _) = full.split_once("://").unwrap_or_default();
        self.partly(key, format!("{scheme}://{}/…", url.authority()), full.clone());
    }

    fn partly(&mut self, key: &str, shown: String, full: String) {
        self.list.insert(join(&self.path, key), Setting { shown, hidden: Some(full) });
    }
}
