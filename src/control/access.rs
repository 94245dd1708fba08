//! The access check of each call: which role a method needs, and the answer to a caller that was
//! rejected when it connected.

use crate::{
    admission::{Admitted, Credentials, Full, Rejection},
    config::Role,
    observe::refusal,
};
use hyper::{Request, Response};
use std::{
    collections::HashMap,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Status};
use tower::{Layer, Service};

/// What is known of a connection's caller. Every call of the connection has a copy of the `Arc`.
#[derive(Debug)]
pub(super) enum Caller {
    /// It may call what its role allows.
    Admitted(Admitted),
    /// Each call gets the reason as its answer, until the connection is closed.
    Rejected {
        why: Rejection,
        /// A place among the rejected callers that are answered.
        _answer: OwnedSemaphorePermit,
    },
}

impl Caller {
    /// Who it is; `None` where the kernel does not say who connects.
    pub(super) fn credentials(&self) -> Option<&Credentials> {
        match self {
            Self::Admitted(admitted) => admitted.caller(),
            Self::Rejected { .. } => None,
        }
    }

    fn check(&self, needed: Role) -> Result<(), Rejection> {
        match self {
            Self::Admitted(admitted) => admitted.check(needed),
            Self::Rejected { why, .. } => Err(*why),
        }
    }
}

/// The role that a method needs. A method that is not known here needs the highest.
fn needed(path: &str) -> Role {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    match (service, method) {
        ("synchromesh.v1.TaskService", "GetStatus" | "ListModels" | "WatchEvents") => Role::Observe,
        ("grpc.health.v1.Health", _) => Role::Observe,
        (service, _) if service.starts_with("grpc.reflection.") => Role::Observe,
        _ => Role::Command,
    }
}

/// The status of a rejected call.
fn denied(why: Rejection) -> Status {
    let (code, reason, metadata) = match why {
        Rejection::NotAPeer => (Code::PermissionDenied, "PEER_NOT_ALLOWED", HashMap::new()),
        Rejection::Role(needed) => {
            let metadata = [("needed_role".to_owned(), needed.name().to_owned())];
            (Code::PermissionDenied, "ROLE_NOT_ALLOWED", metadata.into())
        }
        Rejection::Full(full) => {
            let (scope, limit) = match full {
                Full::All(limit) => ("all", limit),
                Full::User(limit) => ("user", limit),
                Full::Process(limit) => ("process", limit),
            };
            let metadata =
                [("scope".to_owned(), scope.to_owned()), ("limit".to_owned(), limit.to_string())];
            (Code::ResourceExhausted, "TOO_MANY_CONNECTIONS", metadata.into())
        }
    };
    refusal(code, reason, &why.to_string(), metadata)
}

/// Puts [`Checked`] around a service.
#[derive(Clone, Copy)]
pub(super) struct CheckAccess;

/// A service that serves only callers with the role that the method needs.
#[derive(Clone)]
pub(super) struct Checked<S>(S);

impl<S> Layer<S> for CheckAccess {
    type Service = Checked<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Checked(inner)
    }
}

impl<S, I, O> Service<Request<I>> for Checked<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
    O: Default + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let checked = match request.extensions().get::<Arc<Caller>>() {
            Some(caller) => caller.check(needed(request.uri().path())),
            // Every connection has one.
            None => Err(Rejection::NotAPeer),
        };
        match checked {
            Ok(()) => Box::pin(self.0.call(request)),
            Err(why) => Box::pin(ready(Ok(denied(why).into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watching_needs_the_lowest_role_and_a_method_that_is_not_known_the_highest() {
        for path in ["GetStatus", "ListModels", "WatchEvents"] {
            assert_eq!(needed(&format!("/synchromesh.v1.TaskService/{path}")), Role::Observe);
        }
        assert_eq!(needed("/grpc.health.v1.Health/Watch"), Role::Observe);
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        assert_eq!(needed(reflection), Role::Observe);
        let switch = "/synchromesh.v1.TaskService/SwitchTask";
        for path in [switch, "", "/", "//GetStatus", "/x.TaskService/GetStatus"] {
            assert_eq!(needed(path), Role::Command, "{path}");
        }
    }
}
