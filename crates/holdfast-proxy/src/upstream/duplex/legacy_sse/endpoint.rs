//! The `endpoint` event: where messages are POSTed, relative to the event stream's own address.
//!
//! The event comes from outside, so it may choose a path and a query and nothing else: another scheme,
//! host or port would make the gateway reach an address that its configuration does not name.

use holdfast_config::HttpUrl;
use http::uri::PathAndQuery;

/// The endpoint is no address, or belongs to another origin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// Path and query for the POSTs.
pub(super) fn resolve(base: &HttpUrl, endpoint: &str) -> Result<String, Refused> {
    let text = endpoint.trim();
    let text = text.split_once('#').map_or(text, |(before, _)| before);
    let (base_path, _) = split_query(&base.path);

    let path = if let Some(rest) = text.strip_prefix("//") {
        let scheme = if base.tls { "https" } else { "http" };
        same_origin(base, &format!("{scheme}://{rest}"))?
    } else if has_scheme(text) {
        same_origin(base, text)?
    } else if text.is_empty() {
        base.path.clone()
    } else if text.starts_with('/') {
        text.to_owned()
    } else if text.starts_with('?') {
        format!("{base_path}{text}")
    } else {
        let folder = base_path.rfind('/').map_or("/", |at| &base_path[..=at]);
        format!("{folder}{text}")
    };
    let path = without_dots(&path);
    PathAndQuery::try_from(path.as_str()).map_err(|_| Refused)?;
    Ok(path)
}

fn same_origin(base: &HttpUrl, text: &str) -> Result<String, Refused> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !matches!(scheme.as_deref(), Some("http" | "https")) {
        return Err(Refused);
    }
    let url: HttpUrl = text.parse().map_err(|_| Refused)?;
    let same = url.tls == base.tls && url.host == base.host && url.port == base.port;
    if same { Ok(url.path) } else { Err(Refused) }
}

fn has_scheme(text: &str) -> bool {
    let end = text.find([':', '/', '?']);
    end.is_some_and(|at| text.as_bytes()[at] == b':')
}

fn split_query(path: &str) -> (&str, &str) {
    path.find('?').map_or((path, ""), |at| path.split_at(at))
}

/// Takes `.` and `..` out of the path, as RFC 3986 section 5.2.4 says.
fn without_dots(path_and_query: &str) -> String {
    let (path, query) = split_query(path_and_query);
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(endpoint: &str, path: Option<&str>) {
        let base: HttpUrl = "http://Server.example:8080/a/sse?x=1".parse().expect("an address");
        assert_eq!(resolve(&base, endpoint).ok().as_deref(), path, "{endpoint}");
    }

    #[test]
    fn paths_are_relative_to_the_stream() {
        check("/messages/?session_id=1", Some("/messages/?session_id=1"));
        check("messages?s=/../1", Some("/a/messages?s=/../1"));
        check("./m", Some("/a/m"));
        check("../m/.", Some("/m/"));
        check("../../../m", Some("/m"));
        check("?s=1", Some("/a/sse?s=1"));
        check("", Some("/a/sse?x=1"));
        check(" /m#f ", Some("/m"));
    }

    #[test]
    fn the_same_origin_may_be_written_out() {
        check("http://server.example:8080/m?s=1", Some("/m?s=1"));
        check("HTTP://SERVER.EXAMPLE:8080/m", Some("/m"));
        check("//server.example:8080/m", Some("/m"));
    }

    #[test]
    fn no_other_origin_is_accepted() {
        check("http://server.example/m", None);
        check("https://server.example:8080/m", None);
        check("ws://server.example:8080/m", None);
        check("http://other.example:8080/m", None);
        check("//other.example/m", None);
        check("http://server.example:8080@other.example/m", None);
        check("http://user@server.example:8080/m", None);
        check("file:///etc/passwd", None);
        check("javascript:alert(1)", None);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        check("/a b", None);
        check("/a\r\nX: y", None);
    }
}
