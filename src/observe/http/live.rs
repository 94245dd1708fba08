//! The stream that keeps the page up to date (server-sent events): the state once a second, events
//! as they come.
//!
//! The state is asked for only while somebody listens, and once for all who do. A listener has no
//! queue: one that is slow gets later states, and events from the hub's history.

use super::{CONNECTIONS, picture::PagePicture};
use crate::{
    observe::{Batch, Observed, Watcher, wall},
    proto::{Event, EventPosition, GetStatusResponse},
};
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, Semaphore, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

/// Who may listen at once: others need connections, too.
const LISTENERS: usize = 16;
const _: () = assert!(LISTENERS < CONNECTIONS);
/// How often the state is told.
const EVERY: Duration = Duration::from_secs(1);
/// How long a listener is told nothing while the engine does not answer.
const SILENCE: Duration = Duration::from_secs(5);
/// What is told then, so that the connection is seen to live.
const BEAT: Bytes = Bytes::from_static(b": no answer yet\n\n");
/// What comes first: how long to wait before connecting again, in milliseconds.
const GREETING: Bytes = Bytes::from_static(b"retry: 1000\n\n");

/// Tells listeners what is and what happens.
pub(super) struct Live {
    observed: Observed,
    latest: Mutex<Option<Arc<Snapshot>>>,
    places: Arc<Semaphore>,
}

/// The state at one time, ready to be sent.
struct Snapshot {
    taken: Instant,
    status: Bytes,
    pictures: Bytes,
}

/// The state as the page gets it.
#[derive(Serialize)]
struct Told<'a> {
    instance: &'a str,
    /// The daemon's time of day, which events are told in.
    now_us: u64,
    status: &'a GetStatusResponse,
}

/// Events as the page gets them.
#[derive(Serialize)]
struct Events<'a> {
    instance: &'a str,
    events: Vec<&'a Event>,
}

type Frames = mpsc::Sender<Result<Bytes, Infallible>>;

impl Live {
    pub(super) fn new(observed: Observed) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(LISTENERS));
        Arc::new(Self { observed, latest: Mutex::new(None), places })
    }

    /// Lets somebody listen from a place among the events on, or from the earliest that is kept.
    pub(super) fn listen(self: Arc<Self>, after: Option<EventPosition>) -> Response {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let what = format!("{LISTENERS} listen already: close a page, or wait\n");
            return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], what)
                .into_response();
        };
        let watcher = self.observed.hub.watch(String::new(), after, false);
        let (frames, body) = mpsc::channel(1);
        tokio::spawn(async move {
            let _ = frames.send(Ok(GREETING)).await;
            tokio::select! {
                () = tell_state(&self, &frames) => {}
                () = tell_events(watcher, &frames) => {}
                () = frames.closed() => {}
            }
            drop(place);
        });
        let body = Body::from_stream(ReceiverStream::new(body));
        ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
    }

    /// The state, not older than it may be; nothing if the engine has ended.
    async fn snapshot(&self) -> Option<Arc<Snapshot>> {
        // Whoever comes meanwhile waits for the same.
        let mut latest = self.latest.lock().await;
        if let Some(snapshot) = latest.as_ref().filter(|latest| latest.taken.elapsed() < EVERY) {
            return Some(snapshot.clone());
        }
        let taken = Instant::now();
        let status = self.observed.view.status(String::new(), true).await.ok()?;
        let (status, pictures) = frames(self.observed.hub.instance(), wall::now_us(), status)?;
        // The same again is told as such: it is not sent anew.
        let before = latest.as_ref().map(|latest| &latest.pictures);
        let pictures = before.filter(|before| **before == pictures).cloned().unwrap_or(pictures);
        Some(latest.insert(Arc::new(Snapshot { taken, status, pictures })).clone())
    }
}

/// Where a listener wants to go on: what a browser says of itself, or what its address says.
pub(super) fn place(headers: &HeaderMap, after: Option<&str>) -> Option<EventPosition> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let (instance, sequence) = last.or(after)?.split_once(':')?;
    Some(EventPosition { instance: instance.to_owned(), sequence: sequence.parse().ok()? })
}

/// Tells the state, and what pools look like whenever that changes, until nobody listens.
async fn tell_state(live: &Live, frames: &Frames) {
    let (mut due, mut shown) = (Instant::now(), Bytes::new());
    loop {
        sleep_until(due).await;
        let snapshot = timeout(SILENCE, live.snapshot()).await.ok().flatten();
        due = snapshot.as_ref().map_or_else(Instant::now, |snapshot| snapshot.taken) + EVERY;
        let (status, pictures) = match snapshot {
            Some(snapshot) => (snapshot.status.clone(), snapshot.pictures.clone()),
            None => (BEAT, shown.clone()),
        };
        if frames.send(Ok(status)).await.is_err() {
            return;
        }
        if pictures != shown {
            shown = pictures;
            if frames.send(Ok(shown.clone())).await.is_err() {
                return;
            }
        }
    }
}

/// Tells events, until there are no more or nobody listens.
async fn tell_events(mut watcher: Watcher, frames: &Frames) {
    while let Some(Batch { instance, events }) = watcher.next().await {
        let events: Vec<_> = events.iter().map(|told| told.event()).collect();
        let last = events.last().map_or(0, |event| event.sequence);
        let id = format!("{instance}:{last}");
        let Ok(text) = serde_json::to_string(&Events { instance: &instance, events }) else {
            return;
        };
        if frames.send(Ok(frame("events", &id, &text))).await.is_err() {
            return;
        }
    }
}

/// The frames of a state: all but the pictures, and the pictures by model.
fn frames(instance: &str, now_us: u64, mut status: GetStatusResponse) -> Option<(Bytes, Bytes)> {
    let taken = |model: &mut crate::proto::ModelStatus| {
        let picture = PagePicture::from(model.picture.take()?);
        Some((model.name.clone(), picture))
    };
    let pictures: BTreeMap<_, _> = status.models.iter_mut().filter_map(taken).collect();
    let status = serde_json::to_string(&Told { instance, now_us, status: &status }).ok()?;
    let pictures = serde_json::to_string(&pictures).ok()?;
    Some((frame("status", "", &status), frame("picture", "", &pictures)))
}

/// One event of the stream. JSON has no raw line breaks. Without an id, the one before stays.
fn frame(name: &str, id: &str, data: &str) -> Bytes {
    let id = if id.is_empty() { String::new() } else { format!("id: {id}\n") };
    format!("event: {name}\n{id}data: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_what_the_browser_says_or_else_what_the_address_says() {
        let none = HeaderMap::new();
        let mut some = HeaderMap::new();
        some.insert("last-event-id", "0a:7".parse().unwrap());
        let at = |sequence| Some(EventPosition { instance: "0a".into(), sequence });
        assert_eq!(place(&none, None), None);
        assert_eq!(place(&none, Some("0a:5")), at(5));
        assert_eq!(place(&some, Some("0a:5")), at(7));
        for nonsense in ["", ":", "0a", "0a:", "0a:-1", "0a:99999999999999999999"] {
            assert_eq!(place(&none, Some(nonsense)), None, "{nonsense}");
        }
    }
}
