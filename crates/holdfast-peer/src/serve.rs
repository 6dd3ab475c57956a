//! One proven connection, accepting side: HTTP/2 on it, and the service behind it.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::connection::text;
use crate::envelope::{self, Arrived, ReadError};
use crate::settings::{CONNECTION_WINDOW, HEADERS, SEND_BUFFER, STREAM_WINDOW};
use crate::{Caller, Limits, ResponseBody, Service};

/// Serves one peer until it goes or `stop`; then takes nothing new and gives what is running
/// [`Limits::drain`].
pub(crate) async fn serve(
    stream: TlsStream<TcpStream>,
    from: Caller,
    limits: Limits,
    service: Arc<dyn Service>,
    stop: CancellationToken,
) {
    let (name, drain, largest) = (Arc::clone(&from.name), limits.drain, limits.largest_call);
    let answer = service_fn(move |request| {
        let (service, from) = (Arc::clone(&service), from.clone());
        async move { Ok::<_, Infallible>(answer(&*service, from, request, largest).await) }
    });
    let connection = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.streams)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADERS)
        // The peer is proven, and calls that end early are an everyday thing: no number of resets
        // is an attack.
        .max_pending_accept_reset_streams(usize::MAX)
        .max_local_error_reset_streams(None)
        .keep_alive_interval(limits.ping_every)
        .keep_alive_timeout(limits.ping_wait)
        // An answer arrives as the service gave it.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(drain, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %name, error = text(&error), "connection of a peer ended");
    }
}

/// Answers one call or forward.
async fn answer(
    service: &dyn Service,
    from: Caller,
    request: Request<Incoming>,
    largest: usize,
) -> Response<ResponseBody> {
    match envelope::open(request) {
        Arrived::Call { method, body } => match envelope::read(body, largest).await {
            Ok(body) => match service.call(from, &method, body).await {
                Ok(answer) => envelope::answer(answer),
                Err(reason) => envelope::rejection(StatusCode::INTERNAL_SERVER_ERROR, &reason),
            },
            Err(ReadError::TooLong) => envelope::rejection(
                StatusCode::PAYLOAD_TOO_LARGE,
                &format!("the call is longer than {largest} bytes"),
            ),
            // The caller or its connection is gone; so is whoever would read this.
            Err(ReadError::Broken(error)) => {
                envelope::rejection(StatusCode::BAD_REQUEST, &text(&*error))
            }
        },
        Arrived::Forward(request) => envelope::answer_forward(service.forward(from, request).await),
        Arrived::Neither(reason) => envelope::rejection(StatusCode::BAD_REQUEST, reason),
    }
}
