//! `${NAME}` and `${NAME:-default}` inside values.
//!
//! `${env:NAME}` is how some desktop clients write the same. `$${` stands for `${` itself; a `$`
//! before anything else is a `$`.

use crate::Env;

/// Why a value cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExpandError {
    /// The variable is not set and there is no default.
    Missing(String),
    /// `${` without a name that a variable can have, or without `}`.
    Form,
}

/// The text with every variable put in. A variable that is set but empty counts as set, unless a
/// default is given.
pub(crate) fn expand(text: &str, env: Env<'_>) -> Result<String, ExpandError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let end = from.find('}').ok_or(ExpandError::Form)?;
        out.push_str(&variable(&from[2..end], env)?);
        rest = &from[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn variable(inside: &str, env: Env<'_>) -> Result<String, ExpandError> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let name = name.strip_prefix("env:").unwrap_or(name);
    if !is_name(name) {
        return Err(ExpandError::Form);
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(ExpandError::Missing(name.to_owned())),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expanded: Result<&str, ExpandError>) {
        let env = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        assert_eq!(expand(text, &env), expanded.map(str::to_owned), "{text}");
    }

    #[test]
    fn variables_are_put_in() {
        check("x${A}y${A}", Ok("xoneyone"));
        check("${env:A}", Ok("one"));
        check("${B:-two}", Ok("two"));
        check("${B:-}", Ok(""));
        check("${EMPTY}", Ok(""));
        check("${EMPTY:-two}", Ok("two"));
        check("${A:-two}", Ok("one"));
    }

    #[test]
    fn dollars_that_mean_nothing_stay() {
        check("a$b $5 $", Ok("a$b $5 $"));
        check("$${A}", Ok("${A}"));
        check("$$${A}", Ok("$${A}"));
    }

    #[test]
    fn what_cannot_be_put_in_is_refused() {
        check("${B}", Err(ExpandError::Missing("B".into())));
        check("${A", Err(ExpandError::Form));
        check("${}", Err(ExpandError::Form));
        check("${input:key}", Err(ExpandError::Form));
        check("${1A}", Err(ExpandError::Form));
    }
}
