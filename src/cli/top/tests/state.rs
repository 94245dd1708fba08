//! What is known of a daemon, and what follows from it.

use super::sample::{NOW, event, failed, model, run, status, switched, told, watched};
use crate::{
    cli::top::state::{Ask, KEPT_RATES, KEPT_SWITCHES, Link, ModelView, News, Now, State},
    proto::{self, SlotState, event::Kind},
};
use std::time::Duration;

const ALL: Ask = Ask { model: "", filter: "" };

fn shown(state: &State) -> ModelView {
    state.view(ALL, NOW).model.unwrap()
}

fn take_status(state: &mut State, status: proto::GetStatusResponse) {
    state.take(News::Status(Box::new(status)), NOW);
}

#[test]
fn rates_are_differences_over_the_daemons_own_time() {
    let mut state = State::default();
    take_status(&mut state, status(10));
    assert_eq!(shown(&state).rates, [], "one look tells no rate");
    take_status(&mut state, status(14));
    let [rate] = shown(&state).rates[..] else { panic!("one rate") };
    assert_eq!((rate.read_bytes, rate.reads), (12_900_000.0, 31.0));
    assert_eq!(rate.ahead_bytes, 200.0 * 16_384.0);
    assert_eq!((rate.used_bytes, rate.wasted_bytes), (120.0 * 16_384.0, 3.0 * 16_384.0));
    take_status(&mut state, status(14));
    assert_eq!(shown(&state).rates.len(), 1, "no time has passed");
}

#[test]
fn counts_that_begin_anew_give_no_rate() {
    let mut state = State::default();
    take_status(&mut state, status(1000));
    take_status(&mut state, status(2));
    assert_eq!(shown(&state).rates, []);
    take_status(&mut state, status(3));
    assert_eq!(shown(&state).rates.len(), 1);
    // Longer up than the one before, but it is another one.
    state.take(told("one", vec![failed(1)]), NOW);
    take_status(&mut state, status(4));
    state.take(told("two", vec![failed(1)]), NOW);
    take_status(&mut state, status(5000));
    assert_eq!(shown(&state).rates.len(), 2);
}

#[test]
fn percentiles_are_times_of_switches_that_were_done() {
    let mut state = State::default();
    take_status(&mut state, status(1));
    let switches = (1..=200).map(|n| switched(n, n * 10)).chain([failed(201)]).collect();
    state.take(told("one", switches), NOW);
    let times = shown(&state).times;
    assert_eq!((times.done, times.failed), (200, 1));
    assert_eq!((times.p50_us, times.p99_us, times.max_us), (1000, 1980, 2000));
    let mut one = State::default();
    take_status(&mut one, status(1));
    assert_eq!(shown(&one).times.max_us, 0);
    one.take(told("one", vec![switched(1, 7)]), NOW);
    let times = shown(&one).times;
    assert_eq!((times.p50_us, times.p99_us, times.max_us), (7, 7, 7));
}

#[test]
fn the_past_is_bounded() {
    let mut state = State::default();
    for n in 1..=2 * KEPT_SWITCHES as u64 {
        state.take(told("one", vec![switched(n, n)]), NOW);
        take_status(&mut state, status(n));
    }
    let model = shown(&state);
    assert_eq!(model.switches.len(), KEPT_SWITCHES);
    assert_eq!(model.times.max_us, 2 * KEPT_SWITCHES as u64, "the latest are kept");
    assert_eq!(model.rates.len(), KEPT_RATES);
    // Models that the daemon does not have leave nothing.
    for n in 0..1000 {
        let mut event = failed(5000 + n);
        event.model = format!("m{n}");
        state.take(told("one", vec![event]), NOW);
    }
    assert!(state.remembered() <= 256, "{}", state.remembered());
    take_status(&mut state, status(5000));
    assert_eq!(state.remembered(), 1);
}

#[test]
fn r21_an_event_that_is_told_twice_counts_once() {
    let mut state = State::default();
    take_status(&mut state, status(1));
    state.take(told("one", vec![switched(1, 5), switched(2, 5)]), NOW);
    state.take(told("one", vec![switched(2, 5), switched(3, 5)]), NOW);
    assert_eq!(shown(&state).switches.len(), 3);
}

#[test]
fn r21_events_that_are_lost_are_counted() {
    let mut state = State::default();
    let lost = Kind::Lost(proto::EventsLost { count: 12 });
    state.take(told("one", vec![event(12, lost), switched(13, 5)]), NOW);
    assert_eq!(state.view(ALL, NOW).link.events_lost, 12);
}

#[test]
fn another_run_of_the_daemon_goes_on_with_the_history() {
    let mut state = watched();
    let before = shown(&state).switches.len();
    state.take(told("two", vec![switched(1, 5)]), NOW);
    assert_eq!(shown(&state).switches.len(), before + 1);
    assert_eq!(state.view(ALL, NOW).link.restarts, 1);
}

