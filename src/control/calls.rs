//! Counts calls by the status that they end with, be it told at the beginning, as errors are, or
//! after the last message. A call without one was left by its caller.

use crate::observe::{Call, Rpc};
use hyper::{
    HeaderMap, Request, Response,
    body::{Body, Frame, SizeHint},
};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tonic::Code;
use tower::{Layer, Service};

/// Puts [`Counted`] around a service.
#[derive(Clone)]
pub(super) struct CountCalls(pub(super) Arc<Rpc>);

/// A service whose calls are counted.
#[derive(Clone)]
pub(super) struct Counted<S> {
    inner: S,
    rpc: Arc<Rpc>,
}

/// What a call answers, until its status is told.
pub(super) struct Answer<B> {
    body: Pin<Box<B>>,
    call: Option<Call>,
}

impl<S> Layer<S> for CountCalls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted { inner, rpc: self.0.clone() }
    }
}

impl<S, I, O> Service<Request<I>> for Counted<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
{
    type Response = Response<Answer<O>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let call = self.rpc.begin(request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let (head, body) = answer.await?.into_parts();
            let mut call = Some(call);
            end(&mut call, &head.headers);
            Ok(Response::from_parts(head, Answer { body: Box::pin(body), call }))
        })
    }
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(self.body.as_mut().poll_frame(cx));
        if let Some(trailers) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.trailers_ref())
        {
            end(&mut self.call, trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ends a call if its status is told here.
fn end(call: &mut Option<Call>, headers: &HeaderMap) {
    if let Some(status) = headers.get("grpc-status")
        && let Some(call) = call.take()
    {
        call.end(Code::from_bytes(status.as_bytes()));
    }
}
