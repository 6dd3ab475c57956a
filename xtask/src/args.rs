//! A dozen options do not need a parser crate, and the gateway's command line keeps the only one.

use std::collections::VecDeque;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

/// The arguments after the program's name, taken away as they are understood.
pub(crate) struct Args(VecDeque<String>);

impl Args {
    pub(crate) fn from_env() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    /// The next argument, whatever it is.
    pub(crate) fn word(&mut self) -> Option<String> {
        self.0.pop_front()
    }

    /// Whether `--name` was given.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|arg| arg != name);
        self.0.len() < before
    }

    /// The value of `--name VALUE` or `--name=VALUE`.
    ///
    /// # Errors
    /// When the value is missing or not a `T`.
    pub(crate) fn option<T>(&mut self, name: &str) -> Result<Option<T>>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let with_equals = format!("{name}=");
        let Some(at) = self.0.iter().position(|arg| arg == name || arg.starts_with(&with_equals))
        else {
            return Ok(None);
        };
        let text = self.0.remove(at).unwrap_or_default();
        let value = match text.strip_prefix(&with_equals) {
            Some(value) => value.to_owned(),
            None => self.0.remove(at).with_context(|| format!("{name} needs a value"))?,
        };
        let parsed = value.parse().with_context(|| format!("{name}: `{value}` does not fit"))?;
        Ok(Some(parsed))
    }

    /// What is left, whatever it is: for a program that understands it.
    pub(crate) fn everything(self) -> Vec<String> {
        self.0.into()
    }

    /// What is left, none of which may look like an option.
    ///
    /// # Errors
    /// When an option is left that nobody understood.
    pub(crate) fn rest(self) -> Result<Vec<String>> {
        if let Some(unknown) = self.0.iter().find(|arg| arg.starts_with('-')) {
            bail!("unknown option `{unknown}`");
        }
        Ok(self.0.into())
    }
}