#[test]
fn a_daemon_that_is_away_is_told_with_the_time_since() {
    let mut state = watched();
    let after = |s| Now { running: NOW.running + Duration::from_secs(s), ..NOW };
    state.take(News::Away("gone".into()), NOW);
    state.take(News::Away("still gone".into()), after(5));
    let view = state.view(ALL, after(7));
    assert_eq!((view.link.away_s, &view.link.why[..]), (Some(7), "still gone"));
    assert_eq!(view.model, watched().view(ALL, after(7)).model, "what was known stays");
    take_status(&mut state, status(1));
    assert_eq!(state.view(ALL, after(9)).link, Link::default());
}

#[test]
fn a_switch_shows_before_the_next_status_does() {
    let mut state = State::default();
    let mut first = status(1);
    first.models[0].sessions[0].pending_task = "city".into();
    take_status(&mut state, first);
    let switch = |sequence, generation, task: &str| {
        let mut event = switched(sequence, 50);
        if let Some(Kind::Switched(switched)) = &mut event.kind {
            switched.task = task.into();
            switched.result.as_mut().unwrap().generation = generation;
        }
        told("one", vec![event])
    };
    state.take(switch(1, 18, "city"), NOW);
    let session = |state: &State| state.view(ALL, NOW).sessions[0].clone();
    let now = session(&state);
    assert_eq!((&now.task[..], now.generation, &now.loading[..]), ("city", 18, ""));
    // One that the status knew of already changes nothing.
    state.take(switch(2, 3, "night"), NOW);
    assert_eq!(session(&state).task, "city");
}

#[test]
fn slots_are_told_apart_and_add_up() {
    let state = watched();
    let model = shown(&state);
    assert_eq!(model.slots_by_state, [824, 140, 88, 24, 2, 458, 0]);
    assert_eq!(model.slots_by_state.iter().sum::<u64>(), model.slots);
    // What was loaded ahead to be kept is pinned, and not counted again.
    let mut status = status(1);
    let picture = status.models[0].picture.as_mut().unwrap();
    picture.cells = vec![run(1052, SlotState::Resident, 0, true, true)];
    let mut state = State::default();
    take_status(&mut state, status);
    assert_eq!(shown(&state).slots_by_state[..3], [824, 228, 0]);
}

#[test]
fn the_filter_picks_sessions_switches_and_forecasts() {
    let state = watched();
    let view = state.view(Ask { model: "", filter: "rear" }, NOW);
    assert_eq!((view.sessions.len(), view.hidden_sessions), (1, 1));
    let model = view.model.unwrap();
    assert_eq!(model.likely.len(), 2);
    assert_eq!((model.switches.len(), model.times.done), (0, 0));
    assert!(model.cells.iter().all(|run| !run.faint), "no task is called that");
    let model = state.view(Ask { model: "", filter: "night" }, NOW).model.unwrap();
    assert_eq!((model.times.done, model.times.failed), (0, 3));
    let cells: Vec<_> = model.cells.iter().map(|run| run.faint).collect();
    assert_eq!(cells[..4], [false, true, false, true], "blocks that the task needs stand out");
}

#[test]
fn models_come_one_after_another() {
    let mut status = status(1);
    for name in ["zebra", "zone"] {
        let mut more = model(1);
        more.name = name.into();
        status.models.push(more);
    }
    let mut state = State::default();
    assert_eq!(state.model_after("minilm"), "");
    take_status(&mut state, status);
    assert_eq!(state.model_after("minilm"), "zebra");
    assert_eq!(state.model_after("zone"), "minilm");
    let view = state.view(Ask { model: "zone", filter: "" }, NOW);
    let model = view.model.unwrap();
    assert_eq!((&model.name[..], model.place, view.models), ("zone", 3, 3));
}

#[test]
fn figures_that_make_no_sense_are_shown_as_something() {
    let mut state = State::default();
    let mut status = status(1);
    status.uptime_ms = u64::MAX;
    let model = &mut status.models[0];
    for (likely, probability) in
        model.sessions[0].likely.iter_mut().zip([f64::NAN, f64::INFINITY, -1.0])
    {
        (likely.probability, likely.expected_ms) = (probability, u64::MAX);
    }
    let kept = Some(proto::Amount { blocks: u64::MAX, bytes: u64::MAX });
    model.sessions[0].leases = vec![
        proto::Lease { kept, ..Default::default() },
        proto::Lease { kept, ..Default::default() },
    ];
    let pool = model.pool.as_mut().unwrap();
    (pool.pinned, pool.slots, pool.slot_bytes) = (u64::MAX, u64::MAX, u64::MAX);
    let picture = model.picture.as_mut().unwrap();
    picture.slots_per_cell = u32::MAX;
    picture.tasks = vec!["many".into(); 100];
    take_status(&mut state, status);
    let view = state.view(Ask { model: "", filter: "m" }, NOW);
    let model = state.view(ALL, NOW).model.unwrap();
    let likely: Vec<_> = model.likely.iter().take(3).map(|one| one.probability).collect();
    assert_eq!(likely, [0.0, 1.0, 0.0]);
    assert!(view.model.is_some());
}
