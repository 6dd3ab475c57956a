//! How calls and forwards travel in HTTP/2, so that one can never be taken for the other.
//!
//! The *authority* of a request says which it is. It is set by the transport alone; nothing that a
//! client sent gets there. What a client had as method and headers stays in place; its URI and
//! HTTP version travel in one header, always appended as the last of its name and taken off again,
//! so that even a client's header of that name arrives as it was.
//!
//! Headers that belong to the client's own connection (`connection`, `transfer-encoding`,
//! `upgrade` and their like) cannot be expressed in HTTP/2 and are dropped.

use bytes::Bytes;
use http::header::HeaderName;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};

use crate::{BoxError, ResponseBody};

/// The authority of calls.
const CALL: &str = "call.holdfast.internal";

/// The authority of forwards.
const FORWARD: &str = "forward.holdfast.internal";

/// A forward's `HTTP version, space, URI`.
const ORIGINAL: HeaderName = HeaderName::from_static("holdfast-original");

/// On an answer that is the transport's own, or a service's `Err`. The body is the reason.
const REJECTED: HeaderName = HeaderName::from_static("holdfast-rejected");

/// The longest reason, in bytes.
const REASON: usize = 1 << 10;

/// What a request is, on arrival.
pub(crate) enum Arrived<B> {
    Call { method: String, body: B },
    Forward(Request<B>),
    Neither(&'static str),
}

/// Why a body was not read whole.
#[derive(Debug)]
pub(crate) enum ReadError {
    TooLong,
    Broken(BoxError),
}

/// A call as a request.
pub(crate) fn call(method: &str, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
    let uri = Uri::builder().scheme("https").authority(CALL).path_and_query(format!("/{method}"));
    Request::builder().method(Method::POST).uri(uri.build()?).body(Full::new(body))
}

/// A client's request as a forward.
pub(crate) fn forward<B>(request: Request<B>) -> Result<Request<B>, http::Error> {
    let (mut parts, body) = request.into_parts();
    let original = format!("{:?} {}", parts.version, parts.uri);
    parts.headers.append(ORIGINAL, HeaderValue::from_bytes(original.as_bytes())?);
    parts.uri = Uri::builder().scheme("https").authority(FORWARD).path_and_query("/").build()?;
    parts.version = Version::HTTP_2;
    Ok(Request::from_parts(parts, body))
}

/// Takes a request out of its envelope.
pub(crate) fn open<B>(request: Request<B>) -> Arrived<B> {
    match request.uri().authority().map(http::uri::Authority::as_str) {
        Some(CALL) if request.method() == Method::POST => {
            let path = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
            let method = path.strip_prefix('/').unwrap_or(path).to_owned();
            Arrived::Call { method, body: request.into_body() }
        }
        Some(FORWARD) => {
            let (mut parts, body) = request.into_parts();
            let Some((version, uri)) = take_original(&mut parts.headers) else {
                return Arrived::Neither("a forward without its original");
            };
            (parts.version, parts.uri) = (version, uri);
            Arrived::Forward(Request::from_parts(parts, body))
        }
        _ => Arrived::Neither("neither a call nor a forward"),
    }
}

/// An answer that is no answer, with its reason.
pub(crate) fn rejection(status: StatusCode, reason: &str) -> Response<ResponseBody> {
    let reason = reason[..reason.floor_char_boundary(REASON)].to_owned();
    let mut response = answer(reason.into());
    *response.status_mut() = status;
    response.headers_mut().insert(REJECTED, HeaderValue::from_static("1"));
    response
}

/// The answer to a call.
pub(crate) fn answer(body: Bytes) -> Response<ResponseBody> {
    Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync())
}

/// A service's answer to a forward, which must not look like a rejection.
pub(crate) fn answer_forward(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    response.headers_mut().remove(REJECTED);
    response
}

/// Whether an answer is a rejection.
pub(crate) fn is_rejection<B>(response: &Response<B>) -> bool {
    response.headers().contains_key(REJECTED)
}

/// Reads a body whole, up to `most` bytes.
pub(crate) async fn read<B>(body: B, most: usize) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ReadError::TooLong),
        Err(error) => Err(ReadError::Broken(error)),
    }
}

/// Reads the reason of a rejection; what cannot be read of it is left out.
pub(crate) async fn read_reason<B>(body: B) -> String
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let reason = read(body, REASON).await.unwrap_or_default();
    String::from_utf8_lossy(&reason).into_owned()
}

/// Takes off the last header of the name, which is ours, and leaves those before it.
fn take_original(headers: &mut HeaderMap) -> Option<(Version, Uri)> {
    let mut values: Vec<HeaderValue> = headers.get_all(ORIGINAL).iter().cloned().collect();
    let ours = values.pop()?;
    headers.remove(ORIGINAL);
    for theirs in values {
        headers.append(ORIGINAL, theirs);
    }
    let space = ours.as_bytes().iter().position(|byte| *byte == b' ')?;
    let (version, uri) = ours.as_bytes().split_at(space);
    let version = match version {
        b"HTTP/1.0" => Version::HTTP_10,
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/2.0" => Version::HTTP_2,
        b"HTTP/3.0" => Version::HTTP_3,
        _ => return None,
    };
    Some((version, Uri::try_from(&uri[1..]).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn travelled(request: Request<()>) -> Request<()> {
        match open(forward(request).unwrap()) {
            Arrived::Forward(request) => request,
            Arrived::Call { method, .. } => panic!("a call: {method}"),
            Arrived::Neither(reason) => panic!("{reason}"),
        }
    }

    #[test]
    fn a_forward_comes_out_as_it_went_in() {
        for uri in ["/mcp?a=%20&b=//c", "/", "*", "http://client.example:8/x", "/ä?ö", "//twice"]
        {
            for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                let request = Request::builder()
                    .method("REPORT")
                    .uri(uri)
                    .version(version)
                    .header("holdfast-original", "HTTP/1.1 /another")
                    .header("holdfast-original", "second")
                    .header("mcp-session-id", "s");
                let arrived = travelled(request.body(()).unwrap());
                assert_eq!(arrived.uri(), &uri.parse::<Uri>().unwrap());
                assert_eq!((arrived.version(), arrived.method().as_str()), (version, "REPORT"));
                assert_eq!(arrived.headers()["mcp-session-id"], "s");
                let theirs: Vec<_> = arrived.headers().get_all(ORIGINAL).iter().collect();
                assert_eq!(theirs, ["HTTP/1.1 /another", "second"]);
            }
        }
    }

    #[test]
    fn a_client_cannot_make_a_call() {
        let uri = format!("https://{CALL}/vote");
        let request = Request::post(uri.as_str()).header("host", CALL).body(()).unwrap();
        assert_eq!(travelled(request).uri(), uri.as_str());
    }

    #[test]
    fn what_is_neither_is_refused() {
        for request in [
            Request::get(format!("https://{CALL}/x")),
            Request::post(format!("https://{FORWARD}/x")),
            Request::post("/x"),
            Request::post(format!("https://{FORWARD}/")).header(ORIGINAL, "HTTP/1.1"),
            Request::post(format!("https://{FORWARD}/")).header(ORIGINAL, "HTTP/4 /x"),
        ] {
            assert!(matches!(open(request.body(()).unwrap()), Arrived::Neither(_)));
        }
    }
}
