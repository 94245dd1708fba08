//! What is to be shown: figures and names that are safe to print, in no particular form.

use super::{
    Now, State, clean,
    past::{Counters, Past, Rate, Switch, Times},
};
use crate::proto::{self, DaemonState, SlotState};
use serde::Serialize;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cli::top) struct Ask<'a> {
    /// The model; the first one if there is none of this name.
    pub(in crate::cli::top) model: &'a str,
    /// What names of tasks or sessions must contain.
    pub(in crate::cli::top) filter: &'a str,
}

/// What is to be shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(in crate::cli::top) struct View {
    pub(in crate::cli::top) link: Link,
    pub(in crate::cli::top) daemon: Option<Daemon>,
    /// All models' sessions.
    pub(in crate::cli::top) sessions: Vec<SessionView>,
    /// Sessions that there are besides, which the filter hides.
    pub(in crate::cli::top) hidden_sessions: usize,
    /// Models in all.
    pub(in crate::cli::top) models: usize,
    /// The model that was asked for.
    pub(in crate::cli::top) model: Option<ModelView>,
    /// The time, in microseconds since 1970.
    pub(in crate::cli::top) time_us: u64,
}

/// The connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(in crate::cli::top) struct Link {
    /// For how long there has been no daemon.
    pub(in crate::cli::top) away_s: Option<u64>,
    /// Why.
    pub(in crate::cli::top) why: String,
    /// Events that are missing.
    pub(in crate::cli::top) events_lost: u64,
    /// Times that another run of the daemon went on.
    pub(in crate::cli::top) restarts: u64,
}

/// The daemon as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(in crate::cli::top) struct Daemon {
    pub(in crate::cli::top) version: String,
    pub(in crate::cli::top) state: &'static str,
    pub(in crate::cli::top) uptime_s: u64,
}

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(in crate::cli::top) struct SessionView {
    pub(in crate::cli::top) model: String,
    pub(in crate::cli::top) session: String,
    pub(in crate::cli::top) task: String,
    pub(in crate::cli::top) generation: u64,
    pub(in crate::cli::top) loading: String,
    pub(in crate::cli::top) clients: u32,
    /// Leases on old generations.
    pub(in crate::cli::top) leases: usize,
    /// Of these, those that were revoked.
    pub(in crate::cli::top) revoked: usize,
    /// What they keep in the pool.
    pub(in crate::cli::top) kept_bytes: u64,
}

/// A model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(in crate::cli::top) struct ModelView {
    pub(in crate::cli::top) name: String,
    /// Its place among the models, from 1 on.
    pub(in crate::cli::top) place: usize,
    pub(in crate::cli::top) backend: String,
    pub(in crate::cli::top) fallback_reason: String,
    pub(in crate::cli::top) direct_io: bool,
    pub(in crate::cli::top) locked: bool,
    pub(in crate::cli::top) quarantined_blocks: u64,
    pub(in crate::cli::top) slots: u64,
    pub(in crate::cli::top) slot_bytes: u64,
    /// Slots by what they hold, in the order of [`Slot::ALL`].
    pub(in crate::cli::top) slots_by_state: [u64; 7],
    pub(in crate::cli::top) slots_per_cell: u64,
    #[serde(skip)]
    pub(in crate::cli::top) cells: Vec<Cells>,
    /// The last switches that pass the filter, the latest last.
    pub(in crate::cli::top) switches: Vec<Switch>,
    pub(in crate::cli::top) times: Times,
    pub(in crate::cli::top) likely: Vec<Likely>,
    /// The last rates, the latest last.
    pub(in crate::cli::top) rates: Vec<Rate>,
    pub(in crate::cli::top) counters: Counters,
}

/// A task that is likely to be next.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(in crate::cli::top) struct Likely {
    pub(in crate::cli::top) session: String,
    pub(in crate::cli::top) task: String,
    pub(in crate::cli::top) probability: f64,
    pub(in crate::cli::top) expected_ms: u64,
}

