//! What other nodes send through the cluster port, on its way to the data plane.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use holdfast_admin::Load;
use holdfast_cluster::Forwarded;
use holdfast_control::Control;
use holdfast_control::versions::Versions;
use holdfast_peer::{Caller, ResponseBody};
use holdfast_proxy::Proxy;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// Asks a node what it is busy with.
pub(super) const LOAD: &str = "node/load";

/// The data plane and the control plane, once they are there: nodes may ask before.
#[derive(Default)]
pub(crate) struct Inbound {
    proxy: OnceLock<Arc<Proxy>>,
    control: OnceLock<Arc<Control>>,
    versions: OnceLock<Arc<Versions>>,
}

impl Inbound {
    pub(super) fn serves(&self, proxy: Arc<Proxy>) {
        let _ = self.proxy.set(proxy);
    }

    pub(super) fn decides(&self, control: Arc<Control>) {
        let _ = self.control.set(control);
    }

    pub(super) fn configures(&self, versions: Arc<Versions>) {
        let _ = self.versions.set(versions);
    }
}

impl Forwarded for Inbound {
    fn forward(
        &self,
        _from: Caller,
        request: Request<Incoming>,
    ) -> futures_util::future::BoxFuture<'_, Response<ResponseBody>> {
        Box::pin(async move {
            let Some(proxy) = self.proxy.get() else {
                // Nothing of this node's present life can be meant.
                let mut response = Response::new(ResponseBody::default());
                *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
                return response;
            };
            let response = proxy.forwarded(request).await;
            response.map(|body| body.map_err(Into::into).boxed_unsync())
        })
    }

    fn call<'a>(
        &'a self,
        from: Caller,
        method: &'a str,
        body: Bytes,
    ) -> futures_util::future::BoxFuture<'a, Result<Bytes, String>> {
        Box::pin(async move {
            let proxy = self.proxy.get().ok_or("this node is starting")?;
            if let Some(control) = self.control.get()
                && let Some(answer) = control.receive(from.node, method, &body).await
            {
                return answer;
            }
            if let Some(answer) = self.versions.get().and_then(|it| it.receive(method)) {
                return answer;
            }
            match method {
                LOAD => Ok(Load::of(&**proxy).encode().into()),
                method => proxy.note(method, &body).await,
            }
        })
    }
}
