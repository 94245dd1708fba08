//! The status page, and the same state as JSON for programs. The page is embedded and asks nothing of
//! any other machine; browsers are told to hold it to that.

use super::live::{self, Live};
use crate::{
    engine::EngineError,
    observe::{Observed, View, errors, view::PATIENCE},
};
use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::time::timeout;
use tonic::Code;

/// A file of the page.
#[derive(Clone, Copy)]
struct Asset {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// All of the page.
const ASSETS: [Asset; 10] = [
    Asset { path: "/", kind: HTML, text: include_str!("assets/index.html") },
    Asset { path: "/style.css", kind: CSS, text: include_str!("assets/style.css") },
    Asset { path: "/icon.svg", kind: SVG, text: include_str!("assets/icon.svg") },
    Asset { path: "/app.js", kind: SCRIPT, text: include_str!("assets/app.js") },
    Asset { path: "/basics.js", kind: SCRIPT, text: include_str!("assets/basics.js") },
    Asset { path: "/graph.js", kind: SCRIPT, text: include_str!("assets/graph.js") },
    Asset { path: "/panels.js", kind: SCRIPT, text: include_str!("assets/panels.js") },
    Asset { path: "/pool.js", kind: SCRIPT, text: include_str!("assets/pool.js") },
    Asset { path: "/switches.js", kind: SCRIPT, text: include_str!("assets/switches.js") },
    Asset { path: "/timeline.js", kind: SCRIPT, text: include_str!("assets/timeline.js") },
];

/// What every answer says: the page may use what comes from here and nothing else, and nobody may
/// put it into a page of theirs.
const GUARDS: [(header::HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

#[derive(Deserialize)]
struct StatusQuery {
    /// Only this model.
    #[serde(default)]
    model: String,
    /// 1 to have pools drawn, too.
    #[serde(default)]
    picture: u8,
}

#[derive(Deserialize)]
struct EventsQuery {
    /// Go on after this event, for those who cannot say it in a header.
    after: Option<String>,
}

/// Why there is no answer.
#[derive(Serialize)]
struct Refusal {
    reason: &'static str,
    message: String,
}

/// The page and what it asks for.
pub(super) fn routes(observed: Observed) -> Router {
    let view = observed.view.clone();
    let state = Router::new()
        .route("/api/status", get(status))
        .route("/api/models", get(models))
        .with_state(view);
    let events = Router::new().route("/api/events", get(events)).with_state(Live::new(observed));
    let fresh = map_response(async |response| cached(response, "no-store"));
    assets().merge(state.merge(events).layer(fresh)).layer(map_response(guarded))
}

fn assets() -> Router {
    ASSETS.into_iter().fold(Router::new(), |router, asset| {
        let digest = blake3::hash(asset.text.as_bytes()).to_hex();
        let tag = format!("\"{}\"", &digest[..16]);
        router.route(asset.path, get(async move |headers: HeaderMap| give(asset, &tag, &headers)))
    })
}

/// Gives a file, unless the browser has it.
fn give(asset: Asset, tag: &str, headers: &HeaderMap) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag);
    let response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, asset.kind)], asset.text).into_response()
    };
    ([(header::ETAG, tag)], cached(response, "no-cache")).into_response()
}

async fn status(State(view): State<Arc<View>>, Query(query): Query<StatusQuery>) -> Response {
    answer(in_time(view.status(query.model, query.picture == 1)).await)
}

async fn models(State(view): State<Arc<View>>) -> Response {
    answer(in_time(view.models()).await)
}

async fn events(
    State(live): State<Arc<Live>>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Response {
    live.listen(live::place(&headers, query.after.as_deref()))
}

/// An answer of the engine, unless it takes so long that whoever asks would only take a place.
async fn in_time<T>(
    answer: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    timeout(PATIENCE, answer).await.unwrap_or(Err(EngineError::DeadlineExceeded))
}

/// What the engine told, as JSON.
fn answer(told: Result<impl Serialize, EngineError>) -> Response {
    match told {
        Ok(told) => json(StatusCode::OK, &told),
        Err(error) => {
            let (code, reason) = errors::reason(&error);
            let status = match code {
                Code::NotFound => StatusCode::NOT_FOUND,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            json(status, &Refusal { reason, message: error.to_string() })
        }
    }
}

fn json(status: StatusCode, told: &impl Serialize) -> Response {
    match serde_json::to_string(told) {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn cached(mut response: Response, how: &'static str) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(how));
    response
}

async fn guarded(mut response: Response) -> Response {
    for (name, value) in GUARDS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_names_no_other_place() {
        let bytes: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
        assert!(bytes <= 100 << 10, "the page has {bytes} bytes");
        for Asset { path, text, .. } in ASSETS {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for scheme in ["http:", "https:", "\"//", "\"data:", "url("] {
                assert!(!text.contains(scheme), "{path} has {scheme}");
            }
        }
    }
}