/// What a slot holds, as it is told apart here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli::top) enum Slot {
    /// A block of an active task, or under a lease.
    Pinned,
    /// A block that nobody needs now.
    Cached,
    /// A block that was loaded ahead and waits.
    Ahead,
    Filling,
    Verifying,
    Free,
    Lost,
}

impl Slot {
    pub(in crate::cli::top) const ALL: [Self; 7] = [
        Self::Pinned,
        Self::Cached,
        Self::Ahead,
        Self::Filling,
        Self::Verifying,
        Self::Free,
        Self::Lost,
    ];

    fn of(run: &proto::CellRun) -> Self {
        match run.state() {
            SlotState::Unspecified | SlotState::Free => Self::Free,
            SlotState::Filling => Self::Filling,
            SlotState::Verifying => Self::Verifying,
            SlotState::Lost => Self::Lost,
            SlotState::Resident if run.pinned => Self::Pinned,
            SlotState::Resident if run.ahead => Self::Ahead,
            SlotState::Resident => Self::Cached,
        }
    }
}

/// Cells in a row that look the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli::top) struct Cells {
    pub(in crate::cli::top) count: u32,
    pub(in crate::cli::top) slot: Slot,
    /// Whether the filter hides the tasks that need them.
    pub(in crate::cli::top) faint: bool,
}

impl State {
    /// What is to be shown.
    pub(in crate::cli::top) fn view(&self, ask: Ask, now: Now) -> View {
        let away = self.away.as_ref();
        let link = Link {
            away_s: away.map(|(since, _)| now.running.saturating_sub(*since).as_secs()),
            why: away.map(|(_, why)| why.clone()).unwrap_or_default(),
            events_lost: self.lost,
            restarts: self.restarts,
        };
        let time_us = now.wall_us;
        let Some(status) = &self.status else { return View { link, time_us, ..View::default() } };
        let (sessions, hidden_sessions) = sessions(status, ask.filter);
        View {
            link,
            daemon: Some(daemon(status)),
            sessions,
            hidden_sessions,
            models: status.models.len(),
            model: self.model(status, ask),
            time_us,
        }
    }

    fn model(&self, status: &proto::GetStatusResponse, ask: Ask) -> Option<ModelView> {
        let place = status.models.iter().position(|model| model.name == ask.model);
        let place = place.unwrap_or_default();
        let model = status.models.get(place)?;
        let nothing = Past::default();
        let past = self.past.get(&model.name).unwrap_or(&nothing);
        let pool = model.pool.unwrap_or_default();
        let storage = model.storage.clone().unwrap_or_default();
        let picture = model.picture.as_ref();
        let passes = |switch: &&Switch| {
            let names = [&switch.session, &switch.from, &switch.task];
            names.iter().any(|name| name.contains(ask.filter))
        };
        let switches: Vec<_> = past.switches.iter().filter(passes).cloned().collect();
        Some(ModelView {
            name: clean(&model.name),
            place: place + 1,
            backend: clean(&storage.backend),
            fallback_reason: clean(&storage.fallback_reason),
            direct_io: model.direct_io,
            locked: pool.locked,
            quarantined_blocks: model.quarantined_blocks,
            slots: pool.slots,
            slot_bytes: pool.slot_bytes,
            slots_by_state: slots_by_state(model),
            slots_per_cell: picture.map_or(1, |picture| u64::from(picture.slots_per_cell.max(1))),
            cells: picture.map(|picture| cells(picture, ask.filter)).unwrap_or_default(),
            times: Times::of(&switches),
            switches,
            likely: likely(model, ask.filter),
            rates: past.rates.iter().copied().collect(),
            counters: Counters::of(status.uptime_ms, model),
        })
    }
}

