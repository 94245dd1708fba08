//! Refuses requests that are not gRPC calls, and calls whose deadline cannot be read. The gRPC library would
//! serve both: the first as calls, the second as calls without a deadline. Calls that their client has given up
//! are dropped before they begin.

use super::service::parse_timeout;
use crate::observe::refusal;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{Code, Status};
use tower::{Layer, Service};

const GRPC: &str = "application/grpc";

/// Puts [`Shaped`] around a service.
#[derive(Clone)]
pub(super) struct CheckShape;

/// A service that takes gRPC calls only.
#[derive(Clone)]
pub(super) struct Shaped<S>(S);

/// How a request is refused.
struct Refusal {
    http: StatusCode,
    reason: &'static str,
    what: &'static str,
}

impl<S> Layer<S> for CheckShape {
    type Service = Shaped<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Shaped(inner)
    }
}

impl<S, I, O> Service<Request<I>> for Shaped<S>
where
    S: Service<Request<I>, Response = Response<O>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    I: Send + 'static,
    O: Default + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        match check(request.method(), request.headers()) {
            Ok(()) => {
                // The clone is the one that has not been asked whether it is ready.
                let clone = self.0.clone();
                let mut inner = std::mem::replace(&mut self.0, clone);
                Box::pin(async move {
                    let_resets_in().await;
                    inner.call(request).await
                })
            }
            Err(refusal) => {
                tracing::debug!(reason = refusal.reason, "a request was refused: {}", refusal.what);
                let answer = Ok(refusal.answer());
                Box::pin(async move { answer })
            }
        }
    }
}

impl Refusal {
    fn answer<O: Default>(&self) -> Response<O> {
        let status: Status = refusal(Code::InvalidArgument, self.reason, self.what, HashMap::new());
        let mut answer = status.into_http();
        *answer.status_mut() = self.http;
        if self.http == StatusCode::METHOD_NOT_ALLOWED {
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        answer
    }
}

/// Is pending once. The HTTP/2 server asks whether the client has given the call up only while the service is
/// pending; it then drops the service. Without this, calls that expired before the daemon saw them would run.
async fn let_resets_in() {
    let mut is_pending = true;
    poll_fn(|cx| match std::mem::take(&mut is_pending) {
        true => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        false => Poll::Ready(()),
    })
    .await;
}

fn check(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    if method != Method::POST {
        let (http, what) = (StatusCode::METHOD_NOT_ALLOWED, "the method of a call is POST");
        return Err(Refusal { http, reason: "BAD_METHOD", what });
    }
    if !headers.get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        let what = "the content-type of a call is application/grpc";
        let http = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Refusal { http, reason: "BAD_CONTENT_TYPE", what });
    }
    let timeout = headers.get("grpc-timeout");
    if timeout.is_some_and(|timeout| timeout.to_str().ok().and_then(parse_timeout).is_none()) {
        let what = "grpc-timeout must be at most eight digits and one of H, M, S, m, u, n";
        return Err(Refusal { http: StatusCode::OK, reason: "BAD_TIMEOUT", what });
    }
    Ok(())
}

/// `application/grpc`, perhaps with an encoding of messages or parameters. `application/grpc-web` is another
/// protocol.
fn is_grpc(value: &HeaderValue) -> bool {
    let rest = value.to_str().ok().and_then(|value| value.strip_prefix(GRPC));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_of_other_protocols_are_not_grpc() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(&HeaderValue::from_static(text)), expected, "{text:?}");
        }
    }
}
