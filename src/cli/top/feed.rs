//! Asks a daemon how it is, again and again, and listens to what happens there. Where there is no
//! daemon it says so, and tries again; it never gives up.

use super::{super::call::refused, state::News};
use crate::{
    client::{self, ConnectError, Control},
    proto::{
        EventPosition, GetStatusRequest, GetStatusResponse, WatchEventsRequest, WatchEventsResponse,
    },
};
use std::{path::PathBuf, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::{Code, Status, Streaming};

/// How long a daemon may take to answer before it counts as away.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long to wait before trying again.
const PAUSE: Duration = Duration::from_millis(500);
/// What waits to be taken in. When it is full, the daemon is asked less often.
pub(super) const QUEUE: usize = 16;

/// What to ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    /// The model of which a picture is wanted; empty for the first.
    pub(super) model: String,
    /// How often.
    pub(super) interval: Duration,
}

/// Why there is no answer.
enum Trouble {
    /// Nobody needs one any more.
    Over,
    /// The daemon is away.
    Away(String),
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        Self::Away(refused(&status))
    }
}

/// Asks and listens.
pub(super) struct Feed {
    control: PathBuf,
    wanted: watch::Receiver<Wanted>,
    news: mpsc::Sender<News>,
    /// The last event that was told.
    position: Option<EventPosition>,
}

impl Feed {
    pub(super) fn new(
        control: PathBuf,
        wanted: watch::Receiver<Wanted>,
        news: mpsc::Sender<News>,
    ) -> Self {
        Self { control, wanted, news, position: None }
    }

    /// Goes on until nobody listens any more.
    pub(super) async fn run(mut self) {
        loop {
            match self.follow().await {
                Err(Trouble::Over) | Ok(()) => return,
                Err(Trouble::Away(why)) => {
                    if self.news.send(News::Away(why)).await.is_err() {
                        return;
                    }
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Follows one run of the daemon until there is trouble.
    async fn follow(&mut self) -> Result<(), Trouble> {
        let mut client = self.connect().await?;
        self.tell_status(&mut client).await?;
        let mut events = self.watch(&mut client).await?;
        let mut asked = Instant::now();
        loop {
            let interval = self.wanted.borrow_and_update().interval;
            tokio::select! {
                told = events.message() => {
                    let told = told?.ok_or_else(|| Trouble::Away("the daemon stopped".into()))?;
                    self.tell_events(told).await?;
                }
                () = sleep_until(asked + interval) => {
                    asked = Instant::now();
                    self.tell_status(&mut client).await?;
                }
                changed = self.wanted.changed() => {
                    changed.map_err(|_| Trouble::Over)?;
                    asked = Instant::now();
                    self.tell_status(&mut client).await?;
                }
            }
        }
    }

    async fn connect(&self) -> Result<Control, Trouble> {
        match timeout(ANSWER_LIMIT, client::connect(&self.control)).await {
            Ok(Ok(client)) => Ok(client),
            // Where it is looked for is told anyway.
            Ok(Err(ConnectError::Unreachable { .. })) => Err(Trouble::Away(String::new())),
            Ok(Err(error)) => Err(Trouble::Away(error.to_string())),
            Err(_) => Err(Trouble::Away("it does not answer".into())),
        }
    }

    async fn watch(&self, client: &mut Control) -> Result<Streaming<WatchEventsResponse>, Trouble> {
        let after = self.position.clone();
        let request = WatchEventsRequest { after, ..WatchEventsRequest::default() };
        Ok(in_time(client.watch_events(request)).await?)
    }

    async fn tell_events(&mut self, told: WatchEventsResponse) -> Result<(), Trouble> {
        if let Some(last) = told.events.last() {
            let (instance, sequence) = (told.instance.clone(), last.sequence);
            self.position = Some(EventPosition { instance, sequence });
        }
        self.tell(News::Events(told)).await
    }

    /// The state of all, with a picture of the model that is wanted: pictures are large.
    async fn tell_status(&mut self, client: &mut Control) -> Result<(), Trouble> {
        let mut status = ask(client, "", false).await?;
        let wanted = self.wanted.borrow().model.clone();
        let place = status.models.iter().position(|model| model.name == wanted).unwrap_or(0);
        if let Some(name) = status.models.get(place).map(|model| model.name.clone()) {
            match ask(client, &name, true).await {
                Ok(pictured) => {
                    let pictured = pictured.models.into_iter().find(|model| model.name == name);
                    status.models.splice(place..=place, pictured);
                }
                // It went between the two calls; the next ones will show that.
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => return Err(status.into()),
            }
        }
        self.tell(News::Status(Box::new(status))).await
    }

    async fn tell(&self, news: News) -> Result<(), Trouble> {
        self.news.send(news).await.map_err(|_| Trouble::Over)
    }
}

async fn ask(
    client: &mut Control,
    model: &str,
    picture: bool,
) -> Result<GetStatusResponse, Status> {
    in_time(client.get_status(GetStatusRequest { model: model.to_owned(), picture })).await
}

async fn in_time<T>(
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    let answer = timeout(ANSWER_LIMIT, answer).await;
    let late = |_| Err(Status::cancelled(""));
    answer.unwrap_or_else(late).map(tonic::Response::into_inner)
}