fn daemon(status: &proto::GetStatusResponse) -> Daemon {
    let state = match status.state() {
        DaemonState::Serving => "serving",
        DaemonState::Draining => "draining",
        DaemonState::Unspecified => "in an unknown state",
    };
    let (version, uptime_s) = (clean(&status.version), status.uptime_ms / 1000);
    Daemon { version, state, uptime_s }
}

/// The sessions that pass the filter, and how many do not.
fn sessions(status: &proto::GetStatusResponse, filter: &str) -> (Vec<SessionView>, usize) {
    let all = status.models.iter().flat_map(|model| &model.sessions).map(session);
    let passes = |session: &SessionView| {
        let names = [&session.session, &session.task, &session.loading];
        names.iter().any(|name| name.contains(filter))
    };
    let (shown, hidden): (Vec<_>, Vec<_>) = all.partition(passes);
    (shown, hidden.len())
}

fn session(session: &proto::SessionStatus) -> SessionView {
    let kept = session.leases.iter().map(|lease| lease.kept.unwrap_or_default().bytes);
    SessionView {
        model: clean(&session.model),
        session: clean(&session.session),
        task: clean(&session.task),
        generation: session.generation,
        loading: clean(&session.pending_task),
        clients: session.clients,
        leases: session.leases.len(),
        revoked: session.leases.iter().filter(|lease| lease.revoked).count(),
        kept_bytes: kept.fold(0, u64::saturating_add),
    }
}

/// Slots by what they hold. What was loaded ahead and is pinned since, to be kept, is pinned.
fn slots_by_state(model: &proto::ModelStatus) -> [u64; 7] {
    let pool = model.pool.unwrap_or_default();
    let unpinned = pool.resident.saturating_sub(pool.pinned);
    let waiting = model.prefetch.unwrap_or_default().waiting.unwrap_or_default().blocks;
    let exact = model.picture.as_ref().filter(|picture| picture.slots_per_cell <= 1);
    let ahead = exact.map_or(waiting, |picture| {
        let ahead = picture.cells.iter().filter(|run| Slot::of(run) == Slot::Ahead);
        ahead.map(|run| u64::from(run.count)).sum()
    });
    let ahead = ahead.min(unpinned);
    let cached = unpinned - ahead;
    [pool.pinned, cached, ahead, pool.filling, pool.verifying, pool.free, pool.lost]
}

fn cells(picture: &proto::Picture, filter: &str) -> Vec<Cells> {
    let tasks = picture.tasks.iter().enumerate();
    let wanted: Vec<_> =
        tasks.filter(|(_, task)| task.contains(filter)).map(|(at, _)| at).collect();
    let is_wanted = |run: &proto::CellRun| wanted.iter().any(|&task| needs(run, task));
    let cells = picture.cells.iter().map(|run| Cells {
        count: run.count,
        slot: Slot::of(run),
        // Without a task of that name, the filter is about sessions.
        faint: !filter.is_empty() && !wanted.is_empty() && !is_wanted(run),
    });
    cells.collect()
}

/// Whether the task at this place of the list needs the blocks.
fn needs(run: &proto::CellRun, task: usize) -> bool {
    run.task_words.get(task / 64).is_some_and(|word| word >> (task % 64) & 1 == 1)
}

fn likely(model: &proto::ModelStatus, filter: &str) -> Vec<Likely> {
    let of_session = |session: &proto::SessionStatus| {
        let name = clean(&session.session);
        let one = move |likely: &proto::LikelyTask| Likely {
            session: name.clone(),
            task: clean(&likely.task),
            // Whatever it is, it is drawn as a share.
            probability: if likely.probability.is_nan() {
                0.0
            } else {
                likely.probability.clamp(0.0, 1.0)
            },
            expected_ms: likely.expected_ms,
        };
        session.likely.iter().map(one).collect::<Vec<_>>()
    };
    let all = model.sessions.iter().flat_map(of_session);
    all.filter(|one| one.task.contains(filter) || one.session.contains(filter)).collect()
}
